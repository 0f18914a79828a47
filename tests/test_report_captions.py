"""The report's part on captions: what was made and set aside, and of a captioner that can tell, how many are right."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from synthvlm.pipeline import Run
from synthvlm.report import report
from synthvlm.reporting import captions


@pytest.fixture(autouse=True)
def _models(faulty: str) -> None:
    """The test models are there."""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Five images, a fifth of them without a caption of its own, from three perspectives; one answer is refused."""
    records = []
    for n in range(5):
        Image.new("RGB", (16 + n, 16), (40 * n, 9, 99)).save(tmp_path / f"{n}.png")
        records.append({"image": f"{n}.png", "id": "refuse it" if n == 3 else str(n)} | ({"caption": f"{16 + n} <wide>"} if n else {}))
    (tmp_path / "images.json").write_text(json.dumps(records))
    return Run.create(tmp_path / "run", images=tmp_path / "images.json").caption("parrot", ["detail", "brief", "nouns"])


def words(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def judged_by_width(perspective: str, caption: str, truth: str) -> bool | None:
    """Judge parrot's captions, which tell how wide an image is; every second one of ``brief`` is called wrong."""
    return None if perspective == "nouns" else f"{truth.split()[0]} wide" in caption and not (perspective == "brief" and truth < "18")


def test_without_a_judge_nothing_is_said_of_right_and_wrong(run: Run) -> None:
    path = Path(report(run))
    told = json.loads(path.with_suffix(".json").read_text())["captions"]["stages"][0]
    assert (told["made"], told["failed"], told["judged"], told["right"]) == (12, 3, 0, 0)
    assert told["failures"][0]["class"] == "Refused"
    text = words(path.read_text())
    assert "Right" not in text
    assert "Refused 3" in text
    assert "18 <wide>" in text, "captions are escaped"


def test_the_report_says_how_many_captions_are_right(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synthvlm_faulty.Parrot.is_right", staticmethod(judged_by_width), raising=False)
    path = Path(report(run))
    told: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())["captions"]["stages"][0]
    counts = {p["name"]: (p["right"], p["judged"]) for p in told["perspectives"]}
    assert counts == {"detail": (3, 3), "brief": (2, 3), "nouns": (0, 0)}
    assert (told["right"], told["judged"]) == (5, 6)
    text = words(path.read_text())
    assert "83% right, of 6 that can be judged" in text
    assert "Right: 5 of 6 captions (83%) tell what is true of their image" in text
    assert "3 of 3" in text and "2 of 3" in text


def test_a_run_whose_captioner_is_not_installed_here_has_a_report(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = run.store.read_json("parrot/stage.json")
    assert stage is not None
    stage["plugins"][0]["name"] = "nowhere"
    run.store.put_json("parrot/stage.json", stage)
    assert "nowhere" in Path(report(run)).read_text()


def test_images_that_are_gone_are_told_of(run: Run, tmp_path: Path) -> None:
    (tmp_path / "2.png").unlink()
    with run.connect() as db:
        shown = captions.gather(run, db)
    assert shown is not None
    assert [bool(e["image"]) for e in shown["examples"]] == [True, True, False, True, True]
    assert "not readable" in Path(report(run)).read_text()
