"""Exports sent to the Hub: huggingface_hub's own client against a stand-in of its API."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from synthvlm.errors import OptionError, RunError
from synthvlm.export import export
from synthvlm.exporting.push import patterns, push
from synthvlm.run import RunDirectory
from synthvlm.select import select
from tests.exporting import hub_stand_in
from tests.exporting.hub_stand_in import TOKEN, Hub
from tests.fabricate import captions
from tests.test_export import chosen, tree


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_stand_in.running() as served:
        yield served


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return chosen(tmp_path_factory.mktemp("push") / "run", captions(25))


def cli(hub: Hub, run: RunDirectory, *flags: str, token: str | None = TOKEN) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does, with this hub for the Hub; Xet is another server, which the stand-in is not."""
    here = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HOME": f"{run.root}-home"}
    environment = (
        {k: v for k, v in os.environ.items() if k not in ("HF_TOKEN", "HF_HUB_OFFLINE")} | here | ({"HF_TOKEN": token} if token else {})
    )
    command = [sys.executable, "-m", "synthvlm", "export", run.root, *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


@pytest.mark.parametrize("format", ["parquet", "llamafactory"])
def test_unasked_it_only_says_what_it_would_send(hub: Hub, run: RunDirectory, format: str) -> None:
    done = cli(hub, run, "--format", format, "--push", "hf://me/shapes")
    assert done.returncode == 0 and "Would send" in done.stdout and "me/shapes" in done.stdout and "--no-dry-run sends it" in done.stdout
    assert hub.requests == [] and hub.repositories == {}
    files = len(tree(Path(run.root) / "exports" / format))
    assert f"Would send {files} files" in done.stdout


def test_what_is_sent_is_the_export(hub: Hub, run: RunDirectory, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine, and private")
    done = cli(
        hub,
        run,
        "--format",
        "parquet",
        "--shard",
        "10",
        "--out",
        str(out),
        "--push",
        "hf://datasets/me/shapes",
        "--private",
        "--no-dry-run",
    )
    assert done.returncode == 0, done.stderr
    assert f"Sent 5 files, 0.1 MB: {hub.endpoint}/datasets/me/shapes" in done.stdout
    assert hub.repositories["me/shapes"] == {n: b for n, b in tree(out).items() if n != "notes.txt"} and hub.private["me/shapes"]
    assert any("lfs/objects/batch" in r for r in hub.requests)


def test_files_of_an_earlier_push_go(hub: Hub, tmp_path: Path) -> None:
    run = chosen(tmp_path / "run", captions(25))
    assert cli(hub, run, "--format", "webdataset", "--shard", "5", "--push", "hf://me/shapes", "--no-dry-run").returncode == 0
    hub.repositories["me/shapes"]["LICENSE"] = b"theirs"
    select(run, [run.stage("clip-ssim")], top="7")
    assert cli(hub, run, "--format", "webdataset", "--shard", "5", "--push", "hf://me/shapes", "--no-dry-run").returncode == 0
    assert set(hub.repositories["me/shapes"]) == {*tree(Path(run.root) / "exports/webdataset"), "LICENSE"}
    assert sum(n.endswith(".tar") for n in hub.repositories["me/shapes"]) == 2


def test_images_as_files_are_sent_too(hub: Hub, run: RunDirectory) -> None:
    done = cli(hub, run, "--format", "imagefolder", "--push", "hf://me/folder", "--no-dry-run")
    assert done.returncode == 0, done.stderr
    assert hub.repositories["me/folder"] == tree(Path(run.root) / "exports/imagefolder")


def test_without_a_token_the_way_on_is_said(hub: Hub, run: RunDirectory) -> None:
    for token in (None, "hf_wrong"):
        done = cli(hub, run, "--format", "recipe", "--push", "hf://me/shapes", "--no-dry-run", token=token)
        assert done.returncode == 2 and "hf auth login" in done.stderr and "Traceback" not in done.stderr
    assert hub.repositories == {}


def test_what_cannot_be_pushed(run: RunDirectory, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no data set repository"):
        push(str(tmp_path), "parquet", "s3://bucket/x")
    with pytest.raises(RunError, match="no whole export"):
        push(str(tmp_path), "parquet", "hf://me/x")
    with pytest.raises(RunError, match="not on a local disk"):
        push("memory://push/x", "parquet", "hf://me/x")
    done = export(run, "parquet", out=tmp_path)
    (tmp_path / "parquet.sha256").write_bytes(b"")  # as a killed export leaves it
    with pytest.raises(RunError, match="no whole export"):
        push(done["out"], "parquet", "hf://me/x")


@pytest.mark.parametrize("format", ["llava", "jsonl", "imagefolder", "webdataset", "parquet", "llamafactory", "recipe"])
def test_patterns_name_all_files_of_an_export(run: RunDirectory, tmp_path: Path, format: str) -> None:
    from fnmatch import fnmatch

    wanted = [p for some in patterns(format) for p in some]
    out = export(run, format, out=tmp_path / "out")["out"]
    assert all(any(fnmatch(n, p) for p in wanted) for n in tree(out))
