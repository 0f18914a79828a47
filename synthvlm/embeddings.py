"""The vectors that scorers keep beside their scores, read back in any order, without the rest."""

# pyright: reportAttributeAccessIssue=false
# pyarrow.compute makes its functions at import, where a type checker does not see them.
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthvlm import parts
from synthvlm.errors import RunError
from synthvlm.run import RunDirectory, Stage

if TYPE_CHECKING:
    import numpy as np


def column_of(scores: Sequence[Stage], of: str = "image") -> tuple[Stage, str] | None:
    """Return the first score stage that keeps vectors ``of`` images or captions, and their column; None if none does."""
    return next(((s, c) for s in scores for c in parts.embeddings(s.cards, of)), None)


def read(run: RunDirectory, stage: Stage, column: str, keys: Any, file: Path) -> np.ndarray:
    """Return the vectors of the rows of ``stage`` with ``keys`` (an Arrow array), in that order: float16, shape (keys, dim).

    They lie in ``file``, which is made: a million of them are a gigabyte. Raises RunError if a row has none.
    """
    import numpy as np
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    found = np.zeros(len(keys), bool)
    vectors = np.lib.format.open_memmap(file, "w+", np.float16, (len(keys), stage.cards[column]["dim"]))
    for part in parts.list_parts(run.store, stage.name):
        with run.store.fs.open(run.store.path(part.path), "rb") as f:
            reader = pq.ParquetFile(f)
            if column not in reader.schema_arrow.names:
                continue
            at = 0
            places = pc.index_in(reader.read(["key"])["key"].combine_chunks(), value_set=keys)
            for batch in reader.iter_batches(8192, columns=[column]):
                here = places.slice(at, batch.num_rows)
                at += batch.num_rows
                take = pc.and_(here.is_valid(), batch[column].is_valid())
                rows = here.filter(take).to_numpy(zero_copy_only=False)
                if len(rows):
                    vectors[rows] = batch[column].filter(take).flatten().to_numpy(zero_copy_only=False).reshape(len(rows), -1)
                    found[rows] = True
    if not found.all():
        raise RunError(
            f"{len(keys) - int(found.sum()):,} of {len(keys):,} images have no vector in stage {stage.name!r}",
            "they were scored before vectors were kept; score again: synthvlm score RUN --as NAME",
        )
    return vectors
