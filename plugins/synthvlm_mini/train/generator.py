"""The generator: a small SDXL, taught by a loss that weighs things six times as much as what is around them."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from torch import nn
from torch.nn import functional as F

from synthvlm_mini.book import captions
from synthvlm_mini.book.scene import Scene
from synthvlm_mini.train.autoencoder import CHANNELS, components
from synthvlm_mini.train.loop import Schedule, fit
from synthvlm_mini.train.pictures import CELLS, PIXELS, Pictures
from synthvlm_mini.train.tokenizers import CONTEXT, load
from synthvlm_mini.train.towers import WIDTH, pretrain_text, tokens
from synthvlm_mini.train.truth import DenseHead, of_patches

_NOISE = {"num_train_timesteps": 1000, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
_NOISE |= {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
_TIME_IDS = (PIXELS, PIXELS, 0, 0, PIXELS, PIXELS)
_SCENES, _LEVELS = 16, 2
"""Of a batch: scenes, and noise levels for each (text and latents are computed once for all of them)."""


def unet() -> Any:
    """Return a new UNet: latents of 16 × 16, 64 channels there and 192 at 8 × 8, where it reads the text."""
    return UNet2DConditionModel(
        sample_size=CELLS,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(64, 192),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        transformer_layers_per_block=1,
        attention_head_dim=(2, 6),  # type: ignore[arg-type]
        use_linear_projection=True,
        norm_num_groups=16,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + WIDTH,
    )


def _told(scene: Scene, rng: random.Random) -> str:
    return captions.caption(scene, rng) if rng.random() < 0.7 else captions.medium(scene, rng)


def train_generator(out: Path, device: torch.device, scale: float = 1.0) -> tuple[Any, nn.Module]:
    """Train the UNet, and the text tower with it at a third of the rate.

    Beside the noise, the UNet's middle must tell what every patch will show: at high noise it can know that only from the text, so
    that words find their places early (a dense signal, as for the vision tower).
    """
    tokenizer, _ = load(out)
    pictures, linear = Pictures(out), components(out, device)
    text: Any = pretrain_text(out, device, scale)
    torch.manual_seed(6)
    net, dense = unet().to(device), DenseHead(192).to(device)
    alphas = DDPMScheduler(**_NOISE).alphas_cumprod.to(device)
    time_ids = torch.tensor([_TIME_IDS], dtype=torch.float32, device=device).expand(_SCENES * _LEVELS, -1)
    middle: dict[str, torch.Tensor] = {}
    net.mid_block.register_forward_hook(lambda module, given, made: middle.update(it=made))

    def loss(rng: random.Random) -> tuple[torch.Tensor, Mapping[str, float]]:
        batch = pictures.batch(rng, _SCENES, device)
        latents = linear.encode(batch.pixels).repeat_interleave(_LEVELS, 0)
        ids = tokens(tokenizer, [_told(s, rng) for s in batch.scenes], device, CONTEXT)
        count = len(latents)
        # Spread over all levels in every batch, and a little more at high noise, where it is decided what goes where.
        t = (torch.randperm(count, device=device) + torch.rand(count, device=device)) / count
        t = (1000 * t**0.85).long().clamp(0, 999)
        a = alphas[t].view(-1, 1, 1, 1)
        noise = torch.randn_like(latents)
        noisy, target = a.sqrt() * latents + (1 - a).sqrt() * noise, a.sqrt() * noise - (1 - a).sqrt() * latents
        with torch.autocast(device.type, torch.bfloat16):
            read = text(ids, output_hidden_states=True)
            kept = (torch.rand(_SCENES, device=device) > 0.1).float()  # zeros are what the pipeline gives for no prompt
            states = (read.hidden_states[-2] * kept[:, None, None]).repeat_interleave(_LEVELS, 0)
            pooled = (read.text_embeds * kept[:, None]).repeat_interleave(_LEVELS, 0)
            added = {"text_embeds": pooled, "time_ids": time_ids}
            guess = net(noisy, t, encoder_hidden_states=states, added_cond_kwargs=added).sample
        things = F.max_pool2d((batch.cells > 0).float()[:, None], 3, 1, 1)
        weight = 1 + 5 * things
        weight = (weight / weight.mean((1, 2, 3), keepdim=True)).repeat_interleave(_LEVELS, 0)
        wrong = ((guess.float() - target).pow(2) * weight).mean((1, 2, 3))
        shown = of_patches(batch.grid(CELLS // 2), batch.labels).flatten(1, 2).repeat_interleave(_LEVELS, 0)
        told = kept.repeat_interleave(_LEVELS, 0) > 0
        placed, right = dense(middle["it"].flatten(2).transpose(1, 2)[told], shown[told])
        high = wrong[t > 700].mean()
        return wrong.mean() + 0.1 * placed, {"wrong": float(wrong.mean().detach()), "high noise": float(high.detach()), "placed": right}

    schedule = Schedule(
        steps=max(2, int(14_000 * scale)), rate=1e-3, decay_from=0.6, weight_decay=0.01, ema=0.9985, betas=(0.9, 0.99), slower={"text": 0.3}
    )
    fit("generator", out, {"unet": net, "text": text, "dense": dense}, loss, schedule)
    return net, text


def pipeline(net: Any, text: Any, vae: AutoencoderKL, out: Path) -> StableDiffusionXLPipeline:
    """Return the whole as a pipeline of the SDXL class, with one text encoder."""
    tokenizer, _ = load(out)
    scheduler: Any = DDIMScheduler(**_NOISE, clip_sample=False, set_alpha_to_one=True, steps_offset=0)
    absent: Any = None
    return StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=absent,
        text_encoder_2=text,
        tokenizer=absent,
        tokenizer_2=tokenizer,
        unet=net,
        scheduler=scheduler,
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
