"""From training checkpoints to the directories that ship: what has been trained so far, with averaged weights, in half precision."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from synthvlm_mini.train import autoencoder, captioner, checker, clip, generator
from synthvlm_mini.train.tokenizers import load
from synthvlm_mini.train.towers import text_tower


def averaged(out: Path, step: str, module: str) -> dict[str, torch.Tensor] | None:
    """Return the averaged weights of a module of a step, or None if the step has not begun."""
    path = out / f"{step}.pt"
    return torch.load(path, map_location="cpu", weights_only=True)["average"][module] if path.exists() else None


def export_all(out: Path, folder: Path) -> Iterator[Path]:
    """Write what there is, and yield the path of each."""
    folder.mkdir(parents=True, exist_ok=True)
    clip_tokenizer, llama_tokenizer = load(out)
    if state := averaged(out, "checker", "checker"):
        model = checker.Checker()
        model.load_state_dict(state)
        checker.export_checker(model, folder / "checker.safetensors")
        yield folder / "checker.safetensors"
    if state := averaged(out, "clip-mistakes", "clip") or averaged(out, "clip", "clip"):
        import open_clip

        contrastive: Any = open_clip.CLIP(**clip.config(len(clip_tokenizer))["model_cfg"])
        contrastive.load_state_dict(state)
        clip.export_clip(contrastive, out, folder / "clip")
        yield folder / "clip"
    if state := averaged(out, "captioner", "captioner"):
        telling = captioner.captioner(llama_tokenizer)
        telling.load_state_dict(state)
        captioner.export_captioner(telling, out, folder / "captioner")
        yield folder / "captioner"
    if (state := averaged(out, "generator", "unet")) and (decoder := averaged(out, "decoder", "decoder")):
        net, text, vae = generator.unet(), text_tower(clip_tokenizer), autoencoder.autoencoder()
        net.load_state_dict(state)
        text.load_state_dict(averaged(out, "generator", "text"))
        vae.decoder.load_state_dict(decoder)
        if encoder := averaged(out, "encoder", "encoder"):
            vae.encoder.load_state_dict(encoder)
        generator.pipeline(net, text, vae, out).to(dtype=torch.float16).save_pretrained(folder / "generator")
        yield folder / "generator"
