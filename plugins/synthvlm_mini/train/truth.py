"""What is true of a scene, as class numbers: what towers are pre-trained on, and what the checker answers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from synthvlm_mini.book.scene import COLORS, KINDS, LAYOUTS, OUTDOORS, SETTINGS, SIZES, STYLES, TIMES, Scene, Thing

_LAYOUTS = tuple(dict.fromkeys(layout for some in LAYOUTS.values() for layout in some))
_PLACES = tuple((s, t) for s in SETTINGS for t in (TIMES if s in OUTDOORS else (None,)))
_SLOTS = max(LAYOUTS)
HEADS: dict[str, int] = {"count": _SLOTS, "layout": len(_LAYOUTS), "setting": len(_PLACES), "style": len(STYLES)} | {
    f"{what}{slot}": size for slot in range(_SLOTS) for what, size in (("kind", len(KINDS)), ("color", len(COLORS)), ("size", len(SIZES)))
}
"""Question → number of classes; ``kind0`` is that of the scene's first thing."""
DENSE = {"kind": len(KINDS) + 1, "color": len(COLORS) + 1, "size": len(SIZES) + 1}
"""What a patch shows: class 0 is none of the things."""
_COLORS = tuple(COLORS)


def _number(values: Sequence[object], value: object) -> int:
    return -1 if value is None else values.index(value)


def labels(scene: Scene) -> list[int]:
    """Return the class of every head; -1 for what the scene does not tell or have."""
    place = (scene.setting, scene.time)
    row = [len(scene.things) - 1, _number(_LAYOUTS, scene.layout), _PLACES.index(place) if place in _PLACES else -1]
    row.append(_number(STYLES, scene.style))
    for slot in range(_SLOTS):
        thing = scene.things[slot] if slot < len(scene.things) else None
        row += [-1] * 3 if thing is None else [KINDS.index(thing.kind), _number(_COLORS, thing.color), _number(SIZES, thing.size)]
    return row


def scene_of(row: Sequence[int]) -> Scene | None:
    """Return the scene that the heads' classes make, or None if there is none such (nothing can be inside a cat)."""
    count, layout, place, style, *slots = row
    things = [Thing(KINDS[k], _COLORS[c], SIZES[s]) for k, c, s in zip(slots[0::3], slots[1::3], slots[2::3], strict=True)]
    setting, time = _PLACES[place]
    try:
        return Scene(tuple(things[: count + 1]), _LAYOUTS[layout], setting, time, STYLES[style])
    except ValueError:
        return None


def of_patches(grid: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return what patches show: (B, g, g) numbers of things (0: none) and (B, heads) labels → (B, g, g, 3) classes of DENSE."""
    slots = rows[:, 4:].view(len(rows), _SLOTS, 3) + 1
    table = torch.cat([torch.zeros_like(slots[:, :1]), slots], 1)  # (B, 1 + slots, 3)
    flat = grid.flatten(1).long()
    return torch.gather(table, 1, flat[..., None].expand(-1, -1, 3)).view(*grid.shape, 3)


class Heads(nn.Module):
    """A linear head for every question; in training only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, sum(HEADS.values()))

    def forward(self, features: torch.Tensor) -> list[torch.Tensor]:
        """Return logits by head, for (B, width) features."""
        return list(self.linear(features).split(list(HEADS.values()), -1))


def head_loss(logits: Sequence[torch.Tensor], rows: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Return the mean loss over the questions that have an answer, and the share of right answers."""
    losses, right, asked = [], 0.0, 0.0
    for logit, label in zip(logits, rows.T, strict=True):
        known = label >= 0
        if known.any():
            losses.append(F.cross_entropy(logit.float()[known], label[known]) * known.float().mean())
            right += float((logit.argmax(-1) == label)[known].sum())
            asked += float(known.sum())
    return torch.stack(losses).sum() / len(HEADS) * 2, right / max(asked, 1)


class DenseHead(nn.Module):
    """What every patch shows: a linear head over patch features; in training only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, sum(DENSE.values()))

    def forward(self, features: torch.Tensor, shown: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Return the loss, and the share of right kinds where things are, for (B, n, width) features and (B, n, 3) classes.

        Empty patches, of which there are many, weigh a tenth.
        """
        losses = []
        right = 0.0
        for number, logit in enumerate(self.linear(self.norm(features.float())).split(list(DENSE.values()), -1)):
            logit, label = logit.flatten(0, 1), shown[..., number].flatten()
            weight = torch.ones(logit.shape[-1], device=logit.device)
            weight[0] = 0.1
            losses.append(F.cross_entropy(logit, label, weight=weight))
            if number == 0:
                right = float((logit.argmax(-1) == label)[label > 0].float().mean())
        return torch.stack(losses).mean(), right
