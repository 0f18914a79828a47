"""Judges that cost nothing, and sets of coloured pictures for them."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.conftest import FAULTY
from tests.core.conftest import refused, synthvlm  # noqa: F401

EYES = str(Path(__file__).parent / "eyes")


@pytest.fixture(autouse=True)
def eyes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make the test models installed, so to speak, here and in workers."""
    for folder in (FAULTY, EYES):
        monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(p for p in (EYES, FAULTY, os.environ.get("PYTHONPATH")) if p))
    monkeypatch.setenv("COLUMNS", "160")
    importlib.invalidate_caches()
    yield
    for module in ("synthvlm_eyes", "synthvlm_faulty"):
        sys.modules.pop(module, None)


Pictures = Sequence[tuple[str, str, tuple[int, int, int]]]


@pytest.fixture
def pictures(tmp_path: Path) -> Callable[..., str]:
    """Write a data set of flat pictures (id, caption, colour) as a list with files; return its path."""

    def write(name: str, rows: Pictures, **fields: Sequence[Any]) -> str:
        folder = tmp_path / name
        folder.mkdir()
        records = []
        for n, (key, caption, color) in enumerate(rows):
            Image.new("RGB", (12, 8), color).save(folder / f"{n}.png")
            records.append({"id": key, "caption": caption, "image": f"{n}.png", **{k: v[n] for k, v in fields.items()}})
        (folder / "list.json").write_text(json.dumps(records))
        return str(folder / "list.json")

    return write
