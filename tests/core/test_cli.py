"""The command line: what each command does, what it says, and with which code it ends."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from synthvlm import parts
from synthvlm.cli import COMMANDS, common, main
from synthvlm.errors import OptionError, RunMismatch
from synthvlm.execution import Execution
from synthvlm.pipeline import Run
from tests import rows
from tests.fabricate import fabricate_run

CHEAP = ["--model", "cheap", "--scorer", "brightness"]
CAPTIONS = [{"id": n, "caption": f"caption {n}"} for n in range(10)]


@pytest.fixture(scope="module", autouse=True)
def _models(installed: None) -> None:
    """The test models are there."""


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole line, once: captions.json and the run that came of it. Read only."""
    folder = tmp_path_factory.mktemp("line")
    (folder / "captions.json").write_text(json.dumps(CAPTIONS))
    with pytest.raises(SystemExit) as end:
        main(
            [
                "synth",
                str(folder / "captions.json"),
                "--out",
                str(folder / "run"),
                *CHEAP,
                "--repeat",
                "2",
                "-o",
                "size=24",
                "-o",
                "brightness.scale=0.5",
                "--top",
                "30%",
                "--seed",
                "9",
            ]
        )
    assert end.value.code == 0
    return folder


@pytest.fixture
def copy(line: Path, tmp_path: Path) -> Path:
    """A run of one's own to spoil."""
    return Path(shutil.copytree(line / "run", tmp_path / "run"))


def result(root: Path) -> dict[str, Any]:
    """Return what a run has made: every row, every image, the selection and the data set."""
    run = Run.open(root)
    return {
        "images": rows.table(run, "cheap"),
        "pixels": rows.pixels(run, "cheap"),
        "scores": rows.table(run, "brightness"),
        "selection": run.store.read("selections/default.parquet"),
        "exports": rows.files(root / "exports"),
    }


def files(root: Path) -> dict[str, str]:
    return {k: v for k, v in rows.files(root).items() if not k.startswith("logs/")}


# --- help and plain mistakes ----------------------------------------------------------------------------------------------


def test_help_lists_every_command(synthvlm):
    said = synthvlm("--help")
    assert said.code == 0
    for name, summary in COMMANDS.items():
        assert f"  {name}" in said.out
        assert summary.split()[0] in said.out


@pytest.mark.parametrize("command", list(COMMANDS))
def test_help_of_each_command(synthvlm, command):
    said = synthvlm(command, "--help")
    assert said.code == 0
    assert said.out.startswith(f"Usage: synthvlm {command} ")
    assert synthvlm(command, "-h") == said


def test_version(synthvlm):
    from synthvlm import __version__

    assert synthvlm("--version").out == f"synthvlm, version {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["synth", "--nonsense"],
        ["synth", "--repeat", "0"],
        ["synth", "--repeat", "x"],
        ["export", "run", "--format", "coco"],
        ["score"],
        ["synth", "--limit", "-1"],
    ],
)
def test_what_the_command_line_does_not_know(synthvlm, arguments):
    said = synthvlm(*arguments)
    assert said.code == 2
    assert "Usage: synthvlm" in said.err
    assert "Error: " in said.err


def test_captions_of_ones_own_need_a_model(refused, tmp_path, line):
    said = refused("synth", line / "captions.json", "--out", tmp_path / "run")
    assert "your own captions need --model" in said
    for name in ("cheap", "mini", "sd3", "sdxl"):
        assert name in said
    assert not (tmp_path / "run").exists()
    assert "give --model" in refused("generate", tmp_path / "run", "--input", line / "captions.json")


def test_an_unknown_model(refused, tmp_path, line):
    said = refused("synth", line / "captions.json", "--out", tmp_path / "run", "--model", "chaep", "--scorer", "brightness")
    assert "there is no generator 'chaep'" in said
    assert "did you mean 'cheap'?" in said


def test_an_unknown_scorer(refused, tmp_path, line):
    said = refused("synth", line / "captions.json", "--out", tmp_path / "run", "--model", "cheap", "--scorer", "brightnes")
    assert "there is no scorer 'brightnes'" in said
    assert "did you mean 'brightness'?" in said
    assert not (tmp_path / "run" / "cheap").exists(), "said before anything is made"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-o", "sise=8"], ["cheap has no option 'sise'", "did you mean 'size'?"]),
        (["-o", "size=big"], ["option size='big' is not right", "it wants int"]),
        (["-o", "batch_size=0"], ["option batch_size='0' is not right"]),
        (["--batch-size", "0"], ["option batch_size='0' is not right"]),
        (["--steps", "7"], ["cheap has no option 'steps'"]),
        (["-o", "size"], ["'size' is not KEY=VALUE"]),
        (["-o", "=3"], ["'=3' is not KEY=VALUE"]),
        (["-o", "size={1"], ["is not JSON"]),
        (["-o", "repeat=3"], ["cheap has no option 'repeat'"]),
        (["-o", "name=x"], ["cheap has no option 'name'"]),
        (["-o", "brightness.scal=2"], ["brightness has no option 'scal'", "did you mean 'scale'?"]),
        (["-o", "ssim.side=2"], ["this run has no scorer 'ssim'", "it has: brightness"]),
        (["--preset", "paper"], ["cheap has no preset 'paper'", "it has none"]),
        (["--as", "../x"], ["'../x' cannot be a stage's name"]),
        (["--as", "logs"], ["'logs' cannot be a stage's name"]),
        (["--weight", "clip"], ["--weight 'clip' is not KEY=VALUE"]),
        (["--weight", "clip=much"], ["--weight wants numbers"]),
        (["--gpus", "0-x"], ["--gpus 0-x is not a list of GPU numbers", "write 0-7 or 0,2,5"]),
        (["--format", "xml"], ["there is no format 'xml'"]),
        (["--caption-column", "words"], ["words"]),
    ],
)
def test_options_that_are_wrong(refused, tmp_path, line, options, words):
    said = refused("synth", line / "captions.json", "--out", tmp_path / "run", *CHEAP, *options)
    for w in words:
        assert w in said
    assert not (tmp_path / "run" / "cheap").exists(), "said before anything is made"


def test_inputs_that_are_wrong(refused, tmp_path, line):
    out = ["--out", tmp_path / "run", *CHEAP]
    assert f"{tmp_path / 'none.json'}" in refused("synth", tmp_path / "none.json", *out)
    broken = tmp_path / "broken.json"
    broken.write_text('[\n{"id": 1, "caption": "a"},\n{"id" 2}\n]')
    said = refused("synth", broken, *out)
    assert "broken.json" in said
    assert "line 3" in said
    lines = tmp_path / "broken.jsonl"
    lines.write_text('{"caption": "a"}\n{"caption": "b"\n')
    assert "broken.jsonl, line 2" in refused("synth", lines, *out)
    twice = tmp_path / "twice.json"
    twice.write_text('[\n{"id": 1, "caption": "a"},\n{"id": "1", "caption": "b"}]')
    assert "'1' (lines 2 and 3)" in refused("synth", twice, *out)
    assert "two inputs" in refused("synth", line / "captions.json", "--input", twice, *out)


def test_folders_that_are_wrong(refused, tmp_path, line):
    captions = line / "captions.json"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    assert "is not empty and holds no run" in refused("synth", captions, "--out", tmp_path / "full", *CHEAP)
    assert "cannot be written" in refused("synth", captions, "--out", tmp_path / "full" / "thesis.tex", *CHEAP)
    for command in ("score", "select", "export", "report", "status", "compact"):
        assert "there is no run in" in refused(command, tmp_path / "full")
        assert "there is no run in" in refused(command, tmp_path / "nowhere")
    assert "there is no run in" in refused("generate", tmp_path / "nowhere", "--model", "cheap")
    assert not (tmp_path / "nowhere").exists()


def test_too_many_failures_end_with_3(synthvlm, tmp_path):
    (tmp_path / "captions.txt").write_text("".join(f"please fail {n}\n" for n in range(60)))
    said = synthvlm("synth", tmp_path / "captions.txt", "--out", tmp_path / "run", *CHEAP)
    assert said.code == 3
    assert "rows failed with Refused, for example" in said.err
    assert "--retry-failed" in said.err
    assert "Traceback" not in said.err


def test_debug_shows_where(tmp_path):
    for arguments in (["--debug", "status", str(tmp_path)], ["status", str(tmp_path), "--debug"]):
        done = subprocess.run([sys.executable, "-m", "synthvlm", *arguments], capture_output=True, text=True)
        assert "Traceback" in done.stderr
        assert "RunError: there is no run in" in done.stderr
        assert done.returncode != 0


def test_a_fault_of_our_own_says_so(synthvlm, copy, monkeypatch):
    monkeypatch.setattr(Run, "sample_count", lambda _: 1 / 0)
    said = synthvlm("status", copy)
    assert said.code == 1
    assert "ZeroDivisionError" in said.err
    assert "--debug shows where" in said.err


# --- the line ---------------------------------------------------------------------------------------------------------------


def test_synth_says_what_it_does_and_again_resumes(synthvlm, line, copy):
    again = synthvlm(
        "synth",
        line / "captions.json",
        "--out",
        copy,
        *CHEAP,
        "--repeat",
        "2",
        "-o",
        "size=24",
        "-o",
        "brightness.scale=0.5",
        "--top",
        "30%",
    )
    assert again.code == 0
    assert "Captions: 10 in the run" in again.err
    assert "has not changed" in again.err
    assert "Images (cheap): 20 of 20" in again.err
    assert "Scores (brightness): 20 of 20" in again.err
    assert "Selected 3 of 10 captions (top 30%)" in again.out
    for name in ("all candidates", "best of each caption", "selected"):
        assert name in again.out
    assert "of the ranking (alone it would choose" in again.out
    assert f"Report: {copy}" in again.err
    assert "to make" not in again.err, "no worker was started"
    assert result(copy) == result(line / "run")


def test_the_verbs_one_by_one_are_the_line(synthvlm, line, tmp_path):
    root = tmp_path / "run"
    for arguments in (
        ["curate", line / "captions.json", "--out", root, "--seed", "9", "--plain"],
        ["generate", root, "--model", "cheap", "--repeat", "2", "-o", "size=24"],
        ["score", root, "--scorer", "brightness", "-o", "brightness.scale=0.5"],
        ["select", root, "--top", "30%"],
        ["export", root],
        ["report", root],
    ):
        said = synthvlm(*arguments)
        assert said.code == 0, said
    assert result(root) == result(line / "run")
    assert (root / "report").is_dir()


def test_a_recipe_is_the_line(synthvlm, line, tmp_path):
    recipe = {
        "input": str(line / "captions.json"),
        "out": str(tmp_path / "run"),
        "seed": 9,
        "steps": [
            {"curate": {}},
            {"generate": {"model": "cheap", "repeat": 2, "options": {"size": 24}}},
            {"score": {"scorers": {"brightness": {"scale": 0.5}}}},
            {"select": {"top": "30%"}},
            {"export": None},
        ],
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    said = synthvlm("run", tmp_path / "recipe.yaml")
    assert said.code == 0, said.err
    assert result(tmp_path / "run") == result(line / "run")


def test_the_runs_own_recipe_has_nothing_to_do(synthvlm, line, copy):
    before = result(copy)
    said = synthvlm("run", copy / "recipe.yaml", "--out", copy)
    assert said.code == 0, said.err
    assert "to make" not in said.err, "no worker was started"
    assert result(copy) == before
    written = yaml.safe_load((copy / "recipe.yaml").read_text())
    assert [next(iter(s)) for s in written["steps"]] == ["curate", "generate", "score", "select", "export", "report"]
    assert written["steps"][1]["generate"]["options"] == {"size": "24"}


def test_flags_win_over_a_recipe(synthvlm, line, copy):
    said = synthvlm("run", copy / "recipe.yaml", "--out", copy, "--top", "1")
    assert said.code == 0
    assert "Selected 1 of 10 captions (top 1)" in said.out
    assert yaml.safe_load((copy / "recipe.yaml").read_text())["steps"][3]["select"]["top"] == "1"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("seeds: 3\nsteps: []", ["recipe.yaml: seeds: there is no such field", "did you mean 'seed'?"]),
        ("steps:\n- generate: {model: cheap, repaet: 3}", ["steps.0.generate.repaet: there is no such field", "did you mean 'repeat'?"]),
        ("steps:\n- score: {}\n- generate: {repeat: 0}", ["steps.1.generate.repeat: Input should be greater than or equal to 1"]),
        ("steps:\n- generate: {}\n  score: {}", ["steps.0: a step is one verb with its settings"]),
        (
            "steps:\n- paint: {}",
            ["steps.0.paint: there is no such field", "there are: curate, generate, score, select, export, caption, merge, report"],
        ),
        ("input: {path: x, colour: y}\nsteps: []", ["input.colour: there is no such field"]),
        ("steps: [", ["is not YAML"]),
        ("- 1", ["recipe.yaml: recipe: Input should be a valid dictionary"]),
        ("steps: []", ["where to? a run needs a folder"]),
    ],
)
def test_a_recipe_is_read_strictly(refused, tmp_path, change, words):
    (tmp_path / "recipe.yaml").write_text(change)
    said = refused("run", tmp_path / "recipe.yaml")
    for w in words:
        assert w in said
    assert "cannot be read" in refused("run", tmp_path / "none.yaml")


def test_without_input_the_examples_serve_and_it_says_so(synthvlm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = synthvlm("synth", *CHEAP, "--limit", "1")
    assert said.code == 0, said.err
    assert "No captions given: taking the examples that ship with SynthVLM" in said.err
    (made,) = (tmp_path / "runs").iterdir()
    assert made.name == "demo"
    assert Run.open(made).sample_count() == 1


def test_the_miniature_model_serves_only_the_examples(monkeypatch, capsys):
    from synthvlm import recipe
    from synthvlm.cli import line, overlay

    whole = line.with_defaults(overlay.overlay(recipe.builtin("synth"), None, None, {}), None)
    assert whole.first("generate").model == "mini"
    assert "No model given: taking the miniature one (mini)" in capsys.readouterr().err
    with pytest.raises(OptionError, match="which image model"):
        line.with_defaults(overlay.overlay(recipe.builtin("synth"), "mine.json", None, {}), None)


def test_another_setting_is_a_mismatch_with_both_ways_on(refused, synthvlm, line, copy):
    before = files(copy)
    again = ["synth", line / "captions.json", "--out", copy, *CHEAP, "-o", "brightness.scale=0.5"]
    said = refused(*again, "-o", "size=32")
    assert "cheap.size=24, now asked for 32" in said
    assert "--as NAME" in said
    assert "--overwrite" in said
    assert {k: v for k, v in files(copy).items() if k != "recipe.yaml"} == {k: v for k, v in before.items() if k != "recipe.yaml"}
    said = refused("score", copy, "--scorer", "brightness")
    assert "brightness.scale=0.5, now asked for 1.0" in said
    assert "was made with seed 9, not 10" in refused(*again, "-o", "size=24", "--seed", "10")


# --- one step ---------------------------------------------------------------------------------------------------------------


def test_status(synthvlm, line):
    said = synthvlm("status", line / "run")
    assert said.code == 0
    assert "10 captions, seed 9" in said.out
    assert "cheap: 20 of 20 (100%)" in said.out
    assert "brightness: 20 of 20 (100%)" in said.out
    assert "selection default: 3 of 10 captions, top 30%" in said.out
    data = json.loads(synthvlm("status", line / "run", "--json").out)
    assert data["samples"] == 10
    assert data["stages"]["cheap"] == {"wanted": 20, "made": 20, "failed": 0, "failures": [], "without_pixels": 0}
    assert data["selections"] == {"default": 3}
    assert data["damaged"] == []
    assert "every part is as it was written" in synthvlm("status", line / "run", "--verify").out


def test_status_finds_damage_and_synth_mends_it(synthvlm, line, copy):
    run = Run.open(copy)
    part = parts.list_parts(run.store, "cheap")[0]
    tar = copy / parts.part_info(run.store, part)["tar"]
    data = bytearray(tar.read_bytes())
    data[700] ^= 0xFF
    tar.write_bytes(data)
    assert "damaged" not in synthvlm("status", copy).out
    said = synthvlm("status", copy, "--verify")
    assert f"part {part.path} is damaged (its pixels do not match their digest); set aside" in said.out
    assert "to make" in synthvlm("status", copy).out
    assert synthvlm("run", copy / "recipe.yaml", "--out", copy).code == 0
    assert result(copy) == result(line / "run")


def test_compact(synthvlm, line, copy):
    before = result(copy)
    said = synthvlm("compact", copy)
    assert said.code == 0
    before_after = dict(x.split(": ") for x in said.out.splitlines())
    assert before_after.keys() == {"brightness", "cheap", "text"}
    assert result(copy) == before
    assert synthvlm("compact", copy, "--drop-stale").code == 0
    assert result(copy) == before


def test_compact_leaves_what_is_damaged_and_goes_on(synthvlm, tmp_path):
    run = fabricate_run(tmp_path / "run", [f"caption {n}" for n in range(7)], shard_size=1, side=16)
    stage = run.stage("mini")
    images = rows.pixels(run, "mini")
    broken = parts.list_parts(run.store, "mini")[3]
    tar = tmp_path / "run" / parts.part_info(run.store, broken)["tar"]
    os.utime(tar, (1, 1))
    table = tmp_path / "run" / broken.path
    whole = table.read_bytes()
    table.write_bytes(b"PAR1 no")
    said = synthvlm("compact", run.root)
    assert said.code == 0, said.err
    assert "mini: 7 parts → 2" in said.out
    assert "clip-ssim: 7 parts → 1" in said.out
    assert tar.exists(), "no tar goes while a table that may name it cannot be read"
    table.write_bytes(whole)
    assert rows.pixels(run, "mini") == images
    table.write_bytes(b"PAR1 no")
    said = synthvlm("status", run.root)
    assert f"part {broken.path} is damaged (unreadable" in said.out
    assert "mini: 12 of 14 (86%), 2 to make" in said.out
    assert table.exists(), "looking changes nothing"
    assert "set aside" in synthvlm("status", run.root, "--verify").out
    assert not table.exists()
    assert run.tally(stage)["made"] == 12


def test_compact_leaves_pixels_that_are_not_what_they_were(synthvlm, tmp_path):
    run = fabricate_run(tmp_path / "run", [f"caption {n}" for n in range(5)], shard_size=1, side=16)
    tar = tmp_path / "run" / parts.part_info(run.store, parts.list_parts(run.store, "mini")[2])["tar"]
    data = bytearray(tar.read_bytes())
    data[700] ^= 0xFF
    tar.write_bytes(data)
    said = synthvlm("compact", run.root)
    assert said.code == 0, said.err
    assert "mini: 5 parts → 5" in said.out
    assert "set aside" in synthvlm("status", run.root, "--verify").out
    assert "mini: 4 parts → 1" in synthvlm("compact", run.root).out
    assert run.tally(run.stage("mini"))["made"] == 8


def test_select_and_export(synthvlm, refused, copy):
    said = synthvlm("select", copy, "--top", "all", "--weight", "clip=1", "--weight", "ssim=-2", "--as", "odd")
    assert said.code == 0
    assert "Selected 10 of 10 captions (top all)" in said.out
    said = synthvlm("export", copy, "--format", "jsonl", "--format", "imagefolder", "--selection", "odd")
    assert said.code == 0
    pairs = copy / "exports" / "jsonl-odd" / "pairs.jsonl"
    assert f"Data set (jsonl): 10 images in {pairs.parent}" in said.out
    assert len(pairs.read_text().splitlines()) == 10
    assert (copy / "exports" / "imagefolder-odd" / "train" / "metadata.jsonl").exists()
    assert "has no selection 'other'" in refused("export", copy, "--selection", "other")
    assert "no score stage has the column 'siglip'" in refused("select", copy, "--weight", "siglip=1")
    assert "is not a share or a count" in refused("select", copy, "--top", "lots")
    assert "the weight of 'clip' is nan" in refused("select", copy, "--weight", "clip=nan")
    assert "has no stage 'other'" in refused("select", copy, "--scores", "other")
    assert "has no stage 'other'" in refused("score", copy, "--images", "other", "--scorer", "brightness")
    assert "which scorer's?" in refused("score", copy, "-o", "scale=2")


def test_report(synthvlm, copy):
    shutil.rmtree(copy / "report")
    said = synthvlm("report", copy)
    assert said.code == 0
    *table, page = said.out.splitlines()
    assert any(line.startswith("selected") for line in table)
    assert Path(page.removeprefix("Report: ")).stat().st_size > 1000


# --- before spending --------------------------------------------------------------------------------------------------------


def test_plan_checks_and_leaves_everything_as_it_is(synthvlm, line, tmp_path):
    out = tmp_path / "run"
    said = synthvlm("plan", line / "captions.json", "--out", out, *CHEAP, "--repeat", "3")
    assert said.code == 0, said
    assert "10 captions in" in said.out
    assert "generate by cheap (synthvlm-faulty 0.1)" in said.out
    assert "score by brightness (synthvlm-faulty 0.1)" in said.out
    assert "Everything that can be checked beforehand is in order." in said.out
    assert not out.exists()


def test_plan_prints_every_problem(synthvlm, line, tmp_path):
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"caption": "a"\n')
    said = synthvlm("plan", broken, "--out", tmp_path / "run", "--model", "chaep")
    assert said.code == 2
    assert "problem: " in said.out
    assert "broken.jsonl, line 1" in said.out
    assert "there is no generator 'chaep'" in said.out
    assert not (tmp_path / "run").exists()
    said = synthvlm("plan", line / "captions.json", *CHEAP, "-o", "brightness.scal=1")
    assert said.code == 2
    assert "brightness has no option 'scal'" in said.out
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    said = synthvlm("plan", line / "captions.json", *CHEAP, "--out", tmp_path / "full")
    assert said.code == 2
    assert "is not empty and holds no run" in said.out


def test_plan_of_an_existing_run_changes_nothing(synthvlm, line, copy):
    before = files(copy)
    flags = [line / "captions.json", "--out", copy, *CHEAP, "-o", "brightness.scale=0.5"]
    assert synthvlm("plan", *flags, "-o", "size=24", "--repeat", "8").code == 0
    said = synthvlm("plan", *flags, "-o", "size=32")
    assert said.code == 2
    assert "cheap.size=24, now asked for 32" in said.out
    said = synthvlm("plan", *flags, "-o", "size=24", "--seed", "3")
    assert said.code == 2
    assert "was made with seed 9, not 3" in said.out
    assert files(copy) == before


def test_plan_of_a_recipe(synthvlm, copy, line):
    before = files(copy)
    assert synthvlm("plan", "--recipe", copy / "recipe.yaml").code == 0
    assert files(copy) == before


def test_preview_makes_a_page(synthvlm, tmp_path):
    (tmp_path / "captions.txt").write_text("".join(f"caption {n}\n" for n in range(30)))
    said = synthvlm("preview", tmp_path / "captions.txt", *CHEAP, "--out", tmp_path / "preview", "--limit", "3")
    assert said.code == 0, said.err
    page = Path(said.out.rsplit("Look at: ", 1)[1].strip())
    assert page.exists()
    assert page.is_relative_to(tmp_path / "preview")
    assert Run.open(tmp_path / "preview").sample_count() == 3
    assert not (tmp_path / "preview" / "exports").exists()


def test_doctor(synthvlm):
    said = synthvlm("doctor")
    assert said.code == 0
    for word in ("Python", "GPUs", "diffusion", "clip", "HF_TOKEN", "plugins"):
        assert word in said.out


# --- flags ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "devices"),
    [
        (None, None),
        ("0", ["0"]),
        ("0-3", ["0", "1", "2", "3"]),
        ("0,2,5", ["0", "2", "5"]),
        ("0-1, 4-5", ["0", "1", "4", "5"]),
        ("07", ["7"]),
    ],
)
def test_gpus(text, devices):
    assert common.execution({"gpus": text}, quiet=True).devices == devices


@pytest.mark.parametrize("text", ["", "a", "0-", "-1", "0,,1", "3-1", "0,0", "0-2,2", "0 1", "0.5"])
def test_gpus_that_are_none(text):
    with pytest.raises(OptionError, match="--gpus"):
        common.execution({"gpus": text}, quiet=True)


def test_workers_are_cpu_workers_where_there_is_no_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert common.execution({"workers": 3}, quiet=True).devices == ["cpu", "cpu", "cpu"]
    assert Execution().resolved_devices() == ["cpu"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3,5")
    assert common.execution({"workers": 2}, quiet=True).resolved_devices() == ["2", "3"]
    assert Execution().resolved_devices() == ["2", "3", "5"]
    assert common.execution({"gpus": "1-2"}, quiet=True).resolved_devices() == ["3", "5"], "numbers count the visible ones"
    with pytest.raises(OptionError, match="there is no GPU 3 here"):
        common.execution({"gpus": "0-7"}, quiet=True).resolved_devices()


def test_key_values():
    assert common.key_values(("a=1", "b = x=y", "c="), "-o") == {"a": "1", "b": " x=y", "c": ""}
    flags = {"steps": "5", "options": ("negative-prompt=a, b", 'extra={"x": [1]}', "clip.prefix=", "clip.model=ViT=B")}
    assert common.split_options(flags) == (
        {"steps": "5", "negative_prompt": "a, b", "extra": {"x": [1]}},
        {"clip": {"prefix": "", "model": "ViT=B"}},
    )


# --- Python -----------------------------------------------------------------------------------------------------------------


def test_the_same_verbs_in_python(line, tmp_path):
    captions: Sequence[Any] = CAPTIONS
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    run = Run.create(tmp_path / "x", tmp_path / "captions.json").generate("cheap", repeat=4).score({"brightness": {}}).select(top=0.1)
    assert run.results["generate"]["made"] == 40
    assert run.results["select"]["selected"] == 1
    assert run.export("jsonl").results["export"]["jsonl"]["records"] == 1
    same = (
        Run.create(tmp_path / "y", line / "captions.json", seed=9)
        .curate()
        .generate("cheap", repeat=2, size=24)
        .score({"brightness": {"scale": 0.5}})
        .select(top="30%")
        .export()
    )
    assert result(tmp_path / "y") == result(line / "run")
    with pytest.raises(RunMismatch):
        same.generate("cheap", size=8)
    with pytest.raises(OptionError, match="cheap has no option 'sise'"):
        same.generate("cheap", sise=8)
