"""``synthvlm doctor``: this machine."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys

import click

EXTRAS = {
    "diffusion": ("torch", "diffusers", "transformers", "accelerate"),
    "clip": ("torch", "open_clip", "skimage"),
    "vllm": ("vllm",),
    "ray": ("ray",),
    "web": ("fastapi", "uvicorn"),
}


@click.command("doctor")
def command() -> None:
    """Check this machine: packages, GPUs, disk, cache, plugins."""
    from synthvlm import __version__
    from synthvlm.executors.local import gpus
    from synthvlm.plugins import discover

    click.echo(f"SynthVLM {__version__}, Python {platform.python_version()} ({sys.executable}), {platform.system()} {platform.machine()}")
    found = gpus()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    click.echo(f"  GPUs: {', '.join(found) if found else 'none: one worker on the CPU'}; cores: {cores}")
    for extra, modules in EXTRAS.items():
        missing = [m for m in modules if importlib.util.find_spec(m) is None]
        state = (
            f"missing {', '.join(missing)}: pip install 'synthvlm[{extra}]'"
            if missing
            else ", ".join(f"{m} {_version(m)}" for m in modules)
        )
        click.echo(f"  {extra}: {state}")
    cache = os.environ.get("HF_HUB_CACHE") or os.path.join(os.environ.get("HF_HOME", os.path.expanduser("~/.cache/huggingface")), "hub")
    click.echo(
        f"  checkpoints are kept in {cache} ({_free(cache)} free); HF_TOKEN is {'set' if os.environ.get('HF_TOKEN') else 'not set (gated models need it)'}"
    )
    click.echo(f"  here: {_free(os.getcwd())} free")
    registry = discover()
    click.echo(
        f"  plugins: {len({r.plugin for r in registry.registrations.values()})} work"
        + "".join(f"\n  broken: {b.plugin} {b.reason}" for b in registry.broken)
    )


def _version(module: str) -> str:
    for name in importlib.metadata.packages_distributions().get(module, [module]):
        return importlib.metadata.version(name)
    return "?"


def _free(path: str) -> str:
    while not os.path.exists(path):
        path = os.path.dirname(path) or "/"
    return f"{shutil.disk_usage(path).free / 1e9:.0f} GB"
