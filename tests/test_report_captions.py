"""The report's part on captions: what was made and set aside, and of a captioner that can tell, how many are right."""

from __future__ import annotations

import html
import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from synthvlm import images
from synthvlm.pipeline import Run
from synthvlm.report import report
from synthvlm.reporting import captions, told
from synthvlm.reporting.pictures import Extent
from synthvlm.run import fetch
from synthvlm.selecting.gather import opened
from tests.conftest import FAULTY


@pytest.fixture(autouse=True)
def _models(faulty: str) -> None:
    """The test models are there."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with five images and two runs on them: ``run``, by one captioner, and ``two``, by a second one as well.

    A fifth of the images has no caption of its own; one answer is refused.
    """
    root = tmp_path_factory.mktemp("captions")
    records = []
    for n in range(5):
        Image.new("RGB", (16 + n, 16), (40 * n, 9, 99)).save(root / f"{n}.png")
        records.append({"image": f"{n}.png", "id": "refuse it" if n == 3 else str(n)} | ({"caption": f"{16 + n} <wide>"} if n else {}))
    (root / "images.json").write_text(json.dumps(records))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FAULTY)
        patch.setenv("PYTHONPATH", FAULTY)
        run = Run.create(root / "run", images=root / "images.json").using(devices=["cpu"], threads=1)
        run.caption("parrot", ["detail", "brief", "nouns"])
        shutil.copytree(root / "run", root / "two")
        Run.open(root / "two").using(devices=["cpu"], threads=1).caption("parrot2", ["detail", "brief"], voice="LOUD")
        yield root
    sys.modules.pop("synthvlm_faulty", None)


@pytest.fixture
def run(base: Path, tmp_path: Path) -> Run:
    """Five images, captioned from three perspectives."""
    return Run.open(shutil.copytree(base / "run", tmp_path / "run")).using(devices=["cpu"], threads=1)


@pytest.fixture
def two(base: Path, tmp_path: Path) -> Run:
    """The same images by a second captioner as well, with another voice."""
    return Run.open(shutil.copytree(base / "two", tmp_path / "run"))


def words(page: str) -> str:
    page = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def judged_by_width(perspective: str, caption: str, truth: str) -> bool | None:
    """Judge parrot's captions, which tell how wide an image is; every second one of ``brief`` is called wrong."""
    return None if perspective == "nouns" else f"{truth.split()[0]} wide" in caption and not (perspective == "brief" and truth < "18")


def test_without_a_judge_nothing_is_said_of_right_and_wrong(run: Run) -> None:
    path = Path(report(run))
    said = json.loads(path.with_suffix(".json").read_text())["runs"][0]["captions"]["stages"][0]
    assert (said["made"], said["failed"], said["judged"], said["right"]) == (12, 3, 0, 0)
    assert said["failures"][0]["class"] == "Refused"
    text = words(path.read_text())
    assert "Right" not in text
    assert "Refused 3" in text
    assert "18 <wide>" in text, "captions are escaped"


def test_the_report_says_how_many_captions_are_right(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synthvlm_faulty.Parrot.is_right", staticmethod(judged_by_width), raising=False)
    path = Path(report(run))
    said: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())["runs"][0]["captions"]["stages"][0]
    counts = {p["name"]: (p["right"], p["judged"]) for p in said["perspectives"]}
    assert counts == {"detail": (3, 3), "brief": (2, 3), "nouns": (0, 0)}
    assert (said["right"], said["judged"]) == (5, 6)
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


def test_images_that_are_gone_are_told_of(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    read = images.read_image_bytes

    def gone(uri: str) -> bytes:
        return read(uri if "2.png" not in uri else f"{uri}.gone")

    monkeypatch.setattr(images, "read_image_bytes", gone)
    with opened(run) as (db, _):
        said = captions.gather(run, db)
        assert said is not None
        shown = told.gather(run, db, said, Extent())
    assert [bool(e["image"]) for e in shown["examples"]] == [True, True, False, True, True]
    assert "not readable" in Path(report(run)).read_text()


def test_where_captioners_agree_and_where_they_differ(two: Run) -> None:
    path = Path(report(two))
    said: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())["runs"][0]["captions"]
    texts = _texts(two)
    for found in said["agreement"]:
        assert found["stages"] == ["parrot", "parrot2"]
        shares = [
            _in_common(texts["parrot", row, found["perspective"]], texts["parrot2", row, found["perspective"]]) for row in (0, 1, 2, 4)
        ]
        assert (found["images"], found["similarity"]) == (4, pytest.approx(sum(shares) / 4))
    assert [a["perspective"] for a in said["agreement"]] == ["brief", "detail"]
    least = min(_in_common(texts["parrot", r, p], texts["parrot2", r, p]) for r in (0, 1, 2, 4) for p in ("detail", "brief"))
    assert said["differing"][0]["similarity"] == pytest.approx(least)
    assert [d["similarity"] for d in said["differing"]] == sorted(d["similarity"] for d in said["differing"])
    text = words(path.read_text())
    assert "Where captioners differ most" in text and said["differing"][0]["texts"][1] in text
    assert "Perspective parrot parrot2" in text, "the captions of an image stand side by side"


def _texts(run: Run) -> dict[tuple[str, int, str], str]:
    with run.connect() as db:
        return {
            (s, r["row"], r["perspective"]): r["text"]
            for s in run.stage_names()
            for r in fetch(db, f"SELECT row, perspective, text FROM {run.table_sql(run.stage(s))} WHERE error IS NULL")
        }


def _in_common(one: str, other: str) -> float:
    a, b = (set(re.findall(r"[^\W_]+", t.lower())) for t in (one, other))
    return len(a & b) / len(a | b)


def test_captions_that_stand_with_several_images_are_told(run: Run, tmp_path: Path) -> None:
    Image.new("RGB", (17, 16), (40, 9, 99)).save(tmp_path / "more.png")
    Image.new("RGB", (17, 16), (41, 9, 99)).save(tmp_path / "and-more.png")
    (tmp_path / "more.json").write_text(json.dumps([{"image": "more.png", "id": "more"}, {"image": "and-more.png", "id": "and more"}]))
    run.add_images(tmp_path / "more.json").caption("parrot", ["detail", "brief", "nouns"])
    said = json.loads(Path(report(run)).with_suffix(".json").read_text())["runs"][0]["captions"]
    counted = Counter((s, p, t) for (s, _, p), t in _texts(run).items())
    assert said["repeated"]["captions"] == sum(n for n in counted.values() if n > 1) > 0
    assert {(m["stage"], m["perspective"], m["text"]): m["images"] for m in said["repeated"]["most"]}.items() <= counted.items()


def test_lengths_and_yield_are_counted_by_perspective(run: Run) -> None:
    path = Path(report(run))
    (said,) = json.loads(path.with_suffix(".json").read_text())["runs"]
    (stage,) = said["captions"]["stages"]
    assert {p["name"]: p["words"] for p in stage["perspectives"]}.keys() == {"detail", "brief", "nouns"}
    texts = _texts(run)
    for p in stage["perspectives"]:
        own = [len(t.split()) for (_, _, name), t in texts.items() if name == p["name"]]
        assert p["words"] == pytest.approx(sum(own) / len(own))
    assert (stage["wanted"], stage["by_device"][0]["rows"]) == (15, 15)
    assert 'data-chart="lengths"' in path.read_text() or said["captions"]["lengths"] is None
