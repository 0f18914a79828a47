"""The command line of captions: recaption, caption, make, and what the other commands say of a run that captions."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from synthvlm.cli import common
from synthvlm.errors import OptionError
from synthvlm.pipeline import Run
from tests import rows

PARROT = ["--model", "parrot", "--perspective", "detail", "--perspective", "nouns"]


@pytest.fixture(scope="module", autouse=True)
def _models(installed: None) -> None:
    """The test models are there."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with six images and the seeds' list of them. Read only."""
    folder = tmp_path_factory.mktemp("images")
    for n in range(6):
        Image.new("RGB", (32, 32), (40 * n, 255 - 40 * n, 9)).save(folder / f"{n}.png")
    (folder / "images.json").write_text(json.dumps([{"image": f"{n}.png", "caption": f"an old caption, {n}"} for n in range(6)]))
    return folder


@pytest.fixture(scope="module")
def line(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole line, once. Read only."""
    from synthvlm.cli import main

    root = tmp_path_factory.mktemp("recaption") / "run"
    with pytest.raises(SystemExit) as end:
        main(["recaption", str(images / "images.json"), "--out", str(root), *PARROT])
    assert end.value.code == 0
    return root


@pytest.fixture
def copy(line: Path, tmp_path: Path) -> Path:
    """A run of one's own."""
    return Path(shutil.copytree(line, tmp_path / "run"))


def files(root: Path) -> dict[str, str]:
    return {k: v for k, v in rows.files(root).items() if not k.startswith("logs/")}


def merged(root: Path) -> list[dict[str, Any]]:
    return [json.loads(x) for x in (root / "merged.jsonl").read_text().splitlines()]


def test_a_line_per_image_with_all_its_captions(line):
    lines = merged(line)
    assert [x["image"] for x in lines] == [f"{n}.png" for n in range(6)]
    assert lines[0]["caption"][0] == "an old caption, 0"
    assert lines[0]["caption"][1].startswith("A picture of 0 255 9")
    assert lines[0]["caption"][2] == "picture, colour"
    assert (line / "report" / "report.html").stat().st_size > 3000
    page = (line / "report" / "report.html").read_text()
    assert len(re.findall(r'<img [^>]*src="data:image/png;base64,', page)) == 6
    assert "an old caption, 3" in page
    assert json.loads((line / "report" / "report.json").read_text())["runs"][0]["captions"]["stages"][0]["made"] == 12


def test_again_resumes_and_says_so(synthvlm, images, line, copy):
    said = synthvlm("recaption", images / "images.json", "--out", copy, *PARROT)
    assert said.code == 0, said.err
    assert "Images: 6 in the run" in said.err
    assert "has not changed" in said.err
    assert "to make" not in said.err, "no worker was started"
    assert "Captions (parrot): 12 of 12" in said.err
    assert "Merged: 6 lines of up to 3 captions in" in said.err
    assert rows.table(Run.open(copy), "parrot") == rows.table(Run.open(line), "parrot")


def test_two_models_are_two_stages_with_options_of_their_own(synthvlm, tmp_path, images):
    out = tmp_path / "run"
    flags = ["--model", "parrot", "--model", "parrot2", "-o", "parrot.voice=odd", "-o", "parrot2.voice=even", "-o", "batch_size=2"]
    said = synthvlm("recaption", images, "--out", out, *flags, "--perspective", "main")
    assert said.code == 0, said.err
    assert Run.open(out).stage_names() == ["parrot", "parrot2"]
    first = merged(out)[0]
    assert first["image"] == str(images / "0.png")
    assert ["said odd" in first["caption"][0], "said even" in first["caption"][1]] == [True, True]
    written = yaml.safe_load((out / "recipe.yaml").read_text())
    assert [s["caption"]["options"] for s in written["steps"][:2]] == [
        {"batch_size": "2", "voice": "odd"},
        {"batch_size": "2", "voice": "even"},
    ]
    again = synthvlm("run", out / "recipe.yaml")
    assert "to make" not in again.err, again.err


def test_the_verbs_one_by_one_and_in_python_are_the_line(synthvlm, images, line, tmp_path):
    said = synthvlm("caption", tmp_path / "cli", "--input", images / "images.json", *PARROT)
    assert said.code == 0, said.err
    assert rows.table(Run.open(tmp_path / "cli"), "parrot") == rows.table(Run.open(line), "parrot")
    run = Run.create(tmp_path / "py", images=images / "images.json").caption("parrot", ["detail", "nouns"]).merge()
    assert rows.table(run, "parrot") == rows.table(Run.open(line), "parrot")
    assert run.results["merge"]["lines"] == 6
    assert (tmp_path / "py" / "merged.jsonl").read_bytes() == (line / "merged.jsonl").read_bytes()


def test_images_that_a_run_made(synthvlm, refused, tmp_path):
    (tmp_path / "captions.txt").write_text("".join(f"caption {n}\n" for n in range(10)))
    out = tmp_path / "run"
    flags = ["--model", "cheap", "--scorer", "brightness", "--top", "40%"]
    assert synthvlm("synth", tmp_path / "captions.txt", "--out", out, *flags).code == 0
    said = synthvlm("recaption", out, "--model", "parrot", "--selection", "default")
    assert said.code == 0, said.err
    assert "Captions (parrot): 4 of 4" in said.err
    assert len(merged(out)) == 4
    planned = synthvlm("plan", out, "--model", "parrot", "--perspective", "main", "--selection", "default").out
    assert "Captions: 8 (2 per image)" in planned
    everything = synthvlm("recaption", out, "--model", "parrot")
    assert "--selection default takes only the chosen ones" in everything.err
    assert "Captions (parrot): 10 of 10" in everything.err
    assert "6 of the images that parrot captioned are not exported: they get no line" in everything.err
    assert len(merged(out)) == 4
    page = (out / "report" / "report.html").read_text()
    assert "Highest Total" in page
    assert "picked by chance" in page
    assert "is a run: captions of its images become part of it" in refused("recaption", out, "--out", tmp_path / "x", "--model", "parrot")
    status = synthvlm("status", out).out
    assert "parrot: 10 of 10 (100%)" in status
    assert "    detail: 10 made" in status


def test_the_models_kind_decides_the_direction(synthvlm, tmp_path, images, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = synthvlm("make", "--model", "parrot", "--input", images, "--limit", "2")
    assert said.code == 0, said.err
    (made,) = (tmp_path / "runs").iterdir()
    assert made.name == f"{images.name}-parrot"
    assert len(merged(made)) == 2
    (tmp_path / "c.txt").write_text("a cat\n")
    said = synthvlm("make", "--input", "c.txt", "--model=cheap", "--scorer", "brightness", "--out", "there")
    assert said.code == 0, said.err
    assert "Images (cheap): 1 of 1" in said.err
    assert "synthvlm recaption --help" in synthvlm("make", "--help").out
    assert "--perspective" in synthvlm("make", "--model", "parrot", "--help").out
    assert common.direction(("mini",)) == common.direction(()) == common.direction(("sxdl",)) == "synth"
    assert common.direction(("llava", "qwen2-vl")) == common.direction(("lava",)) == "recaption"
    for models in (("mini", "sdxl"), ("mini", "llava")):
        with pytest.raises(OptionError, match="cannot go together"):
            common.direction(models)


def test_with_nothing_given_both_lines_are_shown(synthvlm, tmp_path, monkeypatch):
    """The recipe of the demonstration, with models that cost nothing in place of the miniature ones."""
    from synthvlm import recipe
    from synthvlm.cli import line as lines

    demo = recipe.builtin("demo").model_dump(exclude_unset=True)
    assert [next(iter(s)) for s in demo["steps"]] == ["curate", "generate", "score", "select", "export", "caption", "merge", "report"]
    (captioning,) = [s["caption"] for s in demo["steps"] if "caption" in s]
    assert captioning["model"] == "mini-captioner"
    captioning["model"] = "parrot"
    monkeypatch.setattr(recipe, "builtin", lambda name: recipe.parse(demo, name))
    monkeypatch.setattr(lines, "with_defaults", lambda whole, _: whole)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.txt").write_text("".join(f"caption {n}\n" for n in range(10)))
    demo["steps"][1]["generate"] = {"model": "cheap"}
    demo["steps"][2]["score"] = {"scorers": {"brightness": {}}}
    demo |= {"input": {"path": "c.txt"}, "out": "runs/demo"}
    said = synthvlm("make", "--top", "3", "-o", "size=24")
    assert said.code == 0, said.err
    assert "Selected 3 of 10" in said.out
    assert "Merged: 3 lines of up to 5 captions" in said.err
    assert "parrot/style has no caption yet: it gets no position" in said.err, "it repeats its question, which names things"
    assert merged(tmp_path / "runs" / "demo")[0]["image"].startswith("runs/demo/exports/llava/")


def test_plan_of_captions(synthvlm, images, copy, tmp_path):
    before = files(copy)
    said = synthvlm("plan", images / "images.json", "--out", copy, *PARROT, "--perspective", "style")
    assert said.code == 0, said.out + said.err
    assert "6 images in" in said.out
    assert "caption by parrot (synthvlm-faulty 0.1)" in said.out
    assert "Captions: 18 (3 per image)" in said.out
    assert files(copy) == before
    said = synthvlm("plan", images / "images.json", "--out", copy, *PARROT, "-o", "voice=odd")
    assert said.code == 2
    assert "parrot.voice='plain', now asked for 'odd'" in said.out
    assert synthvlm("plan", "--recipe", copy / "recipe.yaml").code == 0
    (tmp_path / "l.txt").write_text("none.png\n")
    assert "no usable image" in synthvlm("plan", tmp_path / "l.txt", "--out", tmp_path / "new", "--model", "parrot").out
    assert not (tmp_path / "new").exists()


def test_preview_of_captions(synthvlm, images, tmp_path):
    said = synthvlm("preview", images, *PARROT, "--limit", "2", "--out", tmp_path / "look")
    assert said.code == 0, said.err
    assert Path(said.out.rsplit("Look at: ", 1)[1].strip()).exists()
    assert Run.open(tmp_path / "look").sample_count() == 2


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], ["which captioner? your own images need --model", "parrot"]),
        (["--model", "parot"], ["there is no captioner 'parot'", "did you mean 'parrot'?"]),
        ([*PARROT, "--perspective", "detial"], ["perspectives has no 'detial'", "did you mean 'detail'?"]),
        ([*PARROT, "-o", "voise=x"], ["parrot has no option 'voise'", "did you mean 'voice'?"]),
        ([*PARROT, "-o", "llava.voice=x"], ["there is no model 'llava' here", "there are: parrot"]),
        ([*PARROT, "--model", "parrot2", "--as", "x"], ["--as names one stage"]),
        ([*PARROT, "--preset", "quiet"], ["parrot has no preset 'quiet'", "loud"]),
        ([*PARROT, "--images", "other"], ["has no stage 'other'"]),
        ([*PARROT, "--gpus", "0-7"], ["there is no GPU"]),
        ([*PARROT, "--engine", "vllm"], ["parrot has no option 'engine'"]),
        ([*PARROT, "--format", "xml"], ["there is no format 'xml'"]),
        ([*PARROT, "--image-column", "photo"], ["no usable image", "photo"]),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(refused, monkeypatch, tmp_path, images, flags, words):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    said = refused("recaption", images / "images.json", "--out", tmp_path / "run", *flags)
    for w in words:
        assert w in said
    assert not (tmp_path / "run" / "parrot" / "000").exists()


@pytest.mark.parametrize("flags", [["--model", "parot"], [*PARROT, "--perspective", "detial"], [*PARROT, "-o", "voise=x"]])
def test_a_misspelt_name_does_not_wait_for_the_images_to_be_read(refused, tmp_path, images, flags):
    refused("recaption", images, "--out", tmp_path / "run", *flags)
    assert not (tmp_path / "run").exists()


def test_other_mistakes(refused, monkeypatch, tmp_path, images, line):
    monkeypatch.chdir(tmp_path)
    assert "which images?" in refused("recaption")
    assert "two inputs" in refused("recaption", images, "--input", images / "images.json", "--model", "parrot")
    unquoted = refused("recaption", *sorted(images.glob("*.png")), "--model", "parrot")
    assert f"6 inputs: {images / '0.png'} and {images / '1.png'} …" in unquoted
    assert "in quotation marks" in unquoted
    (tmp_path / "list.txt").write_text("0.png\n")
    assert "--image-root says where relative paths start from" in refused("recaption", tmp_path / "list.txt", "--model", "parrot")
    assert "which captioner? give --model" in refused("caption", line)
    assert "--image-root is about reading images" in refused("caption", line, "--model", "parrot", "--image-root", "x")
    assert "there is no run in" in refused("caption", tmp_path / "none", "--model", "parrot")
    assert "--perspective is for captioners" in refused("plan", "--model", "cheap", "--perspective", "detail")
    assert "--repeat is for image models" in refused("plan", images, "--model", "parrot", "--repeat", "2")


def test_presets_of_perspectives_and_of_models(synthvlm, images, tmp_path):
    for preset, limit, voice in (("clip-training", 77, "plain"), ("loud", 256, "LOUD")):
        out = tmp_path / preset
        assert synthvlm("recaption", images, "--out", out, "--model", "parrot", "--preset", preset, "--limit", "1").code == 0
        stage = Run.open(out).stage("parrot")
        assert stage.perspectives["detail"]["max_new_tokens"] == limit
        assert stage.identity["parrot"]["voice"] == voice


def test_several_gpus_per_worker(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    assert common.execution({"gpus_per_worker": 2}, quiet=True).resolved_devices() == ["4,5", "6,7"]
    assert common.execution({"gpus_per_worker": 2, "gpus": "1-2"}, quiet=True).resolved_devices() == ["5,6"]
    with pytest.raises(OptionError, match="3 GPUs cannot be shared out by 2"):
        common.execution({"gpus_per_worker": 2, "gpus": "0-2"}, quiet=True).resolved_devices()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert common.execution({"gpus_per_worker": 2, "workers": 3}, quiet=True).resolved_devices() == ["cpu"] * 3
