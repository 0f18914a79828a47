"""A run that goes on while the page looks: progress, the newest images, a stage that comes; a server that stops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from synthvlm.pipeline import Run
from tests.fabricate import captions, fabricate_run
from tests.web.serving import served


def until(page: Any, expression: str) -> None:
    page.wait_for_function(f"() => {expression}")


def test_new_images_and_a_new_stage_appear(tmp_path: Path, open_page: Any):
    root = tmp_path / "run"
    fabricate_run(root, captions(16), 1, side=64, shard_size=4, scores=None)
    part = next((root / "mini").rglob("000001-*.parquet"))
    part.rename(tmp_path / part.name)  # these four are still to come
    with served(Run.open(root)) as view:
        page = open_page(view.link, "sort=newest&down=1")
        until(page, "document.getElementById('progress').textContent.includes('12 of 16')")
        until(page, "document.getElementById('run-facts').textContent.includes('going on')")
        until(page, "document.querySelectorAll('.band.newest .tile').length === 12")
        assert page.locator("#trial-section").is_hidden()
        tiles = "[...document.querySelectorAll('#grid .tile')].slice(0, 4).map(t => t.dataset.pair)"
        assert not set(page.evaluate(tiles)) & {"4/0", "5/0", "6/0", "7/0"}
        page.evaluate("window.same = true")
        (tmp_path / part.name).rename(part)
        part.touch()
        # Newest first, the first page is followed at once; the run is then complete.
        until(page, f"{tiles}.sort().join() === '4/0,5/0,6/0,7/0'")
        until(page, "!document.getElementById('run-facts').textContent.includes('going on')")
        until(page, "document.querySelector('.band.newest') === null")
        assert page.evaluate("window.same")
        # In another order nobody is disturbed: it is said, and shown when asked for.
        page.select_option("#sort", "row")
        until(page, "document.querySelector('#grid .tile').dataset.pair === '0/0'")
        fabricate_run(root, captions(20), 1, side=64, shard_size=4, scores=None)
        page.wait_for_selector("#changed:not([hidden])")
        assert page.inner_text("#total") == "1–16 of 16 pairs"
        page.click("#changed")
        until(page, "document.getElementById('total').textContent === '1–20 of 20 pairs'")
        # Scores come: the page begins anew with what can now be sorted and weighed.
        fabricate_run(root, captions(20), 1, side=64, shard_size=4)
        page.wait_for_selector("#weight-clip")
        until(page, "document.body.dataset.ready === '1' && document.querySelectorAll('#grid .numbers b').length === 20")
        page.close()


def test_a_server_that_stops_is_said_once(tmp_path: Path, open_page: Any):
    fabricate_run(tmp_path / "run", captions(4), 1, side=64)
    open_page.expected.append("ERR_CONNECTION_REFUSED")
    with served(Run.open(tmp_path / "run")) as view:
        page = open_page(view.link)
    page.wait_for_selector(".notice.bad")
    assert "was it stopped?" in page.inner_text(".notice.bad")
    page.wait_for_timeout(5000)
    assert page.locator(".notice.bad").count() == 1
