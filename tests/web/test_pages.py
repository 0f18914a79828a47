"""The page in a real browser: page through, filter, slide, mark by keyboard, come back to it; captions are text; axe-core finds nothing serious."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from synthvlm import marks
from tests.web.serving import CAPTIONS, HOSTILE, REPEAT, Served, make, served

TOTAL = (CAPTIONS + 1) * REPEAT
Open = Callable[..., Any]


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Served]:
    """A run of the test's own, which it may mark."""
    with served(make(tmp_path / "run")) as found:
        yield found


def says(page: Any, text: str) -> None:
    """Wait until the line above the grid says so."""
    page.wait_for_function("t => document.getElementById('total').textContent.includes(t)", arg=text)


def until(page: Any, expression: str) -> None:
    """Wait until a JavaScript expression is true."""
    page.wait_for_function(f"() => {expression}")  # a bare expression would need eval, which the page forbids


def focus(page: Any) -> str:
    return page.evaluate("document.activeElement.dataset.pair ?? document.activeElement.id")


def pairs(page: Any) -> list[str]:
    return page.eval_on_selector_all("#grid .tile", "all => all.map(t => t.dataset.pair)")


def totals(page: Any) -> list[float]:
    return [float(t) for t in page.eval_on_selector_all("#grid .tile .numbers b", "all => all.map(t => t.textContent)")]


def test_pages_are_turned_by_keys_and_by_number(view: Served, open_page: Open):
    page = open_page(view.link)
    assert "token" not in page.url
    says(page, f"1–60 of {TOTAL} pairs")
    first = pairs(page)
    assert first[:4] == ["0/0", "0/1", "0/2", "1/0"] and focus(page) == "0/0"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("End")
    assert focus(page) == first[-1]
    page.keyboard.press("ArrowRight")  # over the page's edge
    says(page, "61–120 of")
    assert page.url.endswith("#page=2") and focus(page) == pairs(page)[0] == "20/0"
    page.keyboard.press("PageDown")
    says(page, f"121–{TOTAL} of")
    page.keyboard.press("g")
    page.keyboard.type("1")
    page.keyboard.press("Enter")
    says(page, "1–60 of")
    assert pairs(page) == first


def test_filters_and_orders(view: Served, open_page: Open):
    page = open_page(view.link)
    page.select_option("#sort", "total")
    until(page, "document.getElementById('way').textContent === '↓'")
    until(page, "document.querySelector('#grid .tile').dataset.pair !== '0/0'")
    values = totals(page)
    assert len(values) == 60 and values == sorted(values, reverse=True)
    page.keyboard.press("t")
    page.keyboard.press("/")
    page.keyboard.type("red circle")
    until(page, "[...document.querySelectorAll('#grid .says')].every(s => s.textContent.includes('red circle'))")
    page.click("#clear")
    says(page, f"of {TOTAL} pairs")
    page.select_option("#reason", "MadeToFail")
    says(page, "1–1 of 1 pair")
    assert pairs(page) == ["3/1"]
    page.click("#clear")
    page.select_option("#within", "selected")
    says(page, "1–10 of 10 pairs")
    page.click("#clear")
    page.click("#ranges summary")
    page.wait_for_selector("#histogram rect")
    page.select_option("#range-column", "ssim")
    page.fill("#range-least", "0.8")
    page.press("#range-least", "Enter")
    page.wait_for_selector("#chips .chip")
    until(page, "document.getElementById('total').textContent.match(/of (\\d+)/)[1] < 153")
    shown = page.eval_on_selector_all("#grid .numbers", "all => all.map(t => t.textContent)")
    assert shown and all(float(re.search(r"ssim (\d\.\d+)", s)[1]) >= 0.8 for s in shown)  # type: ignore[index]
    # The address holds all of it: a reload comes back to the same.
    page.reload()
    page.wait_for_selector("#chips .chip")
    page.wait_for_selector("body[data-ready]")
    assert page.eval_on_selector_all("#grid .numbers", "all => all.map(t => t.textContent)") == shown


def test_sliders_show_at_once_what_enters_and_leaves(view: Served, open_page: Open):
    page = open_page(view.link)
    page.keyboard.press("w")
    assert focus(page) == "weight-clip"
    for _ in range(4):
        page.keyboard.press("PageDown")
    page.wait_for_selector(".band.of-trial.enter .tile")
    page.wait_for_selector("#told .moves .badge.enters")
    told = page.inner_text("#told .moves")
    enter, leave = (int(n) for n in re.findall(r"\d+", told))
    assert enter == leave > 0
    assert page.locator(".band.of-trial.enter .tile").count() == min(12, enter)
    assert "synthvlm select" in page.inner_text("#told code")
    page.click(".band.of-trial.enter button")
    says(page, f"of {enter} pair")
    assert page.locator("#grid .badge.enters").count() == enter
    page.fill("#top", "nonsense")
    page.press("#top", "Enter")
    assert page.get_attribute("#top", "aria-invalid") == "true"
    page.click("#reset")
    says(page, f"of {TOTAL} pairs")
    until(page, "document.querySelector('.band.of-trial') === null")


def test_marks_are_set_by_keyboard_written_and_there_after_a_restart(own: Served, open_page: Open, tmp_path: Path):
    page = open_page(own.link)
    page.keyboard.press("k")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("d")
    page.wait_for_selector('#grid .tile[data-pair="0/0"].is-keep')
    page.wait_for_selector('#grid .tile[data-pair="0/1"].is-drop')
    assert focus(page) == "0/1"
    page.keyboard.press("Enter")
    page.wait_for_selector("#detail-drop[aria-pressed=true]")
    page.keyboard.press("n")
    until(page, "document.activeElement.id === 'note'")
    page.keyboard.type("two things <b>at once</b>")
    page.keyboard.press("Control+Enter")
    page.keyboard.press("ArrowRight")
    until(page, "document.querySelector('#detail [aria-current] ')?.dataset.pair === '0/2'")
    page.keyboard.press("k")
    page.wait_for_selector("#detail-keep[aria-pressed=true]")
    page.keyboard.press("k")
    page.wait_for_selector("#detail-keep[aria-pressed=false]")
    page.keyboard.press("Escape")
    until(page, "!document.getElementById('detail').open")
    until(page, "document.activeElement.dataset.pair === '0/2'")

    def written() -> list[tuple[Any, ...]]:
        return [(r["row"], r["candidate"], r["mark"], r["note"]) for r in marks.load(own.run).to_pylist()]

    wanted = [(0, 0, "keep", None), (0, 1, "drop", "two things <b>at once</b>")]
    for _ in range(50):
        if written() == wanted:
            break
        page.wait_for_timeout(100)
    assert written() == wanted
    with served(own.run) as again:
        page = open_page(again.link, "mark=any")
        says(page, "1–2 of 2 pairs")
        assert page.locator("#grid .tile.is-keep").count() == page.locator("#grid .tile.is-drop").count() == 1
        page.close()  # before its server goes
    own.run.select(top="20%")
    assert own.run.results["select"]["marks"] == {"keep": 1, "drop": 1, "of_other_images": 0}


def test_a_mark_waits_while_another_process_holds_the_run(own: Served, open_page: Open, monkeypatch: pytest.MonkeyPatch):
    page = open_page(own.link)
    open_page.expected.append("423 (Locked)")  # type: ignore[attr-defined]
    real = marks.put
    monkeypatch.setattr(marks, "put", lambda run, changes: real(run, changes, wait=0))
    with own.run.store.lock("selecting default"):
        page.keyboard.press("k")
        page.wait_for_selector(".notice.bad")
        assert "held by another process: selecting default" in page.inner_text(".notice.bad")
        assert marks.load(own.run).num_rows == 0
    with page.expect_response(lambda r: r.url.endswith("/api/marks") and r.status == 200):
        pass
    assert marks.load(own.run).num_rows == 1


def test_a_pair_large_with_everything(view: Served, open_page: Open):
    page = open_page(view.link, "q=2")
    page.keyboard.press("Escape")
    page.click('.tile[data-pair="2/1"]')
    page.wait_for_selector("#detail .whole")
    until(page, "document.querySelector('#detail .whole').naturalWidth === 240")
    text = page.inner_text("#detail")
    row = view.run.stage("mini")
    for wanted in (
        "Candidates of this caption",
        "seed",
        "sha256",
        "licence",
        "none",
        row.plugins[0]["name"],
        f"synthvlm regenerate {view.run.root} --candidate 1 2",
    ):
        assert wanted in text
    page.click("#detail .score summary")
    assert "CLIPScore: max(cosine, 0)" in page.inner_text("#detail .scores")
    page.click('#detail .candidates .tile[data-pair="2/2"]')
    until(page, "document.querySelector('#detail [aria-current]')?.dataset.pair === '2/2'")


def test_captions_are_text(view: Served, open_page: Open):
    page = open_page(view.link, "q=script")
    says(page, "of 3 pairs")
    assert page.inner_text("#grid .says") == HOSTILE
    page.click("#grid .tile")
    page.wait_for_selector("#detail .whole")
    assert page.inner_text("#detail-caption") == HOSTILE
    assert page.evaluate("window.broken") is None and page.locator("main script, dialog script, img[src=x]").count() == 0


def test_keys_are_told_and_closed(view: Served, open_page: Open):
    page = open_page(view.link)
    page.keyboard.press("?")
    assert page.is_visible("#help") and "weights and top" in page.inner_text("#help")
    page.keyboard.press("Escape")
    assert not page.is_visible("#help")
    until(page, "document.activeElement.dataset.pair === '0/0'")


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_axe_finds_nothing_serious(view: Served, open_page: Open, scheme: str, width: int):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")

    def look(what: str) -> None:
        page.wait_for_timeout(200)
        found = axe.Axe().run(page).response["violations"]
        serious = [
            (v["id"], v["impact"], [n["html"][:200] for n in v["nodes"][:3]]) for v in found if v["impact"] in ("serious", "critical")
        ]
        assert serious == [], f"{what}: {json.dumps(serious, indent=1)}"

    page = open_page(view.link, "w=clip:1&w=ssim:2&top=40%25&r=clip:0.2:", color_scheme=scheme, viewport={"width": width, "height": 860})
    page.wait_for_selector(".band.of-trial", state="attached")
    if width < 900:
        page.click("#open-side")
    look("the grid")
    page.keyboard.press("t")
    page.keyboard.press("Enter")
    page.wait_for_selector("#detail .scores")
    look("a pair")
    page.keyboard.press("Escape")
    until(page, "!document.getElementById('detail').open")
    page.click("#open-help")
    look("the keys")
