"""Turn requests into a model's inputs: each picture is prepared once for all its prompts, and seen once by the vision tower."""

from __future__ import annotations

import copy
import functools
import inspect
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from synthvlm.engines.captioning import CaptionerOptions, Template
from synthvlm.sample import CaptionRequest

if TYPE_CHECKING:
    import torch

_PIXELS = "pixel"
"""How the names of large inputs begin: ``pixel_values``, ``pixel_attention_mask`` …"""
_MEMORY = 512 << 20
"""Bytes of main memory that prepared pictures may take; encoded prompts and image features may take as much each."""


@dataclass(frozen=True, eq=False)
class Row:
    """One request as the model takes it."""

    tokens: dict[str, torch.Tensor]
    """``input_ids`` and whatever goes along with them, (1, length) each."""
    image: dict[str, torch.Tensor]
    """Pixels, and what tells of them (tile counts, grids): the first dimension counts images, tiles or patches."""
    images: Hashable
    """What the pictures are known by; None: not known, so nothing is shared."""

    @property
    def length(self) -> int:
        """Return the number of the prompt's tokens, the image's included."""
        return self.tokens["input_ids"].shape[1]


class Kept:
    """Values by key, the most recently used ones within some bytes. Safe to use from several threads."""

    def __init__(self, limit: int = _MEMORY) -> None:
        self._limit, self._size = limit, 0
        self._values: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Any:
        """Return the value, or None."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key][0]

    def put(self, key: Hashable, value: Any, size: int) -> None:
        """Keep ``value``, of ``size`` bytes, unless the key is None."""
        if key is None:
            return
        with self._lock:
            self._size += size - self._values.pop(key, (None, 0))[1]
            self._values[key] = (value, size)
            while self._size > self._limit and len(self._values) > 1:
                self._size -= self._values.popitem(last=False)[1][1]

    def clear(self) -> None:
        """Let go of everything."""
        with self._lock:
            self._values.clear()
            self._size = 0


class _Pictures:
    """Stands in for a processor's image processor, and answers for pictures that it has already prepared."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.known: Any = None
        self.latest: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.latest = self.inner(*args, **kwargs) if self.known is None else self.known
        return copy.copy(self.latest)  # processors take entries out of it

    def __getattr__(self, name: str) -> Any:
        if name == "inner":  # not set yet, as in a copy being made
            raise AttributeError(name)
        return getattr(self.inner, name)


class Encoder:
    """A family's prompt and pictures through the checkpoint's processor. Safe to call from several threads."""

    def __init__(self, processor: Any, options: CaptionerOptions, template: Template) -> None:
        self.processor, self.options, self._template = processor, options, template
        self.tokenizer = processor.tokenizer
        self._pictures = None
        if getattr(processor, "image_processor", None) is not None:
            self._pictures = processor.image_processor = _Pictures(processor.image_processor)
        self._kept, self._rows = Kept(), Kept()
        self._lock = threading.Lock()

    def encode(self, request: CaptionRequest) -> Row:
        """Return the request's inputs, on the CPU."""
        images = request.image_ids if request.images and len(request.image_ids) == len(request.images) else None
        key = (images, request.prompt) if images is not None or not request.images else None
        with self._lock:
            found = self._rows.get(key)
            if found is None:
                found = self._encode(request, images)
                self._rows.put(key, found, _bytes([*found.tokens.values(), *found.image.values()]))
            return found

    def _encode(self, request: CaptionRequest, images: Hashable) -> Row:
        text = self.options.render(request.prompt, len(request.images), self._template)
        arguments: dict[str, Any] = {"text": [text], "return_tensors": "pt"}
        bos = self.tokenizer.bos_token
        if bos and text.startswith(bos):  # the template has written it
            arguments["add_special_tokens"] = False
        if not request.images:
            data = self.processor(**arguments)
        else:
            known = self._kept.get(images)
            pictures = [self.options.prepare(image) for image in request.images] if known is None else known[0]
            if self._pictures is not None:
                self._pictures.known = None if known is None else known[1]
            if wanted := dict(self.options.processor_kwargs()):
                arguments["images_kwargs"] = wanted
            data = self.processor(images=pictures, **arguments)
            latest = self._pictures.latest if self._pictures is not None else None
            if known is None and latest is not None:
                size = sum(p.width * p.height * 3 for p in pictures) + _bytes(latest.values())
                self._kept.put(images, (pictures, latest), size)
        tokens = {n: t for n, t in data.items() if n in ("input_ids", "attention_mask") or n.endswith("token_type_ids")}
        return Row(tokens, {n: t for n, t in data.items() if n not in tokens and hasattr(t, "shape")}, images)


def _bytes(values: Iterable[Any]) -> int:
    return sum(getattr(v, "nbytes", 0) for v in values)


def pad_left(rows: Sequence[Row], length: int, pad: int) -> dict[str, torch.Tensor]:
    """Return the rows' tokens as one batch of ``length`` tokens, each row at the right end."""
    import torch

    batch = {}
    for name in rows[0].tokens:
        filler = pad if name == "input_ids" else 0
        batch[name] = torch.cat([torch.nn.functional.pad(r.tokens[name], (length - r.length, 0), value=filler) for r in rows])
    return batch


class SharedVision:
    """Has the vision tower see each picture once, alone, however many prompts and batches it comes in.

    Alone, so that what it sees in a picture does not depend on the batch; once, since perspectives share the picture. It steps in
    where transformers' models compute image features (``get_image_features`` of the base model); :meth:`probe` says if a model lets it.
    """

    def __init__(self, model: Any) -> None:
        self._model, self._base = model, model.base_model
        self._original = getattr(self._base, "get_image_features", None)
        self._kept = Kept()
        self._rows: list[Row] = []
        self.active = False
        self.used = False

    def install(self) -> None:
        """Step in."""
        if self._original is None:
            return

        @functools.wraps(self._original)  # `generate` reads the signature
        def features(*args: Any, **kwargs: Any) -> Any:
            return self._features(*args, **kwargs)

        self._base.get_image_features = features
        self.active = True

    def remove(self) -> None:
        """Step out again."""
        if self.active:
            del self._base.get_image_features
            self.active = False

    def takes(self, name: str) -> bool:
        """Say whether this input goes to the vision tower row by row, so that the batch need not have it."""
        return self.active and name.startswith(_PIXELS)

    def inputs(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """Return what the model is handed of the rows' pictures, on its device."""
        import torch

        self._rows = list(rows)
        batch: dict[str, Any] = {}
        for name in rows[0].image:
            # Pixels only have to be there: `_features` goes to the rows for them.
            batch[name] = torch.empty(0) if self.takes(name) else torch.cat([r.image[name] for r in rows])
        return {name: self._to_device(value) for name, value in batch.items()}

    def clear(self) -> None:
        """Let go of all features."""
        self._kept.clear()
        self._rows = []

    def _to_device(self, value: torch.Tensor) -> torch.Tensor:
        return value.to(self._model.device, self._model.dtype if value.is_floating_point() else None)

    def _features(self, *args: Any, **kwargs: Any) -> Any:
        """Return the features of the batch's pictures, in order, as the original would."""
        self.used = True
        assert self._original is not None
        bound = inspect.signature(self._original).bind(*args, **kwargs)
        arguments = {n: v for n, v in bound.arguments.items() if n != "kwargs"} | bound.arguments.get("kwargs", {})
        seen: dict[int, Any] = {}
        found = [self._of_row(row, arguments, seen) for row in self._rows]
        combined = {"pooler_output": _joined([f["pooler_output"] for f in found])}
        if "deepstack_features" in found[0]:
            combined["deepstack_features"] = [_joined(layers) for layers in zip(*(f["deepstack_features"] for f in found), strict=True)]
        return self._kind(**_moved(combined, self._model.device))

    def _of_row(self, row: Row, arguments: dict[str, Any], seen: dict[int, Any]) -> dict[str, Any]:
        found = seen.get(id(row)) or self._kept.get(row.images)
        if found is None:
            own = {name: self._to_device(value) for name, value in row.image.items() if name in arguments}
            assert self._original is not None
            output = self._original(**{**arguments, **own, "return_dict": True})
            self._kind = type(output)
            # In main memory: they would take room from the batch, and cost little to bring back.
            found = _moved({n: output[n] for n in ("pooler_output", "deepstack_features") if output.get(n) is not None}, "cpu")
            self._kept.put(row.images, found, _nested_bytes(found))
        seen[id(row)] = found
        return found


def _joined(parts: Sequence[Any]) -> Any:
    """Join what models give for one picture or several: a tensor, or a sequence of them with one for each."""
    import torch

    return torch.cat(list(parts)) if hasattr(parts[0], "shape") else [tensor for part in parts for tensor in part]


def _moved(value: Any, device: Any) -> Any:
    if isinstance(value, dict):
        return {name: _moved(v, device) for name, v in value.items()}
    return [_moved(v, device) for v in value] if isinstance(value, (list, tuple)) else value.to(device)


def _nested_bytes(value: Any) -> int:
    if isinstance(value, dict):
        return sum(map(_nested_bytes, value.values()))
    return sum(map(_nested_bytes, value)) if isinstance(value, (list, tuple)) else value.nbytes
