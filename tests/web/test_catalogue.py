"""The catalogue: its lines are those of the run's own tables, it follows a run that goes on, and only what changed is read again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from synthvlm import compact
from synthvlm.errors import OptionError, RunError
from synthvlm.images import ImageError
from synthvlm.pipeline import Run
from synthvlm.run import RunDirectory, fetch
from synthvlm.select import scored_sql
from synthvlm.web import catalogue as catalogues
from synthvlm.web import detail
from synthvlm.web.browse import Browser
from synthvlm.web.catalogue import Catalogue
from synthvlm.web.pairs import Pairs, Wish
from synthvlm.web.pictures import Pictures
from synthvlm.web.trial import Trial
from tests.exporting import captioned
from tests.fabricate import captions, fabricate_run


@contextmanager
def read(run: RunDirectory, source: str | None = None) -> Iterator[Catalogue]:
    found = Catalogue(run, source)
    try:
        found.refresh()
        yield found
    finally:
        found.close()


def lines(catalogue: Catalogue) -> list[dict[str, Any]]:
    return fetch(catalogue.cursor(), "SELECT * FROM pairs ORDER BY row, candidate")


def test_scores_are_those_that_select_joins(tmp_path: Path):
    run = fabricate_run(tmp_path / "run", captions(25), 3, side=32, failed={("3", 1)}, dropped={("5", 0)})
    with run.connect() as db, read(run) as found:
        stage = run.stage("clip-ssim")
        wanted = {(r["row"], r["candidate"]): r for r in fetch(db, f"SELECT * FROM {scored_sql(run, [stage])}")}
        got = lines(found)
    assert len(got) == 75
    for line in got:
        at = (line["row"], line["candidate"])
        if at == (3, 1):
            assert (line["stage"], line["reason"], line["clip"], line["stored"], line["scored"]) == (
                "mini",
                "MadeToFail",
                None,
                False,
                False,
            )
            continue
        assert (line["stage"], line["reason"], line["scored"]) == ("clip-ssim", None, True)
        for column in ("clip", "ssim", "clip_cut", "stored", "tar", "offset", "bytes", "width"):
            assert line[column] == wanted[at][column], column
    assert not next(r for r in got if (r["row"], r["candidate"]) == (5, 0))["stored"]


def test_what_is_not_made_yet_is_waiting_and_then_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(catalogues, "SAMPLES_PER_FILE", 10)  # several chunks of a small run
    run = fabricate_run(tmp_path / "run", captions(30), 1, side=32, shard_size=10, scores=None)
    with read(run) as found:
        assert {r["stage"] for r in lines(found)} == {"mini"} and found.shape.numbers == []
        version = found.version
        assert not found.refresh() and found.version == version
        fabricate_run(tmp_path / "run", captions(35), 1, side=32, shard_size=10)  # five more, and the scores
        assert found.refresh() and found.version > version
        assert {r["stage"] for r in lines(found)} == {"clip-ssim"} and len(lines(found)) == 35
        # One more candidate of one shard only: the other chunks are left as they are.
        stage = run.stage("mini")
        stage.repeat = 2
        run.ensure_stage(stage)
        found.refresh()
        assert [r["stage"] for r in lines(found)].count("waiting") == 35
        read_again: list[tuple[int, int]] = []
        load = found._load
        monkeypatch.setattr(found, "_load", lambda db, first, last: (read_again.append((first, last)), load(db, first, last)))
        path = next((tmp_path / "run" / "mini").rglob("000001-*.parquet"))
        path.rename(path.with_name("gone"))
        found.refresh()
        assert read_again == [(1, 1)]
        assert {r["row"] for r in lines(found) if r["stage"] == "waiting" and r["candidate"] == 0} == set(range(10, 20))


def test_merged_parts_are_followed_and_pixels_found_again(tmp_path: Path):
    run = fabricate_run(tmp_path / "run", captions(24), 2, side=32)
    browser = Browser(run)
    try:
        browser.catalogue.refresh()
        before = browser.picture(9, 1, small=False)
        compact.compact(run, run.stage("mini"))
        for tar in (tmp_path / "run" / "mini").rglob("*.tar"):
            assert tar.stat().st_size > 0
        with pytest.raises(ImageError, match="cannot be read"):
            browser.picture(9, 1, small=False)
        browser.catalogue.refresh()
        assert browser.picture(9, 1, small=False) == before
    finally:
        browser.close()


def test_every_page_of_every_order_is_what_sorting_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("synthvlm.web.pairs.NEAR", 20)  # beyond it, whole orders
    run = Run.open(fabricate_run(tmp_path / "run", captions(30), 3, side=32, failed={("3", 1), ("4", 0)}).root).select(top="20%")
    with read(run) as found:
        pairs = Pairs(found, Trial(found))
        weights = (("clip", 1.0), ("ssim", 0.5))
        everything = lines(found)

        def total(r: dict[str, Any]) -> float | None:
            return None if r["clip"] is None else r["clip"] + 0.5 * r["ssim"]

        def check(wish: Wish, key: Callable[[dict[str, Any]], Any], keep: Callable[[dict[str, Any]], bool] = lambda r: True) -> None:
            kept = [r for r in everything if keep(r)]
            some, none = [r for r in kept if key(r) is not None], [r for r in kept if key(r) is None]
            ordered = sorted(some, key=lambda r: ((-key(r) if wish.down else key(r)), r["row"], r["candidate"])) + none
            got = [p for at in range(0, 90, 17) for p in pairs.page(wish, at, 17)["pairs"]]
            assert [(p["row"], p["candidate"]) for p in got] == [(r["row"], r["candidate"]) for r in ordered]
            assert pairs.page(wish, 0, 17)["total"] == len(kept)

        check(Wish(), lambda r: r["row"])
        check(Wish("clip", True), lambda r: r["clip"])
        check(Wish("total", True, weights=weights), total)
        check(
            Wish("ssim", ranges=(("clip", 0.3, None), ("ssim", None, 0.95))),
            lambda r: r["ssim"],
            lambda r: (r["clip"] or 0) >= 0.3 and r["ssim"] <= 0.95,
        )
        check(Wish(reason="MadeToFail"), lambda r: r["row"], lambda r: r["reason"] == "MadeToFail")
        assert pairs.page(Wish(within="selected"), 0, 50)["total"] == 6
        assert pairs.page(Wish(text="RED"), 0, 50)["total"] == 3 * sum("red" in c for c in captions(30))
        with pytest.raises(OptionError):
            pairs.page(Wish("nothing"), 0, 5)


def test_images_that_were_captioned(tmp_path: Path):
    names = [f"p{n}.png" for n in range(6)]
    run = captioned.read_in(tmp_path, names, {"p1.png": "as it came"})
    captioned.caption(run, "one", ["detail", "brief"], failed={("p2", "brief")})
    captioned.caption(run, "two", ["detail"])
    browser = Browser(run)
    try:
        browser.catalogue.refresh()
        got = lines(browser.catalogue)
        assert [r["captions"] for r in got] == [3, 3, 2, 3, 3, 3]
        assert [r["reason"] for r in got] == [None, None, "No", None, None, None] and {r["stage"] for r in got} == {"two"}
        told = detail.detail(browser.catalogue, 1, 0)
        assert [(c["stage"], c["perspective"], c["text"]) for c in told["captions"]] == [
            ("one", "detail", "one detail of p1"), ("one", "brief", "one brief of p1"), ("two", "detail", "two detail of p1")
        ]  # fmt: skip
        assert told["caption"] == "as it came" and told["command"] is None and "--perspective detail" in told["captions"][0]["command"]
        assert browser.pairs.page(Wish(text="brief of p4"), 0, 5)["total"] == 1
        data, media = browser.picture(2, 0, small=False)
        assert media == "image/png" and data == (tmp_path / "photos" / "p2.png").read_bytes()
        assert browser.picture(2, 0, small=True)[1] == "image/webp"
        # Only the very bytes that were read in are shown: a file that was put in its place is not.
        (tmp_path / "photos" / "p3.png").write_bytes((tmp_path / "photos" / "p4.png").read_bytes())
        with pytest.raises(ImageError, match="has changed"):
            browser.picture(3, 0, small=False)
        tell = browser.live.tell()
        assert tell["stages"] == [{"name": "captions", "kind": "caption", "wanted": 18, "made": 17, "failed": 1, "rate": None}]
        with pytest.raises(RunError, match="no image stage 'sdxl'"):
            Catalogue(run, "sdxl")
    finally:
        browser.close()


def test_thumbnails_are_kept_within_their_bound(tmp_path: Path):
    run = fabricate_run(tmp_path / "run", captions(12), 1, side=64)
    with run.connect() as db:
        rows = fetch(db, f"SELECT * FROM {run.table_sql(run.stage('mini'))} ORDER BY row")
    pictures = Pictures(run, cache=6000)
    looked: list[int] = []

    def small(r: dict[str, Any]) -> bytes:
        def data() -> bytes:
            looked.append(r["row"])
            return pictures.made(r["tar"], r["offset"], r["bytes"])

        return pictures.thumbnail(r["row"], data)

    for r in rows:
        assert small(r) == small(r)
    assert looked == [r["row"] for r in rows]
    assert pictures._size == sum(map(len, pictures._kept.values())) <= 6000 and 0 < len(pictures._kept) < 12
    small(rows[0])
    assert looked[-1] == 0 and len(looked) == 13
