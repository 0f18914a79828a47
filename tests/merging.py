"""Files of captions as scripts leave them, and what merging them must give: plain loops over what was written."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ABSENT = object()
"""The caption of a record that has none."""
DAMAGED = "\ue000"
"""Becomes a byte that is not UTF-8."""
Pair = tuple[Any, Any]


@dataclass(frozen=True)
class Form:
    """How records are written down."""

    kind: str = "lines"
    """``lines``, ``array`` or ``index``."""
    ascii: bool = False
    indent: bool = False
    newline: str = "\n"
    bom: bool = False
    packed: bool = False
    cut: float | None = None
    """The share of the bytes that is left."""

    @property
    def ending(self) -> str:
        return (".jsonl" if self.kind == "lines" else ".json") + ".gz" * self.packed


def write(path: Path, pairs: Sequence[Pair], form: Form) -> list[Pair]:
    """Write the pairs in a form; return those that are whole in the file."""
    opening, between, closing = {"lines": ("", "", ""), "array": ("[", ",", "]"), "index": ("{", ",", "}")}[form.kind]
    space = form.newline + "  " if form.indent else ""
    data = bytearray((b"\xef\xbb\xbf" if form.bom else b"") + opening.encode())
    ends = []
    for n, (image, caption) in enumerate(pairs):
        if form.kind == "index":
            text = f"{_json(image, form)}: {_json(caption, form)}"
        else:
            record = {"id": n, "image": image} | ({} if caption is ABSENT else {"caption": caption})
            text = json.dumps(record, ensure_ascii=form.ascii, indent=2 if form.indent and form.kind == "array" else None)
        data += (space if form.kind != "lines" else "").encode() + _damage(text)
        ends.append(len(data))
        data += form.newline.encode() if form.kind == "lines" else between.encode() * (n < len(pairs) - 1)
    data += (space + closing).encode() if closing else b""
    whole = list(pairs)
    if form.cut is not None:
        del data[int(len(data) * form.cut) :]
        whole = [pair for pair, end in zip(pairs, ends, strict=True) if end <= len(data)]
    path.write_bytes(gzip.compress(data) if form.packed else data)
    return whole


def _json(value: Any, form: Form) -> str:
    return json.dumps(value, ensure_ascii=form.ascii)


def _damage(text: str) -> bytes:
    return text.replace("\\ue000", DAMAGED).encode().replace(DAMAGED.encode(), b"\xff")


def usable(pairs: Sequence[Pair]) -> list[tuple[str, str]]:
    """Return the pairs that can be used: a text, or a number's digits, and a text."""
    return [(_name(i), c) for i, c in pairs if _name(i) is not None and isinstance(c, str) and not _broken(i, c)]


def _name(image: Any) -> Any:
    return image if isinstance(image, str) else str(image) if isinstance(image, int | float) and not isinstance(image, bool) else None


def _broken(*values: Any) -> bool:
    return DAMAGED in json.dumps(values, ensure_ascii=False)


def expected(
    original: Sequence[Pair],
    sources: dict[str, Sequence[Pair]],
    *,
    order: Sequence[str] = (),
    missing: str = "skip",
    keep_original: bool = True,
    dedupe: bool = False,
) -> tuple[list[dict[str, Any]], list[list[int]]]:
    """Return the lines, and the positions of each line's captions."""
    lines: dict[str, list[str]] = {}
    for image, caption in original:
        captions = [caption] if isinstance(caption, str) else caption if isinstance(caption, list) else []
        if _name(image) is not None and not _broken(image, caption if caption is not ABSENT else None):
            lines.setdefault(_name(image), [c for c in captions if isinstance(c, str)])
    indexes: dict[str, dict[str, str]] = {}
    for name, pairs in sources.items():
        for image, caption in usable(pairs):
            indexes.setdefault(name, {}).setdefault(image, caption)
    width = max(map(len, lines.values()), default=0) if keep_original else 0
    columns = [("original", n) for n in range(width)] + [(name, 0) for name in sources if name in indexes]
    columns.sort(key=lambda c: order.index(c[0]) if c[0] in order else len(order))
    out, positions = [], []
    for image, own in lines.items():
        found = {c: (own[c[1]] if c[1] < len(own) else None) if c[0] == "original" else indexes[c[0]].get(image) for c in columns}
        names = {name for name, _ in columns}
        have = {name for (name, _), text in found.items() if text is not None}
        if (missing == "drop" and have != names) or (missing == "skip" and not have):
            continue
        captions, numbers = [], []
        for n, column in enumerate(columns):
            text = found[column]
            duplicate = dedupe and text is not None and text in [found[c] for c in columns[:n]]
            if text is not None and not duplicate:
                captions.append(text)
                numbers.append(n)
            elif missing == "empty":
                captions.append("")
        out.append({"image": image, "caption": captions})
        positions.append(numbers)
    return out, positions
