"""Exports that are killed, and pixels that are damaged, in the export or in the run."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from synthvlm.errors import RunError
from synthvlm.export import export
from tests.fabricate import captions
from tests.test_export import chosen, tree


@pytest.mark.parametrize("writes", [1, 9, 22])
def test_a_killed_export_is_finished_by_the_next(tmp_path: Path, writes: int) -> None:
    run = chosen(tmp_path / "run", captions(20), 1)
    whole = export(run, "llava", out=tmp_path / "whole")
    script = f"""if True:
        import os, signal, threading
        from synthvlm import storage
        from synthvlm.export import export
        from synthvlm.run import RunDirectory
        count, lock, replace = 0, threading.Lock(), os.replace
        def deadly(old, new):
            global count
            with lock:
                count += 1
                if count == {writes}:
                    os.kill(os.getpid(), signal.SIGKILL)
                replace(old, new)
        storage.os.replace = deadly
        export(RunDirectory.open({run.root!r}), "llava")
    """
    died = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60)
    out = tmp_path / "run" / "exports" / "llava"
    assert died.returncode == -signal.SIGKILL and not (out / "llava.json").exists()
    export(run, "llava")
    assert tree(out) == tree(whole["out"])


def test_a_damaged_image_in_the_export_is_written_again(tmp_path: Path) -> None:
    run = chosen(tmp_path / "run", captions(8))
    out = tmp_path / "out"
    export(run, "llava", out=out)
    whole = tree(out)
    names = [n for n in whole if n.endswith(".jpg")]
    (out / names[0]).write_bytes(b"\0" * len(whole[names[0]]))  # of the right size
    (out / names[1]).write_bytes(b"")
    (out / names[2]).unlink()
    assert export(run, "llava", out=out)["written"] == 3
    assert tree(out) == whole


@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_damaged_pixels_stop_the_export_and_repairing_lets_it_through(tmp_path: Path, harm: str) -> None:
    run = chosen(tmp_path / "run", captions(8), 1)
    tar = next((tmp_path / "run" / "mini").rglob("*.tar"))
    data = tar.read_bytes()
    if harm == "flip":
        tar.write_bytes(data[:700] + bytes([data[700] ^ 1]) + data[701:])
    elif harm == "cut":
        tar.write_bytes(data[:1000])
    else:
        tar.unlink()
    with pytest.raises(RunError) as caught:
        export(run, "llava")
    assert "cannot be exported" in caught.value.message and "synth command, run again, repairs" in str(caught.value.hint)
    assert not (tmp_path / "run" / "exports" / "llava" / "llava.json").exists()
    assert len(run.repair(thorough=True)) == 1
    with pytest.raises(RunError, match="are no longer in"):
        export(run, "llava")
    chosen(tmp_path / "run", captions(8), 1)  # what the synth command does: makes what is missing
    assert export(run, "llava")["records"] == 8
