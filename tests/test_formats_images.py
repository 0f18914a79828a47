"""Images as input: lists in every format, folders, patterns, WebDataset tars; where relative paths start, what is set aside and what is not read twice."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from synthvlm import image_hashes, images
from synthvlm.errors import InputError, OptionError, RunError
from synthvlm.formats import BadRecord
from synthvlm.formats.images import Found, read_images
from synthvlm.run import RunDirectory, fetch
from synthvlm.samples import ingest


def png(n: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (n % 256, n // 256, 7)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of four images, two of them in a folder below; other files and a hidden one."""
    for n, name in enumerate(["b.png", "a.PNG", "sub/c.png", "sub/deep/d.png"]):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(n))
    (tmp_path / "photos" / "notes.md").write_text("not an image")
    (tmp_path / "photos" / ".hidden.png").write_bytes(png(9))
    (tmp_path / "photos" / "b.txt").write_text(" a bee \n")
    return tmp_path / "photos"


def tar(path: Path, members: dict[str, bytes]) -> str:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return str(path)


def names(source: Any, **settings: Any) -> list[str | None]:
    return [f.sample.image for f in found(source, **settings)]


def found(source: Any, **settings: Any) -> list[Found]:
    records = list(read_images(str(source), **settings))
    assert all(isinstance(r, Found) for r in records), records
    return records  # type: ignore[return-value]


# --- lists ----------------------------------------------------------------------------------------------------------------


def table(path: Path, columns: dict[str, list[Any]]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_the_seeds_list(tmp_path):
    path = tmp_path / "images.json"
    path.write_text('[{"image": "x/1.jpg"},\n {"image": "/abs/2.jpg", "caption": " a cat "},\n {"image": "s3://b/3.jpg", "id": 7, "w": 5}]')
    one, two, three = found(path)
    assert (one.sample.image, one.sample.caption, one.sample.id, one.places) == ("x/1.jpg", None, None, (str(tmp_path / "x/1.jpg"),))
    assert (two.sample.caption, two.places) == ("a cat", ("/abs/2.jpg",))
    assert (three.sample.id, three.sample.meta, three.places) == ("7", {"w": 5}, ("s3://b/3.jpg",))


def test_every_format_of_captions_lists_images(tmp_path):
    files = {
        "a.jsonl": '{"image": "1.jpg"}\n{"image": "2.jpg"}\n',
        "b.csv": "image,caption\n1.jpg,\n2.jpg,a cat\n",
        "c.tsv": "file_name\tid\n1.jpg\tx\n2.jpg\ty\n",
        "d.txt": "1.jpg\n\n2.jpg\n",
        "e.json": '["1.jpg", "2.jpg"]',
        "f.json": '[{"id": "1", "image": "1.jpg", "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": "a"}]}, {"image": "2.jpg"}]',
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        assert names(tmp_path / name) == ["1.jpg", "2.jpg"], name
    assert names(table(tmp_path / "g.parquet", {"path": ["1.jpg", "2.jpg"], "n": [1, 2]})) == ["1.jpg", "2.jpg"]
    assert [f.sample.caption for f in found(tmp_path / "b.csv")] == [None, "a cat"]
    llava = found(tmp_path / "f.json")[0].sample
    assert (llava.caption, llava.id) == ("a", "1")
    assert "conversations" in llava.meta


def test_relative_paths_start_from_the_list_then_from_the_root(tmp_path):
    (tmp_path / "lists").mkdir()
    path = tmp_path / "lists" / "l.txt"
    path.write_text("x/1.jpg\n../2.jpg\n/3.jpg\n")
    root = tmp_path / "elsewhere"
    assert [f.places for f in found(path, image_root=str(root))] == [
        (f"{tmp_path}/lists/x/1.jpg", f"{root}/x/1.jpg"),
        (f"{tmp_path}/2.jpg", f"{tmp_path}/2.jpg"),
        ("/3.jpg",),
    ]


def test_columns_by_name_and_their_absence(tmp_path):
    path = tmp_path / "l.csv"
    path.write_text("key,photo,words\n1,a.jpg,a cat\n")
    (only,) = found(path, image_column="photo", caption_column="words", id_column="key")
    assert (only.sample.id, only.sample.image, only.sample.caption, only.sample.meta) == ("1", "a.jpg", "a cat", {})
    for settings, words in (
        ({}, "no column for the images"),
        ({"image_column": "pic"}, "no column 'pic'"),
        ({"image_column": "photo", "id_column": "nr"}, "no column 'nr'"),
        ({"image_column": "photo", "caption_column": "txt"}, "no column 'txt'"),
    ):
        with pytest.raises(InputError, match=words):
            list(read_images(str(path), **settings))
    with pytest.raises(OptionError, match="there is no format 'xml'"):
        read_images(str(path), format="xml")


def test_pictures_inside_a_table_are_not_read(tmp_path):
    path = table(tmp_path / "p.parquet", {"image": [{"bytes": b"x", "path": None}], "caption": ["a"]})
    with pytest.raises(InputError, match="no column for the images") as error:
        list(read_images(str(path)))
    assert "pictures inside a table are not read" in str(error.value)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ('{"caption": "a cat"}', "is missing"),
        ('{"image": null}', "is empty"),
        ('{"image": " "}', "is empty"),
        ('{"image": 7}', "is a number, not a path or URL"),
        ('{"image": ["a.jpg", "b.jpg"]}', "is a list, not a path or URL"),
        ('{"image": "a\\u0000.jpg"}', "holds a NUL character"),
        ('{"image": "a.jpg", "id": [1]}', "an id is a whole number or a text"),
        ("[1]", "is a list, not an object with an image"),
    ],
)
def test_a_record_without_a_usable_image_costs_itself(tmp_path, record, reason):
    path = tmp_path / "l.jsonl"
    path.write_text(f'{record}\n{{"image": "ok.jpg"}}\n')
    bad, good = read_images(str(path), format="jsonl")
    assert isinstance(bad, BadRecord)
    assert isinstance(good, Found)
    assert reason in str(bad)
    assert bad.line == 1


@pytest.mark.parametrize("caption", ['["a", "b"]', "5", '{"en": "a"}'])
def test_what_is_no_caption_stays_with_the_other_fields(tmp_path, caption):
    path = tmp_path / "l.jsonl"
    path.write_text(f'{{"image": "ok.jpg", "caption": {caption}}}\n')
    (only,) = found(path)
    assert only.sample.caption is None
    assert only.sample.meta == {"caption": json.loads(caption)}


# --- folders, patterns, tars ----------------------------------------------------------------------------------------------


def test_a_folder_with_everything_in_it(photos):
    assert names(photos) == [f"{photos}/{n}" for n in ("a.PNG", "b.png", "sub/c.png", "sub/deep/d.png")]
    bee = found(photos)[1]
    assert (bee.sample.caption, bee.places) == ("a bee", (f"{photos}/b.png",))


def test_links_in_a_circle_end(photos):
    (photos / "sub" / "up").symlink_to(photos, target_is_directory=True)
    (photos / "sub" / "gone").symlink_to(photos / "nowhere")
    assert len(names(photos)) == 4


def test_patterns(photos, tmp_path, monkeypatch):
    assert names(photos / "*.png") == [f"{photos}/b.png"]
    assert names(photos / "**" / "*.png") == [f"{photos}/{n}" for n in ("b.png", "sub/c.png", "sub/deep/d.png")]
    assert names(photos / "{a.PNG,sub}") == [f"{photos}/{n}" for n in ("a.PNG", "sub/c.png", "sub/deep/d.png")]
    monkeypatch.chdir(tmp_path)
    assert names("./photos/?.png") == ["photos/b.png"], "named as a path from here"
    with pytest.raises(InputError, match=r"nothing is called .*\*\.jpg"):
        names("*.jpg")
    (tmp_path / "odd[1]").mkdir()
    (tmp_path / "odd[1]" / "x.png").write_bytes(png(1))
    assert names("odd[1]") == ["odd[1]/x.png"], "a folder of that name is no pattern"


def test_a_single_image(photos):
    assert names(photos / "b.png") == [f"{photos}/b.png"]


def test_webdataset_tars(tmp_path):
    data = {
        "d/01.jpg": png(1),
        "d/01.txt": b"one",
        "d/02.json": b'{"caption": "two", "w": 3, "image": "lost.jpg"}',
        "d/02.left.png": png(2),
        "d/03.txt": b"no image",
    }
    path = tar(tmp_path / "s-000.tar", data)
    one, two = found(path)
    assert (one.sample.image, one.sample.caption) == (f"{path}#d/01.jpg", "one")
    assert (two.sample.image, two.sample.caption, two.sample.meta) == (f"{path}#d/02.left.png", "two", {"w": 3})
    assert images.read_image_bytes(one.places[0]) == data["d/01.jpg"]
    assert images.read_image_bytes(two.places[0]) == data["d/02.left.png"]
    assert images.read_image_bytes(str(one.sample.image)) == data["d/01.jpg"]


def test_many_tars_by_range_or_folder(tmp_path):
    (tmp_path / "shards").mkdir()
    for n in range(12):
        tar(tmp_path / "shards" / f"s-{n:03d}.tar", {f"{n}.png": png(n)})
    assert len(names(tmp_path / "shards")) == 12
    assert names(tmp_path / "shards" / "s-{008..010}.tar") == [f"{tmp_path}/shards/s-{n:03d}.tar#{n}.png" for n in (8, 9, 10)]


def test_a_tar_that_is_cut_off_gives_what_it_has(tmp_path):
    path = Path(tar(tmp_path / "s.tar", {f"{n}.png": png(n) * 20 for n in range(9)}))
    path.write_bytes(path.read_bytes()[:4000])
    *good, bad = read_images(str(path))
    assert good
    assert all(isinstance(g, Found) for g in good)
    assert isinstance(bad, BadRecord)
    assert "damaged or cut off" in str(bad)
    (tmp_path / "n.tar").write_text("no tar at all" * 100)
    assert "damaged or cut off after 0 samples" in str(next(iter(read_images(str(tmp_path / "n.tar")))))
    (tmp_path / "p.tar.gz").write_bytes(b"")
    with pytest.raises(InputError, match="is packed"):
        list(read_images(str(tmp_path / "p.tar.gz")))


# --- into a run -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run")


def held(run: RunDirectory) -> list[dict[str, Any]]:
    with run.connect() as db:
        return fetch(db, f"SELECT * FROM {run.samples_sql()} ORDER BY row")


def read(run: RunDirectory, source: Any, **settings: Any) -> Any:
    return ingest(run, str(source), images=True, **settings)


def test_images_count_by_their_bytes(run, photos):
    result = read(run, photos)
    assert (result.read, result.added, result.rejected, result.images) == (4, 4, 0, True)
    rows = held(run)
    assert [r["image_sha256"] for r in rows] == [hashlib.sha256(Path(r["image"]).read_bytes()).hexdigest() for r in rows]
    assert [r["image_uri"] for r in rows] == [r["image"] for r in rows]
    assert rows[1]["id"] == hashlib.md5(f"{photos}/b.png".encode()).hexdigest()[:16]


@pytest.mark.parametrize("kind", ["list", "folder", "tar"])
def test_reading_again_reads_no_image_twice(run, photos, tmp_path, monkeypatch, kind):
    source = photos
    if kind == "list":
        source = tmp_path / "l.txt"
        source.write_text("photos/b.png\nphotos/a.PNG\nphotos/none.png\n")
    elif kind == "tar":
        source = Path(tar(tmp_path / "s.tar", {"1.png": png(1), "2.png": png(2)}))
    first = read(run, source)
    before = held(run)
    hashed: list[str] = []
    real = image_hashes._sha256
    monkeypatch.setattr(image_hashes, "_sha256", lambda uri: hashed.append(uri) or real(uri))
    assert read(run, source).unchanged
    assert hashed == []
    if kind == "tar":
        return
    (photos / "b.png").write_bytes(png(77))
    result = read(run, source)
    assert (result.added, result.edited, result.unchanged, hashed) == (0, 1, False, [f"{photos}/b.png"])
    after = held(run)
    changed = [(a["image"], a["id"]) for a, b in zip(after, before, strict=True) if a != b]
    assert changed == [
        (
            next(b["image"] for b in before if b["image_uri"] == f"{photos}/b.png"),
            next(b["id"] for b in before if b["image_uri"] == f"{photos}/b.png"),
        )
    ]
    if kind == "list":
        assert first.rejected == 1
        (photos / "none.png").write_bytes(png(5))
        assert read(run, source).added == 1, "one that was missing has come"


def test_what_cannot_be_read_is_set_aside_and_counted(run, photos, tmp_path):
    (photos / "empty.png").write_bytes(b"")
    (photos / "locked.png").write_bytes(png(3))
    path = tmp_path / "l.jsonl"
    lines = ["photos/b.png", "photos/none.png", "photos", "photos/empty.png", "http://example.org/x.png", "s.tar#1.png"]
    path.write_text("".join(json.dumps({"image": x}) + "\n" for x in lines))
    result = read(run, path)
    assert (result.read, result.added, result.rejected) == (6, 1, 5)
    reasons = [json.loads(x) for x in run.store.read("logs/rejected-0.jsonl").decode().splitlines()]
    assert [r["line"] for r in reasons] == [2, 3, 4, 5, 6]
    for reason, words in zip(reasons, ["no such file", "is a folder", "is empty", "is a web address", "no such file"], strict=True):
        assert words in reason["reason"]
    assert read(run, path).unchanged


def test_nothing_usable_is_an_error(run, tmp_path):
    (tmp_path / "l.txt").write_text("none.png\n")
    with pytest.raises(InputError, match="no usable image in it") as error:
        read(run, tmp_path / "l.txt")
    assert "there is no such file" in str(error.value)
    (tmp_path / "void").mkdir()
    with pytest.raises(InputError, match="no usable image in it"):
        read(run, tmp_path / "void")
    with pytest.raises(InputError, match="there is no file"):
        read(run, tmp_path / "nowhere.json")


def test_the_same_image_twice_and_ids(run, photos, tmp_path):
    (tmp_path / "l.txt").write_text("photos/b.png\nphotos/b.png\n")
    read(run, tmp_path / "l.txt")
    one, two = [r["id"] for r in held(run)]
    assert two == f"{one}-2"
    (tmp_path / "ids.json").write_text('[{"id": 1, "image": "photos/b.png"}, {"id": 1, "image": "photos/a.PNG"}]')
    with pytest.raises(InputError, match="ids stand more than once"):
        read(run, tmp_path / "ids.json")
    assert read(run, tmp_path / "ids.json", on_duplicate="first").added == 1


def test_two_sources_with_one_name_for_two_images(run, tmp_path):
    for n, folder in enumerate(("x", "y", "z")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.png").write_bytes(png(n % 2))
        (tmp_path / folder / "l.txt").write_text("1.png\n")
    assert read(run, tmp_path / "x" / "l.txt").added == 1
    assert read(run, tmp_path / "y" / "l.txt").added == 1, "another image: an id of its own"
    assert read(run, tmp_path / "z" / "l.txt").added == 0, "the same image as the first, elsewhere: the same sample"
    assert [r["image_uri"] for r in held(run)] == [f"{tmp_path}/z/1.png", f"{tmp_path}/y/1.png"]
    assert read(run, tmp_path / "y" / "l.txt").unchanged
    (tmp_path / "y" / "g.json").write_text(json.dumps([{"id": held(run)[0]["id"], "image": "1.png"}]))
    with pytest.raises(RunError, match="from another source and with another image"):
        read(run, tmp_path / "y" / "g.json")


def test_a_killed_reading_goes_on(run, photos, monkeypatch):
    hashed: list[str] = []
    real = image_hashes._sha256
    monkeypatch.setattr(image_hashes, "_sha256", lambda uri: hashed.append(uri) or real(uri))
    with monkeypatch.context() as patch:
        patch.setattr("synthvlm.samples._identify", lambda *_: 1 / 0)  # killed when all are hashed
        with pytest.raises(ZeroDivisionError):
            read(run, photos)
    assert len(hashed) == 4
    assert read(run, photos).added == 4
    assert len(hashed) == 4
    assert run.store.list("sources/000") == ["all.parquet"]


def test_looking_only_reads_nothing(run, photos, monkeypatch):
    monkeypatch.setattr(image_hashes, "_sha256", lambda _: 1 / 0)
    assert read(run, photos, look_only=True).added == 4


def test_a_run_of_before_images_can_be_read(run, write_captions):
    ingest(run, write_captions(["a", "b"]))
    old = pq.read_table(run.store.path("samples/00000.parquet")).drop_columns(["image_uri", "image_sha256"])
    pq.write_table(old, run.store.path("samples/00000.parquet"))
    assert [r["image_sha256"] for r in held(run)] == [None, None]
    assert ingest(run, write_captions(["a", "b", "c"])).added == 1
    assert len(held(run)) == 3


def test_memory_does_not_grow_with_the_list(run, tmp_path):
    import resource

    image = tmp_path / "x.png"
    image.write_bytes(png(1))
    few, many = tmp_path / "few.txt", tmp_path / "many.txt"
    few.write_text("x.png\n" * 10_000)
    many.write_text("x.png\n" * 40_000)
    read(run, few, on_duplicate="number")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    other = RunDirectory.create(os.path.join(tmp_path, "other"))
    assert read(other, many).added == 40_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "KiB"
