"""Parts: immutable files of finished rows. Pixels first (``.tar``), then the Parquet that names them; both named by digest.

A part of shard 12 is ``<stage>/000/000012-<digest>.parquet``; a merged one names its range, ``000000-000155-<digest>.parquet``.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import tarfile
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from synthvlm.storage import Store

SHARDS_PER_FOLDER = 1000
_META = b"synthvlm"

COMMON = [
    pa.field("key", pa.string(), nullable=False),
    pa.field("row", pa.int64(), nullable=False),
    pa.field("id", pa.string(), nullable=False),
    pa.field("candidate", pa.int32(), nullable=False),
]
FAILURE = [pa.field("error", pa.string()), pa.field("error_class", pa.string()), pa.field("tries", pa.int32(), nullable=False)]
IMAGES = pa.schema(
    [
        *COMMON,
        pa.field("seed", pa.int64()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("sha256", pa.string()),
        pa.field("bytes", pa.int64()),
        pa.field("cut_tokens", pa.int32()),
        pa.field("note", pa.string()),
        pa.field("batch_size", pa.int32()),
        pa.field("stored", pa.bool_()),
        pa.field("tar", pa.string()),
        pa.field("offset", pa.int64()),
        *FAILURE,
    ]
)
"""A generated image: ``bytes`` at ``offset`` of the part's ``tar`` hold its encoded pixels, if ``stored``."""

CAPTIONS = pa.schema(
    [
        *COMMON,
        pa.field("perspective", pa.string()),
        pa.field("text", pa.string()),
        pa.field("raw", pa.string()),
        pa.field("finish_reason", pa.string()),
        pa.field("tokens", pa.int32()),
        pa.field("prompt_tokens", pa.int32()),
        pa.field("flags", pa.string()),
        pa.field("sha256", pa.string()),
        pa.field("batch_size", pa.int32()),
        *FAILURE,
    ]
)
"""A caption: ``text`` is the cleaned answer, ``raw`` the answer itself where it differs; ``flags`` (comma-separated) say what was done
or let pass; ``sha256`` is the image's."""


VERDICTS = pa.schema(
    [
        *COMMON,
        pa.field("flipped", pa.bool_()),
        pa.field("verdict", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("raw", pa.string()),
        pa.field("repaired", pa.bool_()),
        pa.field("finish_reason", pa.string()),
        pa.field("tokens", pa.int32()),
        pa.field("prompt_tokens", pa.int32()),
        pa.field("seconds", pa.float64()),
        pa.field("batch_size", pa.int32()),
        *FAILURE,
    ]
)
"""A judge's word on a pair: ``verdict`` is ``a``, ``b`` or ``tie`` of the sets, or a person's ``skip``; ``flipped`` says that B was shown
first; ``raw`` is an answer that is no verdict; ``seconds`` are those that a person took."""


def scores_schema(columns: Sequence[str], cards: Mapping[str, Mapping[str, Any]] | None = None) -> pa.Schema:
    """Return the schema of a score table: the image's sha256, then one float64 per column, or text where its card says ``type: string``.

    Cards of ``type: embedding`` have a column of float16 vectors each; they are no scores, and not among ``columns``.
    """
    cards = cards or {}
    kinds = {c: pa.string() if cards.get(c, {}).get("type") == "string" else pa.float64() for c in columns}
    vectors = [pa.field(c, pa.list_(pa.float16(), cards[c]["dim"])) for c in embeddings(cards)]
    return pa.schema([*COMMON, pa.field("sha256", pa.string()), *[pa.field(c, kind) for c, kind in kinds.items()], *vectors, *FAILURE])


def embeddings(cards: Mapping[str, Mapping[str, Any]], of: str | None = None) -> list[str]:
    """Return the columns that hold vectors: of every kind, or ``of`` ``image`` or ``caption``."""
    return [c for c, card in cards.items() if card.get("type") == "embedding" and of in (None, card["of"])]


@dataclass(frozen=True, slots=True)
class Part:
    """One committed part: its Parquet's path within the run and the shards that it may hold."""

    path: str
    first: int
    last: int

    @property
    def digest(self) -> str:
        """Return the first 16 hex digits of the Parquet's SHA-256, as its name has them."""
        return self.path.rsplit("-", 1)[-1].removesuffix(".parquet")


def folder(stage: str, shard: int) -> str:
    """Return the folder of a shard's parts."""
    return f"{stage}/{shard // SHARDS_PER_FOLDER:03d}"


def commit(
    store: Store,
    stage: str,
    shard: int,
    schema: pa.Schema,
    rows: Sequence[Mapping[str, Any]],
    pixels: Mapping[str, tuple[str, bytes]] | None = None,
    info: Mapping[str, Any] | None = None,
    last_shard: int | None = None,
) -> str:
    """Write ``rows`` (and their pixels, key → (extension, bytes)) as one part; return its path.

    ``info`` (device, versions, seconds …) is kept beside the rows, in the Parquet's metadata.
    """
    table = _table(rows, schema)
    label = f"{shard:06d}" if last_shard is None or last_shard == shard else f"{shard:06d}-{last_shard:06d}"
    where = folder(stage, shard)
    metadata = dict(info or {})
    if pixels:
        tar, offsets = pack(
            [(f"{r['row']:09d}-{r['candidate']:03d}.{pixels[r['key']][0]}", pixels[r["key"]][1]) for r in rows if r["key"] in pixels]
        )
        name = tar_name(f"{where}/{label}", tar)
        store.put(name, tar)
        metadata |= {"tar": name, "tar_bytes": len(tar), "tar_sha256": hashlib.sha256(tar).hexdigest()}
        offset = iter(offsets)
        at = [next(offset) if r["key"] in pixels else None for r in rows]
        table = table.set_column(
            schema.get_field_index("tar"), schema.field("tar"), pa.array([None if a is None else name for a in at], pa.string())
        )
        table = table.set_column(schema.get_field_index("offset"), schema.field("offset"), pa.array(at, pa.int64()))
    return write_table(store, f"{where}/{label}", table, metadata)


def _table(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Return rows as a table. Vectors are stacked by NumPy: Arrow takes a millisecond for each that comes as a Python object."""
    import numpy as np

    arrays = []
    for field in schema:
        if pa.types.is_fixed_size_list(field.type):
            absent = np.array([r.get(field.name) is None for r in rows])
            none = np.zeros(field.type.list_size, np.float16)
            flat = np.stack([none if r.get(field.name) is None else np.asarray(r[field.name], np.float16) for r in rows])
            arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), type=field.type, mask=pa.array(absent)))
        else:
            arrays.append(pa.array([r.get(field.name) for r in rows], field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def commit_table(store: Store, stage: str, shard: int, tables: Sequence[pa.Table], info: Mapping[str, Any]) -> int:
    """Write Arrow tables of finished rows, without pixels, as one part; return the number of rows."""
    table = pa.concat_tables(tables)
    write_table(store, f"{folder(stage, shard)}/{shard:06d}", table, info)
    return table.num_rows


def tar_name(stem: str, tar: bytes) -> str:
    """Return a name of its own for a part's pixels: two processes that made the same ones must not share, and delete, one file."""
    return f"{stem}-{hashlib.sha256(tar).hexdigest()[:16]}-{uuid.uuid4().hex[:8]}.tar"


def write_table(store: Store, stem: str, table: pa.Table, info: Mapping[str, Any]) -> str:
    """Write a part's Parquet under ``stem-<digest>.parquet``; return its path."""
    info = {"rows": table.num_rows, **info}
    table = table.replace_schema_metadata({_META: json.dumps(info, sort_keys=True).encode()})
    buffer = io.BytesIO()
    settings: dict[str, Any] = {"compression": "zstd"}
    vectors = [f.name for f in table.schema if pa.types.is_fixed_size_list(f.type)]
    if vectors:  # half-precision noise does not shrink, and trying takes three times as long as writing it
        others = [c for c in table.column_names if c not in vectors]
        settings["compression"] = dict.fromkeys(others, "zstd") | {f"{c}.list.element": "none" for c in vectors}
        settings["use_dictionary"] = others
    pq.write_table(table, buffer, **settings)
    data = buffer.getbuffer()
    path = f"{stem}-{hashlib.sha256(data).hexdigest()[:16]}.parquet"
    store.put(path, data)
    return path


def pack(members: Iterable[tuple[str, bytes]]) -> tuple[bytes, list[int]]:
    """Return a tar of ``members`` with fixed times and owners, and the offset of each member's bytes in it."""
    buffer = io.BytesIO()
    offsets = []
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o644
            tar.addfile(entry, io.BytesIO(data))
            offsets.append(tar.offset - -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE)
    return buffer.getvalue(), offsets


def list_parts(store: Store, stage: str, shards: tuple[int, int] | None = None) -> list[Part]:
    """List a stage's parts, or those that may hold a shard of the (inclusive) range; reads names only."""
    if shards is None:
        folders = [f for f in store.list(stage) if f.isdigit()]
    else:
        folders = [f"{n:03d}" for n in range(shards[0] // SHARDS_PER_FOLDER, shards[1] // SHARDS_PER_FOLDER + 1)]
    found = []
    for f in folders:
        for name in store.list(f"{stage}/{f}", ".parquet"):
            numbers = name.split("-")[:-1]
            first, last = int(numbers[0]), int(numbers[-1])
            if shards is None or (first <= shards[1] and last >= shards[0]):
                found.append(Part(f"{stage}/{f}/{name}", first, last))
    return found


def part_info(store: Store, part: Part) -> dict[str, Any]:
    """Return what is kept beside a part's rows. Raises ArrowInvalid or OSError if the part is damaged."""
    with store.fs.open(store.path(part.path), "rb") as f:
        metadata = pq.read_metadata(f).metadata or {}
    return json.loads(metadata.get(_META, b"{}"))


def damage(store: Store, part: Part, thorough: bool = False) -> str | None:
    """Say what is wrong with a part, or None. ``thorough`` reads every byte; otherwise footers and sizes only."""
    try:
        info = part_info(store, part)
    except FileNotFoundError:  # merged away by another process: nothing is lost
        return None
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk or the network is in trouble, which says nothing of the part
        return f"unreadable: {error}".splitlines()[0]
    if thorough and hashlib.sha256(store.read(part.path)).hexdigest()[:16] != part.digest:
        return "its bytes do not match its name"
    if "tar" in info:
        size = store.size(info["tar"])
        if size != info["tar_bytes"]:
            return "its pixels are missing" if size is None else f"its pixels are cut short ({size} of {info['tar_bytes']} bytes)"
        if thorough and hashlib.sha256(store.read(info["tar"])).hexdigest() != info["tar_sha256"]:
            return "its pixels do not match their digest"
    return None


def set_aside(store: Store, part: Part) -> str:
    """Move a damaged part out of the way (its rows are then wanted again); return where it went."""
    target = f"damaged/{part.path}"
    try:
        tar = part_info(store, part).get("tar")
    except (pa.ArrowException, OSError, ValueError):
        tar = None
    store.move(part.path, target)
    if tar:
        with contextlib.suppress(FileNotFoundError):
            store.move(tar, f"damaged/{tar}")
    return target


def repair(store: Store, stage: str, thorough: bool = False) -> Iterator[tuple[Part, str]]:
    """Set aside every damaged part of a stage, yielding each with what is wrong with it."""
    for part in list_parts(store, stage):
        problem = damage(store, part, thorough)
        if problem:
            try:
                set_aside(store, part)
            except FileNotFoundError:  # another process was faster
                continue
            yield part, problem
