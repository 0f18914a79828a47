"""CLIPScore: the cosine between an image and its caption in a CLIP model's space (SynthVLM, section 3.2).

Hessel et al., "CLIPScore: a reference-free evaluation metric for image captioning" (2021), equation 1, is w · max(cos(c, v), 0) with
w = 2.5 and the prompt prefix "A photo depicts". SynthVLM's code and tables use it without the weight: :class:`ClipScore`;
:class:`ClipScoreHessel` has the weight. Models are open_clip directories (``open_clip_config.json``, weights, tokenizer files) or hub
repositories in that layout. Their configuration brings the activation too: open_clip's plain ``ViT-B-32`` with OpenAI's weights would
score with GELU in place of the quick-GELU that they were trained with, and only warn.

A score has the same bits whatever its neighbours, ``batch_size`` and threads: images and captions go through the model in chunks of
one constant size a device, the last one padded.

A column has one text policy. ``cut``: what is over the model's text limit is not seen. ``sentences``: every caption, short or long, is
scored sentence by sentence, in columns of their own, the mean and the least. Either way a flag tells of each row whether a text was cut.

Beside the numbers a row has the vectors of image and caption, for selection and for finding duplicates without an image.
"""

from __future__ import annotations

import math
import os
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from synthvlm.errors import OptionError
from synthvlm.options import checkpoint, option, runtime
from synthvlm.sample import Failed
from synthvlm.scorers.clip_model import Lanes, TextTower, open_directory, use_onednn
from synthvlm.scorers.sentences import split_sentences
from synthvlm.scorers.ssim import threads_to_use

if TYPE_CHECKING:
    import numpy as np
    import torch

    from synthvlm.sample import ScoreRequest

HESSEL_WEIGHT = 2.5
"""w of Hessel et al. (2021), equation 1."""

_CHUNKS = {"cpu": (8, 4)}
_CHUNK = (32, 32)
"""Images and captions per pass through the model. On a CPU small ones are as fast, and waste less on padding."""
_REMEMBERED = 4096
"""Texts whose vectors are at hand: the candidates of one caption stand together."""


@dataclass(frozen=True)
class ClipScore:
    """CLIPScore, max(cos, 0). The default is the paper's: OpenAI's ViT-B/32 with Hessel's prefix, cut at 77 tokens."""

    checkpoint: str = checkpoint(
        "timm/vit_base_patch32_clip_224.openai", help="open_clip directory, or hub id (name or name@revision)", layout="open_clip"
    )
    prefix: str = option("A photo depicts ", help="put before every caption; empty (-o prefix=) for a model that does not know such words")
    text: Literal["cut", "sentences"] = option(
        "cut", help="what is done with captions: cut at the model's limit, or scored sentence by sentence, in NAME_mean and NAME_min"
    )
    column: str = option("clip", help="name of the column; the flag of cut captions is NAME_cut", min_length=1)
    dtype: Literal["float32", "bfloat16", "float16"] = runtime("float32", help="arithmetic of the model; recorded with the scores")
    batch_size: int = runtime(32, help="rows handed over at a time; it changes no score", ge=1)
    threads: int = runtime(0, help="threads that encode side by side on a CPU; 0: the worker's own number", ge=0)

    output_revision: ClassVar[int] = 2
    requires: ClassVar[tuple[str, ...]] = ("torch", "open_clip")
    extra: ClassVar[str] = "clip"
    weight: ClassVar[float] = 1.0
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"checkpoint": "timm/vit_base_patch32_clip_224.openai", "prefix": "A photo depicts "},
        "clip-l336": {"checkpoint": "timm/vit_large_patch14_clip_336.openai", "prefix": "A photo depicts ", "column": "clip_l336"},
        "siglip2": {"checkpoint": "timm/ViT-B-16-SigLIP2", "prefix": "", "column": "siglip2"},
        "siglip2-so400m": {"checkpoint": "timm/ViT-SO400M-16-SigLIP2-384", "prefix": "", "column": "siglip2_so400m"},
    }

    def __post_init__(self) -> None:
        """Refuse open_clip's architecture names: they name no weights, and for OpenAI's the plain ones have the wrong activation."""
        if re.match(r"(ViT|RN\d|EVA|coca_)[\w-]*$", self.checkpoint) and not os.path.exists(self.checkpoint):
            way_on = "give a hub id, such as timm/vit_base_patch32_clip_224.openai (ViT-B-32-quickgelu, openai), or an open_clip directory"
            raise OptionError(f"checkpoint={self.checkpoint} is open_clip's name of an architecture, not of weights", way_on)

    def load(self, devices: Sequence[str]) -> ClipScorer:
        """Load the model on the first of ``devices``. Raises CheckpointError if the checkpoint is not there or not open_clip's."""
        directory = Path(self.checkpoint)
        if not directory.is_dir():  # used without a run, which would have resolved it
            from synthvlm.checkpoints import resolve

            directory = Path(resolve(self)[0].checkpoint)
        return ClipScorer(self, directory, devices[0] if devices else "cpu")


@dataclass(frozen=True)
class ClipScoreHessel(ClipScore):
    """CLIPScore as Hessel et al. (2021) define it: 2.5 · max(cos, 0)."""

    column: str = option("clipscore_hessel", help="name of the column; the flag of cut captions is NAME_cut", min_length=1)

    weight: ClassVar[float] = HESSEL_WEIGHT
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": ClipScore.presets["paper"]}


class ClipScorer:
    """A loaded model: pairs → CLIPScore, whether the caption was cut at the model's text limit, and the vectors of both."""

    def __init__(self, options: ClipScore, directory: Path, device: str) -> None:
        import torch

        self.batch_size = options.batch_size
        self._options = options
        self._chunks = _CHUNKS.get(device.partition(":")[0], _CHUNK)
        self._dtype: torch.dtype = getattr(torch, options.dtype)
        self._remembered: OrderedDict[str, tuple[np.ndarray, bool]] = OrderedDict()
        self._lanes = Lanes(device, threads_to_use(options.threads))

        opened = open_directory(directory)
        self._transform, self._tokenize, self._count = opened.transform, opened.tokenize, opened.count
        self._limit = int(self._tokenize.context_length)
        self._model = opened.model.to(device=device, dtype=self._dtype).eval()
        if device.partition(":")[0] == "cpu" and options.dtype == "float32" and torch.backends.mkldnn.is_available():
            use_onednn(self._model)
        self._tower = TextTower(self._model, self._limit)
        self.columns, self.cards = _cards(options, opened.facts, self._limit, opened.dim)

    def prepare(self, request: ScoreRequest) -> Any:
        """Return the image as the model takes it, or None if there is none."""
        return None if request.image is None else self._transform(request.image)

    def expect(self, captions: Sequence[str]) -> None:
        """Encode the texts of these captions, so that they are at hand when their rows come."""
        self._encode_texts(dict.fromkeys(text for c in captions if c.strip() for text in self._texts(c)))

    def score(self, batch: Sequence[ScoreRequest]) -> Iterator[Mapping[str, Any] | Failed]:
        """Yield the scores, the flag and the vectors per request; ``Failed`` where the image or the caption is missing."""
        # Distinct objects only: the worker pads a batch by repeating its last request.
        images = self._encode_images({id(r.image): r for r in batch if r.image is not None})
        captions = dict.fromkeys(r.caption for r in batch if r.caption and r.caption.strip())
        texts = self._encode_texts(dict.fromkeys(text for c in captions for text in self._texts(c)))
        for request in batch:
            if request.image is None:
                yield Failed("there is no image to score", "NoImage")
            elif request.caption not in captions:
                yield Failed("there is no caption to score", "NoCaption")
            else:
                yield self._pair(images[id(request.image)], [texts[text] for text in self._texts(request.caption)])

    def _pair(self, image: np.ndarray, texts: Sequence[tuple[np.ndarray, bool]]) -> Mapping[str, Any] | Failed:
        """Return the row of an image and its caption's texts: one, or one a sentence."""
        import numpy as np

        # Unit vectors in float64, product by product: the sum cannot depend on what else is in the batch.
        cosines = [float((image * text).sum()) for text, _ in texts]
        if not all(map(math.isfinite, cosines)):
            return Failed(f"the model returned no finite number in {self._options.dtype}", "NotFinite")
        scores = [self._options.weight * max(cosine, 0.0) for cosine in cosines]
        whole = np.sum([text for text, _ in texts], axis=0)
        vectors = image, whole / max(math.sqrt(float((whole * whole).sum())), 1e-12)
        numbers = (sum(scores) / len(scores), min(scores)) if self._options.text == "sentences" else (scores[0],)
        values = (*numbers, any(cut for _, cut in texts), *(vector.astype(np.float16) for vector in vectors))
        return dict(zip(self.cards, values, strict=True))

    def _texts(self, caption: str) -> list[str]:
        """Return what is encoded of a caption: itself, or its sentences."""
        return split_sentences(caption) if self._options.text == "sentences" else [caption]

    def _chunk(self, which: int) -> int:
        """Return the constant chunk size, unless the worker has run out of memory and lowered ``batch_size`` below it."""
        size = self._chunks[which]
        return min(size, self.batch_size) if self.batch_size < self._options.batch_size else size

    def _encode_images(self, requests: Mapping[int, ScoreRequest]) -> dict[int, np.ndarray]:
        """Return the unit vectors of the requests' images, under the same keys."""
        prepared = [self.prepare(r) if r.prepared is None else r.prepared for r in requests.values()]
        return dict(zip(requests, self._lanes.run(self._model.encode_image, prepared, self._chunk(0), self._dtype), strict=True))

    def _encode_texts(self, asked: Iterable[str]) -> dict[str, tuple[np.ndarray, bool]]:
        """Return the unit vector of each text and whether it was cut; one met lately is not encoded again."""
        asked = list(asked)
        found = {text: self._remembered[text] for text in asked if text in self._remembered}
        for text in found:
            self._remembered.move_to_end(text)
        missing = [text for text in asked if text not in found]
        whole = [self._options.prefix + text for text in missing]
        by_length: dict[int, list[tuple[str, Any, bool]]] = {}
        for text, full, tokens in zip(missing, whole, self._tokenize(whole) if whole else [], strict=True):
            by_length.setdefault(self._tower.length(tokens), []).append((text, tokens, self._count(full) > self._limit))
        fresh: dict[str, tuple[np.ndarray, bool]] = {}
        for length, members in by_length.items():
            with self._tower.at(length):
                vectors = self._lanes.run(self._model.encode_text, [t[:length] for _, t, _ in members], self._chunk(1), None)
            fresh |= {text: (vector, cut) for (text, _, cut), vector in zip(members, vectors, strict=True)}
        self._remembered.update(fresh)
        while len(self._remembered) > _REMEMBERED:
            self._remembered.popitem(last=False)
        return found | fresh


def _cards(options: ClipScore, facts: Mapping[str, Any], limit: int, dim: int) -> tuple[tuple[str, ...], dict[str, dict[str, Any]]]:
    """Return the columns, and the card of each and of the two vectors, in the order in which a row's values come."""
    name, by_sentence = options.column, options.text == "sentences"
    policy = f"sentence by sentence, each cut at {limit} tokens" if by_sentence else f"cut at {limit} tokens"
    text = {"prefix": options.prefix, "text_policy": policy, "context_length": limit}
    metric = "CLIPScore max(cos,0)" if options.weight == 1 else f"CLIPScore {options.weight:g} max(cos,0)"
    numbers = {f"{name}_{how}": f"{metric}, {how} over the sentences" for how in ("mean", "min")} if by_sentence else {name: metric}
    cards: dict[str, dict[str, Any]] = {c: {"metric": m, **facts, **text, "dtype": options.dtype} for c, m in numbers.items()}
    cut = "a sentence of the caption was cut at the text limit" if by_sentence else "the caption was cut at the text limit"
    cards[f"{name}_cut"] = {"metric": cut, "type": "flag", "of": next(iter(numbers)), **text, "weights": facts["weights"]}
    vector = {"type": "embedding", "dim": dim, "normalised": True, **facts, "dtype": "float16", "computed_in": options.dtype}
    pooled = {"pooled": "normalised sum of the sentences' vectors"} if by_sentence else {}
    vectors = {f"{name}_image": {"of": "image"} | vector, f"{name}_text": {"of": "caption"} | vector | text | pooled}
    return tuple(cards), cards | vectors
