"""Fixtures: captions on disk, and models that cost nothing (``tests/faulty``), visible here and in worker processes."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

FAULTY = str(Path(__file__).parent / "faulty")


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Make the test models installed, so to speak."""
    monkeypatch.syspath_prepend(FAULTY)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(p for p in (FAULTY, os.environ.get("PYTHONPATH")) if p))
    importlib.invalidate_caches()
    yield FAULTY
    sys.modules.pop("synthvlm_faulty", None)


@pytest.fixture
def write_captions(tmp_path: Path) -> Callable[..., str]:
    """Write captions (text, or (id, text)) as the seeds' JSON; return the path."""

    def write(captions: Sequence[Any], name: str = "captions.json") -> str:
        records = [{"id": c[0], "caption": c[1]} if isinstance(c, tuple) else {"id": n, "caption": c} for n, c in enumerate(captions)]
        path = tmp_path / name
        path.write_text(json.dumps(records))
        return str(path)

    return write


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Run torch on one thread: bits depend on how many there are."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
