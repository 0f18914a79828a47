"""Which files make which column: names, patterns, and the parts that one captioner's processes wrote."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from synthvlm.errors import OptionError

_PART = re.compile(r"(?P<head>.*?)[_.-]?(?:rank|part)?[_.-]?(?P<rank>[0-9]+)(?:-of-[0-9]+)?", re.DOTALL)
_ENDING = re.compile(r"(\.(?:jsonl|ndjson|json))?(\.(?:gz|bz2|xz|zst))?$", re.IGNORECASE)


@dataclass
class Source:
    """One column of the merged file: a name and its files, which count as one, in this order."""

    name: str
    files: list[str]
    facts: list[str] = field(default_factory=list)
    """What is to be told of the choice."""


def arrange(given: Sequence[str] | Mapping[str, str | Sequence[str]], *, group: bool = True) -> list[Source]:
    """Return the sources that ``given`` means, in its order.

    A mapping names them: name → path, pattern, or several. A sequence holds paths, patterns (``*?[``) and ``NAME=PATH``, where
    files may share a name; of the other files those whose names differ only in a number at the end, beginning with 0, are the parts
    of one source (unless ``group`` is False). Raises OptionError for two sources of one name, and for a pattern that nothing fits.
    """
    named: dict[str, tuple[int, Source]] = {}  # with the place in the order
    loose: dict[str, int] = {}
    pairs = ((None, path) for path in given) if not isinstance(given, Mapping) else given.items()
    for place, (name, paths) in enumerate(pairs):
        if name is None and (found := _named(str(paths))):
            name, paths = found
        files = _expanded([paths] if isinstance(paths, str) else paths)
        if name is None:
            loose.update((f, place) for f in files if f not in loose)
        else:
            named.setdefault(name, (place, Source(name, [])))[1].files.extend(files)
    for _, source in named.values():
        if len(parts := _parts(source.files, True)) == 1:  # in the order of their numbers: a shell puts 10 before 2
            source.files, source.facts = parts[0].files, parts[0].facts
    sources = [*named.values(), *((min(loose[f] for f in s.files), s) for s in _parts(list(loose), group))]
    seen = {"original"}
    for _, source in sources:
        if source.name in seen:
            what = "a source cannot be called" if source.name == "original" else "two sources are called"
            raise OptionError(f"{what} {source.name!r}", "give each a name of its own: NAME=PATH")
        seen.add(source.name)
    return [source for _, source in sorted(sources, key=lambda pair: pair[0])]


def _named(item: str) -> tuple[str, str] | None:
    """Return name and path of NAME=PATH; None for a plain path, even one with such a sign in it."""
    name, equals, path = item.partition("=")
    return (name, path) if equals and name and path and "/" not in name and not os.path.lexists(item) else None


def _expanded(paths: Iterable[str]) -> list[str]:
    files: list[str] = []
    for path in paths:
        if glob.has_magic(path) and not os.path.lexists(path) and "://" not in path:
            found = sorted(glob.glob(path), key=_natural)
            if not found:
                raise OptionError(f"no file fits {path}", "look at the pattern: relative ones start from the current directory")
            files += found
        else:
            files.append(path)
    return files


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts 2 before 10."""
    return [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in re.split(r"([0-9]+)", name) if piece]


def _parts(files: list[str], group: bool) -> list[Source]:
    """Return a source for each file, or for each set of parts."""
    sets: dict[tuple[str, str], dict[int, str]] = {}
    for file in files if group else ():
        stem, ending = _split(file)
        if part := _PART.fullmatch(stem):
            sets.setdefault((part["head"], ending), {}).setdefault(int(part["rank"]), file)
    sources: list[Source] = []
    taken: set[str] = set()
    for (head, _), parts in sets.items():
        if len(parts) > 1 and 0 in parts:
            source = Source(head, [parts[n] for n in sorted(parts)])
            if absent := [n for n in range(max(parts)) if n not in parts]:
                source.facts.append(
                    f"{source.files[0]} and its like: part {', '.join(map(str, absent[:20]))} of {max(parts) + 1} is not there"
                )
            sources.append(source)
            taken.update(source.files)
    sources += [Source(_split(f)[0], [f]) for f in files if f not in taken]
    # The shortest names that tell them apart: composed_index.json is what everyone's index is called.
    depth = 1
    while depth < 20 and len({_tail(s.name, depth) for s in sources}) < len(sources):
        depth += 1
    for source in sources:
        source.name = _tail(source.name, depth)
    return sources


def _split(file: str) -> tuple[str, str]:
    ending = _ENDING.search(file)
    cut = ending.start() if ending else len(file)
    return file[:cut], file[cut:]


def _tail(path: str, depth: int) -> str:
    return "/".join(path.replace(os.sep, "/").split("/")[-depth:])
