"""Data that ships with the package: in a checkout at the repository's root, in a wheel inside the package."""

from __future__ import annotations

from pathlib import Path

from synthvlm.errors import SynthVLMError

_PACKAGE = Path(__file__).resolve().parent


def shipped(folder: str) -> Path:
    """Return the directory of ``prompts`` or ``examples``."""
    for path in (_PACKAGE / f"_{folder}", _PACKAGE.parent / folder):
        if path.is_dir():
            return path
    raise SynthVLMError(f"the installation lacks its {folder!r} folder", "install synthvlm again")


def example_captions() -> str:
    """Return the path of the captions that serve when no input is given."""
    return str(shipped("examples") / "captions.json")
