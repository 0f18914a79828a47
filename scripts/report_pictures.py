"""Take the pictures of docs/report.md from a run's report: ``python scripts/report_pictures.py RUN [docs/images]``.

RUN is reported anew; a run of the miniature line will do: synthvlm synth --out RUN --repeat 4. Wants playwright and a chromium.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from synthvlm.pipeline import Run
from synthvlm.report import report

WIDTH, HEIGHT = 1120, 1000
VIEWS = {
    "report": ("light", "main", 0),
    "report-dark": ("dark", "h2:text('Distributions')", 24),
    "report-pictures": ("light", "h2:text('Pictures')", 24),
}
"""File name → colours, what the picture begins with, and how far above it (pixels)."""


def main(where: str, out: str = "docs/images") -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as p:
        page_file = report(Run.open(where), out=f"{scratch}/report.html")
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, (scheme, start, above) in VIEWS.items():
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=scheme)
            page.set_default_timeout(180_000)
            page.goto(f"file://{page_file}")
            page.wait_for_function(
                "document.querySelectorAll('.js-plotly-plot').length === document.querySelectorAll('script[data-chart]').length"
            )
            take(page, start, above, Path(out) / f"{name}.png")
        browser.close()


def take(page: Page, start: str, above: int, path: Path) -> None:
    """Take a picture of one screen from ``start`` on; 256 colours, which is plenty and a third of the bytes."""
    top = page.locator(start).first.evaluate("e => e.getBoundingClientRect().top + scrollY")
    clip = {"x": 0, "y": max(0, top - above), "width": WIDTH, "height": HEIGHT}
    shot = Image.open(BytesIO(page.screenshot(clip=clip, full_page=True))).convert("RGB")
    path.parent.mkdir(parents=True, exist_ok=True)
    shot.quantize(256).save(path, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:3])
