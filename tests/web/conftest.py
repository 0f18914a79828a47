"""A server in this process, on a run that was made by hand, and a real browser on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the web extra is not installed: pip install 'synthvlm[web]'")

from tests.web.serving import CHROMIUM, Served, make, served


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(make(tmp_path_factory.mktemp("view") / "run")) as found:
        yield found


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    if not Path(CHROMIUM).exists():
        pytest.skip(f"there is no browser at {CHROMIUM}")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Callable[..., Any]]:
    """Open a link in a browser of its own; at the end no error may stand in its console but those of ``open_page.expected``."""
    contexts, wrong = [], []

    def open_one(url: str, at: str = "", ready: str = "body[data-ready]", **settings: Any) -> Any:
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 860}, **settings})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: wrong.append(str(e)))
        page.goto(url)
        page.wait_for_selector(ready)
        if at:  # a part of the address that is the page's own
            here = page.url
            page.goto("about:blank")
            page.goto(f"{here}#{at}")
            page.wait_for_selector(ready)
        return page

    open_one.expected = []  # type: ignore[attr-defined]
    yield open_one
    for context in contexts:
        context.close()
    assert [w for w in wrong if not any(e in w for e in open_one.expected)] == []  # type: ignore[attr-defined]
