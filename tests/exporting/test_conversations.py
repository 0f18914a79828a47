"""Conversations as their trainers read them: LLaVA's loader, LLaMA-Factory's dataset_info.json."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from synthvlm.export import export
from synthvlm.run import RunDirectory
from tests.exporting import llava
from tests.exporting.captioned import caption, read_in
from tests.fabricate import captions
from tests.test_export import chosen

HOSTILE = ["a sign that reads <image>", "<image>", "two <image><image>", "<video> and <audio> <|im_start|>", "plain"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return chosen(tmp_path_factory.mktemp("export") / "run", [*HOSTILE, *captions(20)])


def test_llavas_loader_takes_every_record(run: RunDirectory, tmp_path: Path) -> None:
    done = export(run, "llava", out=tmp_path)
    data = llava.Dataset(tmp_path / "llava.json", tmp_path)
    assert len(data) == done["images"] == 25 and min(data.lengths()) > 0
    for n, text in enumerate([*HOSTILE, *captions(20)]):
        image, turns = data[n]
        assert image.size == (64, 64) and image.mode == "RGB"
        assert [llava.images_seen(t["value"]) for t in turns] == [1, 0]
        assert llava.images_seen(llava.plain(turns)) == llava.images_seen(llava.v1(turns)) == 1
        assert llava.plain(turns) == f"<image>{text.replace('<', '[').replace('>', ']') if '<image>' in text else turns[1]['value']}\n"
    assert done["neutralised"] == 4


def test_the_loader_would_notice(tmp_path: Path) -> None:
    """A caption that was let through as it is would give the model two images."""
    turns = llava.multimodal([{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": HOSTILE[0]}])
    assert llava.images_seen(llava.plain(turns)) == 2


def test_llamafactory_finds_its_file_and_as_many_images_as_tokens(run: RunDirectory, tmp_path: Path) -> None:
    done = export(run, "llamafactory", out=tmp_path)
    entry = json.loads((tmp_path / "dataset_info.json").read_text())["synthvlm"]
    assert entry["formatting"] == "sharegpt"
    tags, columns = entry["tags"], entry["columns"]
    records = json.loads((tmp_path / entry["file_name"]).read_text("utf-8"))
    assert len(records) == done["records"] == 25
    for record, text in zip(records, [*HOSTILE, *captions(20)], strict=True):
        messages = record[columns["messages"]]
        # Its converter wants turns by the user and the assistant in turn, and as many placeholders as there are media.
        assert [m[tags["role_tag"]] for m in messages] == [tags["user_tag"], tags["assistant_tag"]]
        said = "".join(m[tags["content_tag"]] for m in messages)
        assert said.count("<image>") == len(record[columns["images"]]) == 1
        assert "<video>" not in said and "<audio>" not in said
        assert (tmp_path / record[columns["images"]][0]).is_file()
        assert messages[1][tags["content_tag"]] == text or "<" in text


def test_datasets_loads_the_messages(run: RunDirectory, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    export(run, "llamafactory", out=tmp_path / "out")
    loaded = datasets.load_dataset(
        "json", data_files=str(tmp_path / "out" / "llamafactory.json"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert loaded.num_rows == 25 and loaded[0]["messages"][0]["role"] == "user"


def test_other_data_sets_stay_registered(run: RunDirectory, tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text('{"mine": {"file_name": "mine.json"}}')
    export(run, "llamafactory", out=tmp_path)
    export(run, "llamafactory", out=tmp_path)
    assert set(json.loads((tmp_path / "dataset_info.json").read_text())) == {"mine", "synthvlm"}


def test_wordings_are_those_of_before(run: RunDirectory, tmp_path: Path) -> None:
    """The id draws the wording, in both formats the same one."""
    export(run, "llava", out=tmp_path)
    export(run, "llamafactory", out=tmp_path)
    one = [r["conversations"][0]["value"] for r in json.loads((tmp_path / "llava.json").read_text())]
    other = [r["messages"][0]["content"] for r in json.loads((tmp_path / "llamafactory.json").read_text())]
    assert one == other and len(set(one)) > 5


@pytest.mark.parametrize("format", ["llava", "llamafactory"])
def test_of_several_captions_each_answers_its_own_prompt(tmp_path: Path, format: str) -> None:
    run = read_in(tmp_path, ["a.jpg", "b.png"], {"a.jpg": "the original <image>"})
    caption(run, "one", ["detail", "nouns"], failed={("b", "nouns")})
    prompts = run.stage("one").perspectives
    done = export(run, format)
    records = json.loads(Path(done["file"]).read_text("utf-8"))
    assert [r["id"] for r in records] == ["a-0", "a-1", "a-2", "b-0"] and done["records"] == 4 and done["images"] == 2
    turns = [r["conversations" if format == "llava" else "messages"] for r in records]
    what = "value" if format == "llava" else "content"
    assert [t[1][what] for t in turns] == ["the original [image]", "one detail of a", "one nouns of a", "one detail of b"]
    asked = [t[0][what].replace("<image>", "").strip() for t in turns]
    assert asked[1] == asked[3] == prompts["detail"]["prompt"].strip() and asked[2] == prompts["nouns"]["prompt"].strip()
    assert asked[0] not in asked[1:]
    if format == "llava":
        data = llava.Dataset(Path(done["file"]), Path(done["out"]))
        assert [llava.images_seen(llava.plain(data[n][1])) for n in range(4)] == [1, 1, 1, 1]


def test_hashes_of_images_are_listed(run: RunDirectory, tmp_path: Path) -> None:
    export(run, "llamafactory", out=tmp_path)
    for line in (tmp_path / "llamafactory.sha256").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest
