"""Files appear whole or not at all, locks name their holder, parts are the same bytes each time, keys are the same everywhere."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import socket
import subprocess
import sys
import tarfile
import threading
import time
import uuid
from pathlib import Path

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st
from webdataset.tariterators import group_by_keys, tar_file_expander

from synthvlm import parts
from synthvlm.errors import RunError, RunLocked
from synthvlm.run import RunDirectory, Stage, image_seed, row_key
from synthvlm.storage import Store, alive


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    if request.param == "local":
        return Store(tmp_path / "run")
    return Store(f"memory://{uuid.uuid4().hex}/run")


def everything(store: Store) -> list[str]:
    """List every file under a store's root, hidden ones too."""
    return sorted(p.removeprefix(store.root).lstrip("/") for p in store.fs.find(store.root))


def write_and_fail(store: Store, name: str) -> None:
    with store.writer(name) as out:
        out.write(b"half of it")
        raise ZeroDivisionError


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_file_is_written_read_listed_and_removed(store):
    assert store.list("") == []
    assert not store.exists("a/b.bin")
    store.put("a/b.bin", b"0123456789")
    store.put("a/c.json", memoryview(b"{}"))
    assert store.exists("a/b.bin")
    assert store.exists("a")
    assert store.read("a/b.bin") == b"0123456789"
    assert store.read("a/b.bin", 3, 4) == b"3456"
    assert store.read("a/b.bin", 8) == b"89"
    assert store.size("a/b.bin") == 10
    assert store.size("a/none") is None
    assert abs(store.modified("a/b.bin") - time.time()) < 60
    assert store.list("") == ["a"]
    assert store.list("a") == ["b.bin", "c.json"]
    assert store.list("a", ".bin") == ["b.bin"]
    assert store.list("none") == []
    store.move("a/b.bin", "damaged/a/b.bin")
    assert store.list("a") == ["c.json"]
    assert store.read("damaged/a/b.bin") == b"0123456789"
    store.remove("a/c.json")
    store.remove("a/c.json")
    assert store.list("a") == []
    with pytest.raises(FileNotFoundError):
        store.read("a/c.json")


def test_json_is_readable_and_what_is_damaged_says_so(store):
    assert store.read_json("x.json") is None
    store.put_json("x.json", {"é": [1, None]})
    assert store.read_json("x.json") == {"é": [1, None]}
    assert "é" in store.read("x.json").decode()
    store.put("x.json", b'{"a": ')
    with pytest.raises(RunError, match=r"x\.json is damaged"):
        store.read_json("x.json")


def test_a_writer_that_raises_leaves_nothing(store):
    with pytest.raises(ZeroDivisionError):
        write_and_fail(store, "a/new.bin")
    assert everything(store) == []


def test_a_writer_that_raises_leaves_the_old_file_as_it_was(store):
    store.put("a.bin", b"old")
    with pytest.raises(ZeroDivisionError):
        write_and_fail(store, "a.bin")
    assert store.read("a.bin") == b"old"
    with store.writer("a.bin") as out:
        out.write(b"new")
        assert store.read("a.bin") == b"old", "not before it is whole"
    assert store.read("a.bin") == b"new"
    assert everything(store) == ["a.bin"]


def test_unfinished_files_are_not_listed(tmp_path):
    store = Store(tmp_path)
    with store.writer("a/x.bin") as out:
        out.write(b"1")
        out.flush()
        assert store.list("a") == []
        assert len(os.listdir(tmp_path / "a")) == 1


def test_a_full_disk_is_a_line_and_a_way_on(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(RunError, match="the disk is full") as error, store.writer("x.bin"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert "resumes" in str(error.value)
    assert everything(store) == []


def test_a_place_where_nothing_can_be_written_is_a_line_and_a_way_on(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(RunError, match="cannot be written") as error:
        RunDirectory.create(tmp_path / "file")
    assert "--out" in str(error.value)
    with pytest.raises(RunError, match="cannot be written"):
        RunDirectory.create(tmp_path / "file" / "below")


def test_sweeping_takes_the_dead_ones_litter_only(tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "node-1.cluster.local")
    store = Store(tmp_path)
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    folder = tmp_path / "stage" / "000"
    folder.mkdir(parents=True)
    dead = [".a.parquet.node-1.cluster.local-{}-0a1b2c3d.tmp", ".lock.node-1.cluster.local-{}-0a1b2c3d.tmp"]
    kept = [
        f".b.parquet.node-1.cluster.local-{os.getpid()}-0a1b2c3d.tmp",
        f".c.parquet.node-2.cluster.local-{child.pid}-0a1b2c3d.tmp",
        f".d.parquet.local-{child.pid}-0a1b2c3d.tmp",
        ".editor.tmp",
        "mine.tmp",
        "000000-1111.parquet",
    ]
    for name in [d.format(child.pid) for d in dead] + kept:
        (folder / name).write_text("")
    assert store.sweep("stage") == 2
    assert sorted(os.listdir(folder)) == sorted(kept)


def test_what_a_killed_writer_left_is_swept(tmp_path):
    code = f"""
import os, signal
from synthvlm.storage import Store
with Store({str(tmp_path)!r}).writer("stage/x.bin") as out:
    out.write(b"half"); out.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    assert len(os.listdir(tmp_path / "stage")) == 1
    assert Store(tmp_path).list("stage") == []
    assert Store(tmp_path).sweep("stage") == 1
    assert os.listdir(tmp_path / "stage") == []


# --- the lock ---------------------------------------------------------------------------------------------------------


def holder(root: Path) -> subprocess.Popen[str]:
    """Start a process that holds the run until it is killed."""
    code = f"""
import time
from synthvlm.storage import Store
with Store({str(root)!r}).lock("pruning"):
    print("held", flush=True); time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_lock_of_a_living_process_names_host_and_pid_and_a_dead_ones_is_taken_over(tmp_path):
    store = Store(tmp_path)
    process = holder(tmp_path)
    try:
        with pytest.raises(RunLocked, match=rf"pruning \(pid {process.pid} on {socket.gethostname()}\)") as error, store.lock("compacting"):
            raise AssertionError
        assert "lock.json" in str(error.value)
    finally:
        process.kill()
    with contextlib.closing(process.stdout):  # not waited for: a zombie is dead too
        while alive(process.pid):
            time.sleep(0.01)
        with store.lock("compacting"):
            assert store.read_json("lock.json")["what"] == "compacting"
    process.wait()
    assert everything(store) == []


def test_a_lock_of_another_host_is_never_taken_over(tmp_path):
    store = Store(tmp_path)
    store.put_json("lock.json", {"host": "elsewhere", "pid": 1, "what": "selecting", "token": "x"})
    with pytest.raises(RunLocked, match=r"selecting \(pid 1 on elsewhere\)"), store.lock("compacting"):
        raise AssertionError
    assert store.read_json("lock.json")["host"] == "elsewhere"


def test_the_lock_goes_when_the_step_fails(store):
    with pytest.raises(ZeroDivisionError), store.lock("selecting"):
        raise ZeroDivisionError
    assert everything(store) == []


def test_waiting_for_the_lock(store):
    inside: list[str] = []

    def step(name: str) -> None:
        with store.lock(name, wait=20):
            inside.append(name)
            time.sleep(0.3)
            inside.append(name)

    threads = [threading.Thread(target=step, args=(n,)) for n in ("one", "two")]
    for t in threads:
        t.start()
        time.sleep(0.05)
    for t in threads:
        t.join()
    assert inside == ["one", "one", "two", "two"]
    assert everything(store) == []


def test_of_many_only_one_at_a_time_holds_a_dead_ones_lock(tmp_path):
    process = holder(tmp_path)
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()
    store, inside, most = Store(tmp_path), [0], [0]

    def step() -> None:
        with store.lock("step", wait=20):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0.01)
            inside[0] -= 1

    threads = [threading.Thread(target=step) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert most == [1]
    assert everything(store) == []


# --- parts ------------------------------------------------------------------------------------------------------------

MEMBERS = [
    ("000000000-000.jpg", b"\xff\xd8one"),
    ("000000001-000.jpg", b""),
    ("000000002-001.jpg", b"x" * 512),
    ("000000003-000.jpg", b"y" * 1300),
]


def test_a_pack_has_each_member_at_its_offset_and_is_the_same_each_time():
    data, offsets = parts.pack(MEMBERS)
    assert [data[o : o + len(d)] for o, (_, d) in zip(offsets, MEMBERS, strict=True)] == [d for _, d in MEMBERS]
    assert parts.pack(MEMBERS) == (data, offsets)
    assert hashlib.sha256(data).hexdigest() == "1b57d6a5793aa949e76d1f280bf620bea972e7677674a98793f9af475c443d97"


def test_a_pack_is_a_tar_with_fixed_times_and_owners():
    with tarfile.open(fileobj=io.BytesIO(parts.pack(MEMBERS)[0])) as tar:
        assert [(m.name, tar.extractfile(m).read()) for m in tar.getmembers()] == MEMBERS  # type: ignore[union-attr]
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in tar.getmembers()} == {(0, 0, 0, "", "", 0o644)}


def test_a_pack_is_a_webdataset():
    found = list(group_by_keys(tar_file_expander([{"url": "a.tar", "stream": io.BytesIO(parts.pack(MEMBERS)[0])}])))
    assert [(f"{r['__key__']}.jpg", r["jpg"]) for r in found] == MEMBERS


def picture(row: int, candidate: int = 0, key: str = "") -> dict[str, object]:
    data = bytes([row % 256, candidate]) * 300
    kept = {"width": 1, "height": 1, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "stored": True}
    return {"key": key or f"k{row}-{candidate}", "row": row, "id": str(row), "candidate": candidate, "seed": 7, "tries": 1, **kept}


def test_a_part_is_named_by_its_bytes_and_names_its_pixels(store):
    made = [
        picture(0),
        picture(1) | {"stored": False},
        picture(1, 1),
        {"key": "bad", "row": 2, "id": "2", "candidate": 0, "tries": 1, "error": "no"},
    ]
    pixels = {str(r["key"]): ("png", bytes([r["row"], r["candidate"]]) * 300) for r in (made[0], made[2])}  # type: ignore[list-item]
    path = parts.commit(store, "sdxl", 1234, parts.IMAGES, made, pixels, {"device": "cpu"})
    (part,) = parts.list_parts(store, "sdxl")
    assert (part.path, part.first, part.last) == (path, 1234, 1234)
    assert path == f"sdxl/001/001234-{hashlib.sha256(store.read(path)).hexdigest()[:16]}.parquet"
    info = parts.part_info(store, part)
    assert info["device"] == "cpu"
    assert info["tar"].startswith(f"sdxl/001/001234-{hashlib.sha256(store.read(info['tar'])).hexdigest()[:16]}-")
    assert info["tar_sha256"] == hashlib.sha256(store.read(info["tar"])).hexdigest()
    assert parts.damage(store, part, thorough=True) is None
    with tarfile.open(fileobj=io.BytesIO(store.read(info["tar"]))) as tar:
        assert tar.getnames() == ["000000000-000.png", "000000001-001.png"], "WebDataset naming by row number"
    with RunDirectory(store.url("")).connect() as db:
        found = db.execute(f"SELECT key, tar, \"offset\", bytes FROM read_parquet('{store.url(path)}') ORDER BY row, candidate").fetchall()
    assert [f[1] for f in found] == [info["tar"], None, info["tar"], None]
    for key, tar, offset, size in (found[0], found[2]):
        assert store.read(tar, offset, size) == pixels[key][1]


def test_the_same_rows_are_the_same_bytes_in_files_of_their_own(tmp_path):
    """Two processes that do the same must not share a tar, which one of them may merge away."""
    store = Store(tmp_path)
    for _ in range(2):
        parts.commit(
            store, "sdxl", 3, parts.IMAGES, [picture(0), picture(1)], {"k0-0": ("jpg", b"a"), "k1-0": ("jpg", b"b")}, {"b": 1, "a": 2}
        )
        parts.commit(
            store, "sd3", 3, parts.IMAGES, [picture(0) | {"stored": False}, picture(1) | {"stored": False}], None, {"b": 1, "a": 2}
        )
    one, two = store.list("sdxl/000", ".tar")
    assert store.read(f"sdxl/000/{one}") == store.read(f"sdxl/000/{two}")
    assert len(store.list("sdxl/000", ".parquet")) == 2
    assert len(store.list("sd3/000")) == 1, "without pixels a part is its rows, and the same rows are one file"


def test_parts_are_found_by_shard(store):
    for shard, last in ((0, None), (7, None), (8, 15), (999, None), (1000, None), (1001, 1999)):
        parts.commit(store, "s", shard, parts.IMAGES, [picture(shard)], last_shard=last)
    assert [(p.first, p.last) for p in parts.list_parts(store, "s")] == [(0, 0), (7, 7), (8, 15), (999, 999), (1000, 1000), (1001, 1999)]
    assert [(p.first, p.last) for p in parts.list_parts(store, "s", (9, 999))] == [(8, 15), (999, 999)]
    assert [(p.first, p.last) for p in parts.list_parts(store, "s", (1500, 1500))] == [(1001, 1999)]
    assert parts.list_parts(store, "s", (16, 17)) == []
    assert parts.list_parts(store, "none") == []


@pytest.mark.parametrize(
    ("harm", "said", "thorough_only"),
    [
        ("nothing", None, False),
        ("cut table", "unreadable", False),
        ("no tar", "its pixels are missing", False),
        ("cut tar", "its pixels are cut short", False),
        ("flip tar", "its pixels do not match their digest", True),
        ("flip table", "its bytes do not match its name", True),
    ],
)
def test_damage_is_told(store, harm, said, thorough_only):
    path = parts.commit(store, "s", 0, parts.IMAGES, [picture(n) for n in range(40)], {"k0-0": ("jpg", b"a" * 999)})
    (part,) = parts.list_parts(store, "s")
    tar = parts.part_info(store, part)["tar"]
    what, _, which = harm.partition(" ")
    name = tar if which == "tar" else path
    data = store.read(name)
    if what == "no":
        store.remove(name)
    elif what == "cut":
        store.put(name, data[: len(data) // 2])
    elif what == "flip":
        store.put(name, data[:600] + bytes([data[600] ^ 1]) + data[601:])
    quick, thorough = parts.damage(store, part), parts.damage(store, part, thorough=True)
    if said is None:
        assert (quick, thorough) == (None, None)
        assert list(parts.repair(store, "s", thorough=True)) == []
        return
    assert thorough is not None
    assert thorough.startswith(said)
    assert (quick is None) == thorough_only
    assert [(p, w.startswith(said)) for p, w in parts.repair(store, "s", thorough=True)] == [(part, True)]
    assert parts.list_parts(store, "s") == []
    assert store.exists(f"damaged/{path}")
    if harm not in ("cut table", "no tar"):
        assert store.exists(f"damaged/{tar}"), "its pixels go with it"


# --- a run on an object store -----------------------------------------------------------------------------------------


def test_a_run_on_another_file_system(tmp_path):
    from synthvlm.samples import ingest

    source = tmp_path / "captions.json"
    source.write_text(json.dumps([{"id": n, "caption": f"caption {n}"} for n in range(5)]))
    run = RunDirectory.create(f"memory://{uuid.uuid4().hex}/run", seed=3)
    assert ingest(run, str(source)).added == 5
    assert ingest(run, str(source)).unchanged
    assert (run.sample_count(), run.seed) == (5, 3)
    stage = run.ensure_stage(Stage("sdxl", "generate", [], {"a": 1}, {"caption": "samples"}, 2, 2))
    assert run.stage_names() == ["sdxl"]
    assert run.pending_shards(stage) == [(0, 4), (1, 4), (2, 2)]
    with run.connect() as db:
        wanted = run.pending_rows(db, stage, 1)
    done = [picture(r["row"], r["candidate"], r["key"]) | {"id": r["id"]} for r in wanted]
    parts.commit(run.store, "sdxl", 1, stage.schema, done, {r["key"]: ("jpg", b"x" * 600) for r in wanted})
    assert run.pending_shards(stage) == [(0, 4), (2, 2)]
    assert run.tally(stage).items() >= {"wanted": 10, "made": 4, "failed": 0, "failures": []}.items()


# --- keys and seeds ---------------------------------------------------------------------------------------------------

ODD = [
    "",
    "plain",
    "naïve café",
    "猫 на окне 🐱",
    "quotes \" and '",
    "back\\slash",
    "new\nline\ttab",
    "a,b|c;d",
    "%s {} $1",
    "\x1f",
    "null",
    "e\u0301",
    "x" * 3000,
]


def by_duckdb(*values: object) -> str:
    return duckdb.execute(f"SELECT md5(concat_ws(chr(31), {', '.join('?' * len(values))}))", list(values)).fetchall()[0][0]


@pytest.mark.parametrize("text", ODD)
def test_a_key_is_the_same_in_python_and_in_sql(text):
    assert row_key("digest", text, text, 3) == by_duckdb("digest", text, text, 3)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=4), st.integers(0, 10_000))
def test_a_key_is_the_same_in_python_and_in_sql_for_any_text(texts, candidate):
    assert row_key(*texts, candidate) == by_duckdb(*texts, candidate)


def test_a_runs_own_sql_makes_these_keys(tmp_path):
    from synthvlm.samples import ingest

    captions = [c for c in ODD if c.strip()]
    source = tmp_path / "captions.json"
    source.write_text(json.dumps([{"id": f"it's {n}", "caption": c} for n, c in enumerate(captions)]))
    run = RunDirectory.create(tmp_path / "it's a run")
    assert ingest(run, str(source)).rejected == 0
    stage = run.ensure_stage(Stage("s", "generate", [], {"a": "'"}, {"caption": "samples"}, 100, 2))
    with run.connect() as db:
        found = run.pending_rows(db, stage, 0)
    assert len(found) == 2 * len(captions)
    for r in found:
        assert r["key"] == row_key(stage.digest, r["id"], r["caption"], r["candidate"])
    assert len({r["key"] for r in found}) == len(found)


def test_keys_and_seeds_never_change():
    """If one of these changes, every run of every user is made anew."""
    assert row_key("stage", "1", "a dog", 0) == "210f90a5b5bd2e03c3c38eced64cb415"
    assert image_seed(0, "1", 0) == 680894130
    assert image_seed(0, "1", 1) == 3632090571
    assert image_seed(2**40, "naïve 猫", 7) == 2412312284
    assert all(0 <= image_seed(0, str(n), 0) < 2**32 for n in range(1000))
