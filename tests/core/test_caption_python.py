"""``--python``: a captioner's workers run in another environment, which has synthvlm, the plugin, and versions of its own."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from PIL import Image

import synthvlm as package
from synthvlm import parts
from synthvlm.errors import WorkerError
from synthvlm.pipeline import Run
from tests import rows
from tests.conftest import FAULTY

OWN = "99.1"
"""Version of numpy, which it shares with nobody else's."""


def distributions(name: str, found: dict[str, importlib.metadata.Distribution]) -> dict[str, importlib.metadata.Distribution]:
    """Return a distribution and all that it needs, without extras."""
    if name not in found:
        try:
            found[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:  # for another Python or system
            return found
        for need in found[name].requires or []:
            if "extra ==" not in need:
                distributions(re.match(r"[\w.-]+", need)[0].lower().replace("_", "-"), found)  # type: ignore[index]
    return found


def place(source: Path, target: Path) -> None:
    """Put a link to ``source`` at ``target``; of numpy, a copy that says it is another version."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.name != "numpy":
        target.symlink_to(source)
        return
    target.mkdir()
    for inside in source.iterdir():
        if inside.name == "version.py":
            own = re.sub(
                r"^(version|__version__|full_version|short_version) = .*$", rf'\1 = "{OWN}"', inside.read_text(), flags=re.MULTILINE
            )
            (target / inside.name).write_text(own)
        elif inside.name != "__pycache__":
            (target / inside.name).symlink_to(inside)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an environment of what SynthVLM's core needs, with the test models; return its Python."""
    root = tmp_path_factory.mktemp("second") / "environment"
    venv.create(root, symlinks=True)
    (site,) = root.glob("lib/python*/site-packages")
    found = distributions("synthvlm", {})
    own = found.pop("synthvlm")
    for one in found.values():
        base = Path(str(one.locate_file("")))
        for top in {Path(f).parts[0] for f in one.files or [] if ".." not in Path(f).parts}:
            place(base / top, site / top)
    at = Path(package.__file__).parent.parent
    (site / "synthvlm.pth").write_text(f"{at}\n{at / 'plugins'}\n{FAULTY}\n")
    (info,) = {Path(f).parts[0] for f in own.files or [] if Path(f).parts[0].endswith(".dist-info")}
    shutil.copytree(str(own.locate_file(info)), site / info)
    return root / "bin" / "python"


@pytest.fixture(autouse=True)
def _models(faulty: str) -> None:
    """The test models are there."""


def images(folder: Path, count: int) -> Path:
    (folder / "pictures").mkdir()
    for n in range(count):
        Image.new("RGB", (16, 16), (20 * n, 9, 99)).save(folder / "pictures" / f"{n}.png")
    return folder / "pictures"


def versions(run: Run) -> list[dict[str, str]]:
    return [parts.part_info(run.store, p)["versions"] for p in parts.list_parts(run.store, "parrot")]


@pytest.mark.slow
def test_workers_run_in_the_other_environment(tmp_path: Path, python: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = "import numpy, synthvlm, importlib.util as u; print(numpy.__version__, *(u.find_spec(m) is None for m in ('torch', 'pytest', 'transformers')))"
    said = subprocess.run([python, "-c", modules], capture_output=True, text=True, check=True)
    assert said.stdout.split() == [OWN, "True", "True", "True"]

    source = images(tmp_path, 6)
    here = Run.create(tmp_path / "here", images=source).caption("parrot", ["detail", "nouns"])
    monkeypatch.delenv("PYTHONPATH")  # the other environment has the test models itself
    there = Run.create(tmp_path / "there", images=source).using(python=str(python)).caption("parrot", ["detail", "nouns"])
    assert there.results["caption"]["made"] == 12
    assert rows.table(there, "parrot") == rows.table(here, "parrot")
    assert {v["numpy"] for v in versions(there)} == {OWN}
    assert OWN not in {v["numpy"] for v in versions(here)}


@pytest.mark.slow
def test_on_the_command_line(tmp_path: Path, python: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "synthvlm",
        "recaption",
        images(tmp_path, 3),
        "--out",
        tmp_path / "run",
        "--model",
        "parrot",
        "--python",
        python,
    ]
    env = os.environ | {"PYTHONPATH": FAULTY}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=200, env=env)
    assert done.returncode == 0, done.stderr
    assert "Captions (parrot): 3 of 3" in done.stderr
    assert {v["numpy"] for v in versions(Run.open(tmp_path / "run"))} == {OWN}


@pytest.mark.slow
def test_an_environment_without_synthvlm_says_so(tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", symlinks=True)
    run = Run.create(tmp_path / "run", images=images(tmp_path, 1)).using(python=str(tmp_path / "bare" / "bin" / "python"))
    with pytest.raises(WorkerError, match="No module named 'synthvlm'") as error:
        run.caption("parrot")
    assert "needs synthvlm and the model's plugin installed" in (error.value.hint or "")
