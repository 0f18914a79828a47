"""Does a caption or an image stand in a benchmark? Word n-grams for text, perceptual hashes for images; benchmarks are files that the user has.

Texts: every text in JSON, JSONL, CSV, TSV, Parquet or plain text files (questions, hints, options, captions: whatever they are called). Images: a
folder of them. A benchmark counts by its content: another version of a file measures anew.
"""

from __future__ import annotations

import base64
import binascii
import csv
import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from synthvlm.errors import InputError
from synthvlm.options import checkpoint, option, runtime
from synthvlm.sample import Failed
from synthvlm.scorers.text import TextScorer

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from synthvlm.sample import ScoreRequest

_TEXTS = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".txt")
_LONGEST_TEXT = 20_000
"""Characters; what is longer in a field is an encoded image."""
LEAST = 9
"""Bits of 64 from which two images are different ones; below, scaling and compression explain it."""
_HASH_SIDE, _SCALED = 8, 32
_REQUIRED = cast(Any, dataclasses.MISSING)


@dataclass(frozen=True)
class Overlap:
    """Share of a caption's word n-grams that stand in benchmark files: -o overlap.against=FILE|FOLDER."""

    against: str = checkpoint(_REQUIRED, help="file or folder of benchmark texts: JSON, JSONL, CSV, TSV, Parquet, text")
    n: int = option(8, help="words of an n-gram; a caption of fewer words counts only as a whole", ge=2)
    batch_size: int = runtime(1024, help="captions at a time, where they are not measured by the thousand", ge=1)

    output_revision: ClassVar[int] = 1
    reads: ClassVar[str] = "text"

    def load(self, devices: Sequence[str]) -> OverlapScorer:
        """Read the benchmark; ``devices`` are not used."""
        return OverlapScorer(self)


class OverlapScorer(TextScorer):
    """Captions → ``overlap``."""

    columns = ("overlap",)

    def __init__(self, options: Overlap) -> None:
        import numpy as np

        self.batch_size = options.batch_size
        self._n = options.n
        parts, texts = [np.zeros(0, np.uint64)], 0
        for chunk in _chunks(benchmark_texts(options.against)):
            parts.append(np.unique(_grams(chunk, self._n)[0]))
            texts += len(chunk)
        self._known = np.unique(np.concatenate(parts))
        if not len(self._known):
            raise InputError(f"{options.against}: no text in it", f"give a file or folder of {', '.join(_TEXTS)}")
        card = {"metric": f"share of word {options.n}-grams that stand in a benchmark", "texts": texts, "ngrams": len(self._known)}
        self.cards = {"overlap": card}

    def measure(self, captions: Sequence[str]) -> Mapping[str, Any]:
        """Return the column."""
        import numpy as np

        values, of = _grams(captions, self._n)
        at = np.minimum(np.searchsorted(self._known, values), len(self._known) - 1)
        hits = np.bincount(of, self._known[at] == values, len(captions))
        return {"overlap": hits / np.maximum(np.bincount(of, minlength=len(captions)), 1)}


def _grams(texts: Sequence[str], n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (hash, text) of every run of ``n`` words, and of each shorter text as a whole."""
    import numpy as np

    from synthvlm.scorers.words import Words, mix

    words = Words(texts)
    values, of = words.ngrams(n)
    counts = words.per_caption(words.of)
    few = np.flatnonzero((counts > 0) & (counts < n))
    # A short text as a whole: its length and its words in order, so that it is never taken for an n-gram.
    whole = np.zeros(len(texts), np.uint64)
    place = np.arange(len(words.of)) - np.repeat(np.cumsum(counts) - counts, counts)
    np.add.at(whole, words.of, mix(words.hashes + place.astype(np.uint64)))
    whole = mix(whole + counts.astype(np.uint64))
    return np.concatenate((values, whole[few])), np.concatenate((of, few))


@dataclass(frozen=True)
class PerceptualHash:
    """Distance of an image to the nearest of a folder of benchmark images: -o phash.against=FOLDER."""

    against: str = checkpoint(_REQUIRED, help="folder of benchmark images, or TSV with base64 images (MMBench's)")
    batch_size: int = runtime(32, help="images at a time", ge=1)

    output_revision: ClassVar[int] = 1

    def load(self, devices: Sequence[str]) -> HashScorer:
        """Hash the benchmark; ``devices`` are not used."""
        return HashScorer(self)


class HashScorer:
    """Images → ``phash_distance``, bits of 64 that differ from the nearest benchmark image, mirrored ones included."""

    columns = ("phash_distance",)

    def __init__(self, options: PerceptualHash) -> None:
        import numpy as np

        self.batch_size = options.batch_size
        found = [h for image in benchmark_images(options.against) for h in (perceptual_hash(image), perceptual_hash(_mirrored(image)))]
        if not found:
            raise InputError(f"{options.against}: no image in it", "give a folder of benchmark images")
        self._known = np.unique(np.array(found, np.uint64))
        metric = "Hamming distance of 64-bit DCT hashes to the nearest benchmark image (Zauner 2010), mirrored ones included"
        self.cards: Mapping[str, Mapping[str, Any]] = {
            "phash_distance": {"metric": metric, "images": len(found) // 2, "limit": [LEAST, None]}
        }

    def score(self, batch: Sequence[ScoreRequest]) -> Iterable[Mapping[str, float] | Failed]:
        """Return the distance of each image."""
        import numpy as np

        for request in batch:
            assert request.image is not None
            differing = self._known ^ np.uint64(perceptual_hash(request.image))
            yield {"phash_distance": int(np.unpackbits(differing.view(np.uint8).reshape(-1, 8), axis=1).sum(1).min())}


def perceptual_hash(image: Image) -> int:
    """Return the 64-bit DCT hash: which of the 8 × 8 lowest frequencies of the 32 × 32 grey image are over their median.

    C. Zauner, "Implementation and benchmarking of perceptual image hash functions" (2010), section 3.2.1.
    """
    import numpy as np
    from PIL import Image as images

    grey = np.asarray(image.convert("L").resize((_SCALED, _SCALED), images.Resampling.LANCZOS), np.float64)
    steps = np.arange(_SCALED)
    waves = np.cos(np.pi / _SCALED * (steps[None] + 0.5) * steps[:_HASH_SIDE, None])
    low = np.rint(waves @ grey @ waves.T)  # rounded: frequencies that a plain image lacks are zero, not noise
    bits = (low > np.median(low)).ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _mirrored(image: Image) -> Image:
    from PIL import ImageOps

    return ImageOps.mirror(image)


def benchmark_texts(source: str) -> Iterator[str]:
    """Yield every text of two words or more in a file, or in all files of a folder. Raises InputError for a file that cannot be read."""
    for path in _files(source, _TEXTS):
        try:
            for value in _values(path):
                if 0 < len(value) <= _LONGEST_TEXT and " " in value.strip():
                    yield value
        except (OSError, ValueError, csv.Error) as error:
            raise InputError(
                f"{path} cannot be read: {error}", f"give JSON, JSONL, CSV, TSV, Parquet or text, as its name says ({path.suffix})"
            ) from error


def _values(path: Path) -> Iterator[str]:
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        file = pq.ParquetFile(path)
        names = [f.name for f in file.schema_arrow if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)]
        for batch in file.iter_batches(columns=names):
            for name in names:
                yield from (v for v in batch.column(name).to_pylist() if v)
        return
    with path.open(encoding="utf-8-sig", newline="") as lines:
        if path.suffix == ".json":
            text = lines.read()
            try:
                yield from _leaves(json.loads(text))
            except json.JSONDecodeError:  # POPE's .json files have a record a line
                yield from (v for line in text.splitlines() if line.strip() for v in _leaves(json.loads(line)))
        elif path.suffix == ".jsonl":
            yield from (v for line in lines if line.strip() for v in _leaves(json.loads(line)))
        elif path.suffix == ".txt":
            yield from (line.strip() for line in lines)
        else:
            csv.field_size_limit(sys.maxsize)  # MMBench keeps its images, as base64, in its TSV
            yield from (v for row in csv.reader(lines, delimiter="\t" if path.suffix == ".tsv" else ",") for v in row)


def _leaves(data: Any) -> Iterator[str]:
    """Yield the texts in JSON data."""
    if isinstance(data, str):
        yield data
    elif isinstance(data, Mapping):
        yield from (v for value in data.values() for v in _leaves(value))
    elif isinstance(data, list):
        yield from (v for value in data for v in _leaves(value))


def benchmark_images(source: str) -> Iterator[Image]:
    """Yield the images of a folder, or those that stand as base64 in a TSV's column ``image``; what cannot be decoded is passed over."""
    from synthvlm import images
    from synthvlm.formats.images import ENDINGS

    for path in _files(source, (*ENDINGS, ".tsv")):
        encoded: Iterable[bytes] = _in_table(path) if path.suffix == ".tsv" else [path.read_bytes()]
        for data in encoded:
            try:
                yield images.decode(data)
            except images.ImageError:
                continue


def _in_table(path: Path) -> Iterator[bytes]:
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8-sig", newline="") as lines:
        for row in csv.DictReader(lines, delimiter="\t"):
            try:
                yield base64.b64decode(row.get("image") or "", validate=True)
            except binascii.Error:
                continue


def has_texts(source: str) -> bool:
    """Say whether a benchmark has files of text."""
    return bool(_files(source, _TEXTS))


def has_images(source: str) -> bool:
    """Say whether a benchmark has images, or tables that may hold some."""
    from synthvlm.formats.images import ENDINGS

    return bool(_files(source, (*ENDINGS, ".tsv")))


def _files(source: str, endings: Sequence[str]) -> list[Path]:
    root = Path(source)
    found = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file())
    return [p for p in found if p.suffix.lower() in endings]


def _chunks(texts: Iterable[str], size: int = 50_000) -> Iterator[list[str]]:
    chunk: list[str] = []
    for text in texts:
        chunk.append(text)
        if len(chunk) >= size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
