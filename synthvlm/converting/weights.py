"""Check weights against a model's class, and write them as safetensors shards."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthvlm.converting.reading import few
from synthvlm.errors import CheckpointError

if TYPE_CHECKING:
    import torch

SHARD = 1_000_000_000
"""Bytes of an output file, but for a single tensor that is larger."""


def expected_weights(model_class: Any, config: Any) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every weight that a checkpoint of ``config`` holds, without the memory for any of them.

    Weights that are tied to another have no place of their own.
    """
    import torch

    with torch.device("meta"):
        model = model_class(config)
    tied = getattr(model, "all_tied_weights_keys", {})
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name not in tied}


def write_weights(
    folder: Path,
    tensors: Iterable[tuple[str, torch.Tensor]],
    expected: Mapping[str, tuple[int, ...]],
    dtype: str = "keep",
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Write ``tensors`` as safetensors shards with an index, each file as soon as it is full.

    Raises CheckpointError for a name that is not ``expected``, missing, or there twice, and for a shape that differs.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    placed: dict[str, int] = {}
    held: dict[str, torch.Tensor] = {}
    size = total = shards = 0

    def flush() -> None:
        nonlocal size, shards
        shards += 1
        try:
            save_file(held, folder / _part(shards), metadata={"format": "pt"})
        except SafetensorError as error:
            if "No space left" in str(error):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error
            raise
        say(f"{len(placed):,} of {len(expected):,} weights written")
        held.clear()
        size = 0

    for name, tensor in tensors:
        _check(name, tensor, expected, placed)
        if dtype != "keep" and tensor.is_floating_point():
            tensor = tensor.to(getattr(torch, dtype))
        bytes_ = tensor.numel() * tensor.element_size()
        if held and size + bytes_ > SHARD:
            flush()
        # A copy of its own: neither a piece of a larger tensor nor a window on a mapped file.
        held[name] = tensor.detach().clone(memory_format=torch.contiguous_format)
        placed[name] = shards + 1
        size, total = size + bytes_, total + bytes_
    if held:
        flush()
    missing = [name for name in expected if name not in placed]
    if missing:
        raise CheckpointError(
            f"the checkpoint lacks {len(missing)} of the model's {len(expected)} weights: {few(missing)}",
            "fetch it anew; is it the right one?",
        )
    _number(folder, placed, shards, total)


def _check(name: str, tensor: torch.Tensor, expected: Mapping[str, tuple[int, ...]], placed: Mapping[str, int]) -> None:
    if name not in expected:
        raise CheckpointError(f"the checkpoint has a weight that the model does not know: {name}", "is it the right kind of checkpoint?")
    if name in placed:
        raise CheckpointError(f"the checkpoint has the weight {name} twice", "fetch it anew")
    if tuple(tensor.shape) != expected[name]:
        raise CheckpointError(
            f"the weight {name} is {tuple(tensor.shape)} in the checkpoint, {expected[name]} by its configuration",
            "do the two belong together?",
        )


def _part(number: int) -> str:
    return f"model-{number:05}.safetensors"


def _number(folder: Path, placed: Mapping[str, int], shards: int, total: int) -> None:
    """Give the shards the names that say how many there are, and write their index."""
    names = {n: f"model-{n:05}-of-{shards:05}.safetensors" if shards > 1 else "model.safetensors" for n in range(1, shards + 1)}
    for number, name in names.items():
        (folder / _part(number)).rename(folder / name)
    if shards > 1:
        index = {"metadata": {"total_size": total}, "weight_map": {name: names[number] for name, number in sorted(placed.items())}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
