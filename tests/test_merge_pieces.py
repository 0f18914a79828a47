"""Index objects and arrays read in pieces: whatever the pieces are, the items are the json module's."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synthvlm.errors import InputError
from synthvlm.merging import scan
from synthvlm.merging.arrays import literals
from synthvlm.merging.load import kind_of
from synthvlm.merging.members import plain_members
from synthvlm.merging.records import literal
from synthvlm.merging.scan import Scanner

TEXTS = st.one_of(
    st.sampled_from(["", "a dog", '"', "\\", '\\"', '": "', '", "', "}", "{", "\n", "\x00", "é", "😀", "a\\\\", "\ud800"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
)
STYLES = st.tuples(st.booleans(), st.sampled_from([(", ", ": "), (",", ":"), (" ,\n  ", " :\t")]))


def dumped(members: list[tuple[str, Any]], style: Any) -> bytes:
    ascii, (comma, colon) = style
    spelled = [f"{json.dumps(k, ensure_ascii=ascii)}{colon}{json.dumps(v, ensure_ascii=ascii)}" for k, v in members]
    return ("{" + comma.join(spelled) + "}").encode("utf-8", "surrogatepass")


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=12), STYLES, st.integers(0, 400))
def test_plain_members_are_those_of_json_or_left_alone(members, style, cut):
    data = dumped(members, style)[1:]
    found = plain_members(data[:cut] if cut else data)
    if found is None:
        return
    (images, captions), used = found
    count = len(images)
    assert [json.loads(i) for i in images.to_pylist()] == [k for k, _ in members[:count]]
    assert [json.loads(c) for c in captions.to_pylist()] == [v for _, v in members[:count]]
    assert images.to_pylist() == [literal(k) for k, _ in members[:count]], "in the one spelling"
    assert json.loads(b"{" + data[used:]) == dict(members[count:])


def test_plain_members_takes_what_captioning_scripts_write() -> None:
    members = [(f"é{n}.jpg", f"caption {n}" + ' "quoted"\n\\' * (n % 10 == 0)) for n in range(1000)]
    for ascii in (False, True):
        found = plain_members(dumped(members, (ascii, (", ", ": ")))[1:])
        assert ascii or (found and len(found[0][0]) == 999), "the last one is followed by no other"


@pytest.mark.parametrize(
    "bad",
    [
        b'"a": 1, "b": "x", "c": "y", "d"',
        b'"a": "x" "b": "y", "c": "z", "d": "x"',
        b'"a" "x", "b": "y", "c": "z"',
        b'"a": "\xff", "b": "y", "c": "z"',
        b'"a": "\\x", "b": "y", "c": "z"',
        b'"a": ["x"], "b": "y", "c": "z"',
        b'"a": "x"}, {"b": "y", "c": "z"',
        b'x "a": "x", "b": "y", "c": "z"',
        b'"a": "\\u00', b"", b"   ", b"}", b'"a": "x"}',
    ],
)  # fmt: skip
def test_what_is_not_plain_is_left_to_json(bad: bytes) -> None:
    assert plain_members(bad) is None


VALUES = st.one_of(TEXTS, st.sampled_from([None, ["x", "}, {"], [], True]))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(TEXTS, VALUES), max_size=8), STYLES, st.booleans(), st.booleans(), st.integers(1, 60), st.data())
def test_pieces_of_any_size_and_a_file_cut_off_anywhere(members, style, array, quick, size, data):
    ascii, (comma, colon) = style
    whole, ends = b"[" if array else b"{", []
    for n, (k, v) in enumerate(members):
        key, value, record = (json.dumps(x, ensure_ascii=ascii) for x in (k, v, {"image": k, "caption": v}))
        whole += ((comma if n else "") + (record if array else f"{key}{colon}{value}")).encode("utf-8", "surrogatepass")
        # What has no closing mark is whole only once something follows.
        ends.append(len(whole) + (not array and not isinstance(v, str | list)))
    whole += b"]" if array else b"}"
    cut = data.draw(st.integers(1, len(whole)))
    bad: list[Any] = []
    items: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "CHUNK", size)
        scanner = Scanner("x", "array" if array else "object", lambda *told: bad.append(told))
        for piece in scanner.pieces(io.BytesIO(whole[:cut]), plain_members if quick and not array else lambda _: None):
            items += zip(*(map(json.loads, a.to_pylist()) for a in piece), strict=True) if type(piece) is tuple else piece
    complete = [m for m, end in zip(members, ends, strict=True) if end <= cut]
    # "}, {" at the end of a text that was cut off looks like the next record after a quotation mark that is missing.
    bad = [b for b in bad if "is missing" not in b[1]]
    if not ascii:  # half a pair is no UTF-8: its item is told of and left out
        assert len(bad) == sum("\ud800" in k or v == "\ud800" for k, v in complete)
        complete = [(k, v) for k, v in complete if "\ud800" not in k and v != "\ud800"]
    assert items == [{"image": k, "caption": v} if array else (k, v) for k, v in complete]
    assert scanner.ended == ("whole" if cut == len(whole) else "cut off")


@given(st.lists(TEXTS, max_size=20))
def test_literals_are_json_in_one_spelling(texts):
    assert literals(texts).to_pylist() == [literal(t) for t in texts]
    assert [json.loads(x) for x in literals(texts).to_pylist()] == texts


def test_pandas_is_not_imported() -> None:
    """It takes longer than the captions of 100,000 images."""
    import subprocess
    import sys

    code = "import sys; from synthvlm.merging import arrays, members; arrays.literals(['a']);"
    code += 'members.plain_members(b\'"a\\\\n": "b", "c": "d", "e"\'); print(\'pandas\' in sys.modules)'
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout == "False\n"


def test_what_a_file_is_is_known_by_its_content(tmp_path) -> None:
    path = tmp_path / "x"
    for content, kind in [
        (b"", "empty"), (b" \n\0", "empty"), (b"\xef\xbb\xbf\n [", "array"), (b'{"a.jpg": "x"', "object"), (b"{", "object"),
        (b'{"image": "a", "caption"', "lines"), (b'{"id": [{"image": 1}], "image": "a"}', "lines"), (b'{"id": {"image": 1}}', "object"),
        (b'{"im\\u0061ge": 1}', "lines"), (b'{"a": 1}\n{"b": 2}', "lines"), (b'{\n"a": "x",\n"image.jpg": "y"}', "object"), (b"# x", "lines"),
    ]:  # fmt: skip
        path.write_bytes(content)
        assert kind_of(str(path)) == kind, content
    path.write_bytes("{}".encode("utf-16"))
    with pytest.raises(InputError, match="UTF-16"):
        kind_of(str(path))
