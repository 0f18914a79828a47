"""Loose files → one line for each image: against plain loops over dicts, whatever the files look like."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from synthvlm.errors import InputError
from synthvlm.merge import merge_files
from tests.merging import ABSENT, DAMAGED, Form, expected, usable, write

NAMES = ["a.jpg", "b.jpg", "d/c.jpg", "é.jpg", 'quo"ted', "back\\slash", "a\nb", "\u2028", "", "x" * 90, "1", "caption", "1.0"]
IMAGES = st.sampled_from([*NAMES, 7, 1.0, None, ["a.jpg"]])
TEXTS = st.one_of(
    st.sampled_from(["a dog", "a cat", "", 'said "no"', "tail\\", '\\"', "{", "}, {", '": "', "日本", "😀", "\x7f", "\x00\x1f", "a\r\nb"]),
    st.text(st.characters(exclude_categories=["Cs", "Co"]), max_size=12),
)
BAD = st.sampled_from([None, 3, True, ["a", "b"], {"a": "b"}, {}, ABSENT, f"bad {DAMAGED} byte"])
FORMS = st.builds(
    Form,
    kind=st.sampled_from(["lines", "array", "index"]),
    ascii=st.booleans(),
    indent=st.booleans(),
    newline=st.sampled_from(["\n", "\r\n"]),
    bom=st.booleans(),
    packed=st.booleans(),
    cut=st.one_of(st.none(), st.floats(0.05, 0.999)),
)


def records(captions: Any) -> Any:
    return st.lists(st.tuples(IMAGES, captions), max_size=8)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(x) for x in path.read_text().split("\n")[:-1]]


@settings(max_examples=60, deadline=None)
@given(
    records(st.one_of(TEXTS, BAD)),
    st.lists(st.tuples(records(st.one_of(TEXTS, TEXTS, TEXTS, BAD)), FORMS), min_size=1, max_size=3),
    FORMS,
    st.sampled_from(["skip", "drop", "empty"]),
    st.booleans(),
    st.booleans(),
    st.permutations(["original", "s0", "s1"]),
    st.integers(0, 3),
)
@example(  # the second record of an image is not used, and has more captions than any that is
    [("a.jpg", "a dog"), ("a.jpg", ["a", "b"])], [([("a.jpg", "a cat")], Form())], Form(), "empty", True, False, ["original", "s0"], 0
)
def test_files_of_any_form_give_what_loops_over_dicts_give(original, sources, form, missing, keep, dedupe, names, ordered):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def written(stem: str, pairs: Any, form: Form) -> tuple[str, Any]:
            if form.kind == "index":
                pairs = [(i, None if c is ABSENT else c) for i, c in pairs if isinstance(i, str)]
            path = folder / (stem + form.ending)
            return str(path), write(path, pairs, form)

        first, own = written("original", original, form)
        files = {f"s{n}": written(f"s{n}", pairs, f) for n, (pairs, f) in enumerate(sources)}
        options: dict[str, Any] = {"missing": missing, "keep_original": keep, "dedupe": dedupe}
        found = {k: pairs for k, (_, pairs) in files.items()}
        there = {k for k, pairs in found.items() if usable(pairs)}
        if keep and any(line["caption"] for line in expected(own, {})[0]):
            there.add("original")
        options["order"] = [n for n in names if n in there][:ordered]
        want, positions = expected(own, found, **options)
        out = folder / "out.jsonl"
        try:
            done = merge_files(first, {k: path for k, (path, _) in files.items()}, str(out), **options)
        except InputError:
            assert not want or not any(map(usable, found.values()))
            assert not list(folder.glob("out*")), "nothing is left"
            return
        assert lines_of(out) == want
        assert (done["lines"], done["lines"] + done["dropped"]) == (len(want), done["images"])
        beside = folder / "out.provenance.jsonl"
        if beside.exists():
            assert [json.loads(x) for x in beside.read_text().splitlines()] == positions
        else:
            assert missing == "empty" or all(p == positions[0] for p in positions)
        assert not list(folder.glob(".*")), "nothing is left"


PAIRS = [("a.jpg", "a dog"), ("é/b.jpg", 'naïve "x" \\ \n tab\t / 日本 \x7f'), ("c.jpg", "")] + [
    (f"{n}.jpg", f"caption {n}") for n in range(200)
]


def test_equal_bytes_whatever_form_the_captions_come_in(tmp_path: Path) -> None:
    outs = set()
    for n, kind in enumerate(["lines", "array", "index"] * 4):
        form = Form(kind, ascii=bool(n & 1), indent=bool(n & 2), newline="\r\n" if n & 4 else "\n", bom=n % 5 == 0, packed=n == 8)
        folder = tmp_path / str(n)
        folder.mkdir()
        write(folder / "original.jsonl", PAIRS[:150], Form(ascii=not form.ascii))
        write(folder / f"x{form.ending}", PAIRS[::-1], form)
        merge_files(f"{folder}/original.jsonl", [f"{folder}/x{form.ending}"], folder / "out.jsonl")
        outs.add((folder / "out.jsonl").read_bytes())
    assert len(outs) == 1
    assert lines_of(folder / "out.jsonl") == [{"image": i, "caption": [c, c]} for i, c in PAIRS[:150]]


@pytest.mark.parametrize("kind", ["lines", "array", "index"])
@pytest.mark.parametrize("indent", [False, True])
def test_a_file_cut_off_at_any_byte_gives_its_complete_records(tmp_path: Path, kind: str, indent: bool) -> None:
    original, source = tmp_path / "original.jsonl", tmp_path / "x.json"
    pairs = [("a.jpg", 'a "dog"'), ("é.jpg", "naïve\\"), ("c.jpg", "}, {")]
    write(original, pairs, Form())
    form = Form(kind, indent=indent)
    write(source, pairs, form)
    whole = source.read_bytes()
    for size in range(1 + indent, len(whole), 3 if kind == "index" else 8):
        left = write(source, pairs, dataclasses.replace(form, cut=(size + 0.5) / len(whole)))
        assert len(source.read_bytes()) == size
        if not left:
            with pytest.raises(InputError, match="no usable caption in x"):
                merge_files(str(original), [str(source)], tmp_path / "out.jsonl")
            continue
        done = merge_files(str(original), [str(source)], tmp_path / "out.jsonl", keep_original=False)
        assert lines_of(tmp_path / "out.jsonl") == [{"image": i, "caption": [c]} for i, c in left]
        if kind != "lines" or left != pairs:
            noted = " ".join(done["notes"])
            assert f"its {len(left):,} complete records are used" in noted or kind == "lines", noted


def test_long_files_are_cut_in_pieces_at_the_right_places(tmp_path: Path) -> None:
    """Several megabytes: pieces end within records, texts, escapes and characters of several bytes."""
    pairs = [(f"{n:05d}é.jpg", f'caption "{n}" ' + '日\\", "😀' * (n % 97) + "\\" * (n % 5)) for n in range(6000)]
    want, _ = expected(pairs, {"x": pairs})
    write(tmp_path / "original.jsonl", pairs, Form())
    for kind in ("index", "array", "lines"):
        for ascii in (False, True):
            form = Form(kind, ascii=ascii, indent=ascii)
            write(tmp_path / f"x{form.ending}", pairs, form)
            merge_files(f"{tmp_path}/original.jsonl", [f"{tmp_path}/x{form.ending}"], tmp_path / "out.jsonl")
            assert lines_of(tmp_path / "out.jsonl") == want


def test_one_huge_caption_is_a_caption(tmp_path: Path) -> None:
    pairs = [("a", "x"), ("b", 'long "é"' * 500_000), ("c", "z")]
    write(tmp_path / "original.jsonl", [(i, None) for i, _ in pairs], Form())
    for kind in ("index", "array", "lines"):
        write(tmp_path / "x.json", pairs, Form(kind, ascii=True))
        merge_files(f"{tmp_path}/original.jsonl", [f"{tmp_path}/x.json"], tmp_path / "out.jsonl")
        assert lines_of(tmp_path / "out.jsonl") == [{"image": i, "caption": [c]} for i, c in pairs]
