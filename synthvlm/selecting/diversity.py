"""Diversity: drop images that are nearly those of a better pair, and let clusters of images take turns. By the vectors of a CLIP model.

Near-duplicates: pairs are taken best first, and one whose image has a cosine of ``max_similarity`` or more with a kept one goes. The
search is exact (faiss, inner products of all kept images): what it keeps follows from vectors and order alone. Clusters: k-means
(faiss, a fixed seed) over the images of the best candidates; each cluster gives its best pair that is left, and so on in turns, so that
none has more than its share while others have any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthvlm import embeddings
from synthvlm.errors import OptionError, RunError
from synthvlm.run import RunDirectory, Stage
from synthvlm.selecting.gather import images_sql, key_sql

if TYPE_CHECKING:
    import numpy as np

BLOCK = 1024
"""Images looked up at a time."""
_UNSURE = 1e-4
"""Cosines in single precision may be off by less; nearer to the limit than this they are computed again, in double precision."""
_SEED = 1234


@dataclass(frozen=True)
class Diversity:
    """What is asked for."""

    max_similarity: float | None = None
    """Cosine from which two images are the same."""
    clusters: int | None = None

    def check(self, scores: Sequence[Stage]) -> tuple[Stage, str] | None:
        """Return the stage and column of the vectors, or None if nothing is asked for. Raises OptionError or RunError."""
        if self.max_similarity is None and self.clusters is None:
            return None
        if self.max_similarity is not None and not 0 < self.max_similarity <= 1:
            raise OptionError(f"--max-similarity {self.max_similarity} is not a cosine", "give a number up to 1, such as 0.95")
        if self.clusters is not None and self.clusters < 1:
            raise OptionError(f"--clusters {self.clusters} is too few", "give a number such as 1000")
        try:
            import faiss  # noqa: F401
        except ImportError:
            raise OptionError("diversity needs faiss, which is not installed", "pip install 'synthvlm[diversity]'") from None
        found = embeddings.column_of(scores)
        if found is None:
            raise RunError(
                f"no score stage keeps vectors of the images ({', '.join(s.name for s in scores)})",
                "score with a scorer that does, such as clip: synthvlm score RUN --scorer clip --as NAME; then name it with --scores",
            )
        return found

    def apply(self, run: RunDirectory, db: Any, vectors: tuple[Stage, str], scratch: str) -> dict[str, Any]:
        """Drop near-duplicates from the table ``standing`` and give it a column ``cluster``; return what was done."""
        stage, column = vectors
        told: dict[str, Any] = {"vectors": f"{stage.name}.{column}", "card": stage.cards[column]}
        ordered = _ordered(run, db, stage)
        groups, keep = db.execute("SELECT count(*), any_value(keep) FROM quotas").fetchall()[0]
        enough = keep if groups == 1 and self.clusters is None else len(ordered)
        # Most often a few more than are wanted will do; the rest is looked at only if it has to be.
        kept: list[int] = []
        seen, search = 0, None
        while seen < len(ordered) and len(kept) < enough:
            end = min(len(ordered), max(4 * BLOCK, seen * 3, 2 * enough) if self.max_similarity is not None else len(ordered))
            found = embeddings.read(
                run, stage, column, ordered["key"].slice(seen, end - seen).combine_chunks(), Path(scratch) / f"vectors-{seen}"
            )
            if self.max_similarity is None:
                kept, seen = list(range(end)), end
            else:
                search = search or Nearest(found.shape[1], self.max_similarity)
                for at in range(0, len(found), BLOCK):
                    kept += [seen + at + n for n in search.add(unit(found[at : at + BLOCK]))]
                    if len(kept) >= enough:
                        end = seen + min(at + BLOCK, len(found))
                        break
                seen = end
        told |= {"looked_at": seen, "near_duplicates": seen - len(kept)}
        pairs = ordered.select(["row", "candidate", "total"]).take(kept)
        clusters = None
        if self.clusters is not None:
            clusters = cluster(
                embeddings.read(run, stage, column, ordered["key"].take(kept).combine_chunks(), Path(scratch) / "kept"), self.clusters
            )
            told["clusters"] = int(clusters.max()) + 1
        _replace(db, pairs, clusters)
        return told


def _ordered(run: RunDirectory, db: Any, stage: Stage) -> Any:
    """Return (key of the score, row, candidate, total) of the pairs in ``standing``, best first, as an Arrow table."""
    images = run.stage(stage.reads["image"])
    wanted = ["p.row", "p.candidate", f"{key_sql(stage, 's.id, s.caption, p.sha256, p.candidate')} AS key"]
    once = "QUALIFY row_number() OVER (PARTITION BY p.key ORDER BY p.stored DESC, p.tries DESC) = 1"
    found = f"{images_sql(run, images, None, wanted)} AND (p.row, p.candidate) IN (SELECT row, candidate FROM standing) {once}"
    return db.sql(f"""SELECT i.key, t.row, t.candidate, t.total FROM standing t JOIN captions c USING (row) JOIN ({found}) i USING (row, candidate)
        ORDER BY t.total DESC, c.id, t.candidate""").to_arrow_table()


def _replace(db: Any, pairs: Any, clusters: np.ndarray | None) -> None:
    """Leave only ``pairs`` in ``standing``."""
    import pyarrow as pa

    kept = pairs.select(["row", "candidate"]).append_column(
        "cluster", pa.array(clusters if clusters is not None else [0] * len(pairs), pa.int64())
    )
    db.register("kept_pairs", kept)
    db.execute("CREATE TABLE diverse AS SELECT t.*, k.cluster FROM standing t JOIN kept_pairs k USING (row, candidate)")
    db.execute("DROP TABLE standing; ALTER TABLE diverse RENAME TO standing")
    db.unregister("kept_pairs")


def unit(vectors: np.ndarray) -> np.ndarray:
    """Return vectors as unit vectors in single precision: half-precision ones are off by a thousandth."""
    import numpy as np

    wide = np.asarray(vectors, np.float32)
    return wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)


class Nearest:
    """Images that are kept, and the question whether another is nearly one of them."""

    def __init__(self, dim: int, limit: float) -> None:
        import faiss

        self._index: Any = faiss.IndexFlatIP(dim)
        self._limit = limit

    def add(self, block: np.ndarray) -> list[int]:
        """Take unit vectors, best first; return the places of those that are kept."""
        import numpy as np

        alike = self._alike_to_kept(block)
        among = block @ block.T
        kept: list[int] = []
        for n in np.flatnonzero(~alike):
            near = among[n, kept]
            if len(kept) and near.max() > self._limit - _UNSURE and self._sure(block[n], block[kept], near):
                continue
            kept.append(int(n))
        if kept:
            self._index.add(np.ascontiguousarray(block[kept]))
        return kept

    def _alike_to_kept(self, block: np.ndarray) -> np.ndarray:
        """Say of each vector whether one that is kept is alike."""
        import numpy as np

        if not self._index.ntotal:
            return np.zeros(len(block), bool)
        nearest = self._index.search(block, 1)[0][:, 0]
        alike = nearest >= self._limit + _UNSURE
        for n in np.flatnonzero(abs(nearest - self._limit) < _UNSURE):
            _, near, which = self._index.range_search(block[n : n + 1], self._limit - _UNSURE)
            alike[n] = self._sure(block[n], np.stack([self._index.reconstruct(int(w)) for w in which]), near)
        return alike

    def _sure(self, one: np.ndarray, others: np.ndarray, near: np.ndarray) -> bool:
        """Say whether ``one`` is alike to any of ``others``, whose cosines in single precision are ``near``."""
        import numpy as np

        close = np.asarray(others[near > self._limit - _UNSURE], np.float64)
        wide = np.asarray(one, np.float64)
        exact = (close * wide).sum(axis=1) / (np.sqrt((close * close).sum(axis=1)) * np.sqrt((wide * wide).sum()))
        return bool((exact >= self._limit).any())


def cluster(vectors: np.ndarray, count: int) -> np.ndarray:
    """Return the cluster (0 …) of each vector: k-means on the sphere, fitted to at most 256 vectors a cluster, evenly taken."""
    import faiss
    import numpy as np

    count = min(count, len(vectors))
    step = max(1, len(vectors) // (256 * count))
    means: Any = faiss.Kmeans(
        vectors.shape[1], count, niter=20, seed=_SEED, spherical=True, min_points_per_centroid=1, max_points_per_centroid=1 << 20
    )
    means.train(unit(vectors[::step]))
    found = [means.index.search(unit(vectors[at : at + BLOCK]), 1)[1][:, 0] for at in range(0, len(vectors), BLOCK)]
    labels = np.concatenate(found)
    return np.unique(labels, return_inverse=True)[1]
