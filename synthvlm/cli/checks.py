"""What ``synthvlm plan`` says beside: lengths of the captions, licences, and whether the weights fit the GPU."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

LOOKED_AT = 20_000
"""Captions whose length is measured."""
CLIP_TOKENS = 77
_TIGHT = 0.9
_WEIGHTS = (".safetensors", ".bin")


def lengths(run: Any) -> str | None:
    """Say how long the captions of a run are, and how many of them are over CLIP's limit."""
    from synthvlm.scorers.text import TextRules

    total = run.sample_count()
    step = max(1, -(-total // LOOKED_AT))
    with run.connect() as db:
        rows = db.execute(f"SELECT caption FROM {run.samples_sql()} WHERE caption IS NOT NULL AND row % {step} = 0").fetchall()
    if not rows:
        return None
    found = TextRules().load([]).measure([caption for (caption,) in rows])
    words = sorted(int(n) for n in found["words"])
    over = sum(int(n) > CLIP_TOKENS for n in found["clip_tokens"]) / len(rows)
    looked = f" (of {len(rows):,} looked at)" if step > 1 else ""
    long = f"; about {over:.1%} are over {CLIP_TOKENS} CLIP tokens, where CLIPScore cuts them (see docs/scoring.md)" if over else ""
    return f"Captions: {words[len(words) // 2]} words at the median, {words[-1]} in the longest{looked}{long}"


def licences(plugin: Any) -> str:
    """Say the licences of a plugin's checkpoints, which bind what is made with them."""
    from synthvlm.exporting.licences import UNKNOWN, licence

    named = {c["asked"]: licence(c["asked"]) for c in plugin["checkpoints"].values() if "/" in c["asked"] and not Path(c["asked"]).exists()}
    return "; ".join(f"licence of {name}: {'unknown, see its page' if said == UNKNOWN else said}" for name, said in named.items())


def memory(prepared: Any, device: str) -> list[str]:
    """Return a line if the weights on the disk are nearly as large as the memory of the worker's GPUs."""
    if device == "cpu":
        return []
    try:
        asked = ["nvidia-smi", f"--id={device}", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
        there = sum(float(x) for x in subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True).stdout.split()) * 2**20
    except (OSError, ValueError, subprocess.SubprocessError):
        return []
    weights = sum(weights_bytes(value) for p in prepared.plugins for value in p["options"].values() if isinstance(value, str))
    if weights < _TIGHT * there:
        return []
    return [
        f"the weights of {prepared.stage.name} are {weights / 1e9:.1f} GB on the disk, and a worker's GPUs have {there / 1e9:.1f} GB",
        "  more GPUs for each worker with --gpus-per-worker; synthvlm plugins MODEL shows what it offers (offload, quantisation, dtype)",
    ]


def weights_bytes(checkpoint: str) -> int:
    """Return the size of a checkpoint directory's weights; of a model in two forms, the smaller."""
    if not checkpoint or not Path(checkpoint).is_dir():
        return 0
    sizes = [sum(f.stat().st_size for f in Path(checkpoint).rglob(f"*{ending}")) for ending in _WEIGHTS]
    return min((s for s in sizes if s), default=0)
