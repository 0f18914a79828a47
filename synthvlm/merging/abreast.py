"""Sources whose captions come in the order of the images, as captioners write them: read side by side, and nothing is kept.

An image may be without a caption, but every caption must be of one of the images, and in order. Whether that is so shows on the way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import duckdb
import numpy as np
import pyarrow as pa

from synthvlm.merging.join import Column, one
from synthvlm.merging.load import UNUSUAL

_BATCH = 1 << 14
TABLE = "abreast"
MOST = 12
"""Sources that are read at once; each takes some 40 MB."""


class Unfit(Exception):
    """A source has captions of other images, several of one, in another order, or lines that are not as they should be."""


@contextlib.contextmanager
def abreast(db: duckdb.DuckDBPyConnection, own: Sequence[Column], captions: Sequence[tuple[Column, str]]) -> Iterator[list[Column]]:
    """Make ``TABLE``, which can be read once: the images with their ``own`` captions and those that the SQL beside a column gives.

    Yields its columns, which are counted once it is read. Raises Unfit if a source turns out to be so meanwhile. DuckDB must be
    running with one thread.
    """
    unfit: list[Exception] = []
    cursors = [db.cursor() for _ in range(len(captions) + 1)]
    columns = [Column(c.source, TABLE, c.caption, c.about, c.lacking) for c in own]
    with ThreadPoolExecutor(len(captions), "merge-read") as pool:
        try:
            texts = ", ".join(["image", *(c.caption for c in own)])
            images = cursors[0].sql(f"SELECT {texts} FROM images").to_arrow_reader(_BATCH)
            sources = [_Source(pool, cursor, sql) for cursor, (_, sql) in zip(cursors[1:], captions, strict=True)]
            added = [Column(c.source, TABLE, f"source_{n}", c.about) for n, (c, _) in enumerate(captions)]
            kind = images.schema.field(0).type
            schema = pa.schema([*images.schema, *((c.caption, kind) for c in added)])

            def batches() -> Iterator[pa.RecordBatch]:
                (count,) = one(cursors[0].cursor(), "SELECT count(*) FROM images")
                try:
                    for batch in images:
                        yield pa.record_batch([*batch.columns, *(s.captions_of(batch.column(0)) for s in sources)], schema)
                    for source in sources:
                        source.end()
                except (Unfit, *UNUSUAL, OSError) as error:  # a reader of Arrow raises DuckDB's errors as these
                    unfit.append(error)
                    raise
                for source, column in zip(sources, added, strict=True):
                    column.about |= {"records": source.records, "used": source.records, "duplicates": 0, "unknown": 0}
                    column.lacking = count - source.records

            db.register(TABLE, pa.RecordBatchReader.from_batches(schema, batches()))
            yield columns + added
        except duckdb.Error as error:
            if unfit or "Out of Memory" in str(error):
                raise Unfit from error
            raise
        finally:
            for cursor in cursors:
                cursor.interrupt()
            pool.shutdown(cancel_futures=True)
            db.unregister(TABLE)


class _Source:
    """One source, read in order, a batch ahead."""

    def __init__(self, pool: ThreadPoolExecutor, cursor: duckdb.DuckDBPyConnection, sql: str) -> None:
        self.records = 0
        """How many captions were taken."""
        self._pool = pool
        try:
            self._reader = cursor.sql(sql).to_arrow_reader(_BATCH)
        except UNUSUAL as error:
            raise Unfit from error
        self._next = pool.submit(next, self._reader, None)
        self._waiting = pa.Table.from_batches([], self._reader.schema)

    def captions_of(self, images: pa.Array) -> pa.Array:
        """Return a caption for each of the images that come next, null where it has none."""
        import pyarrow.compute as pc

        while len(self._waiting) < len(images) and self._read():
            pass
        # No more than these can be of these images, if all are in order.
        first = self._waiting.slice(0, len(images)).combine_chunks()
        if not len(first):
            return pa.nulls(len(images), images.type)
        found: pa.Array = pc.index_in(images, value_set=first.column("image").chunk(0))  # type: ignore[attr-defined]
        places = found.drop_null()
        if not np.array_equal(np.frombuffer(places.buffers()[1], np.int32, len(places), 4 * places.offset), np.arange(len(places))):
            raise Unfit
        self.records += len(places)
        self._waiting = self._waiting.slice(len(places))
        return first.column("caption_0").chunk(0).take(found)

    def end(self) -> None:
        """Make sure that nothing is left; a source without any caption is none."""
        if not self.records or len(self._waiting) or self._read():
            raise Unfit

    def _read(self) -> bool:
        batch = self._next.result()
        if batch is None:
            return False
        self._next = self._pool.submit(next, self._reader, None)
        self._waiting = pa.concat_tables([self._waiting, pa.Table.from_batches([batch])])
        return True
