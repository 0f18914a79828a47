"""Texts → Arrow arrays of JSON literals.

Not by ``pa.array()``: it imports pandas where that is installed, which takes as long as some 100,000 captions do here.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from synthvlm.merging.records import literal


def literals(texts: list[str]) -> pa.Array:
    """Return the texts as JSON literals."""
    try:
        spelled = [text.encode() for text in texts]
    except UnicodeEncodeError:  # halves of surrogate pairs
        spelled = [literal(text).encode()[1:-1] for text in texts]
    else:
        ends = np.cumsum(_lengths(spelled))
        for n in np.unique(np.searchsorted(ends, special(np.frombuffer(b"".join(spelled), np.uint8)), "right")).tolist():
            spelled[n] = literal(texts[n]).encode()[1:-1]
    edges = np.zeros(len(spelled) + 1, np.int32)
    np.cumsum(_lengths(spelled) + 2, out=edges[1:])
    return cut(b'"' + b'""'.join(spelled) + b'"' if spelled else b"", edges)


def special(data: np.ndarray) -> np.ndarray:
    """Return the places of bytes that JSON spells otherwise: control characters, quotation marks, backslashes."""
    return np.flatnonzero((data < 0x20) | (data == 0x22) | (data == 0x5C))


def cut(data: bytes, edges: np.ndarray) -> pa.Array:
    """Return the texts that lie in ``data`` between each two of the ``edges`` (int32), which are not copied."""
    return pa.StringArray.from_buffers(len(edges) - 1, pa.py_buffer(edges), pa.py_buffer(data))


def numbers(values: np.ndarray) -> pa.Array:
    """Return whole numbers (int64)."""
    return pa.Array.from_buffers(pa.int64(), len(values), [None, pa.py_buffer(np.ascontiguousarray(values, np.int64))])


def mask(values: np.ndarray) -> pa.Array:
    """Return truth values."""
    return pa.Array.from_buffers(pa.bool_(), len(values), [None, pa.py_buffer(np.packbits(values, bitorder="little"))])


def _lengths(texts: list[bytes]) -> np.ndarray:
    return np.fromiter(map(len, texts), np.int32, len(texts))
