"""Take the picture of docs/judging.md anew: ``python scripts/judge_pictures.py docs/images``. Needs /usr/bin/chromium and playwright.

The pairs are drawn by the miniature world's own renderer at 256 pixels: of each caption the right picture and one with a mistake.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "plugins")]

from PIL import Image
from playwright.sync_api import sync_playwright

from synthvlm.judging import pairs, sides, votes
from synthvlm.pipeline import Run
from synthvlm.web.app import create_app
from synthvlm.web.judging import page
from synthvlm.web.serve import bind, link, new_token, server
from tests.judging.mini_truth import known_pairs

VOTED = 17
"""Pairs that are judged before the picture is taken."""


def main(out: Path) -> None:
    """Make the pairs, vote on some, and take the picture of the next."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as p:
        run = Run.create(Path(scratch) / "run")
        a, b = (sides.find(str(path), {}) for path in known_pairs(Path(scratch), 64, seed=5, size=256))
        ballot = votes.Ballot(run, pairs.draw(run, a, b))
        for row in range(VOTED):
            ballot.vote("Ada", row, "left")
        sock, token = bind(), new_token()
        uvicorn = server(create_app(run, [page(ballot, "Ada")], token))
        thread = threading.Thread(target=lambda: uvicorn.run(sockets=[sock]))
        thread.start()
        chromium = p.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        try:
            tab = chromium.new_context(color_scheme="light", viewport={"width": 1280, "height": 800}).new_page()
            tab.goto(link(sock, token, "judge"))
            tab.wait_for_selector("#ballot[aria-busy=false] .choice .picture")
            tab.screenshot(path=out / "judge.png")
        finally:
            chromium.close()
            uvicorn.should_exit = True
            thread.join()
    Image.open(out / "judge.png").convert("RGB").quantize(256, dither=Image.Dither.NONE).save(out / "judge.png", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images"))
