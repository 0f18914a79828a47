"""Fixtures of the command line: commands run in this process, and the test models for a whole module."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from synthvlm.cli import main
from tests.conftest import FAULTY


@pytest.fixture(scope="module")
def installed() -> Iterator[None]:
    """Make the test models installed, so to speak, here and in workers; keep the command line's signal handler to itself."""
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FAULTY)
        patch.setenv("PYTHONPATH", os.pathsep.join(p for p in (FAULTY, os.environ.get("PYTHONPATH")) if p))
        patch.setenv("COLUMNS", "120")
        yield
    sys.modules.pop("synthvlm_faulty", None)
    signal.signal(signal.SIGTERM, handler)


@dataclass
class Said:
    """What a command came to."""

    code: Any
    out: str
    err: str


@pytest.fixture
def synthvlm(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command in this process."""

    def call(*arguments: Any) -> Said:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(a) for a in arguments])
        said = capsys.readouterr()
        return Said(end.value.code, said.out, said.err)

    return call


@pytest.fixture
def refused(synthvlm: Any) -> Any:
    """Run a command that the user has to mend: a line and a way on, exit code 2, no traceback."""

    def call(*arguments: Any) -> str:
        said = synthvlm(*arguments)
        assert said.code == 2, said
        assert "Traceback" not in said.err
        error, way_on = said.err.splitlines()[-2:]
        assert error.startswith("Error: "), said.err
        assert way_on.startswith("  "), said.err
        return said.err

    return call
