"""A run's captions → one line for each image, in the order of its samples."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from synthvlm.errors import OptionError, RunError
from synthvlm.merge import merge_run
from synthvlm.pipeline import Run
from tests import rows
from tests.conftest import FAULTY

OWN = {"b.png", "c.png", "refuse it.png"}
"""Images that bring a caption along."""
NAMES = ["b.png", "é/a.png", "c.png", "refuse it.png", 'd"d.png']


@pytest.fixture(scope="module", autouse=True)
def _models() -> Any:
    """The test models are there, here and in workers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FAULTY)
        patch.setenv("PYTHONPATH", FAULTY)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of five images by two captioners, one of which refuses an image. Read only; its folder's name has a bracket."""
    folder = tmp_path_factory.mktemp("merge[1]")
    for n, name in enumerate(NAMES):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (16 + n, 16), (n * 5, 255 - n, n)).save(folder / name)
    records = [{"image": n, "id": n, **({"caption": f'own "{n}"'} if n in OWN else {})} for n in NAMES]
    (folder / "images.json").write_text(json.dumps([*records, {"image": "gone.png", "caption": "of no image"}]))
    run = Run.create(folder / "run", images=folder / "images.json").using(max_failures=1.0)
    run.caption("parrot", ["detail", "nouns"]).caption("parrot2", ["main"], voice="odd")
    return folder / "run"


def merged(root: Path, stages: Any = None, **options: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    done = merge_run(Run.open(root), stages, root.parent / "out.jsonl", **options)
    return [json.loads(x) for x in (root.parent / "out.jsonl").read_text().splitlines()], done


def said(root: Path, stage: str) -> dict[tuple[str, str], str | None]:
    return {(r["id"], r["perspective"]): r["text"] for r in rows.table(Run.open(root), stage)}


def test_lines_are_those_that_the_rows_tell_of_named_as_the_input_names_them(made):
    lines, done = merged(made)
    first, second = said(made, "parrot"), said(made, "parrot2")
    assert [x["image"] for x in lines] == NAMES
    for line in lines:
        own = [f'own "{line["image"]}"'] if line["image"] in OWN else []
        texts = [first.get((line["image"], "detail")), first.get((line["image"], "nouns")), second.get((line["image"], "main"))]
        assert line["caption"] == own + [t for t in texts if t is not None]
    assert sum(len(x["caption"]) for x in lines) == 3 + 4 * 3
    assert [p["source"] for p in done["positions"]] == ["original", "parrot/detail", "parrot/nouns", "parrot2/main"]
    assert done["positions"][3]["captioner"] == {
        "name": "parrot2",
        "version": done["positions"][3]["captioner"]["version"],
        "options": done["positions"][3]["captioner"]["options"],
    }
    assert done["positions"][3]["captioner"]["options"]["voice"] == "odd"
    assert done["positions"][1]["prompt"].startswith("Describe this image in detail")
    beside = [json.loads(x) for x in (made.parent / "out.provenance.jsonl").read_text().splitlines()]
    assert [len(x) for x in beside] == [len(x["caption"]) for x in lines]
    assert lines[3]["caption"] == ['own "refuse it.png"'] and beside[3] == [0]


def test_stages_order_and_missing(made):
    lines, done = merged(made, ["parrot2"], order=["parrot2/main"])
    assert [p["source"] for p in done["positions"]] == ["parrot2/main", "original"]
    assert lines[0]["caption"][1] == 'own "b.png"'
    _, done = merged(made, order=["parrot2", "parrot/nouns"], keep_original=False)
    assert [p["source"] for p in done["positions"]] == ["parrot2/main", "parrot/nouns", "parrot/detail"]
    lines, done = merged(made, ["parrot"], keep_original=False, missing="drop")
    assert [x["image"] for x in lines] == [n for n in NAMES if "refuse" not in n]
    assert (done["lines"], done["images"], done["dropped"]) == (4, 5, 1)
    assert merged(made, ["parrot"], keep_original=False)[1]["dropped"] == 1, "it has no caption at all"
    lines, _ = merged(made, ["parrot"], keep_original=False, missing="empty")
    assert lines[NAMES.index("refuse it.png")]["caption"] == ["", ""]
    lines, _ = merged(made, ["parrot"], dedupe=True)
    assert lines[0]["caption"][1:] == list(dict.fromkeys(lines[0]["caption"][1:]))


def test_what_cannot_be_merged(made, tmp_path):
    with pytest.raises(RunError, match="no caption stage 'odd'") as error:
        merged(made, ["odd"])
    assert "it has: parrot, parrot2" in str(error.value)
    with pytest.raises(OptionError, match="no such source"):
        merged(made, order=["odd"])
    run = Run.create(tmp_path / "run", images=made.parent / "images.json")
    with pytest.raises(RunError, match="no captions to merge"):
        merged(tmp_path / "run")
    (tmp_path / "prompt.yaml").write_text("prompt: please raise\n")
    run.using(max_failures=1.0).caption("parrot", [str(tmp_path / "prompt.yaml")])
    with pytest.raises(RunError, match="has no captions yet"):
        merged(tmp_path / "run")
    assert not (tmp_path / "out.jsonl").exists()
    run.caption("parrot", ["nouns"])
    _, done = merged(tmp_path / "run")
    assert "parrot/prompt has no caption yet: it gets no position" in done["notes"]
    assert [p["source"] for p in done["positions"]] == ["original", "parrot/nouns"]


def test_images_that_the_run_made_are_named_by_their_place_or_their_export(tmp_path, write_captions):
    run = Run.create(tmp_path / "run", write_captions([("x/y", 'a "dog"'), ("two", "a cat")])).generate("cheap", repeat=2)
    run.caption("parrot", ["detail"])
    lines, done = merged(tmp_path / "run")
    assert any("are not exported: they are named by their place in the run" in n for n in done["notes"])
    assert [x["caption"][0] for x in lines] == ['a "dog"'] * 2 + ["a cat"] * 2, "a line for each candidate"
    texts = [r["text"] for r in rows.table(Run.open(tmp_path / "run"), "parrot")]
    assert [x["caption"][1] for x in lines] == texts
    # The places are good input: what they name are the images.
    (tmp_path / "places.jsonl").write_text("".join(json.dumps({"image": x["image"]}) + "\n" for x in lines))
    again = Run.create(tmp_path / "again", images=tmp_path / "places.jsonl").caption("parrot", ["detail"])
    colours = [t.split(" wide")[0] for t in texts]
    assert [r["text"].split(" wide")[0] for r in rows.table(again, "parrot")] == colours
    run.score({"brightness": {}}).select(top=2).export("llava")
    lines, done = merged(tmp_path / "run")
    assert any("2 of the images that parrot captioned are not exported" in n for n in done["notes"])
    exported = {x["image"] for x in json.loads((tmp_path / "run/exports/llava/llava.json").read_text())}
    assert {x["image"] for x in lines} == {f"{tmp_path}/run/exports/llava/{x}" for x in exported}
    for line in lines:
        with Image.open(line["image"]) as image:
            assert image.size == (16, 16)
    moved = Path(shutil.move(tmp_path / "run", tmp_path / "elsewhere"))
    assert merged(moved)[0][0]["image"].startswith(str(moved))


def test_captions_of_different_images_are_no_one_line(tmp_path, write_captions, made):
    run = Run.create(tmp_path / "run", write_captions(["a dog"])).generate("cheap").generate("cheap", name="other", size=24)
    run.caption("parrot", ["detail"], images="cheap").caption("parrot2", ["detail"], images="other")
    with pytest.raises(RunError, match="these stages caption different images: parrot those of cheap; parrot2 those of other"):
        merged(tmp_path / "run")
    assert len(merged(tmp_path / "run", ["parrot2"])[0]) == 1
