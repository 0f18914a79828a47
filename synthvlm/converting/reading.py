"""Read a checkpoint's weights one by one, as data only, from whatever layout it was published in."""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthvlm.checkpoints import resolve
from synthvlm.errors import CheckpointError
from synthvlm.options import checkpoint

if TYPE_CHECKING:
    import torch

_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_SINGLE = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class _Source:
    checkpoint: str = checkpoint(None)


def at_hand(source: str) -> str:
    """Return the local path of a source: itself, or where a hub repository (``name`` or ``name@revision``) was fetched to."""
    return source if os.path.exists(source) else resolve(_Source(source))[0].checkpoint


def weight_files(source: str | os.PathLike[str], prefixes: tuple[str, ...] = ("",)) -> list[Path]:
    """Return the files of a checkpoint that hold weights whose names begin with one of ``prefixes``, as far as its index tells.

    ``source`` is a directory in transformers' layout, or one file. Raises CheckpointError if there are none, or one is missing; files
    that hold nothing of interest need not be there.
    """
    root = Path(source)
    if root.is_file():
        return [root]
    for name in _INDEXES:
        if (root / name).is_file():
            table = read_json(root / name).get("weight_map", {})
            files = dict.fromkeys(root / file for tensor, file in table.items() if tensor.startswith(prefixes))
            missing = [file.name for file in files if not file.is_file()]
            if missing:
                raise CheckpointError(f"{root} is incomplete: it lacks {few(missing)}", "fetch the checkpoint anew")
            return list(files)
    for name in _SINGLE:
        if (root / name).is_file():
            return [root / name]
    raise CheckpointError(
        f"there are no weights (safetensors or pytorch_model.bin) in {source}",
        "give the directory that holds the model's files; a hub repository without safetensors: hf download NAME --local-dir DIR, and DIR",
    )


def read_weights(source: str | os.PathLike[str], prefixes: tuple[str, ...] = ("",)) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the name and tensor of each weight whose name begins with one of ``prefixes``, file by file.

    Reads safetensors, and PyTorch's .bin and .pth files as data only: one that holds code raises CheckpointError. Of a training
    checkpoint, ``{"model": {name: tensor}, "optimizer": …}``, the model is read.
    """
    from safetensors import SafetensorError, safe_open

    for file in weight_files(source, prefixes):
        if file.suffix == ".safetensors":
            try:
                with safe_open(file, framework="pt") as opened:
                    for name in opened.keys():  # noqa: SIM118 (not a mapping)
                        if name.startswith(prefixes):
                            yield name, opened.get_tensor(name)
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"{file} cannot be read: {error}", "fetch it anew") from error
        else:
            yield from ((name, tensor) for name, tensor in _read_torch(file).items() if name.startswith(prefixes))


def _read_torch(file: Path) -> dict[str, torch.Tensor]:
    import torch

    try:
        try:
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
            content = torch.load(file, map_location="cpu", weights_only=True)  # the format before PyTorch 1.6 cannot be mapped
    except pickle.UnpicklingError as error:
        wants = re.search(r"GLOBAL (\S+)", str(error))
        if wants is None:
            raise CheckpointError(f"{file} is damaged, or no file of PyTorch's", "fetch it anew") from error
        raise CheckpointError(
            f"{file} holds more than tensors ({wants[1]}): to load it would run code", "get the weights as safetensors"
        ) from error
    except (RuntimeError, OSError, EOFError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise CheckpointError(f"{file} cannot be read: {lines[0]}", "fetch it anew") from error
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        content = content["model"]
    if not isinstance(content, Mapping) or not all(isinstance(t, torch.Tensor) for t in content.values()):
        raise CheckpointError(f"{file} holds no table of tensors", "give the file that holds the model's weights")
    return dict(content)


def read_json(file: Path) -> dict[str, Any]:
    """Return the object in a JSON file; raises CheckpointError if it is missing or cannot be read."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{file.parent} has no {file.name}", "give the directory that holds the model's files") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}", "fetch it anew") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} holds no JSON object", "fetch it anew")
    return content


def few(names: Iterable[str]) -> str:
    """Return the first names, and how many more there are."""
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
