"""Ways to lose work or to read the wrong thing that were found by looking for them."""

from __future__ import annotations

import errno

import pytest

from synthvlm import execution, parts
from synthvlm.pipeline import Run
from tests import rows


@pytest.fixture(autouse=True)
def _models(faulty):
    return faulty


def test_trouble_with_the_disk_is_not_damage(tmp_path, write_captions, monkeypatch):
    run = Run.create(tmp_path / "run", write_captions(["a", "b"])).generate("cheap")

    def full(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(parts, "part_info", full)
    with pytest.raises(OSError, match="Too many open files"):
        run.repair()
    monkeypatch.undo()
    assert not run.store.exists("damaged")
    assert run.tally(run.stage("cheap"))["made"] == 2


def test_status_and_check_touch_nothing(tmp_path, write_captions):
    run = Run.create(tmp_path / "run", write_captions(["a"])).generate("cheap")
    part = parts.list_parts(run.store, "cheap")[0]
    tar = parts.part_info(run.store, part)["tar"]
    run.store.put(tar, run.store.read(tar)[:-20])
    assert len(run.check()) == 1
    assert run.store.exists(part.path)
    assert len(run.repair()) == 1
    assert not run.store.exists(part.path)
    assert run.store.list("damaged/cheap/000", ".tar"), "the pixels go along"


def test_a_row_that_kills_its_worker_is_given_up_when_retried_too(tmp_path, write_captions):
    captions = write_captions(["a", "this makes it die", "c"])
    run = Run.create(tmp_path / "run", captions).generate("cheap", batch_size=1)
    assert run.results["generate"]["failed"] == 1
    run.using(retry_failed=True).generate("cheap", batch_size=1)
    assert (run.results["generate"]["made"], run.results["generate"]["failed"]) == (2, 1)


@pytest.mark.parametrize("name", ["run[1]", "a*b", "clip=1", "it's"])
def test_the_path_of_a_run_is_only_a_path(tmp_path, write_captions, name):
    Run.create(tmp_path / "run1", write_captions(["from another run"], "other.json"))
    Run.create(tmp_path / "aXb", write_captions(["from another run"], "other.json"))
    run = Run.create(tmp_path / name, write_captions(["a", "b"])).generate("cheap", repeat=2).score({"brightness": {}}).select(top="all")
    assert [r["caption"] for r in rows.table(run, "cheap")] == ["a", "a", "b", "b"]
    assert {type(r["clip"]) for r in rows.table(run, "brightness")} == {float}
    assert run.results["select"]["selected"] == 2
    assert run.export("jsonl").results["export"]["jsonl"]["records"] == 2


def test_columns_survive_overwriting_and_going_back(tmp_path, write_captions):
    run = Run.create(tmp_path / "run", write_captions(["a", "b"])).generate("cheap").score({"brightness": {}})
    run.using(overwrite=True).score({"brightness": {"scale": 2.0}})
    run.score({"brightness": {}}).select(top="all")
    assert run.stage("brightness").columns == ["clip", "ssim"]
    assert run.results["select"]["selected"] == 2


def test_best_takes_a_scorer_that_raises_as_the_score_stage_does(tmp_path, write_captions):
    captions = write_captions(["a", "scoring breaks here", "no number for this", "unscorable", "e"])
    run = Run.create(tmp_path / "run", captions).using(max_failures=1.0)
    run.generate("cheap", repeat=3, store="best", scorers={"brightness": {}}).score({"brightness": {}})
    stored = {(r["id"], r["candidate"]) for r in rows.table(run, "cheap") if r["stored"]}
    assert {i for i, _ in stored} == {"0", "1", "2", "3", "4"}
    assert len([1 for i, _ in stored if i in "04"]) == 2
    assert len([1 for i, _ in stored if i == "1"]) == 3, "what cannot be scored keeps its pixels"
    assert ("2", 0) in stored, "so does what has no number"
    assert len([1 for i, c in stored if i == "2" and c > 0]) == 1
    apart = Run.create(tmp_path / "apart", captions).using(max_failures=1.0).generate("cheap", repeat=3).score({"brightness": {}})
    assert str(rows.table(apart, "brightness")) == str(rows.table(run, "brightness"))


def test_best_finds_what_stands_whatever_the_shards(tmp_path, write_captions):
    run = Run.create(tmp_path / "run", write_captions([f"caption {n}" for n in range(300)]))
    run.generate("cheap", repeat=2, store="best", scorers={"brightness": {}})
    run.generate("cheap", repeat=3, store="best", scorers={"brightness": {}}).score({"brightness": {}})
    with run.connect() as db:
        scored, images = run.table_sql(run.stage("brightness")), run.table_sql(run.stage("cheap"))
        superfluous = db.execute(f"""WITH t AS (SELECT id, candidate, clip + 0.5 * ssim AS total, stored FROM {scored} s JOIN
            (SELECT id, candidate, stored FROM {images}) g USING (id, candidate))
            SELECT count(*) FROM t a JOIN t b USING (id) WHERE a.candidate = 2 AND a.stored AND b.stored AND b.candidate < 2 AND b.total >= a.total""").fetchall()
    assert superfluous == [(0,)]


def test_a_separator_in_a_caption_is_refused(tmp_path, write_captions):
    run = Run.create(tmp_path / "run", write_captions(["a", "two\x1fin one"]))
    assert (run.results["add"].added, run.results["add"].rejected) == (1, 1)
    assert b"U+001F" in run.store.read("logs/rejected-0.jsonl")


def test_another_pythons_path_that_is_none(tmp_path, write_captions):
    from synthvlm.errors import WorkerError

    with pytest.raises(WorkerError, match="cannot be run: No such file"):
        Run.create(tmp_path / "run", write_captions(["a"])).using(python="/nonexistent").generate("cheap")


def test_another_version_of_a_library_is_told_and_goes_on(tmp_path, write_captions, monkeypatch):
    import importlib.metadata

    heard = []

    class Ear:
        def start(self, *_): ...
        def finish(self): ...
        def event(self, kind, facts):
            heard.append((kind, facts))

    run = Run.create(tmp_path / "run", write_captions(["a"])).generate("cheap")
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "99.0" if name == "pillow" else real(name))
    run.using(listener=Ear()).generate("cheap", repeat=2)
    told = [f["text"] for kind, f in heard if kind == "warning"]
    assert len(told) == 1
    assert "and this is 99.0" in told[0]
    assert run.results["generate"]["made"] == 2


@pytest.mark.parametrize(("made", "here", "told"), [("2.9.0+cu130", "2.9.0", 0), ("2.9.0+cu130", "2.9.0+cpu", 1), ("2.9.0", "2.10.0", 1)])
def test_another_version_is_told_and_another_way_to_name_it_is_not(tmp_path, write_captions, faulty, monkeypatch, made, here, told):
    run = Run.create(tmp_path / "run", write_captions(["a", "b"])).generate("cheap")
    monkeypatch.setattr(execution.parts, "part_info", lambda *_: {"versions": {"torch": made}})
    monkeypatch.setattr(execution.importlib.metadata, "version", lambda _: here)
    lines = execution._other_versions(run, run.stage("cheap"))
    assert len(lines) == told and all(f"begun with torch {made}, and this is {here}" in x for x in lines)
