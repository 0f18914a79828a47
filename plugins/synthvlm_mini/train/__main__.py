"""``python -m synthvlm_mini.train``: train, evaluate and document the miniature models. Any step may be stopped and goes on where it was."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch


def _device(name: str) -> torch.device:
    return torch.device("cuda" if name == "auto" and torch.cuda.is_available() else "cpu" if name == "auto" else name)


def _pictures(out: Path, device: torch.device, scale: float) -> None:
    from synthvlm_mini.train.pictures import TRAINING, Pictures
    from synthvlm_mini.train.tokenizers import load

    load(out)
    Pictures(out, count=max(2000, int(TRAINING * min(1.0, scale))))


def _steps() -> dict[str, Callable[[Path, torch.device, float], Any]]:
    from synthvlm_mini.train import autoencoder, captioner, checker, clip, generator, mistakes, towers

    return {
        "pictures": _pictures,
        "text": towers.pretrain_text,
        "vision": towers.pretrain_vision,
        "checker": checker.train_checker,
        "autoencoder": autoencoder.train_autoencoder,
        "generator": generator.train_generator,
        "clip": clip.train_clip,
        "mistakes": mistakes.learn_from_mistakes,
        "captioner": captioner.train_captioner,
    }


@click.group()
def main() -> None:
    """Train the miniature models and tell what they can do."""


@main.command()
@click.argument("steps", nargs=-1)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("runs/mini-training"), show_default=True, help="Checkpoints and curves."
)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda or auto.")
@click.option("--threads", type=int, help="CPU threads. [torch's choice]")
@click.option(
    "--scale", type=float, default=1.0, show_default=True, help="Factor on every step's number of iterations; 0.001 tries it all."
)
def train(steps: tuple[str, ...], out: Path, device: str, threads: int | None, scale: float) -> None:
    """Train STEPS, by default all of them in order."""
    known = _steps()
    for step in steps:
        if step not in known:
            raise click.UsageError(f"there is no step {step!r}; there are: {', '.join(known)}")
    if threads:
        torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    for step in steps or known:
        began = time.monotonic()
        known[step](out, _device(device), scale)
        click.echo(f"== {step}: {(time.monotonic() - began) / 60:.1f} min")


@main.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/mini-training"), show_default=True, help="What `train` wrote.")
@click.argument("folder", type=click.Path(path_type=Path))
def export(out: Path, folder: Path) -> None:
    """Write what is trained so far as checkpoint directories: FOLDER/generator, FOLDER/clip, FOLDER/captioner, FOLDER/checker.safetensors."""
    from synthvlm_mini.train.export import export_all

    for path in export_all(out, folder):
        click.echo(path)


@main.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/mini-training"), show_default=True, help="What `train` wrote.")
@click.option("--scenes", type=int, default=512, show_default=True, help="Held-out scenes.")
@click.option("--selection", type=int, default=128, show_default=True, help="Captions whose 8 candidates are compared.")
@click.option("--hardware", required=True, help="What the models were trained on, for the card.")
@click.option("--threads", type=int, help="CPU threads. [torch's choice]")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def evaluate(out: Path, scenes: int, selection: int, hardware: str, threads: int | None, folder: Path) -> None:
    """Measure the models in FOLDER, print what falls short, and write FOLDER/README.md, the card."""
    from synthvlm_mini.train import card
    from synthvlm_mini.train.evaluate import evaluate_folder

    if threads:
        torch.set_num_threads(threads)
    figures = evaluate_folder(folder, scenes=scenes, selection=selection)
    click.echo(card.write(out, figures, folder, hardware).read_text())
    for line in card.missed(figures):
        click.echo(f"short: {line}", err=True)


if __name__ == "__main__":
    main()
