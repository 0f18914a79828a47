"""Formats whose images stand inside of shards: WebDataset's tars, and Parquet as Hugging Face ``datasets`` reads it. Also a recipe's one file.

A shard is written under a temporary name, renamed, and read back. One that is there already is read, and kept if it holds what it should.
``<format>.sha256`` names the shards, for ``sha256sum -c``: it is empty while an export is under way, and written last.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import IO, Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from synthvlm.errors import RunError, SynthVLMError
from synthvlm.exporting.folder import damaged
from synthvlm.exporting.formats import Row, facts
from synthvlm.exporting.plan import Work, ahead, pixels, readable

_BLOCK = 1 << 20
_GROUP_ROWS = 100
"""Images in a row group: what a reader of one image has to read."""
_GROUP_BYTES = 64 << 20


def write(work: Work) -> dict[str, int]:
    """Write the shards and check them; return images ``written`` and ``kept``, shards ``removed``, records and bytes of the images."""
    shards = -(-work.count() // work.shard)
    ending = work.layout.file.rpartition(".")[2]
    names = [f"train-{k:05d}-of-{shards:05d}.{ending}" for k in range(shards)]
    progress = Progress(work, names)
    kind = {"tar": Tar, "parquet": Parquet}[ending](work)
    rows = work.rows()
    written = 0
    for name in names:
        some = list(islice(rows, work.shard))
        written += progress.shard(name, lambda f, s=some: kind.write(f, s), lambda f, s=some: kind.check(f, s)) * len(some)
    progress.finish()
    return {
        "records": work.count(),
        "bytes": progress.bytes,
        "written": written,
        "kept": work.count() - written,
        "removed": progress.removed,
    }


@dataclass
class Progress:
    """What is there of an export in shards: shards are kept, written anew, or removed, and the list of them is kept in step."""

    work: Work
    names: list[str]
    removed: int = 0
    bytes: int = 0
    """Of the images in the shards so far."""
    digests: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """See that shards which are there are ours, and remove those that are none of this export's. Raises RunError."""
        store = self.work.store
        folder, _, pattern = self.work.layout.file.rpartition("/")
        ours = re.compile(re.escape(pattern).replace(r"\*", r"\d{5,}-of-\d{5,}"))
        there = [n for n in store.list(folder, pattern.rpartition("*")[2]) if ours.fullmatch(n)]
        if there and not store.exists(self.list):
            raise RunError(f"{store.path(self.path(there[0]))} is not from an export of SynthVLM", "choose another --out")
        for name in sorted(set(there) - set(self.names)):
            self.begin()
            store.remove(self.path(name))
            self.removed += 1

    @property
    def list(self) -> str:
        """Return the name of the list of shards."""
        return f"{self.work.format}.sha256"

    def path(self, name: str) -> str:
        """Return a shard's path within the export."""
        folder = self.work.layout.file.rpartition("/")[0]
        return f"{folder}/{name}" if folder else name

    def begin(self) -> None:
        """Say that the export is under way: from here on it is not whole."""
        if self.work.store.size(self.list) != 0:
            self.work.store.put(self.list, b"")

    def shard(self, name: str, write: Callable[[IO[bytes]], None], check: Callable[[IO[bytes]], int]) -> bool:
        """See to it that a shard is there and holds what it should; say whether it had to be written. Raises RunError if it cannot be read back."""
        store, path = self.work.store, self.path(name)
        if store.exists(path):
            try:
                self.digests[path] = self._checked(path, check)
                return False
            except (SynthVLMError, ValueError, OSError):
                pass
        self.begin()
        with store.writer(path) as file:
            write(file)
        try:
            self.digests[path] = self._checked(path, check)
        except (SynthVLMError, ValueError, OSError) as error:
            store.remove(path)
            raise damaged(store.path(path), error) from error
        return True

    def _checked(self, path: str, check: Callable[[IO[bytes]], int]) -> str:
        store = self.work.store
        with store.fs.open(store.path(path), "rb") as file:
            try:
                size = check(file)  # type: ignore[arg-type]
            except (tarfile.TarError, pa.ArrowException, duckdb.Error, KeyError) as error:
                raise ValueError(str(error)) from error
            file.seek(0)
            digest = hashlib.sha256()
            while block := file.read(_BLOCK):
                digest.update(block)  # type: ignore[arg-type]
        self.bytes += size
        return digest.hexdigest()

    def finish(self) -> None:
        """Write the list of shards: the export is whole."""
        text = "".join(f"{self.digests[self.path(n)]}  {self.path(n)}\n" for n in self.names).encode()
        if self.work.store.size(self.list) != len(text) or self.work.store.read(self.list) != text:
            self.work.store.put(self.list, text)


class _Images:
    """What both kinds of shards share."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def images(self, rows: list[Row]) -> Iterator[tuple[Row, bytes]]:
        """Yield each row's bytes, read some ahead."""
        return ahead(lambda row: pixels(self.work.run, row), rows)

    def same(self, row: Row, data: bytes) -> int:
        """See that bytes that were read back are the row's image; return how many they are. Raises RunError or ImageError."""
        if hashlib.sha256(data).hexdigest() != row["sha256"]:
            raise RunError(f"the image of {row['record_id']!r} is not what it was")
        readable(io.BytesIO(data), row)
        return len(data)


class Tar(_Images):
    """``KEY.jpg``, ``KEY.txt`` (the caption; not where an image has several) and ``KEY.json`` (everything else), as WebDataset groups them.

    KEY is the number of the sample and of the candidate, without a dot: the first dot ends a key. ``datasets`` wants samples alike, with the
    same endings: images of several formats are all called ``.jpg``, and readers go by their bytes.
    """

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        endings = work.db.execute("SELECT DISTINCT ending FROM plan LIMIT 2").fetchall()
        self.ending = endings[0][0] if len(endings) == 1 else "jpg"

    def members(self, row: Row, image: bytes) -> list[tuple[str, bytes]]:
        """Return the files of a sample, the image first."""
        key = f"{row['row']:09d}-{row['candidate']:03d}"
        text = [] if "captions" in row else [(f"{key}.txt", row["caption"].encode())]
        said = json.dumps(facts(row, self.work.columns), ensure_ascii=False, allow_nan=False).encode()
        return [(f"{key}.{self.ending}", image), *text, (f"{key}.json", said)]

    def write(self, file: IO[bytes], rows: list[Row]) -> None:
        """Write a shard, with fixed times and owners."""
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for row, image in self.images(rows):
                for name, data in self.members(row, image):
                    entry = tarfile.TarInfo(name)
                    entry.size, entry.mode = len(data), 0o644
                    tar.addfile(entry, io.BytesIO(data))

    def check(self, file: IO[bytes], rows: list[Row]) -> int:
        """Read a shard back; return the bytes of its images. Raises RunError, ImageError or TarError."""
        size = 0
        with tarfile.open(fileobj=file, mode="r|") as tar:
            found = ((m.name, part.read() if (part := tar.extractfile(m)) else b"") for m in tar)
            for row in rows:
                for n, wanted in enumerate(self.members(row, b"")):
                    name, data = next(found, ("", b""))
                    if name != wanted[0] or (n and data != wanted[1]):
                        raise RunError(f"it does not hold {wanted[0]} as it was written")
                    size += self.same(row, data) if n == 0 else 0
            if next(found, None) is not None:
                raise RunError("it holds more than was written")
        return size


class Parquet(_Images):
    """An ``image`` column that ``datasets`` decodes (its ``Image`` feature: bytes and path), and a column for everything else."""

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        # Which columns there are, and of which type, is said by the plan; a fact that no row has is no column.
        kinds = {name: str(kind) for name, kind, *_ in work.db.execute("DESCRIBE plan").fetchall()}
        several, made = "captions" in kinds, work.db.execute("SELECT count(seed) > 0 FROM plan").fetchall()[0][0]
        self.types: dict[str, pa.DataType] = {"id": pa.string()}
        self.types |= (
            dict.fromkeys(("captions", "sources"), pa.list_(pa.field("element", pa.string()))) if several else {"caption": pa.string()}
        )
        self.types |= {c: pa.string() if kinds[c] == "VARCHAR" else pa.float64() for c in work.columns}
        self.types |= dict.fromkeys(("candidate", "seed", "width", "height"), pa.int64()) if made else {}
        self.types |= {"sha256": pa.string(), "meta": pa.string()}
        features = {"image": {"_type": "Image"}} | {c: _feature(kind) for c, kind in self.types.items()}
        said = {"huggingface": json.dumps({"info": {"features": features}})}
        image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        self.schema = pa.schema([("image", image), *self.types.items()]).with_metadata(said)

    def facts(self, row: Row) -> Row:
        """Return the columns of a row but for the image; the user's own fields are JSON, since each may have others."""
        said = facts(row, self.work.columns)
        said["meta"] = row["meta"]
        return {c: said.get(c) for c in self.types}

    def write(self, file: IO[bytes], rows: list[Row]) -> None:
        """Write a shard. Images are not compressed again, and no statistics are kept of them."""
        others = [n for name, kind in self.types.items() for n in ([f"{name}.list.element"] if pa.types.is_list(kind) else [name])]
        paths = ["image.bytes", "image.path", *others]
        codecs = {n: "NONE" if n == "image.bytes" else "ZSTD" for n in paths}
        settings: Any = {"compression": codecs, "use_dictionary": others, "write_statistics": others}
        with pq.ParquetWriter(file, self.schema, **settings) as writer:
            group: list[Row] = []
            size = 0
            for row, image in self.images(rows):
                name = f"{row['row']:09d}-{row['candidate']:03d}.{row['path'].rpartition('.')[2]}"
                group.append({"image": {"bytes": image, "path": name}, **self.facts(row)})
                size += len(image)
                if len(group) == _GROUP_ROWS or size > _GROUP_BYTES:
                    writer.write_table(pa.Table.from_pylist(group, self.schema))
                    group, size = [], 0
            if group:
                writer.write_table(pa.Table.from_pylist(group, self.schema))

    def check(self, file: IO[bytes], rows: list[Row]) -> int:
        """Read a shard back; return the bytes of its images. Raises RunError, ImageError or ArrowException."""
        parquet = pq.ParquetFile(file)
        if not parquet.schema_arrow.equals(self.schema, check_metadata=True) or parquet.metadata.num_rows != len(rows):
            raise RunError("it has other columns or rows than were written")
        found = (r for k in range(parquet.num_row_groups) for r in parquet.read_row_group(k).to_pylist())
        size = 0
        for row, back in zip(rows, found, strict=True):
            size += self.same(row, back.pop("image")["bytes"])
            if back != self.facts(row):
                raise RunError(f"it does not hold {row['record_id']!r} as it was written")
        return size


def _feature(kind: pa.DataType) -> dict[str, Any]:
    """Return what ``datasets`` calls a column's type. ``Sequence`` is the name of lists that old and new releases know."""
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "Sequence"}
    return {"dtype": {pa.float64(): "float64", pa.int64(): "int64"}.get(kind, "string"), "_type": "Value"}
