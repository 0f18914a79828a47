"""What captioning costs: ``synthvlm caption`` against a bare loop over the same engine, and against transformers with one prompt at a time.

    python bench/caption.py [--images 256] [--rounds 3]

All three caption the same pictures from the same perspectives with the same model, from models loaded to last caption written.
Rounds alternate, since machines are noisy; the figures are medians of the rounds' ratios, by the clock and, for machines that others use
too, by the time that the CPUs spent (every thread's). Goals: 0.9 of the bare loop's images/s (0.97 on a GPU with a full-size model),
twice those of one prompt at a time. ``--model`` and ``--checkpoint`` take another captioner.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from synthvlm import perspectives
from synthvlm.options import as_dict
from synthvlm.pipeline import Run
from synthvlm.plugins import discover

_BARE = """
import json, sys, time
import torch
from PIL import Image
from synthvlm.plugins import discover
from synthvlm.sample import CaptionRequest
job = json.load(sys.stdin)
torch.set_num_threads(job["threads"])
captioner = discover().create("captioner", job["model"], job["options"]).load([job["device"]])
size = captioner.batch_size or len(job["images"])
began = time.perf_counter(), time.process_time()
with open(job["out"], "w") as out:
    for at in range(0, len(job["images"]), size):
        paths = job["images"][at : at + size]
        pictures = [Image.open(path).convert("RGB") for path in paths]
        for prompt, limit in job["prompts"]:
            requests = [CaptionRequest(p, prompt, (i,), (p,), limit) for p, i in zip(paths, pictures)]
            for path, caption in zip(paths, captioner.caption(requests)):
                out.write(json.dumps([path, caption.text]) + "\\n")
print(time.perf_counter() - began[0], time.process_time() - began[1])
"""
_ONE_BY_ONE = """
import json, sys, time
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
job = json.load(sys.stdin)
torch.set_num_threads(job["threads"])
processor = AutoProcessor.from_pretrained(job["checkpoint"])
dtype = torch.float32 if job["device"] == "cpu" else torch.bfloat16
model = AutoModelForImageTextToText.from_pretrained(job["checkpoint"], dtype=dtype).to(job["device"]).eval()
began = time.perf_counter(), time.process_time()
with open(job["out"], "w") as out:
    for path in job["images"]:
        picture = Image.open(path).convert("RGB")
        for prompt, limit in job["prompts"]:
            content = [{"type": "image"}, {"type": "text", "text": prompt}]
            text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
            inputs = processor(text=[text], images=[picture], return_tensors="pt").to(job["device"], dtype)
            made = model.generate(**inputs, max_new_tokens=limit, do_sample=False)
            answer = processor.batch_decode(made[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0]
            out.write(json.dumps([path, answer.strip()]) + "\\n")
print(time.perf_counter() - began[0], time.process_time() - began[1])
"""


class Clock:
    """Times a stage from its models loaded to its end: seconds by the clock, and of the worker's CPU time."""

    def __init__(self) -> None:
        self.loaded = self.ended = (0.0, 0.0)

    def start(self, stage: str, rows: int, devices: list[str]) -> None:
        """Begin."""

    def event(self, kind: str, facts: dict[str, Any]) -> None:
        """Take the time when the worker is ready, and at each shard's end."""
        if kind == "ready":
            self.loaded = time.perf_counter(), children_cpu()
        elif kind == "shard_done":
            self.ended = time.perf_counter(), children_cpu()

    def finish(self) -> None:
        """End."""


def children_cpu() -> float:
    """Return the CPU seconds of the processes that this one has started and that still run (Linux)."""
    seconds = 0.0
    for children in Path("/proc/self/task").glob("*/children"):
        for pid in children.read_text().split():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            seconds += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return seconds


def script(code: str, job: dict[str, Any]) -> tuple[float, float]:
    threads = str(job["threads"])
    env = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}  # as our workers have it
    done = subprocess.run([sys.executable, "-c", code], input=json.dumps(job), stdout=subprocess.PIPE, text=True, check=True, env=env)
    clock, cpu = done.stdout.splitlines()[-1].split()
    return float(clock), float(cpu)


def ours(model: str, options: Any, images: Path, names: list[str], threads: int, out: Path) -> tuple[float, float]:
    clock = Clock()
    Run.create(out, images=images).using(threads=threads, listener=clock).caption(model, names, **as_dict(options))
    return clock.ended[0] - clock.loaded[0], clock.ended[1] - clock.loaded[1]


def pictures(folder: Path, count: int) -> list[str]:
    """Draw scenes of the miniature world; any captioner can be timed on them."""
    from PIL import Image
    from synthvlm_mini import world

    draw = random.Random(0)
    paths = [folder / f"{n:06d}.png" for n in range(count)]
    for n, path in enumerate(paths):
        Image.fromarray(world.render(world.sample(draw), 64, n)).save(path)
    return [str(path) for path in paths]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini-captioner")
    parser.add_argument("--checkpoint")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--engine", default="transformers")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--perspectives", nargs="+", default=["detail", "nouns", "style", "background"])
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    a = parser.parse_args()
    given = {"checkpoint": a.checkpoint, "engine": a.engine, "batch_size": a.batch_size}
    options = discover().create("captioner", a.model, {name: value for name, value in given.items() if value is not None})
    asked = perspectives.resolve(a.perspectives, type(options).family)
    job = {
        "model": a.model,
        "checkpoint": options.checkpoint,
        "options": as_dict(options),
        "device": a.device,
        "threads": a.threads,
        "prompts": [(p.render({}), p.max_new_tokens) for p in asked.values()],
    }
    ratios: dict[str, list[tuple[float, float]]] = {"clock": [], "CPU time": []}
    for n in range(a.rounds):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            (root / "images").mkdir()
            job |= {"images": pictures(root / "images", a.images), "out": str(root / "bare.jsonl")}
            few = job["images"][: max(8, a.images // 8)]
            bare = script(_BARE, job)
            own = ours(a.model, options, root / "images", a.perspectives, a.threads, root / "run")
            single = script(_ONE_BY_ONE, job | {"images": few, "out": str(root / "single.jsonl")})
        for which, (kind, found) in enumerate(ratios.items()):
            b, o, s = a.images / bare[which], a.images / own[which], len(few) / single[which]
            found.append((o / b, o / s))
            print(f"round {n + 1}, images/s by {kind}: bare loop {b:.1f}, one prompt at a time {s:.1f}, synthvlm {o:.1f}", flush=True)
    print(f"{a.model} on {a.engine}, {a.images} images × {len(asked)} perspectives, {a.threads} thread(s), medians of {a.rounds}:")
    for kind, found in ratios.items():
        of_bare, of_single = (statistics.median(r) for r in zip(*found, strict=True))
        print(f"  by {kind}: {of_bare:.3f} of a bare loop over the engine, {of_single:.2f} times one prompt at a time on transformers")


if __name__ == "__main__":
    main()
