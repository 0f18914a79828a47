"""The checker: a convolutional classifier of its own, trained on renders alone, that tells what a picture shows.

It shares no weights, no pre-training and no kind of architecture with generator, CLIP or captioner, so that what it says of their
work is evidence. Its pictures are blurred, noised and compressed a little in training: generated ones are never quite clean.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from synthvlm_mini.book.scene import Scene
from synthvlm_mini.train.loop import Schedule, fit
from synthvlm_mini.train.pictures import Pictures
from synthvlm_mini.train.truth import HEADS, head_loss, scene_of

_WIDTH = 160


class _Block(nn.Module):
    """Two convolutions beside a short cut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, 1, 1),
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, 1, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return features of the same shape."""
        return x + self.body(x)


class Checker(nn.Module):
    """Pictures (B, 3, 128, 128) from -1 to 1 → logits by head; one reading head looks for every question's answer."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(3, 32, 4, 2, 1), nn.SiLU(), nn.Conv2d(32, 64, 4, 2, 1), _Block(64),
            nn.Conv2d(64, 112, 4, 2, 1), _Block(112), nn.Conv2d(112, _WIDTH, 4, 2, 1), _Block(_WIDTH), _Block(_WIDTH),
        )  # fmt: skip
        self.places = nn.Parameter(torch.randn(1, 64, _WIDTH) * 0.02)
        self.questions = nn.Parameter(torch.randn(1, 5, _WIDTH) * 0.02)
        layer = nn.TransformerEncoderLayer(_WIDTH, 5, 4 * _WIDTH, 0.0, "gelu", batch_first=True, norm_first=True)
        self.reader = nn.TransformerEncoder(layer, 2, nn.LayerNorm(_WIDTH), enable_nested_tensor=False)
        sizes = list(HEADS.values())
        self.scene, self.thing = nn.Linear(_WIDTH, sum(sizes[:4])), nn.Linear(_WIDTH, sum(sizes[4:7]))

    def forward(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """Return logits by head."""
        patches = self.trunk(pixels).flatten(2).transpose(1, 2) + self.places
        read = self.reader(torch.cat([self.questions.expand(len(pixels), -1, -1), patches], 1))
        sizes = list(HEADS.values())
        answers = list(self.scene(read[:, 0]).split(sizes[:4], -1))
        for slot in range(1, 5):
            answers += self.thing(read[:, slot]).split(sizes[4:7], -1)
        return answers


def roughened(pixels: torch.Tensor, rng: random.Random) -> torch.Tensor:
    """Return pictures, each half of the time, a little blurred, noised and shifted in brightness."""
    count = len(pixels)
    if rng.random() < 0.5:
        small = int(rng.uniform(0.5, 0.9) * pixels.shape[-1])
        pixels = F.interpolate(F.interpolate(pixels, size=small, mode="bilinear", antialias=True), size=pixels.shape[-1], mode="bilinear")
    noise = torch.rand(count, 1, 1, 1, device=pixels.device).mul(2).sub(1).clamp(min=0) * 0.08
    shift = torch.randn(count, 3, 1, 1, device=pixels.device) * 0.02
    return (pixels + torch.randn_like(pixels) * noise + shift).clamp(-1, 1)


def train_checker(out: Path, device: torch.device, scale: float = 1.0) -> Checker:
    """Train the checker."""
    pictures = Pictures(out)
    torch.manual_seed(7)
    model = Checker().to(device)

    def loss(rng: random.Random) -> tuple[torch.Tensor, Mapping[str, float]]:
        batch = pictures.batch(rng, 64, device)
        with torch.autocast(device.type, torch.bfloat16):
            logits = model(roughened(batch.pixels, rng))
        value, right = head_loss(logits, batch.labels)
        return value, {"right": right}

    fit("checker", out, {"checker": model}, loss, Schedule(steps=max(2, int(5000 * scale)), rate=1e-3, decay_from=0.3, warmup=200))
    return model


@torch.no_grad()
def read_pictures(model: Checker, pixels: torch.Tensor) -> tuple[torch.Tensor, list[Scene | None]]:
    """Return (B, heads) classes and the scenes that they make (None: no possible one), for pictures from -1 to 1."""
    rows = torch.stack([logit.argmax(-1) for logit in model(pixels)], 1)
    return rows, [scene_of(row) for row in rows.tolist()]


def export_checker(model: Checker, path: Path) -> None:
    """Write the checker's weights, in half precision."""
    save_file({k: v.detach().cpu().half().contiguous() for k, v in model.state_dict().items()}, path)


def load_checker(path: Path) -> Checker:
    """Read what :func:`export_checker` wrote."""
    model = Checker()
    model.load_state_dict({k: v.float() for k, v in load_file(path).items()})
    return model.eval()
