"""Both lines with the miniature models, really: as a user has them, and killed at random moments."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from synthvlm_mini import world

from synthvlm.pipeline import Run
from tests import rows
from tests.core.test_faults import workers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
SYNTHVLM = [sys.executable, "-m", "synthvlm"]


def start(*arguments: object, folder: Path) -> subprocess.Popen[str]:
    """Start a command as a user does, on one thread."""
    command = [*SYNTHVLM, *map(str, arguments), "--threads", "1"]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def test_with_no_arguments_both_lines_are_shown(tmp_path: Path) -> None:
    """Captions → images → the best pairs; those images → captions from five perspectives → a line each, and how many are right."""
    made = start("make", "--limit", "8", "--repeat", "2", "--top", "6", folder=tmp_path)
    _, said = made.communicate(timeout=600)
    assert made.returncode == 0, said
    run = tmp_path / "runs" / "demo"
    merged = [json.loads(x) for x in (run / "merged.jsonl").read_text().splitlines()]
    assert len(merged) == 6
    examples = {e["caption"] for e in json.loads((Path(__file__).parents[2] / "examples" / "captions.json").read_text())}
    for line in merged:
        assert len(line["caption"]) >= 5
        assert line["caption"][0] in examples, "the caption that the image was drawn from comes first"
        with Image.open(tmp_path / line["image"]) as image:
            assert image.size == (64, 64)
    (stage,) = json.loads((run / "report" / "report.json").read_text())["runs"][0]["captions"]["stages"]
    assert stage["wanted"] == 30
    assert stage["judged"] >= 24
    assert stage["right"] >= 0.5 * stage["judged"], "of what was drawn by a small model and told by another"
    assert re.search(rf"Right: {stage['right']} of {stage['judged']} captions", (run / "report" / "report.html").read_text())


def test_killed_at_ten_random_moments_the_merged_file_is_byte_identical(tmp_path: Path) -> None:
    """The parent, or a worker, at moments all over the line: while the model loads, in the middle of batches, while the file is merged."""
    draw = random.Random(8)
    (tmp_path / "pictures").mkdir()
    for n in range(192):
        Image.fromarray(world.render(world.sample(draw), 64, n)).save(tmp_path / "pictures" / f"{n:03d}.png")
    line = ("recaption", "pictures", "--model", "mini-captioner", "--perspective", "detail", "--perspective", "nouns", "--workers", "2")
    began = time.monotonic()
    calm = start(*line, "--out", "calm", folder=tmp_path)
    _, said = calm.communicate(timeout=600)
    assert calm.returncode == 0, said
    whole = time.monotonic() - began

    seed = random.SystemRandom().randrange(1 << 30)
    print(f"seed {seed}")
    chance, where = random.Random(seed), tmp_path / "run"
    kills = kept = 0
    while kills < 10:
        process = start(*line, "--out", "run", folder=tmp_path)
        time.sleep(chance.uniform(0.05, 0.95) * whole)
        victims = [] if chance.random() < 0.5 else workers(where)
        if process.poll() is not None:  # it was done already: begin anew
            process.communicate()
            kept += 1
            where.rename(tmp_path / f"done {kept}")
            continue
        for victim in [*victims[:1], process.pid]:
            if victim == process.pid and victims:
                time.sleep(chance.uniform(0, 0.3) * whole)  # while the dead worker's place is taken
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
                    kills += 1
        process.communicate()
    last = start(*line, "--out", "run", folder=tmp_path)
    _, said = last.communicate(timeout=600)
    assert last.returncode == 0, said
    for other in [where, *(tmp_path / f"done {n + 1}" for n in range(kept))]:
        assert (other / "merged.jsonl").read_bytes() == (tmp_path / "calm" / "merged.jsonl").read_bytes()
        assert rows.table(Run.open(other), "mini-captioner") == rows.table(Run.open(tmp_path / "calm"), "mini-captioner")
    assert (where / "merged.jsonl").read_bytes().count(b"\n") == 192
