"""The generator's autoencoder: latents are the principal components of 8 × 8 patches, so that only the way back must be learned.

Principal components need no training and are smooth, which the diffusion likes; the decoder, a stock one, learns to draw sharper
than any linear map could, and to forgive latents that are a little off. The encoder is a stock one that learns to give those
components (image-to-image needs it; text-to-image never runs it).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL

from synthvlm_mini.train.loop import Schedule, fit
from synthvlm_mini.train.pictures import PIXELS, Pictures

FACTOR, CHANNELS = 8, 32
_PATCH = FACTOR * FACTOR * 3


@dataclass
class Components:
    """The linear latents: (B, 3, 128, 128) pictures ↔ (B, 32, 16, 16), of variance 1 over all."""

    mean: torch.Tensor
    into: torch.Tensor
    back: torch.Tensor

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the latents of pictures."""
        return ((_patches(pixels) - self.mean) @ self.into).permute(0, 3, 1, 2).contiguous()

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the nearest that a linear map comes to the pictures."""
        patches = latents.permute(0, 2, 3, 1) @ self.back + self.mean
        b, h, w, _ = patches.shape
        return patches.view(b, h, w, 3, FACTOR, FACTOR).permute(0, 3, 1, 4, 2, 5).reshape(b, 3, h * FACTOR, w * FACTOR)


def _patches(pixels: torch.Tensor) -> torch.Tensor:
    b, c, h, w = pixels.shape
    split = pixels.view(b, c, h // FACTOR, FACTOR, w // FACTOR, FACTOR)
    return split.permute(0, 2, 4, 1, 3, 5).reshape(b, h // FACTOR, w // FACTOR, _PATCH)


def components(out: Path, device: torch.device) -> Components:
    """Return the components of the training pictures, computed once.

    Each is divided by the square root of its deviation: half way to white, so that details count without drowning the rest.
    """
    path = out / "components.pt"
    if not path.exists():
        sampled = Pictures(out).batch(random.Random("components"), 3000, torch.device("cpu")).pixels
        patches = _patches(sampled).reshape(-1, _PATCH)
        mean = patches.mean(0)
        values, vectors = torch.linalg.eigh(torch.cov((patches - mean).T))
        vectors = vectors.flip(1)[:, :CHANNELS]
        scale = values.flip(0)[:CHANNELS].sqrt().sqrt()
        scale = scale * ((patches - mean) @ vectors / scale).std()
        torch.save({"mean": mean, "into": vectors / scale, "back": (vectors * scale).T.contiguous()}, path)
    return Components(**torch.load(path, map_location=device, weights_only=True))


def autoencoder() -> Any:
    """Return a new autoencoder of the stock class, 128 px ↔ 16 × 16 × 32."""
    stock: Any = AutoencoderKL  # its annotations allow one block
    return stock(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 48, 96),
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=8,
        sample_size=PIXELS,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        force_upcast=False,
        scaling_factor=1.0,
    )


def psnr(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return the peak signal-to-noise ratio in dB of each pair of pictures (-1 to 1)."""
    return 10 * torch.log10(4 / (one.clamp(-1, 1) - other).pow(2).mean((1, 2, 3)).clamp(min=1e-9))


def train_autoencoder(out: Path, device: torch.device, scale: float = 1.0) -> Any:
    """Train the decoder, then the encoder."""
    pictures, linear = Pictures(out), components(out, device)
    torch.manual_seed(5)
    model = autoencoder().to(device)

    def decoding(rng: random.Random) -> tuple[torch.Tensor, Mapping[str, float]]:
        x = pictures.batch(rng, 16, device).pixels
        latents = linear.encode(x)
        latents = latents + torch.randn_like(latents) * torch.rand(len(x), 1, 1, 1, device=device) * 0.15
        with torch.autocast(device.type, torch.bfloat16):
            y = model.decoder(latents)
        error = y.float() - x
        edges = error.diff(dim=3).abs().mean() + error.diff(dim=2).abs().mean()
        return error.abs().mean() + 0.5 * edges + error.pow(2).mean(), {"psnr": float(psnr(y.detach().float(), x).mean())}

    def encoding(rng: random.Random) -> tuple[torch.Tensor, Mapping[str, float]]:
        x = pictures.batch(rng, 16, device).pixels
        with torch.autocast(device.type, torch.bfloat16):
            moments = model.encoder(x).float()
        mean, log_variance = moments.chunk(2, 1)
        wrong = (mean - linear.encode(x)).pow(2).mean()
        return wrong + 0.01 * (log_variance + 12).abs().mean(), {"wrong": float(wrong.detach())}

    decoder = Schedule(steps=max(2, int(6000 * scale)), rate=2e-3, decay_from=0.2, weight_decay=0, betas=(0.9, 0.99))
    fit("decoder", out, {"decoder": model.decoder}, decoding, decoder)
    encoder = Schedule(steps=max(2, int(1500 * scale)), rate=2e-3, decay_from=0.2, weight_decay=0, betas=(0.9, 0.99))
    fit("encoder", out, {"encoder": model.encoder}, encoding, encoder)
    return model
