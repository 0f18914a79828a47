"""Make a tiny CLIP checkpoint with random weights in open_clip's directory layout: ``python -m tests.tiny_clip DIR``.

0.3 MB, made in a second: 32-pixel images, 16-token captions, a letter-by-letter tokenizer. It loads as any open_clip directory
does (``local-dir:``), so what is tested on it is the code that real models go through. Its scores mean nothing.
"""

from __future__ import annotations

import json
import string
import sys
from pathlib import Path
from typing import Any

CONTEXT = 16
SIDE = 32


def make_tiny_clip(directory: Path, seed: int = 0, quick_gelu: bool = True, resize_mode: str = "shortest") -> Path:
    """Write the checkpoint to ``directory`` and return it. The same arguments give the same weights."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    directory.mkdir(parents=True, exist_ok=True)
    vocabulary = _write_tokenizer(directory)
    config: dict[str, Any] = {
        "embed_dim": 16,
        "quick_gelu": quick_gelu,
        "vision_cfg": {"image_size": SIDE, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16},
        "text_cfg": {
            "context_length": CONTEXT,
            "vocab_size": vocabulary,
            "width": 32,
            "heads": 2,
            "layers": 2,
            "hf_tokenizer_name": "local",
        },
    }
    preprocess = {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28], "interpolation": "bicubic", "resize_mode": resize_mode}
    (directory / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}, indent=1))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = open_clip.CLIP(embed_dim=16, vision_cfg=config["vision_cfg"], text_cfg=config["text_cfg"], quick_gelu=quick_gelu)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, directory / "open_clip_model.safetensors")
    return directory


def _write_tokenizer(directory: Path) -> int:
    """Write a CLIP tokenizer without merges, a token a letter; return the size of its vocabulary."""
    from transformers import CLIPTokenizer

    symbols = list(string.ascii_lowercase + string.digits + string.punctuation)
    vocabulary = [
        *symbols,
        *(f"{s}</w>" for s in symbols),
        "<|startoftext|>",
        "<|endoftext|>",
    ]  # the end token last: open_clip finds it as the largest
    tokenizer = CLIPTokenizer(vocab={token: n for n, token in enumerate(vocabulary)}, merges=[], model_max_length=CONTEXT)
    tokenizer.save_pretrained(directory)
    return len(vocabulary)


if __name__ == "__main__":
    print(make_tiny_clip(Path(sys.argv[1])))
