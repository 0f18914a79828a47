from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from synthvlm import parts, prompts
from synthvlm.compact import compact
from synthvlm.errors import OptionError, RunError
from synthvlm.export import FORMATS, export
from synthvlm.exporting.formats import FOLDERS
from synthvlm.formats import read_captions
from synthvlm.run import RunDirectory
from synthvlm.select import select
from tests.fabricate import captions, fabricate_run

HOSTILE = [
    "../../x",
    "/etc/passwd",
    "a/b",
    "A",
    "a",
    "con",
    "CON.txt",
    "日本",
    "a b",
    ".hidden",
    "x" * 101,
    "d41d8cd98f00b204e9800998ecf8427e",
    "ok_1.v-2",
    "COM1",
    "-rf",
]


def chosen(root: Path, texts: Any, repeat: int = 2, top: str = "all", **settings: Any) -> RunDirectory:
    run = fabricate_run(root, texts, repeat, **settings)
    select(run, [run.stage("clip-ssim")], top=top)
    return run


def tree(folder: str | Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


def llava(out: str | Path) -> list[dict[str, Any]]:
    return json.loads((Path(out) / "llava.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return chosen(tmp_path_factory.mktemp("export") / "run", captions(40), failed={("3", 1)}, meta={"5": {"source": {"page": 7}}})


def pixels(run: RunDirectory) -> dict[str, bytes]:
    with run.connect() as db:
        rows = db.execute(f'SELECT sha256, tar, "offset", bytes FROM {run.table_sql(run.stage("mini"))} WHERE stored').fetchall()
    return {sha: run.store.read(tar, offset, size) for sha, tar, offset, size in rows}


def test_llava_records_are_what_its_training_reads(run: RunDirectory, tmp_path: Path) -> None:
    done = export(run, "llava", out=tmp_path)
    records = llava(tmp_path)
    assert done["records"] == done["written"] == len(records) == 40
    assert [r["id"] for r in records] == [str(n) for n in range(40)]
    wordings = prompts.instructions("llava")
    asked = set()
    for record, caption in zip(records, captions(40), strict=True):
        assert list(record) == ["id", "image", "conversations"]
        human, gpt = record["conversations"]
        assert human["from"] == "human" and gpt == {"from": "gpt", "value": caption}
        wording, before = human["value"].replace("<image>", "").strip("\n"), human["value"].startswith("<image>\n")
        assert human["value"] in (f"<image>\n{wording}", f"{wording}\n<image>") and wording in wordings
        asked.add((wording, before))
        assert re.fullmatch(rf"images/00000/{record['id']}-[01]\.jpg", record["image"])
    assert len({w for w, _ in asked}) > 5 and {b for _, b in asked} == {True, False}


def test_image_bytes_are_those_of_the_run(run: RunDirectory, tmp_path: Path) -> None:
    export(run, "llava", out=tmp_path)
    stored = pixels(run)
    for line in (tmp_path / "llava.sha256").read_text().splitlines():
        sha, name = line.split("  ")
        assert (tmp_path / name).read_bytes() == stored[sha]


def test_an_export_reads_back_as_input(run: RunDirectory, tmp_path: Path) -> None:
    export(run, "llava", out=tmp_path)
    assert [s.caption for s in read_captions(str(tmp_path / "llava.json"))] == captions(40)  # type: ignore[union-attr]


def test_jsonl_keeps_scores_seed_and_the_users_own_fields(run: RunDirectory, tmp_path: Path) -> None:
    done = export(run, "jsonl", out=tmp_path)
    records = [json.loads(line) for line in Path(done["file"]).read_text("utf-8").splitlines()]
    assert len(records) == 40
    first = records[0]
    assert first["caption"] == captions(40)[0] and first["total"] == pytest.approx(first["clip"] + 0.5 * first["ssim"])
    assert {"seed", "candidate", "width", "height", "sha256"} <= set(first)
    assert records[5]["meta"] == {"source": {"page": 7}} and "meta" not in first
    assert hashlib.sha256((tmp_path / first["image"]).read_bytes()).hexdigest() == first["sha256"]


def test_imagefolder_names_files_relative_to_its_metadata(run: RunDirectory, tmp_path: Path) -> None:
    export(run, "imagefolder", out=tmp_path)
    records = [json.loads(line) for line in (tmp_path / "train/metadata.jsonl").read_text("utf-8").splitlines()]
    assert len(records) == 40 and all((tmp_path / "train" / r["file_name"]).is_file() for r in records)


def test_hugging_face_datasets_loads_the_imagefolder(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    run = chosen(tmp_path / "run", {"COCO_val2014_1": "a red circle", "test-2": "a blue circle", "plain": "a green circle"}, 1)
    done = export(run, "imagefolder")
    loaded = datasets.load_dataset("imagefolder", data_dir=done["out"], cache_dir=str(tmp_path / "cache"))
    assert loaded["train"].num_rows == 3 and set(loaded) == {"train"}


def test_no_split_is_read_out_of_ids(tmp_path: Path) -> None:
    # datasets looks for "train", "val", "test" in folders first, then in file names; every file stands under train/.
    run = chosen(tmp_path / "run", {"COCO_val2014_1": "a red circle", "test-2": "a blue circle"}, 1)
    out = Path(export(run, "imagefolder")["out"])
    assert all(name.startswith("train/") for name in tree(out) if not name.endswith((".sha256", "README.md")))


@pytest.mark.parametrize("format", FOLDERS)
def test_hostile_ids_stay_inside_and_names_are_unique_whatever_the_case(tmp_path: Path, format: str) -> None:
    run = chosen(tmp_path / "run", {i: f"a red circle {n}" for n, i in enumerate(HOSTILE)}, 1)
    before = tree(tmp_path)
    out = tmp_path / "elsewhere" / "deep"
    done = export(run, format, out=out)
    files = {f"elsewhere/deep/{name}" for name in tree(out)}
    assert set(tree(tmp_path)) == set(before) | files
    names = [p.name for p in out.rglob("*.jpg")]
    assert len(names) == len({n.lower() for n in names}) == len(HOSTILE) == done["records"]
    assert "ok_1.v-2-0.jpg" in names
    assert f"{hashlib.md5(b'../../x').hexdigest()}-0.jpg" in names
    assert not any(n.lower().startswith(("con", "com1", "-", ".", "a-")) for n in names)


def test_a_caption_that_holds_the_image_token_is_neutralised(tmp_path: Path) -> None:
    run = chosen(tmp_path / "run", ["a sign that reads <image>", "plain"], 1)
    done = export(run, "llava")
    assert done["neutralised"] == 1
    values = [[t["value"] for t in r["conversations"]] for r in llava(done["out"])]
    assert values[0][1] == "a sign that reads [image]"
    assert all("\n".join(v).count("<image>") == 1 for v in values)
    jsonl = export(run, "jsonl")
    assert json.loads(Path(jsonl["file"]).read_text().splitlines()[0])["caption"] == "a sign that reads <image>"


def test_several_candidates_of_a_caption_have_ids_of_their_own(tmp_path: Path) -> None:
    run = chosen(tmp_path / "run", {"x": "a red circle", "x-1": "a blue circle"}, 2)
    with run.connect() as db:
        columns = "key, g.row, g.id, g.candidate, caption, seed, width, height, g.sha256, bytes, cut_tokens, note"
        both = f"SELECT {columns}, 0.1 AS clip, 0.0 AS clip_cut, 1.0 AS ssim, 0.0 AS ssim_small, 0.6 AS total FROM {run.table_sql(run.stage('mini'))} g"
        db.execute(f"COPY ({both}) TO '{run.root}/selections/default.parquet'")
    records = llava(export(run, "llava")["out"])
    assert [r["id"] for r in records] == ["x-0", "x-1", "x-1-0", "x-1-1"]
    assert len({r["image"] for r in records}) == 4


@pytest.mark.parametrize("format", FORMATS)
def test_equal_runs_give_equal_files_whatever_happened(tmp_path: Path, format: str) -> None:
    one = chosen(tmp_path / "one" / "run", captions(20))
    two = chosen(tmp_path / "two" / "run", captions(20))
    compact(two, two.stage("mini"))
    assert len(parts.list_parts(two.store, "mini")) == 1
    first, second = export(one, format), export(two, format)
    assert tree(first["out"]) == tree(second["out"])
    again = export(two, format)
    assert (again["written"], again["kept"]) == (0, 20) and tree(first["out"]) == tree(second["out"])


def test_images_no_longer_selected_go_and_the_users_own_stay(tmp_path: Path) -> None:
    run = chosen(tmp_path / "run", captions(20))
    out = tmp_path / "out"
    export(run, "llava", out=out)
    mine = out / "images" / "00000" / "mine.jpg"
    mine.write_bytes(b"mine")
    select(run, [run.stage("clip-ssim")], top="5")
    done = export(run, "llava", out=out)
    assert (done["records"], done["removed"], done["kept"]) == (5, 15, 5)
    mine_too = {"images/00000/mine.jpg"}
    assert {r["image"] for r in llava(out)} | mine_too | {"llava.json", "llava.sha256", "README.md"} == set(tree(out))


def test_formats_may_share_a_folder(tmp_path: Path) -> None:
    run = chosen(tmp_path / "run", captions(10))
    out = tmp_path / "out"
    for format in FORMATS:
        export(run, format, out=out)
    assert {format for format in FORMATS if (out / f"{format}.sha256").stat().st_size} == set(FORMATS)
    select(run, [run.stage("clip-ssim")], top="3")
    assert export(run, "llava", out=out)["removed"] == 0  # the JSON Lines still name them, and LLaMA-Factory's messages
    lines = [json.loads(line) for line in (out / "pairs.jsonl").read_text().splitlines()]
    assert len(lines) == 10 and all((out / r["image"]).is_file() for r in lines)
    assert export(run, "jsonl", out=out)["removed"] == 0
    assert export(run, "llamafactory", out=out)["removed"] == 7
    other = chosen(tmp_path / "other", captions(10), seed=1, side=32)
    with pytest.raises(RunError, match="another run"):
        export(other, "llava", out=out)


def test_a_list_of_images_that_names_other_files_deletes_nothing(tmp_path: Path) -> None:
    run = chosen(tmp_path / "run", captions(4))
    out = tmp_path / "out"
    export(run, "llava", out=out)
    victims = [tmp_path / "victim.jpg", out / "keep.jpg"]
    for victim in victims:
        victim.write_bytes(b"x")
    with open(out / "llava.sha256", "a") as f:
        f.writelines(f"{'0' * 64}  {name}\n" for name in ("../victim.jpg", str(victims[0]), "keep.jpg", "images/00000/../../keep.jpg"))
    export(run, "llava", out=out)
    assert all(v.exists() for v in victims)


def test_a_file_that_is_not_ours_is_not_overwritten(run: RunDirectory, tmp_path: Path) -> None:
    (tmp_path / "llava.json").write_text("[]")
    with pytest.raises(RunError, match="not from an export"):
        export(run, "llava", out=tmp_path)
    assert (tmp_path / "llava.json").read_text() == "[]"


def test_what_cannot_be_exported_says_why(run: RunDirectory, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no export format 'coco'"):
        export(run, "coco", out=tmp_path)
    with pytest.raises(RunError, match="no selection 'best'") as caught:
        export(run, "llava", selection="best")
    assert "it has: default" in str(caught.value)
    bare = fabricate_run(tmp_path / "bare", captions(2))
    with pytest.raises(RunError, match="synthvlm select"):
        export(bare, "llava")
    edited = chosen(tmp_path / "edited", captions(4))
    fabricate_run(tmp_path / "edited", ["something else", *captions(4)[1:]])
    with pytest.raises(RunError, match="1 of the 4 images of selection 'default' are no longer in"):
        export(edited, "llava")


def test_another_selection_has_a_folder_of_its_own(tmp_path: Path) -> None:
    run = chosen(tmp_path / "run", captions(6))
    select(run, [run.stage("clip-ssim")], top="2", name="few")
    assert export(run, "llava", selection="few")["out"].endswith("exports/llava-few")


@pytest.mark.parametrize(("image_format", "ending"), [("png", ".png"), ("webp", ".webp")])
def test_endings_follow_the_images_format(tmp_path: Path, image_format: str, ending: str) -> None:
    run = chosen(tmp_path / "run", captions(2), 1, image_format=image_format)
    assert all(r["image"].endswith(ending) for r in llava(export(run, "llava")["out"]))


def test_own_wordings_serve(run: RunDirectory, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("instructions: ['What is it?']\n")
    export(run, "llava", out=tmp_path / "out", instructions=str(own))
    assert {r["conversations"][0]["value"].replace("<image>", "").strip() for r in llava(tmp_path / "out")} == {"What is it?"}
