"""Two sets in, preference out: whatever the sets are, resumable, with the answers of a judge that is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from synthvlm.judging import pairs
from synthvlm.pipeline import Run
from tests import rows

RED, DARK, GREEN = (200, 0, 0), (100, 0, 0), (0, 200, 0)


def figures(synthvlm: Any, *arguments: Any) -> dict[str, Any]:
    said = synthvlm("judge", *arguments, "--json")
    assert said.code == 0, said
    return json.loads(said.out)


def only(summary: dict[str, Any]) -> dict[str, Any]:
    (judge,) = summary["judges"]
    return judge


def test_two_data_sets(synthvlm: Any, pictures: Callable[..., str], tmp_path: Path) -> None:
    """A wins twice, B once, one tie; ids that only one set has, and ids with other captions, are left out."""
    a = pictures("a", [("1", "red", RED), ("2", "red", RED), ("3", "green", RED), ("4", "red", RED), ("5", "red", RED), ("6", "red", RED)])
    b = pictures("b", [("1", "red", DARK), ("2", "red", GREEN), ("3", "green", GREEN), ("4", "red", (201, 9, 9)), ("6", "a red", DARK)])
    out = tmp_path / "run"
    told = figures(synthvlm, a, b, "--out", out, "--model", "eye")
    assert told["counts"] == {"a": 6, "b": 5, "joined": 5, "usable": 4, "pairs": 4, "other_caption": 1, "no_caption": 0}
    judge = only(told)
    assert (judge["wins"], judge["ties"], judge["losses"]) == (2, 1, 1)
    assert judge["win_rate"]["value"] == 0.625
    assert judge["flip_rate"]["value"] == 0
    assert judge["first"] == pytest.approx({"value": 0.5, "low": 0.0, "high": 1.0, "n": 6}, abs=0.2)
    run = Run.open(out)
    table = rows.table(run, f"{told['name']}.eye")
    assert len(table) == 8
    by_id = {(r["id"], r["flipped"]): r for r in table}
    assert by_id["1", True]["verdict"] == by_id["1", False]["verdict"] == "a"
    assert by_id["1", False]["reason"] == "by 100"
    said = synthvlm("judge", out)
    assert f"{told['name']}: A is {a}, B is {b}; 4 pairs of 4" in said.out.replace("\n", "")
    assert "62.5%" in said.out


def test_a_judge_that_goes_by_what_comes_first_is_found_out(synthvlm: Any, pictures: Callable[..., str], tmp_path: Path) -> None:
    """What is answered by position flips, counts as a tie, and shows as bias towards the first."""
    n = 200
    a = pictures("a", [(str(i), "red", RED) for i in range(n)])
    b = pictures("b", [(str(i), "red", DARK) for i in range(n)])
    told = only(figures(synthvlm, a, b, "--out", tmp_path / "run", "--model", "eye", "-o", "careless=0.4"))
    flips = told["flip_rate"]
    assert 0.3 < flips["value"] < 0.5 and flips["n"] == n
    assert told["ties"] == round(flips["value"] * n)
    assert told["wins"] == n - told["ties"] and told["losses"] == 0
    # Every pair that flips names the first twice; the others name it once in two answers.
    assert told["first"]["value"] == pytest.approx((flips["value"] * 2 + (1 - flips["value"])) / 2)
    assert told["first"]["low"] > 0.6
    assert told["p"] < 1e-20


def test_answers_that_are_no_verdicts_are_repaired_or_counted(synthvlm: Any, pictures: Callable[..., str], tmp_path: Path) -> None:
    ids = ["1", "2 mumble", "3 garble", "4 fail", "5", "6", "7", "8"]
    a = pictures("a", [(i, "red", RED) for i in ids])
    b = pictures("b", [(i, "red", DARK) for i in ids])
    told = only(figures(synthvlm, a, b, "--out", tmp_path / "run", "--model", "eye"))
    assert (told["judged"], told["wins"], told["unparsable"], told["failed"], told["repaired"]) == (6, 6, 2, 2, 2)
    run = Run.open(tmp_path / "run")
    table = rows.table(run, run.stage_names()[0])
    garbled = [r for r in table if r["id"] == "3 garble"]
    assert {(r["error_class"], r["raw"], r["verdict"]) for r in garbled} == {("Unparsable", "I like both of them, {really}.", None)}
    assert {r["error_class"] for r in table if r["id"] == "4 fail"} == {"Refused"}


@pytest.mark.parametrize("batch_size", [4, 0])
def test_judging_resumes_and_grows(synthvlm: Any, pictures: Callable[..., str], tmp_path: Path, batch_size: int) -> None:
    """A larger limit keeps the pairs that were there, and their verdicts; a picture that changes is judged anew, and nothing else."""
    a = pictures("a", [(str(i), "red", (150 + i, 0, 0)) for i in range(40)])
    b = pictures("b", [(str(i), "red", (150, 0, i)) for i in range(40)])
    out = tmp_path / "run"
    call = (a, b, "--out", out, "--model", "eye", "-o", f"batch_size={batch_size}")
    assert figures(synthvlm, *call, "--limit", 10)["pairs"] == 10
    run = Run.open(out)
    (stage,) = run.stage_names()
    before = {r["key"] for r in rows.table(run, stage)}
    assert figures(synthvlm, *call, "--limit", 25)["pairs"] == 25
    after = {r["key"] for r in rows.table(run, stage)}
    assert before < after and len(after) == 50
    assert figures(synthvlm, *call)["pairs"] == 25, "the limit stays what it was"
    changed = pairs.read(run, run.stage(stage).reads["pairs"])[0]
    from PIL import Image

    Image.new("RGB", (12, 8), (0, 9, 9)).save(changed["a_uri"])
    told = synthvlm("judge", *call)
    assert "50 of 50" in told.err
    again = {r["key"] for r in rows.table(run, stage)}
    assert len(again & after) == 48 and len(again) == 50


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two image stages, of four candidates each, scored; captions name colours."""
    from tests.conftest import FAULTY

    with pytest.MonkeyPatch.context() as patch:
        import os

        patch.syspath_prepend(FAULTY)
        patch.setenv("PYTHONPATH", os.pathsep.join(p for p in (FAULTY, os.environ.get("PYTHONPATH")) if p))
        folder = tmp_path_factory.mktemp("run")
        captions = folder / "captions.json"
        captions.write_text(json.dumps([{"id": n, "caption": f"a red thing, number {n}"} for n in range(30)]))
        run = Run.create(folder / "run", captions)
        run.generate("cheap", repeat=4, size=16).generate("cheap", repeat=2, size=24, name="large")
        run.score({"brightness": {}}, images="cheap").select(top=10)
    return folder / "run"


def test_the_sets_of_a_run(synthvlm: Any, generated: Path) -> None:
    """Two stages; the best against the worst candidate; a selection against the first candidates."""
    told = figures(synthvlm, generated, "--a", "cheap", "--b", "large", "--model", "eye")
    assert told["name"] == "cheap-vs-large" and told["pairs"] == 30
    told = figures(
        synthvlm, generated, "--a", "cheap:best", "--b", "cheap:worst", "--model", "eye", "--weight", "clip=0", "--weight", "ssim=1"
    )
    assert told["name"] == "best-vs-worst" and told["labels"] == {"a": "cheap:best", "b": "cheap:worst"}
    judge = only(told)  # the score "ssim" is the mean of red, which is what this judge goes by
    assert judge["wins"] > 25 and judge["losses"] == 0
    told = figures(synthvlm, generated, "--a", "default", "--b", "cheap:random", "--model", "eye")
    assert told["counts"]["a"] == 10 and told["pairs"] <= 10


def test_two_runs_and_a_run_against_images(synthvlm: Any, generated: Path, pictures: Callable[..., str], tmp_path: Path) -> None:
    raw = pictures("raw", [(str(n), "", (255, 0, 0)) for n in range(12)])
    told = figures(synthvlm, raw, f"{generated}.default", "--model", "eye", "--as", "raw")
    assert told["pairs"] >= 1 and only(told)["wins"] == told["pairs"], "nothing is redder"
    assert Run.open(generated).store.exists("comparisons/raw.json")
    told = figures(synthvlm, generated, generated, "--a", "large", "--b", "cheap:first", "--out", tmp_path / "third", "--model", "eye")
    assert told["pairs"] == 30 and only(told)["judged"] == 30


def test_captions_of_one_image(synthvlm: Any, pictures: Callable[..., str], tmp_path: Path) -> None:
    """Two recaptioning stages, and the captions that the input had; one image is enough for such a judge."""
    source = pictures("pictures", [(str(n), "a green thing", (200 * (n % 2), 30, 100)) for n in range(12)])
    run = Run.create(tmp_path / "run", images=source)
    run.caption("teller", ["brief"]).caption("teller", ["brief"], name="slips", slip=True)
    told = figures(synthvlm, tmp_path / "run", "--a", "teller/brief", "--b", "slips/brief", "--model", "one-eye")
    assert told["kind"] == "captions" and told["name"] == "teller-brief-vs-slips-brief"
    assert (only(told)["wins"], only(told)["judged"]) == (12, 12)
    told = figures(synthvlm, tmp_path / "run", "--a", "samples/caption", "--b", "teller", "--model", "one-eye")
    assert (only(told)["losses"], only(told)["judged"]) == (12, 12)


def test_several_judges_and_the_truth(synthvlm: Any, pictures: Callable[..., str], tmp_path: Path) -> None:
    n = 60
    a = pictures("a", [(str(i), "red", RED if i % 2 else DARK) for i in range(n)], better=["A" if i % 2 else "b" for i in range(n)])
    b = pictures("b", [(str(i), "red", DARK if i % 2 else RED) for i in range(n)])
    call = (a, b, "--out", tmp_path / "run", "--as", "known", "--truth", "better")
    assert only(figures(synthvlm, *call, "--model", "eye"))["accuracy"]["value"] == 1.0
    told = figures(synthvlm, tmp_path / "run", "--model", "eye", "--judge", "careless", "-o", "careless=0.5")
    one, two = told["judges"]
    assert (one["judge"], two["judge"]) == ("careless", "eye")
    assert one["accuracy"]["value"] == pytest.approx(1 - one["flip_rate"]["value"] / 2)
    (agreement,) = told["agreement"]
    assert agreement["judges"] == ["careless", "eye"]
    assert agreement["n"] == n and agreement["same"] == pytest.approx(1 - one["flip_rate"]["value"])
    assert -0.2 < agreement["low"] < agreement["value"] < agreement["high"] < 0.95
