"""What the machinery costs: ``synthvlm generate`` against a bare loop over the same diffusers pipeline, from models loaded to last image on disk.

    python bench/generate.py [--images 128] [--rounds 3]

Both make the same captions' images with the same settings and store them as JPEG. Rounds alternate, since machines are noisy;
the figure is the median of the rounds' ratios. ``--model`` and ``--checkpoint`` take another model of the SDXL class.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from synthvlm.options import as_dict
from synthvlm.pipeline import Run
from synthvlm.plugins import discover
from synthvlm.resources import example_captions

_BARE = """
import json, sys, time
import torch
from diffusers import StableDiffusionXLPipeline
job = json.load(sys.stdin)
torch.set_num_threads(job["threads"])
pipe = StableDiffusionXLPipeline.from_pretrained(job["checkpoint"], torch_dtype=torch.float32, add_watermarker=False)
pipe.set_progress_bar_config(disable=True)
began = time.perf_counter()
for at in range(0, len(job["captions"]), job["batch"]):
    captions = job["captions"][at : at + job["batch"]]
    seeds = [torch.Generator().manual_seed(at + n) for n in range(len(captions))]
    images = pipe(captions, generator=seeds, **job["call"]).images
    for n, image in enumerate(images):
        image.save(f"{job['out']}/{at + n:06d}.jpg", quality=95, subsampling=0)
print(time.perf_counter() - began)
"""


class Clock:
    """Times a stage from its models loaded to its end."""

    def __init__(self) -> None:
        self.loaded = self.ended = 0.0

    def start(self, stage: str, rows: int, devices: list[str]) -> None:
        """Begin."""

    def event(self, kind: str, facts: dict[str, Any]) -> None:
        """Take the time when the worker is ready."""
        if kind == "ready":
            self.loaded = time.perf_counter()
        elif kind == "shard_done":
            self.ended = time.perf_counter()

    def finish(self) -> None:
        """End."""


def bare(options: Any, captions: list[str], threads: int, out: Path) -> float:
    call = {"num_inference_steps": options.steps, "guidance_scale": options.guidance, "height": options.height, "width": options.width}
    call["guidance_rescale"] = options.guidance_rescale
    job = {
        "checkpoint": options.checkpoint,
        "captions": captions,
        "batch": options.batch_size,
        "threads": threads,
        "call": call,
        "out": str(out),
    }
    env = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}  # as our workers have it
    done = subprocess.run([sys.executable, "-c", _BARE], input=json.dumps(job), capture_output=True, text=True, check=True, env=env)
    return float(done.stdout.splitlines()[-1])


def ours(model: str, options: Any, captions: list[str], threads: int, out: Path) -> float:
    source = out / "captions.json"
    source.write_text(json.dumps([{"id": n, "caption": c} for n, c in enumerate(captions)]))
    clock = Clock()
    Run.create(out / "run", source).using(threads=threads, listener=clock).generate(model, repeat=1, **as_dict(options))
    return clock.ended - clock.loaded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--checkpoint")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    a = parser.parse_args()
    options = discover().create("generator", a.model, {"checkpoint": a.checkpoint} if a.checkpoint else {})
    examples = [r["caption"] for r in json.loads(Path(example_captions()).read_text())]
    captions = [examples[n % len(examples)] for n in range(a.images)]
    ratios = []
    for n in range(a.rounds):
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
            b, o = bare(options, captions, a.threads, Path(one)), ours(a.model, options, captions, a.threads, Path(two))
        ratios.append(o / b)
        print(f"round {n + 1}: bare loop {b:.2f} s ({b / a.images:.3f} s an image), synthvlm {o:.2f} s, ratio {o / b:.3f}", flush=True)
    print(
        f"{a.model}, {a.images} images, {a.threads} thread(s): synthvlm takes {statistics.median(ratios):.3f} times the bare loop (median of {a.rounds})"
    )


if __name__ == "__main__":
    main()
