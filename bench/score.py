"""Score pairs end to end, against the model's forward pass alone and against the plain loop: ``python bench/score.py``.

The pairs are photographs as JPEG of 1024 × 1024 pixels, each with a caption, in a real run; ours is the very code of a worker, from reading the
files to committed Parquet. The model is CLIP's ViT-B/32 with random weights, which are as fast as any. Compared with

- the forward pass alone: image and text tensors that lie in memory through the model, in batches of 32, as PyTorch runs it by itself; and
  as ours runs it (chunks side by side, short texts, oneDNN), which shows what all the rest of the work costs;
- the plain loop: a DataLoader with a process a core, open_clip, then scikit-image over the same files.

Rounds are interleaved, so that whatever else the machine does falls on all; medians. CPU seconds (of all threads and processes) tell what a
pair costs where cores are shared. ``--candidates 5`` has five images share a caption, as generated ones do.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIDE = 1024
BATCH = 32
SENTENCE = (
    "a red old wooden boat lies on the shore of quiet lake under tall green pines while two children feed white birds near stone house"
)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=96)
    parser.add_argument("--candidates", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="*", help="names of what to measure")
    asked = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    os.environ["OMP_NUM_THREADS"] = str(cores)
    import torch

    logging.disable(logging.WARNING)
    torch.set_num_threads(cores)
    with tempfile.TemporaryDirectory(prefix="synthvlm-bench-") as scratch:
        folder = Path(scratch)
        checkpoint = make_checkpoint(folder / "clip")
        pairs = make_pairs(folder, asked.pairs, asked.candidates)
        bench = Bench(folder, checkpoint, pairs, asked.device, cores)
        works: dict[str, Callable[[], object]] = {
            "forward pass alone": bench.forward,
            "forward pass alone, as ours": bench.forward_in_lanes,
            "synthvlm, clip": lambda: bench.score(["clip"]),
            "plain loop, clip and ssim": bench.plain,
            "synthvlm, clip and ssim": lambda: bench.score(["clip", "ssim"]),
        }
        works = {n: w for n, w in works.items() if not asked.only or n in asked.only}
        taken = measure(works, asked.rounds)
        bench.check()
    where = torch.cuda.get_device_name(asked.device) if asked.device != "cpu" else f"{cores} cores of {processor()}"
    print(f"ViT-B/32, float32, {where}; {asked.pairs} pairs of {SIDE} x {SIDE} JPEG, {asked.candidates} image(s) a caption")
    for name, rounds in taken.items():
        wall, cpu = (statistics.median(r[n] for r in rounds) for n in (0, 1))
        print(f"  {name:30} {asked.pairs / wall:7.2f} pairs/s  {1000 * cpu / asked.pairs:6.0f} ms of CPU a pair")
    for ours, other in (
        ("synthvlm, clip", "forward pass alone"),
        ("synthvlm, clip", "forward pass alone, as ours"),
        ("synthvlm, clip and ssim", "plain loop, clip and ssim"),
    ):
        if ours in taken and other in taken:
            wall, cpu = (statistics.median(o[n] / s[n] for o, s in zip(taken[other], taken[ours], strict=True)) for n in (0, 1))
            print(f"  {ours}: {wall:.2f} times the speed of the {other} ({cpu:.2f} times by CPU time)")


def measure(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Return (wall, CPU) seconds per round of each; one round before that is not counted."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for n in range(rounds + 1):
        for name, work in works.items():
            wall, cpu = time.perf_counter(), cpu_seconds()
            work()
            if n:
                taken[name].append((time.perf_counter() - wall, cpu_seconds() - cpu))
    return taken


def cpu_seconds() -> float:
    """Return the CPU time of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


class Bench:
    """What is compared, on the same pairs."""

    def __init__(self, folder: Path, checkpoint: Path, pairs: list[dict[str, str]], device: str, cores: int) -> None:
        import torch

        from synthvlm import Run
        from synthvlm.execution import Execution
        from synthvlm.preparing import prepare_measure
        from synthvlm.scorers import ClipScore, SSIMScore
        from synthvlm.scorers.clip_model import open_directory

        self.pairs, self.device, self.cores = pairs, device, cores
        self.paths = [folder / p["image"] for p in pairs]
        self.run = Run.create(folder / "run", images=folder / "pairs.jsonl")
        options = {"clip": {"checkpoint": str(checkpoint)}, "ssim": {}}
        execution = Execution(devices=["cpu"], threads=cores)
        self.stages = {n: prepare_measure(self.run, n, o, name=n, execution=execution).stage for n, o in options.items()}
        self.scorers = {"clip": ClipScore(checkpoint=str(checkpoint), threads=cores).load([device]), "ssim": SSIMScore().load([device])}

        opened = open_directory(checkpoint)
        self.transform, self.tokenize = opened.transform, opened.tokenize
        self.model = opened.model.to(device).eval()
        images = [self.transform(Image.open(path)) for path in self.paths]
        self.images = list(torch.stack(images).to(device))
        self.texts = list(self.tokenize([f"A photo depicts {c}" for c in dict.fromkeys(p["caption"] for p in pairs)]).to(device))

    def score(self, names: list[str]) -> None:
        """Score every pair as a worker does, and commit the rows."""
        import shutil

        from synthvlm.stages.score import Scorers, score_shard
        from synthvlm.worker import Context

        stage = self.stages["clip"]
        for old in Path(self.run.root, stage.name).glob("0*"):
            shutil.rmtree(old)
        scorers = Scorers([self.scorers[n] for n in names])
        if "clip" in names:
            self.scorers["clip"]._remembered.clear()
        stage.columns, stage.cards = scorers.columns, scorers.cards
        context = Context({"run": self.run.root, "threads": self.cores, "devices": [self.device]}, lambda event, **facts: None)
        score_shard(context, stage, scorers, 0, frozenset())
        context.close()

    def check(self) -> None:
        """Raise AssertionError unless the last round scored every pair."""
        stage = self.stages["clip"]
        tally = self.run.tally(stage)
        assert tally["made"] == len(self.pairs), tally

    def forward(self) -> None:
        """Send tensors that lie in memory through the model."""
        import torch

        with torch.inference_mode():
            for tensors, encode in ((self.images, self.model.encode_image), (self.texts, self.model.encode_text)):
                for at in range(0, len(tensors), BATCH):
                    encode(torch.stack(tensors[at : at + BATCH])).sum().item()

    def forward_in_lanes(self) -> None:
        """Send the same through the scorer's own model, in its shapes and threads."""
        ours = self.scorers["clip"]
        ours._lanes.run(ours._model.encode_image, self.images, ours._chunk(0), None)
        by_length: dict[int, list[Any]] = {}
        for text in self.texts:
            by_length.setdefault(ours._tower.length(text), []).append(text)
        for length, texts in by_length.items():
            with ours._tower.at(length):
                ours._lanes.run(ours._model.encode_text, [t[:length] for t in texts], ours._chunk(1), None)

    def plain(self) -> list[tuple[float, float]]:
        """Score as a script would: a DataLoader and open_clip, then scikit-image."""
        import torch
        from skimage.metrics import structural_similarity

        pictures: Any = Pictures(self.paths, self.transform)
        loader = torch.utils.data.DataLoader(pictures, batch_size=BATCH, num_workers=self.cores)
        clip: list[float] = []
        with torch.inference_mode():
            for images in loader:
                texts = self.tokenize([f"A photo depicts {p['caption']}" for p in self.pairs[len(clip) : len(clip) + len(images)]])
                seen = self.model.encode_image(images.to(self.device), normalize=True)
                read = self.model.encode_text(texts.to(self.device), normalize=True)
                clip += (seen * read).sum(-1).clamp(min=0).tolist()
        ssim = []
        for path in self.paths:
            image = Image.open(path).convert("RGB")
            restored = image.resize((224, 224), Image.Resampling.BICUBIC).resize(image.size, Image.Resampling.BICUBIC)
            value: Any = structural_similarity(np.asarray(image), np.asarray(restored), channel_axis=2, data_range=255)
            ssim.append(float(value))
        return list(zip(clip, ssim, strict=True))


class Pictures:
    """A PyTorch data set of picture files."""

    def __init__(self, paths: list[Path], transform: Callable[[Any], Any]) -> None:
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.paths)

    def __getitem__(self, n: int) -> Any:
        """Return one as the model takes it."""
        return self.transform(Image.open(self.paths[n]))


def make_checkpoint(folder: Path) -> Path:
    """Write CLIP's ViT-B/32 with random weights as an open_clip directory."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-32-quickgelu")
    config = open_clip.get_model_config("ViT-B-32-quickgelu")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    return folder


def make_pairs(folder: Path, count: int, candidates: int) -> list[dict[str, str]]:
    """Write photographs and a list of them with captions; return the list."""
    from skimage import data

    draw = np.random.default_rng(0)
    photos = [Image.fromarray(p) for p in (data.astronaut(), data.coffee(), data.chelsea(), data.rocket())]
    (folder / "images").mkdir()
    pairs = []
    for n in range(count):
        photo = photos[n % len(photos)]
        side = min(photo.size) * draw.uniform(0.7, 1)
        left, top = (draw.uniform(0, length - side) for length in photo.size)
        image = photo.resize((SIDE, SIDE), Image.Resampling.LANCZOS, (left, top, left + side, top + side))
        image.save(folder / f"images/{n:05d}.jpg", quality=95, subsampling="4:4:4")
        words = np.random.default_rng(n // candidates).permutation(SENTENCE.split())[: 8 + n // candidates % 12]
        pairs.append({"id": str(n), "image": f"images/{n:05d}.jpg", "caption": " ".join(words)})
    (folder / "pairs.jsonl").write_text("".join(json.dumps(p) + "\n" for p in pairs))
    return pairs


def processor() -> str:
    """Return the processor's name."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return names[0].partition(":")[2].strip() if names else platform.processor()


if __name__ == "__main__":
    main()
