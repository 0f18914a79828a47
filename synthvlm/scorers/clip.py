"""CLIPScore: the cosine between an image and its caption in a CLIP model's space (SynthVLM, section 3.2).

Hessel et al., "CLIPScore: a reference-free evaluation metric for image captioning" (2021), equation 1, is w · max(cos(c, v), 0) with
w = 2.5 and the prompt prefix "A photo depicts". SynthVLM's code and tables use it without the weight: :class:`ClipScore`;
:class:`ClipScoreHessel` has the weight. Models are open_clip directories (``open_clip_config.json``, weights, tokenizer files) or hub
repositories in that layout. Their configuration brings the activation too: open_clip's plain ``ViT-B-32`` with OpenAI's weights would
score with GELU in place of the quick-GELU that they were trained with, and only warn.

A score has the same bits whatever its neighbours and whatever ``batch_size``: images and captions go through the model in chunks of
one constant size a device, the last one padded.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from synthvlm.errors import CheckpointError, OptionError
from synthvlm.options import checkpoint, option, runtime
from synthvlm.sample import Failed
from synthvlm.scorers.ssim import threads_to_use

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL.Image import Image

    from synthvlm.sample import ScoreRequest

HESSEL_WEIGHT = 2.5
"""w of Hessel et al. (2021), equation 1."""

_CHUNKS = {"cpu": (8, 4)}
_CHUNK = (32, 32)
"""Images and captions per pass through the model. On a CPU small ones are as fast, and waste less on padding."""
_REMEMBERED = 4096
"""Captions whose embeddings are kept: the candidates of one caption stand together."""


@dataclass(frozen=True)
class ClipScore:
    """CLIPScore, max(cos, 0). The default is the paper's: OpenAI's ViT-B/32 with Hessel's prefix, cut at 77 tokens."""

    checkpoint: str = checkpoint(
        "timm/vit_base_patch32_clip_224.openai", help="open_clip directory, or hub id (name or name@revision)", layout="open_clip"
    )
    prefix: str = option("A photo depicts ", help="put before every caption; empty (-o prefix=) for a model that does not know such words")
    column: str = option("clip", help="name of the column; the flag of cut captions is NAME_cut", min_length=1)
    dtype: Literal["float32", "bfloat16", "float16"] = option("float32", help="arithmetic of the model")
    batch_size: int = runtime(32, help="rows handed over at a time; it changes no score", ge=1)
    threads: int = runtime(0, help="threads that scale images; 0: the worker's own number", ge=0)

    output_revision: ClassVar[int] = 1
    requires: ClassVar[tuple[str, ...]] = ("torch", "open_clip")
    extra: ClassVar[str] = "clip"
    weight: ClassVar[float] = 1.0
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"checkpoint": "timm/vit_base_patch32_clip_224.openai", "prefix": "A photo depicts "},
        "clip-l336": {"checkpoint": "timm/vit_large_patch14_clip_336.openai", "prefix": "A photo depicts ", "column": "clip_l336"},
        "siglip2": {"checkpoint": "timm/ViT-B-16-SigLIP2", "prefix": "", "column": "siglip2"},
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
    """A loaded model: pairs → CLIPScore, and whether the caption was cut at the model's text limit."""

    def __init__(self, options: ClipScore, directory: Path, device: str) -> None:
        import torch

        self.batch_size = options.batch_size
        self.columns = (options.column, f"{options.column}_cut")
        self._options = options
        self._device = device
        self._chunks = _CHUNKS.get(device.partition(":")[0], _CHUNK)
        self._dtype: torch.dtype = getattr(torch, options.dtype)
        self._remembered: OrderedDict[str, tuple[np.ndarray, bool]] = OrderedDict()
        threads = threads_to_use(options.threads)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="clip") if threads > 1 else None

        model, self._transform, self._tokenize, self._length, facts = _open_directory(directory)
        self._limit = int(self._tokenize.context_length)
        self._model = model.to(device=device, dtype=self._dtype).eval()
        text = {"prefix": options.prefix, "text_policy": f"cut at {self._limit} tokens", "context_length": self._limit}
        metric = "CLIPScore max(cos,0)" if options.weight == 1 else f"CLIPScore {options.weight:g} max(cos,0)"
        self.cards: Mapping[str, Mapping[str, Any]] = {
            self.columns[0]: {"metric": metric, **facts, **text, "dtype": options.dtype},
            self.columns[1]: {"metric": "the caption was cut at the text limit", **text, "weights": facts["weights"]},
        }

    def score(self, batch: Sequence[ScoreRequest]) -> Iterator[Mapping[str, float | bool] | Failed]:
        """Yield {column: score, column_cut: flag} per request; ``Failed`` where the image or the caption is missing."""
        # Distinct objects only: the worker pads a batch by repeating its last request.
        images = self._encode_images({id(r.image): r.image for r in batch if r.image is not None})
        texts = self._encode_texts(dict.fromkeys(r.caption for r in batch if r.caption and r.caption.strip()))
        for request in batch:
            if request.image is None:
                yield Failed("there is no image to score", "NoImage")
            elif request.caption not in texts:
                yield Failed("there is no caption to score", "NoCaption")
            else:
                text, cut = texts[request.caption]
                # Unit vectors in float64, product by product: the sum cannot depend on what else is in the batch.
                cosine = float((images[id(request.image)] * text).sum())
                if math.isfinite(cosine):
                    yield {self.columns[0]: self._options.weight * max(cosine, 0.0), self.columns[1]: cut}
                else:
                    yield Failed(f"the model returned no finite number in {self._options.dtype}", "NotFinite")

    def _chunk(self, which: int) -> int:
        """Return the constant chunk size, unless the worker has run out of memory and lowered ``batch_size`` below it."""
        size = self._chunks[which]
        return min(size, self.batch_size) if self.batch_size < self._options.batch_size else size

    def _encode_images(self, images: Mapping[int, Image]) -> dict[int, np.ndarray]:
        """Return the unit vectors of images, under the same keys."""
        prepared = self._pool.map(self._transform, images.values()) if self._pool else map(self._transform, images.values())
        return dict(zip(images, self._encode(self._model.encode_image, list(prepared), self._chunk(0), self._dtype), strict=True))

    def _encode_texts(self, captions: Iterable[str]) -> dict[str, tuple[np.ndarray, bool]]:
        """Return the unit vector of each caption and whether it was cut; a caption met lately is not encoded again."""
        asked = list(captions)
        found = {c: self._remembered[c] for c in asked if c in self._remembered}
        for caption in found:
            self._remembered.move_to_end(caption)
        missing = [c for c in asked if c not in found]
        texts = [self._options.prefix + c for c in missing]
        tokens = list(self._tokenize(texts)) if texts else []
        cut = [self._length(text) > self._limit for text in texts]
        fresh = dict(zip(missing, zip(self._encode(self._model.encode_text, tokens, self._chunk(1), None), cut, strict=True), strict=True))
        self._remembered.update(fresh)
        while len(self._remembered) > _REMEMBERED:
            self._remembered.popitem(last=False)
        return found | fresh

    def _encode(self, encode: Callable[[Any], Any], inputs: Sequence[Any], size: int, dtype: torch.dtype | None) -> list[np.ndarray]:
        """Return the unit vector (float64) that ``encode`` gives for each tensor of ``inputs``, in chunks of exactly ``size``."""
        import numpy as np
        import torch

        vectors: list[np.ndarray] = []
        # TensorFloat-32, which cuDNN uses unasked, would move a score in its third digit from one kind of GPU to the next.
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            for at in range(0, len(inputs), size):
                some = list(inputs[at : at + size])
                chunk = torch.stack(some + some[-1:] * (size - len(some))).to(device=self._device, dtype=dtype)
                vectors += list(encode(chunk)[: len(some)].float().cpu().numpy().astype(np.float64))
        with np.errstate(invalid="ignore", divide="ignore"):  # no finite length: the row is reported as Failed
            return [vector / np.sqrt((vector * vector).sum()) for vector in vectors]


def _open_directory(directory: Path) -> tuple[Any, Callable[[Image], Any], Any, Callable[[str], int], dict[str, Any]]:
    """Return an open_clip directory's model (float32), image transform, tokenizer, token counter, and what a card says of them."""
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2

    way_on = "give an open_clip directory (open_clip_config.json, open_clip_model.safetensors) or hub id: -o clip.checkpoint=DIR"
    try:
        config = json.loads((directory / "open_clip_config.json").read_text(encoding="utf-8"))["model_cfg"]
        # Without require_pretrained, a directory without weights would score with random ones.
        model: Any = open_clip.create_model(f"local-dir:{directory}", require_pretrained=True)
        tokenizer: Any = open_clip.get_tokenizer(f"local-dir:{directory}")
    except FileNotFoundError as error:
        missing = Path(error.filename or directory).name
        raise CheckpointError(f"{directory} is not an open_clip checkpoint: {missing} is missing", way_on) from error
    except Exception as error:  # whatever open_clip, torch or the tokenizer libraries raise means the same to the user
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"the CLIP model in {directory} cannot be loaded: {reason}", way_on) from error

    preprocessing = PreprocessCfg(**model.visual.preprocess_cfg)
    facts = {
        "architecture": config,
        "quick_gelu": bool(config.get("quick_gelu", False)),
        "weights": _weights_hash(model),
        "preprocessing": {
            "resize_mode": preprocessing.resize_mode,
            "size": list(preprocessing.size) if isinstance(preprocessing.size, (tuple, list)) else preprocessing.size,
            "interpolation": preprocessing.interpolation,
            "antialias": "Pillow",
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
        },
    }
    transform: Any = image_transform_v2(preprocessing, is_train=False)
    return model, transform, tokenizer, _token_counter(tokenizer), facts


def _token_counter(tokenizer: Any) -> Callable[[str], int]:
    """Return what counts a text's tokens, start and end tokens included, without cutting it."""
    if hasattr(tokenizer, "encode"):  # open_clip's own: `encode` leaves out the start and the end token
        return lambda text: len(tokenizer.encode(text)) + 2
    inner = tokenizer.tokenizer
    return lambda text: len(inner(tokenizer.clean_fn(text), truncation=False, verbose=False).input_ids)


def _weights_hash(model: torch.nn.Module) -> str:
    """Return the SHA-256 of the weights as loaded: names, types, shapes and bytes. The same for safetensors and pickled copies."""
    whole = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        array = tensor.numpy()
        whole.update(f"{name} {array.dtype} {array.shape}\n".encode())
        whole.update(array.tobytes())
    return f"sha256:{whole.hexdigest()}"
