"""An open_clip directory as what scores need: its model, image transform and tokenizer, and what a card says of them."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthvlm.errors import CheckpointError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL.Image import Image

_STEP = 8
"""Captions are encoded at multiples of so many tokens, where what follows a text's end has no say."""


@dataclass(frozen=True)
class OpenClip:
    """A loaded open_clip model (float32, on the CPU), and what belongs to it."""

    model: Any
    transform: Callable[[Image], Any]
    tokenize: Any
    count: Callable[[str], int]
    """A text's tokens, start and end tokens included, uncut."""
    facts: dict[str, Any]
    """What a card says of it."""
    dim: int


def open_directory(directory: Path) -> OpenClip:
    """Load an open_clip directory. Raises CheckpointError if it is not one, or lacks its weights."""
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
    return OpenClip(model, transform, tokenizer, token_counter(tokenizer), facts, int(config["embed_dim"]))


def token_counter(tokenizer: Any) -> Callable[[str], int]:
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


def use_onednn(model: torch.nn.Module) -> None:
    """Have oneDNN compute a float32 model's linear layers on the CPU, where PyTorch takes MKL: on some processors at half the speed."""
    import torch

    # Not what derives from it: attention reads its weights by itself.
    linear: list[Any] = [layer for layer in model.modules() if type(layer) is torch.nn.Linear]
    for layer in linear:
        bias = None if layer.bias is None else layer.bias.detach().to_mkldnn()
        layer.forward = functools.partial(_linear, weight=layer.weight.detach().to_mkldnn(), bias=bias)


def _linear(values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    import torch

    return torch.ops.aten.mkldnn_linear(values.to_mkldnn(), weight, bias).to_dense()


class TextTower:
    """The text half of a model, at the length that its texts need.

    In a causal model that reads a text off at its end token, what follows that token has no say: captions of 20 tokens need not be
    encoded as 77. A text's length, and so the shape that it is computed in, depends on itself alone.
    """

    def __init__(self, model: Any, limit: int) -> None:
        self._tower = getattr(model, "text", model)
        self._limit = limit
        self._mask: Any = getattr(self._tower, "attn_mask", None)
        pool = getattr(self._tower, "text_pool_type", getattr(self._tower, "pool_type", None))
        # A class token, as CoCa has it, would stand at the end.
        self._causal = self._mask is not None and pool == "argmax" and getattr(self._tower, "cls_emb", None) is None
        self._positions: Any = self._tower.positional_embedding.detach() if self._causal else None

    def length(self, tokens: torch.Tensor) -> int:
        """Return at how many tokens a tokenized text is to be encoded."""
        if not self._causal:
            return self._limit
        end = int(tokens.argmax()) + 1  # the end token has the highest number
        return min(self._limit, -(-end // _STEP) * _STEP)

    @contextmanager
    def at(self, length: int) -> Iterator[None]:
        """Have the tower take texts of ``length`` tokens."""
        import torch

        def narrow(n: int) -> None:
            self._tower.attn_mask = self._mask[:n, :n]
            self._tower.positional_embedding = torch.nn.Parameter(self._positions[:n], requires_grad=False)

        if self._causal:
            narrow(length)
        try:
            yield
        finally:
            if self._causal:
                narrow(self._limit)


class Lanes:
    """Runs a model's chunks: on a GPU one after another; on the CPU each on one thread, several side by side.

    Two threads on one chunk wait for each other, at every layer; two chunks do not, and what they give does not depend on how many
    threads there are.
    """

    def __init__(self, device: str, threads: int) -> None:
        self._device = device
        self._on_cpu = device.partition(":")[0] == "cpu"
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="encode") if self._on_cpu and threads > 1 else None

    def run(self, encode: Callable[[Any], Any], inputs: Sequence[torch.Tensor], size: int, dtype: torch.dtype | None) -> list[np.ndarray]:
        """Return the unit vector (float64) that ``encode`` gives for each tensor of ``inputs``, in chunks of exactly ``size``."""
        import torch

        chunks = [inputs[at : at + size] for at in range(0, len(inputs), size)]
        before = torch.get_num_threads()
        try:
            if self._on_cpu:
                torch.set_num_threads(1)
            work = (self._pool.map if self._pool else map)(lambda chunk: self._chunk(encode, chunk, size, dtype), chunks)
            return [vector for vectors in work for vector in vectors]
        finally:
            if self._on_cpu:
                torch.set_num_threads(before)

    def _chunk(self, encode: Callable[[Any], Any], some: Sequence[torch.Tensor], size: int, dtype: torch.dtype | None) -> list[np.ndarray]:
        import numpy as np
        import torch

        if self._pool:
            torch.set_num_threads(1)  # a setting of each thread by itself, where torch is built with OpenMP
        # TensorFloat-32, which cuDNN uses unasked, would move a score in its third digit from one kind of GPU to the next.
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            chunk = torch.stack([*some, *([some[-1]] * (size - len(some)))]).to(device=self._device, dtype=dtype)
            vectors = encode(chunk)[: len(some)].float().cpu().numpy().astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):  # no finite length: the row is reported as Failed
            return [vector / np.sqrt((vector * vector).sum()) for vector in vectors]
