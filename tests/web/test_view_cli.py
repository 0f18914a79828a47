"""``synthvlm view`` as a command: its link, its end, what it needs."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from click.testing import CliRunner

from synthvlm.cli import cli
from synthvlm.errors import OptionError, RunError
from tests.fabricate import captions, fabricate_run
from tests.rows import files


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_it_prints_a_link_serves_and_leaves_nothing(tmp_path: Path, ending: signal.Signals):
    fabricate_run(tmp_path / "run", captions(6), 1, side=32)
    before = files(tmp_path / "run")
    command = [sys.executable, "-m", "synthvlm", "view", str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stderr
        link = process.stdout.readline().removeprefix("Look at: ").strip()
        assert link.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(link, timeout=30) as answer:
            assert answer.status == 200
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(link.partition("?")[0], timeout=30)
        process.send_signal(ending)
        assert process.wait(15) == 0
        assert process.stderr.read() == ""
    assert files(tmp_path / "run") == before


def test_what_is_missing_is_said_with_the_way_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(RunError, match="there is no run"):
        CliRunner().invoke(cli, ["view", str(tmp_path)], catch_exceptions=False)
    fabricate_run(tmp_path / "run", captions(2), 1, side=32)
    with pytest.raises(RunError, match="no image stage 'sdxl'"):
        CliRunner().invoke(cli, ["view", str(tmp_path / "run"), "--images", "sdxl"], catch_exceptions=False)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "uvicorn" else find(name, *a))
    with pytest.raises(OptionError, match="needs uvicorn") as error:
        CliRunner().invoke(cli, ["view", str(tmp_path / "run")], catch_exceptions=False)
    assert error.value.hint == "pip install 'synthvlm[web]'"
