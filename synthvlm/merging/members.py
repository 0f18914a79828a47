"""The quick way through an index object {image: caption}: texts are cut out of it as they lie, for many members at a time.

What is read so is exactly what the json module would read; whatever is not plainly a text, a colon, a text, a comma, is left to it.
"""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa

from synthvlm.merging.arrays import cut, literals, mask, numbers
from synthvlm.merging.scan import decode

_COLON, _COMMA = re.compile(r"[ \t\r\n]*:[ \t\r\n]*"), re.compile(r"[ \t\r\n]*,[ \t\r\n]*")
_FEW = 0.25
"""Share of texts that may be spelled in another way than ours: with more, the json module is quicker."""


def plain_members(data: bytes) -> tuple[tuple[pa.Array, pa.Array], int] | None:
    """Return images and captions (literals) of the members that ``data``, a stretch of an object from a member on, surely has whole.

    Beside them stands where the next member starts. None if that is not so simple.
    """
    each = np.frombuffer(data, np.uint8)
    quotes = _quotes(each)
    count = (len(quotes) - 1) // 4
    if count < 1 or data[: quotes[0]].strip(b" \t\r\n"):
        return None
    # Four pieces for a member: its key, what stands between, its text, and what stands before the next key.
    edges = quotes[: 4 * count + 1].astype(np.int32)
    edges[1::2] += 1
    pieces = cut(data, edges)
    try:
        pieces.validate(full=True)
    except pa.ArrowInvalid:  # not UTF-8
        return None
    for first, pattern in ((1, _COLON), (3, _COMMA)):
        between = pieces.take(numbers(np.arange(first, 4 * count, 4))).unique()
        if len(between) > count // 2 + 8 or not all(pattern.fullmatch(str(b)) for b in between):
            return None
    odd = np.unique(np.searchsorted(edges, np.flatnonzero((each < 0x20) | (each == 0x5C)), "right") - 1)
    odd = odd[(odd % 2 == 0) & (odd >= 0) & (odd < 4 * count)]
    if len(odd) > 2 * count * _FEW:
        return None
    try:
        images, captions = (_texts(pieces, edges, data, np.arange(first, 4 * count, 4), odd[odd % 4 == first]) for first in (0, 2))
    except ValueError:
        return None
    return (images, captions), int(quotes[4 * count])


def _quotes(each: np.ndarray) -> np.ndarray:
    """Return the places of quotation marks that begin or end a text."""
    quotes = np.flatnonzero(each == 0x22)
    slashes = np.flatnonzero(each == 0x5C)
    if not len(slashes) or not len(quotes):
        return quotes
    # An odd number of backslashes right before takes the mark's meaning from it.
    starts = np.flatnonzero(np.diff(slashes, prepend=-2) != 1)
    lengths = np.arange(len(slashes)) - np.repeat(starts, np.diff(starts, append=len(slashes))) + 1
    before = np.minimum(np.searchsorted(slashes, quotes - 1), len(slashes) - 1)
    return quotes[(slashes[before] != quotes - 1) | (lengths[before] % 2 == 0)]


def _texts(pieces: pa.Array, edges: np.ndarray, data: bytes, which: np.ndarray, odd: np.ndarray) -> pa.Array:
    """Return the pieces ``which``; those of them that are ``odd`` in our spelling. Raises ValueError where one is not JSON."""
    import pyarrow.compute as pc

    texts = pieces.take(numbers(which))
    if not len(odd):
        return texts
    spelled = decode("[" + ",".join(data[edges[n] : edges[n + 1]].decode() for n in odd.tolist()) + "]")
    return pc.replace_with_mask(texts, mask(np.isin(which, odd)), literals(spelled))  # type: ignore[attr-defined]
