"""A third party's plugin, really installed: a generator in 25 lines, found and used like the project's own."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from synthvlm.pipeline import Run
from tests import rows

SOURCE = Path(__file__).parent.parent / "example_plugin"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Build and install the example into a folder of its own; return the environment in which it is there."""
    source, target = tmp_path_factory.mktemp("source") / "plugin", tmp_path_factory.mktemp("site")
    shutil.copytree(SOURCE, source, ignore=shutil.ignore_patterns("__pycache__", "dist", "build"))
    uv = shutil.which("uv")
    tool = [uv, "pip", "install", "--quiet", "--python", sys.executable] if uv else [sys.executable, "-m", "pip", "install", "--quiet"]
    subprocess.run([*tool, "--no-deps", "--target", str(target), str(source)], check=True, timeout=200)
    assert (target / "synthvlm_stripes-1.2.3.dist-info" / "entry_points.txt").exists()
    return dict(os.environ) | {"PYTHONPATH": str(target)}


def synthvlm(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, "-m", "synthvlm", *arguments], env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done


def test_it_is_a_generator_in_25_lines_of_code():
    tree = ast.parse((SOURCE / "synthvlm_stripes.py").read_text())
    documented = [n.body[0] for n in ast.walk(tree) if isinstance(n, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(n)]
    prose = {line for d in documented for line in range(d.lineno, (d.end_lineno or d.lineno) + 1)}
    lines = (SOURCE / "synthvlm_stripes.py").read_text().splitlines()
    code = [x for n, x in enumerate(lines, 1) if x.strip() and not x.strip().startswith("#") and n not in prose]
    assert len(code) <= 25


def test_it_is_listed_with_its_origin(installed):
    shown = synthvlm(installed, "plugins", "stripes").stdout
    assert "synthvlm-stripes 1.2.3 (stripes)" in shown
    assert "-o size=64  (int, identity)  pixels" in shown
    assert "broken" not in shown


def test_the_whole_line_runs_with_it(installed, tmp_path):
    captions = tmp_path / "captions.json"
    captions.write_text(json.dumps([{"id": n, "caption": f"stripes {n}"} for n in range(6)]))
    flags = ["--model", "stripes", "--scorer", "ssim", "-o", "size=32", "--repeat", "2", "--top", "50%", "--seed", "5"]
    done = synthvlm(installed, "synth", str(captions), "--out", str(tmp_path / "run"), *flags)
    assert "Selected 3 of 6 captions" in done.stdout
    run = Run.open(tmp_path / "run")
    assert len(rows.pixels(run, "stripes")) == 12
    assert {(r["width"], r["height"]) for r in rows.table(run, "stripes")} == {(32, 32)}
    record = run.stage("stripes").plugins[0]
    assert (record["name"], record["distribution"], record["version"]) == ("stripes", "synthvlm-stripes", "1.2.3")
    assert len(json.loads((tmp_path / "run" / "exports" / "llava" / "llava.json").read_text())) == 3
    assert list((tmp_path / "run" / "report").iterdir())
