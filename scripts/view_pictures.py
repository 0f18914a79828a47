"""Take the pictures of docs/view.md anew: ``python scripts/view_pictures.py docs/images``. Needs /usr/bin/chromium and playwright.

The run is made by hand in a few seconds: captions of the miniature world, drawn by its own renderer at 256 pixels, with
more mistakes where the made-up scores are lower.
"""

from __future__ import annotations

import random
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "plugins")]

from PIL import Image
from playwright.sync_api import Page as Tab
from playwright.sync_api import sync_playwright
from synthvlm_mini import world

from synthvlm import marks
from synthvlm.pipeline import Run
from synthvlm.run import fetch
from synthvlm.web.app import Page, create_app
from synthvlm.web.browse import Browser, routes
from synthvlm.web.serve import bind, link, new_token, server
from tests import fabricate

SIDE = 256


def draw(caption: str, noise: float, side: int = SIDE, seed: int = 0) -> Image.Image:
    """Draw what the caption says, with no, one or two mistakes."""
    scene = world.parse(caption)
    assert scene is not None
    rng = random.Random(f"{caption}/{seed}")
    for _ in range(0 if noise < 0.45 else 1 if noise < 0.8 else 2):
        scene, _ = world.corrupt(scene, rng, rng.choice(["color", "shape", "background", "size"]))
    return Image.fromarray(world.render(scene, size=side, seed=seed))


def made(folder: Path) -> Run:
    """Make the run with scores, a selection and a few marks."""
    fabricate.draw = draw
    rng = random.Random(4)
    captions = {str(n): world.detail(world.sample(rng)) for n in range(96)}
    fabricate.fabricate_run(folder / "demo", captions, 4, side=SIDE, shard_size=16, failed={("9", 2)})
    run = Run.open(folder / "demo").select(top="20%")
    with run.connect() as db:
        rows = fetch(
            db, f"SELECT key, row, id, candidate FROM {run.table_sql(run.stage('mini'))} WHERE id IN ('2', '3') ORDER BY row, candidate"
        )
    for place, values in ((1, {"mark": "keep"}), (3, {"mark": "drop", "note": "the star is missing"}), (6, {"note": "nice"})):
        marks.put(run, [rows[place] | {"stage": "mini"} | values])
    return run


def shots(tab: Tab, address: str, out: Path, kind: str) -> None:
    """Take the pictures of one run."""
    tab.goto(address)
    tab.wait_for_selector("body[data-ready]")
    tab.wait_for_function("() => [...document.querySelectorAll('#grid img')].slice(0, 12).every(i => i.complete)")
    if kind == "grid":
        tab.screenshot(path=out / "view.png")
        tab.keyboard.press("w")
        for _ in range(4):
            tab.keyboard.press("PageDown")
        tab.fill("#top", "30%")
        tab.press("#top", "Enter")
        tab.wait_for_function("() => document.getElementById('told').innerText.startsWith('29 pairs')")
        tab.wait_for_timeout(1500)
        tab.screenshot(path=out / "view-what-if.png")
    else:
        for _ in range(9):
            tab.keyboard.press("ArrowRight")
        tab.keyboard.press("Enter")
        tab.wait_for_selector("#detail .whole")
        tab.click("#detail .score summary")
        tab.wait_for_timeout(500)
        tab.screenshot(path=out / "view-pair.png")


def serve_and_take(run: Run, out: Path, tabs: dict[str, Any]) -> None:
    browser = Browser(run)
    browser.start()
    browser.live.ready.wait()
    sock, token = bind(), new_token()
    uvicorn = server(create_app(run, [Page("", "view.html", routes(browser))], token))
    thread = threading.Thread(target=lambda: uvicorn.run(sockets=[sock]))
    thread.start()
    try:
        for kind, context in tabs.items():
            shots(context.new_page(), link(sock, token), out, kind)
    finally:
        for context in tabs.values():
            context.close()
        uvicorn.should_exit = True
        thread.join()
        browser.close()


def main(out: Path) -> None:
    """Make the run and take the pictures."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as p:
        chromium = p.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        size: Any = {"viewport": {"width": 1360, "height": 880}}
        light, dark = chromium.new_context(color_scheme="light", **size), chromium.new_context(color_scheme="dark", **size)
        serve_and_take(made(Path(scratch)), out, {"grid": light, "pair": dark})
        chromium.close()
    for picture in out.glob("view*.png"):
        Image.open(picture).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(picture, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images"))
