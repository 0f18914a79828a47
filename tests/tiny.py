"""Make tiny random checkpoints, offline and in seconds: real classes and real file layouts, nothing learned.

Every maker is seeded, so that the same files come out each time. ``python -m tests.tiny sdxl DIR`` makes one by hand.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SIDE = 64
"""Side in pixels of the images that the tiny generators make by default."""


@contextmanager
def _seeded() -> Iterator[None]:
    """Seed torch for the block alone, and keep the loading bars of the libraries quiet."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def clip_tokenizer(directory: Path, pad: str = "<|endoftext|>", limit: int = 77) -> Any:
    """Return a byte-level CLIP tokenizer with a handful of merges: most letters are a token each."""
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["ca", "cat</w>", "do", "dog</w>"]
    vocabulary = {token: i for i, token in enumerate([*letters, *(letter + "</w>" for letter in letters), *words])}
    # The end token has the highest id, as in CLIP: text pooling relies on it.
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "vocab.json").write_text(json.dumps(vocabulary))
    (directory / "merges.txt").write_text("#version: 0.2\nc a\nca t</w>\nd o\ndo g</w>\n")
    files = {"vocab": str(directory / "vocab.json"), "merges": str(directory / "merges.txt")}
    return CLIPTokenizer(**files, pad_token=pad, model_max_length=limit)


def t5_tokenizer() -> Any:
    """Return a unigram tokenizer over letters that ends each text with ``</s>``, as T5's does."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((c, -3.0) for c in "▁abcdefghijklmnopqrstuvwxyz0123456789.,!?'-")]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512)


def _clip_text(tokenizer: Any, projection: bool, width: int = 32) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        bos_token_id=len(tokenizer) - 2,
        eos_token_id=len(tokenizer) - 1,
        pad_token_id=tokenizer.pad_token_id,
        hidden_size=width,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=3,
        vocab_size=len(tokenizer),
        projection_dim=width,
        max_position_embeddings=tokenizer.model_max_length,
    )
    model = CLIPTextModelWithProjection(config) if projection else CLIPTextModel(config)
    # Louder than the usual initialisation, so that the caption shows in the pixels of an untrained model.
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(3)
    return model.eval()


def _vae(latents: int, **config: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        # Four levels, as in the real ones: a latent stands for 8 by 8 pixels.
        block_out_channels=(8, 16, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=8,
        latent_channels=latents,
        sample_size=SIDE,
        **config,
    )


def _unet(cross_attention: int, embedding: int = 0) -> Any:
    from diffusers import UNet2DConditionModel

    added: dict[str, Any] = {}
    if embedding:
        added = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": embedding}
        added["transformer_layers_per_block"] = (1, 2)
    return UNet2DConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        sample_size=SIDE // 8,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        cross_attention_dim=cross_attention,
        **added,
    )


def _euler() -> Any:
    from diffusers import EulerDiscreteScheduler

    # The settings of stabilityai/stable-diffusion-xl-base-1.0.
    return EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, timestep_spacing="leading"
    )


def tiny_sdxl(path: str | Path, **config: Any) -> Path:
    """Write a tiny SDXL pipeline directory: two text encoders, 64-pixel images. ``config``: for the VAE."""
    from diffusers import StableDiffusionXLPipeline

    path = Path(path)
    with _seeded():
        first = clip_tokenizer(path / "tokenizer")
        second = clip_tokenizer(path / "tokenizer_2", pad="!")  # as in SDXL, whose second tokenizer pads otherwise
        StableDiffusionXLPipeline(
            vae=_vae(4, **config),
            text_encoder=_clip_text(first, projection=False),
            text_encoder_2=_clip_text(second, projection=True),
            tokenizer=first,
            tokenizer_2=second,
            unet=_unet(cross_attention=64, embedding=6 * 8 + 32),
            scheduler=_euler(),
            force_zeros_for_empty_prompt=True,
            add_watermarker=False,
        ).save_pretrained(path)
    return path


def tiny_sdxl_refiner(path: str | Path) -> Path:
    """Write a tiny SDXL refiner: an image-to-image pipeline with the second text encoder alone and an aesthetic score."""
    from diffusers import StableDiffusionXLImg2ImgPipeline

    path = Path(path)
    with _seeded():
        second = clip_tokenizer(path / "tokenizer_2", pad="!")
        StableDiffusionXLImg2ImgPipeline(
            vae=_vae(4),
            text_encoder=None,
            text_encoder_2=_clip_text(second, projection=True),
            tokenizer=None,
            tokenizer_2=second,
            unet=_unet(cross_attention=32, embedding=5 * 8 + 32),
            scheduler=_euler(),
            requires_aesthetics_score=True,
            force_zeros_for_empty_prompt=False,
            add_watermarker=False,
        ).save_pretrained(path)
    return path


def _t5_encoder(width: int) -> Any:
    from transformers import T5Config, T5EncoderModel

    sizes = {"vocab_size": 64, "d_model": width, "d_kv": 8, "d_ff": 37, "num_layers": 2, "num_heads": 4}
    return T5EncoderModel(T5Config(**sizes, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0)).eval()


def tiny_sd3(path: str | Path, t5: bool = True) -> Path:
    """Write a tiny Stable Diffusion 3 pipeline directory, with or without its third text encoder."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    path = Path(path)
    with _seeded():
        first = clip_tokenizer(path / "tokenizer")
        second = clip_tokenizer(path / "tokenizer_2", pad="!")
        transformer = SD3Transformer2DModel(
            sample_size=SIDE // 8,
            patch_size=2,
            in_channels=16,
            out_channels=16,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            caption_projection_dim=32,
            joint_attention_dim=64,
            pooled_projection_dim=64,
        )
        StableDiffusion3Pipeline(
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=_vae(16, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.0609, scaling_factor=1.5305, force_upcast=True),
            text_encoder=_clip_text(first, projection=True),
            tokenizer=first,
            text_encoder_2=_clip_text(second, projection=True),
            tokenizer_2=second,
            text_encoder_3=_t5_encoder(64) if t5 else None,
            tokenizer_3=t5_tokenizer() if t5 else None,
        ).save_pretrained(path)
    return path


def tiny_sd15(path: str | Path) -> Path:
    """Write a tiny pipeline directory of the Stable Diffusion 1.5 class, without a safety checker."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    path = Path(path)
    with _seeded():
        tokenizer = clip_tokenizer(path / "tokenizer")
        StableDiffusionPipeline(
            vae=_vae(4),
            text_encoder=_clip_text(tokenizer, projection=False),
            tokenizer=tokenizer,
            unet=_unet(cross_attention=32),
            scheduler=DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).save_pretrained(path)
    return path


def tiny_flux(path: str | Path) -> Path:
    """Write a tiny FLUX pipeline directory: a guidance-distilled transformer, CLIP and T5."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    path = Path(path)
    with _seeded():
        first = clip_tokenizer(path / "tokenizer")
        transformer = FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            axes_dims_rope=(4, 4, 8),
            guidance_embeds=True,
        )
        FluxPipeline(
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(),
            vae=_vae(4, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.0609, scaling_factor=1.5035),
            text_encoder=_clip_text(first, projection=False),
            tokenizer=first,
            text_encoder_2=_t5_encoder(32),
            tokenizer_2=t5_tokenizer(),
        ).save_pretrained(path)
    return path


MAKERS: dict[str, Callable[[str], Path]] = {
    "sdxl": tiny_sdxl,
    "sdxl-refiner": tiny_sdxl_refiner,
    "sd3": tiny_sd3,
    "sd3-no-t5": lambda path: tiny_sd3(path, t5=False),
    "sd15": tiny_sd15,
    "flux": tiny_flux,
}

if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in MAKERS:
        sys.exit(f"usage: python -m tests.tiny {'|'.join(MAKERS)} DIR")
    print(MAKERS[sys.argv[1]](sys.argv[2]))
