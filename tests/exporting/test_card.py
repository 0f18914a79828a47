"""The data card: front matter that the Hub reads, counts, scores, funnel, models, safety; nothing private."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from synthvlm import recipe as recipes
from synthvlm.export import export
from synthvlm.exporting import licences
from synthvlm.exporting.card import MARK
from synthvlm.run import RunDirectory
from synthvlm.select import select
from tests.exporting.captioned import caption, read_in
from tests.fabricate import captions, fabricate_run
from tests.test_export import chosen


def card_of(done: dict[str, Any]) -> tuple[dict[str, Any], str]:
    text = (Path(done["out"]) / "README.md").read_text("utf-8")
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def section(body: str, name: str) -> str:
    return body.split(f"\n## {name}\n", 1)[1].split("\n## ", 1)[0]


def table(text: str) -> list[list[str]]:
    return [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|") and "---" not in line]


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return chosen(tmp_path / "secret-folder" / "run", captions(30), top="50%")


def test_the_front_matter_is_what_the_hub_takes(run: RunDirectory) -> None:
    from huggingface_hub import DatasetCardData

    head, _ = card_of(export(run, "parquet", licence="cc-by-4.0", title="Coloured shapes: 15 of them"))
    assert head["license"] == "cc-by-4.0" and head["pretty_name"] == "Coloured shapes: 15 of them"
    assert head["size_categories"] == ["n<1K"] and "synthetic" in head["tags"] and "image-to-text" in head["task_categories"]
    assert DatasetCardData(**head).to_dict()["configs"] == [
        {"config_name": "default", "data_files": [{"split": "train", "path": "data/*.parquet"}]}
    ]
    assert card_of(export(run, "jsonl"))[0]["license"] == "unknown"


@pytest.mark.parametrize(("images", "size"), [(999, "n<1K"), (1_000, "1K<n<10K"), (100_000, "100K<n<1M"), (10**9, "n>100M")])
def test_sizes_are_named_as_the_hub_does(run: RunDirectory, images: int, size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from synthvlm.exporting import card

    kept: dict[str, Any] = {}
    real = card.render
    monkeypatch.setattr(card, "render", lambda said, licence: kept.update(said) or real(said, licence))
    export(run, "jsonl")
    assert yaml.safe_load(real(kept | {"images": images}, None).split("---\n")[1])["size_categories"] == [size]


def test_counts_and_scores_are_those_of_the_run(run: RunDirectory) -> None:
    _, body = card_of(export(run, "jsonl"))
    counts = dict(table(section(body, "Counts"))[1:])
    assert (counts["samples read"], counts["scored candidates"], counts["selected pairs"], counts["images here"]) == (
        "30",
        "60",
        "15",
        "15",
    )
    rows = table(section(body, "Scores"))
    assert rows[0] == ["set", "pairs", "clip", "ssim", "total"] and rows[-1][:2] == ["this data set", "15"]
    summary = json.loads((Path(run.root) / "selections/default.json").read_text())
    assert rows[-1][2].startswith(f"{summary['sets']['selected']['clip']:.4f} (") and "CLIPScore + 0.5 · SSIMScore" in body
    assert "`clip_cut` holds of 0.0% of the pairs here" in body and "max(cosine, 0)" in body


def test_nothing_private_is_on_it(run: RunDirectory) -> None:
    stage = run.stage("mini")
    stage.plugins[0]["checkpoints"] = {"checkpoint": {"asked": "/home/somebody/models/sdxl", "revision": "content:" + "0" * 64}}
    stage.plugins[0]["options"]["base_url"] = "http://10.0.0.7/secret"
    run.store.put_json("mini/stage.json", asdict(stage))
    for format in ("jsonl", "recipe"):
        out = Path(export(run, format)["out"])
        for file in out.glob("*.*"):
            if file.suffix in (".md", ".json"):
                text = file.read_text()
                assert "secret" not in text and "/home" not in text and "10.0.0.7" not in text, file
        assert "| sdxl | content:" in (out / "README.md").read_text()
    assert not any(c in card_of(export(run, "jsonl"))[1] for c in captions(30))


def test_models_have_their_licences_or_it_is_unknown(run: RunDirectory) -> None:
    stage = run.stage("mini")
    stage.plugins[0]["checkpoints"] = {"checkpoint": {"asked": "stabilityai/stable-diffusion-xl-base-1.0", "revision": "462165984030"}}
    run.store.put_json("mini/stage.json", asdict(stage))
    _, body = card_of(export(run, "jsonl"))
    rows = {r[1]: r for r in table(section(body, "Models and their licences"))}
    assert rows["mini 1"][2:4] == ["stabilityai/stable-diffusion-xl-base-1.0", "462165984030"] and rows["mini 1"][4].startswith(
        "openrail++"
    )
    assert rows["clip 1"][4].startswith("unknown")
    assert licences.licence("Qwen/Qwen2-VL-7B-Instruct@abc") == "apache-2.0"
    assert licences.licence("stabilityai/stable-diffusion-xl-base-1.0-of-mine/x") == licences.UNKNOWN
    assert licences.bundled("synthvlm") == "apache-2.0" and licences.bundled("another") == licences.UNKNOWN


def test_its_settings_are_a_recipe(run: RunDirectory) -> None:
    _, body = card_of(export(run, "jsonl"))
    block = re.search(r"```yaml\n(.*?)```", section(body, "How it was made"), re.DOTALL)
    assert block
    steps = recipes.parse(yaml.safe_load(block[1]), "card")
    assert [s.verb for s in steps.steps] == ["generate", "score", "select", "export"]
    assert steps.first("generate").options["steps"] == 4 and steps.first("select").top == "50%" and steps.first("generate").repeat == 2


def test_weights_that_ship_with_a_plugin_are_its_own(run: RunDirectory) -> None:
    """Wherever the run was made, they are the plugin's default: no path is named, and a recipe finds them where it is used."""
    stage = run.stage("mini")
    stage.plugins[0]["distribution"] = "synthvlm"
    weights = {"asked": "/elsewhere/site-packages/synthvlm_mini/weights/generator", "revision": "content:" + "0" * 64}
    stage.plugins[0]["checkpoints"] = {"checkpoint": weights}
    run.store.put_json("mini/stage.json", asdict(stage))
    done = export(run, "recipe")
    _, body = card_of(done)
    assert next(r for r in table(section(body, "Models and their licences")) if r[1] == "mini 1")[2::2] == ["generator", "apache-2.0"]
    said = json.loads((Path(done["out"]) / "recipe.json").read_text())
    assert (
        "checkpoint" not in said["generator"]["options"]
        and said["generator"]["checkpoints"]["checkpoint"]["revision"] == weights["revision"]
    )


def test_what_was_not_filtered_is_said(run: RunDirectory) -> None:
    _, body = card_of(export(run, "jsonl"))
    said = section(body, "Safety")
    assert "blocklist of words was not used" in said and "no model for unsafe images was run" in said and "not decontaminated" in said
    assert "The captions were not curated." in body


def test_the_funnel_of_the_curation(tmp_path: Path) -> None:
    run = fabricate_run(tmp_path / "run", captions(8), 1)
    funnel = [
        {
            "reason": "blocked",
            "limit": "none",
            "dropped": 2,
            "holds_of": 3,
            "left": 8,
            "examples": [{"id": "x", "caption": "a dreadful thing"}],
        },
        {"reason": "words", "limit": "at least 2", "dropped": 0, "holds_of": 0, "left": 8, "examples": []},
    ]
    record = {
        "captions": 10,
        "kept": 8,
        "funnel": funnel,
        "stages": [],
        "limits": {"blocked": [None, 0]},
        "settings": {"duplicates": "exact"},
        "inputs": "",
    }
    run.store.put_json("curation/default.json", record)
    with run.connect() as db:
        rows = f"SELECT row, id, md5(caption) AS caption_md5, true AS keep FROM {run.samples_sql()}"
        db.execute(f"COPY ({rows}) TO '{run.root}/curation/default.parquet'")
    stage = run.stage("mini")
    stage.runtime["curation"] = "default"
    run.store.put_json("mini/stage.json", asdict(stage))
    select(run, [run.stage("clip-ssim")])
    _, body = card_of(export(run, "jsonl"))
    assert table(section(body, "Curation of the captions"))[1:] == [["blocked", "none", "2", "8"]]
    assert "10 captions, 8 kept" in body and "a blocklist of words was used; it dropped 2" in body
    assert "dreadful" not in body  # what was dropped is not published


def test_a_users_own_card_stays(run: RunDirectory, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = export(run, "jsonl", out=out)
    assert not done["own_card"]
    mine = (out / "README.md").read_text().replace(MARK, "").replace("not curated", "read by me")
    (out / "README.md").write_text(mine)
    assert export(run, "jsonl", out=out)["own_card"] and (out / "README.md").read_text() == mine


def test_of_captions_it_tells_the_prompts(tmp_path: Path) -> None:
    run = read_in(tmp_path, ["a.png", "b.png"])
    caption(run, "one", ["detail", "nouns"])
    head, body = card_of(export(run, "parquet"))
    assert head["tags"] == ["synthvlm", "synthetic-captions"] and head["task_categories"] == ["image-to-text"]
    assert "2 images with 4 captions, up to 2 for each" in body and "`one/nouns`:" in section(body, "Prompts")
    assert "## Scores" not in body and "The captions were not curated" not in body
