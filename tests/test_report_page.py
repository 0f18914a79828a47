"""The page in a real browser: every chart is drawn without a network, in light, dark and narrow, and axe-core has nothing serious to say."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from synthvlm.report import report
from synthvlm.select import select
from tests.fabricate import captions, fabricate_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
EVIL = "</script><script>document.title = 'broken'</script><img src=x onerror=\"document.title = 'broken'\">"
HEIGHT = 900


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("needs a browser: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page of two runs and a file, with everything that a page of pairs can hold."""
    root = tmp_path_factory.mktemp("page")
    texts = {str(n): f"{c}, number {n}" * (1 + n % 3) for n, c in enumerate(captions(20))} | {EVIL: EVIL}
    one = fabricate_run(
        root / "one", texts, 3, side=256, failed={("3", 1), (EVIL, 0)}, notes={"1": EVIL}, cut={"5": 14, "6": 4}, image_format="webp"
    )
    select(one, [one.stage("clip-ssim")], top="20%")
    two = fabricate_run(root / "two", captions(6), 2)
    (root / "web.json").write_text(json.dumps([{"image": f"{n}.jpg", "caption": EVIL, "clip": n / 10} for n in range(4)]))
    return report([one, two], compare=[root / "web.json"], out=root / "page.html")


@pytest.fixture
def opened(browser: Any, page: str) -> Iterator[Callable[..., Any]]:
    """Open the page; at the end nothing may have been asked for but itself, and nothing been said in the console."""
    wrong: list[str] = []
    contexts = []

    def open_it(**settings: Any) -> Any:
        contexts.append(browser.new_context(**{"viewport": {"width": 1200, "height": HEIGHT}, **settings}))
        tab = contexts[-1].new_page()
        tab.set_default_timeout(120_000)
        tab.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
        tab.on("pageerror", lambda e: wrong.append(str(e)))
        tab.on("request", lambda r: wrong.append(r.url) if not r.url.startswith(("file:", "data:")) else None)
        tab.goto(f"file://{page}")
        tab.wait_for_function(
            "document.querySelectorAll('.js-plotly-plot').length === document.querySelectorAll('script[data-chart]').length"
        )
        return tab

    yield open_it
    for context in contexts:
        context.close()
    assert wrong == []


def test_every_chart_is_drawn_in_light_and_dark_and_captions_are_text(opened: Callable[..., Any]) -> None:
    tab = opened(color_scheme="light")
    drawn = tab.eval_on_selector_all(".js-plotly-plot", "all => all.map(c => c.id)")
    assert {"means-clip-a", "means-ssim", "histogram-clip", "density", "funnel", "histogram-words", "histogram-tokens-cut"} <= set(drawn)
    assert {"run-2-funnel", "run-2-histogram-clip"} <= set(drawn) and all(tab.query_selector(f"[id='{c}'] .main-svg .bg") for c in drawn)
    assert tab.title() == "one, two – SynthVLM report"
    assert tab.eval_on_selector_all("figure img", "all => all.every(i => i.complete && i.naturalWidth > 0)")
    assert tab.locator(".text", has_text="document.title").count() > 0, "the caption that is markup is shown as text"
    ink = "getComputedStyle(document.querySelector('.js-plotly-plot .xtitle')).fill"
    light = tab.evaluate(ink)
    tab.emulate_media(color_scheme="dark")
    tab.wait_for_function(f"{ink} !== {json.dumps(light)}")


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 380)])
def test_nothing_serious_for_axe(opened: Callable[..., Any], scheme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    tab = opened(color_scheme=scheme, viewport={"width": width, "height": HEIGHT})
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), "wide tables scroll by themselves"
    found = axe.Axe().run(tab).response["violations"]
    assert [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")] == []


@pytest.mark.slow
def test_on_paper(opened: Callable[..., Any], tmp_path: Path) -> None:
    tab = opened(color_scheme="dark")
    paper = tab.pdf(path=tmp_path / "page.pdf", format="A4")
    assert paper.startswith(b"%PDF") and 4 <= paper.count(b"/Type /Page\n") <= 20
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    tab.emulate_media(media="print")
    assert tab.evaluate("getComputedStyle(document.querySelector('.tiles .card')).backgroundColor") == "rgb(255, 255, 255)"
    widths = tab.eval_on_selector_all(".js-plotly-plot", "all => all.map(c => c.querySelector('svg').clientWidth / c.clientWidth)")
    assert all(w <= 1.01 for w in widths), "no chart is cut off"
    assert tab.eval_on_selector_all("details dl", "all => all.every(d => d.getBoundingClientRect().height > 0)"), "cards are printed open"
