"""The page on which people vote: what it serves tells the sets apart by nothing but the pictures, and a session is done by keyboard."""

from __future__ import annotations

import io
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the web extra is not installed: pip install 'synthvlm[web]'")

from fastapi.testclient import TestClient
from PIL import Image

from synthvlm.judging import pairs, sides, votes
from synthvlm.judging.summary import summarise
from synthvlm.pipeline import Run
from synthvlm.web.app import create_app
from synthvlm.web.judging import as_shown, page
from synthvlm.web.serve import bind, link, server

N = 6
HERE = {"origin": "http://127.0.0.1"}
HOSTILE = "red <img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script>"


@pytest.fixture
def ballot(pictures: Callable[..., str], tmp_path: Path) -> votes.Ballot:
    """Pictures of A are redder; they are also smaller, and JPEG."""
    a = pictures("alpha", [(str(i), HOSTILE, (200, i, 0)) for i in range(N)])
    b = pictures("beta", [(str(i), HOSTILE, (100, i, 0)) for i in range(N)])
    for file in (tmp_path / "beta").glob("*.png"):
        with Image.open(file) as image:
            large = image.resize((700, 500))
        large.save(file, "JPEG")
    run = Run.create(tmp_path / "run")
    found = [sides.find(path, {}) for path in (a, b)]
    return votes.Ballot(run, pairs.draw(run, *found, name="alpha-vs-beta"))


@pytest.fixture
def client(ballot: votes.Ballot) -> TestClient:
    client = TestClient(create_app(ballot.run, [page(ballot)], "secret"), base_url="http://127.0.0.1")
    client.get("/judge?token=secret")
    return client


def test_nothing_tells_which_is_which(client: TestClient, ballot: votes.Ballot) -> None:
    hashes = [pair[f"{s}_sha256"] for pair in ballot.voter("ann").pairs for s in "ab"]
    said = [client.get("/api/judge").text, client.get("/api/judge/votes?person=ann").text, client.get("/judge").text]
    for row in range(N):
        said.append(client.get(f"/api/judge/pairs/{row}?person=ann").text)
        left, right = (client.get(f"/api/judge/pairs/{row}/{place}.png?person=ann") for place in ("left", "right"))
        assert dict(left.headers) == dict(right.headers)
        assert len(left.content) == len(right.content)
        shown = [Image.open(io.BytesIO(r.content)) for r in (left, right)]
        assert shown[0].size == shown[1].size and {i.format for i in shown} == {"PNG"} and not any(i.info for i in shown)
        middle = [i.convert("RGB").getpixel((i.width // 2, i.height // 2))[0] for i in shown]
        assert (middle[0] < middle[1]) == ballot.voter("ann").pairs[row]["flipped"]
        said += [str(left.headers), str(right.headers)]
    for word in ("alpha", "beta", "flipped", "sha256", *hashes):
        assert not any(word in text for text in said), word


def test_a_vote_is_a_row_before_the_answer_comes(client: TestClient, ballot: votes.Ballot) -> None:
    body = {"annotator": "ann", "pair": 2, "choice": "left", "seconds": 2.5}
    told = client.post("/api/judge/votes", json=body, headers=HERE)
    assert told.json() == {"pairs": N, "votes": {"2": "left"}, "next": 0}
    again = votes.Ballot(ballot.run, ballot.comparison)
    assert again.voter("ann").votes[2][0] == "left"


@pytest.mark.parametrize(
    ("change", "status"),
    [({"pair": N}, 400), ({"pair": -1}, 400), ({"choice": "a"}, 422), ({"annotator": ""}, 400), ({"more": 1}, 422)],
)
def test_what_is_no_vote_is_refused(client: TestClient, ballot: votes.Ballot, change: dict[str, Any], status: int) -> None:
    body = {"annotator": "ann", "pair": 0, "choice": "tie"} | change
    assert client.post("/api/judge/votes", json=body, headers=HERE).status_code == status
    assert ballot.voter("ann").votes == {}


def test_only_who_has_the_link_may_vote(client: TestClient, ballot: votes.Ballot) -> None:
    body = {"annotator": "ann", "pair": 0, "choice": "tie"}
    assert client.post("/api/judge/votes", json=body, headers={"origin": "http://evil.example"}).status_code == 403
    client.cookies.clear()
    assert client.post("/api/judge/votes", json=body, headers=HERE).status_code == 403
    assert client.get("/api/judge/pairs/0/left.png?person=ann").status_code == 403
    assert ballot.voter("ann").votes == {}


def test_a_picture_that_is_gone_does_not_tell_where_it_was(client: TestClient, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "alpha")
    told = client.get("/api/judge/pairs/0/left.png?person=ann")
    assert told.status_code == 400 and "cannot be read" in told.text and "alpha" not in told.text


def test_pictures_keep_their_shape_and_are_not_blown_up() -> None:
    small, wide = as_shown([Image.new("RGB", (64, 64), "red"), Image.new("RGB", (2000, 500), "blue")])
    with Image.open(io.BytesIO(small)) as one, Image.open(io.BytesIO(wide)) as other:
        assert one.size == other.size == (1024, 1024)
        assert one.getpixel((5, 5))[3] == 255 and other.getpixel((5, 300))[3] == 0 and other.getpixel((5, 512))[3] == 255
    (alone,) = as_shown([Image.new("RGB", (30, 60), "red")])
    with Image.open(io.BytesIO(alone)) as image:
        assert image.size == (192, 384)


@pytest.fixture
def served(ballot: votes.Ballot) -> Iterator[str]:
    """Serve the page for a browser; give its link."""
    app = create_app(ballot.run, [page(ballot)], "secret")
    running = server(app)
    with bind() as sock:
        thread = threading.Thread(target=running.run, kwargs={"sockets": [sock]}, daemon=True)
        thread.start()
        yield link(sock, "secret", "judge")
        running.should_exit = True
        thread.join(10)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    """Debian's Chromium, or none."""
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs chromium")
    with sync_api.sync_playwright() as play:
        made = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield made
        made.close()


def test_a_session_by_keyboard(served: str, ballot: votes.Ballot, browser: Any) -> None:
    """Name, votes by each key, back and another mind, a stop and a resume, the end; captions are text; nothing in the console."""
    said: list[str] = []

    def opened(width: int = 1200) -> Any:
        tab = browser.new_page(viewport={"width": width, "height": 800})
        tab.on("console", lambda m: said.append(m.text))
        tab.on("pageerror", lambda e: said.append(str(e)))
        tab.goto(served)
        return tab

    def on(tab: Any, number: int) -> None:
        tab.wait_for_selector(f"#said:text-matches('^Pair {number} of')", state="attached")
        tab.wait_for_selector("#ballot[aria-busy=false]")
        assert all(tab.eval_on_selector_all(".pair .picture", "list => list.map(i => i.complete && i.naturalWidth > 0)"))

    tab = opened()
    tab.wait_for_selector("#name")
    tab.keyboard.type("Ann A.")  # keys that vote elsewhere are letters here
    tab.keyboard.press("Enter")
    for number, key in enumerate("abt", 1):
        on(tab, number)
        tab.keyboard.press(key)
    on(tab, 4)
    assert tab.inner_text("#caption") == HOSTILE and "broken" not in tab.title()
    sizes = tab.eval_on_selector_all(
        ".pair .picture", "list => list.map(i => [i.naturalWidth, i.naturalHeight, i.clientWidth, i.clientHeight])"
    )
    assert sizes[0] == sizes[1]
    tab.keyboard.press("s")
    on(tab, 5)
    tab.keyboard.press("u")
    on(tab, 4)
    tab.keyboard.press("Backspace")
    on(tab, 3)
    assert tab.get_attribute(".choices [data-choice=tie]", "aria-pressed") == "true"
    tab.keyboard.press("ArrowRight")
    on(tab, 4)
    tab.close()

    tab = opened(600)
    tab.wait_for_selector("#name")
    tab.fill("#name", "Ann A.")
    tab.keyboard.press("Enter")
    on(tab, 5)
    tab.click(".choice[data-choice=left]")
    on(tab, 6)
    tab.keyboard.press("Tab")  # to the first picture, which is a button
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#end:not([hidden])")
    assert "6 pairs are judged, 1 of them skipped" in tab.inner_text("#end-facts")
    tab.close()
    assert said == []

    cast = votes.Ballot(ballot.run, ballot.comparison).voter("Ann A.").votes
    assert [cast[row][0] for row in range(N)] == ["left", "right", "right", "skip", "left", "left"]
    (judge,) = summarise(ballot.run, "alpha-vs-beta")["judges"]
    assert (judge["judge"], judge["judged"], judge["skipped"]) == ("Ann A.", 5, 1)


@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 480)])
def test_axe_finds_nothing_serious(served: str, browser: Any, scheme: Any, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    tab = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800}, bypass_csp=True).new_page()
    tab.goto(served)

    def serious() -> list[Any]:
        found = axe.Axe().run(tab).response["violations"]
        return [(v["id"], [n["html"] for n in v["nodes"]]) for v in found if v["impact"] in ("serious", "critical")]

    tab.wait_for_selector("#name")
    assert serious() == []
    tab.fill("#name", "Ann")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#ballot[aria-busy=false] .choice .picture")
    assert serious() == []


def test_captions_are_judged_beside_their_image(pictures: Callable[..., str], tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", images=pictures("pictures", [(str(n), "a green thing", (200, 0, 0)) for n in range(4)]))
    run.caption("teller", ["brief"])
    drawn = pairs.draw(run, sides.Side(run.root, "samples/caption"), sides.Side(run.root, "teller"))
    ballot = votes.Ballot(run, drawn)
    client = TestClient(create_app(run, [page(ballot, "ann")], "secret"), base_url="http://127.0.0.1")
    client.get("/judge?token=secret")
    assert client.get("/api/judge").json() == {"annotator": "ann", "kind": "captions"}
    for row in range(4):
        told = client.get(f"/api/judge/pairs/{row}?person=ann").json()
        assert told["caption"] is None
        assert told["texts"][ballot.voter("ann").pairs[row]["flipped"]] == "a green thing"
        assert client.get(f"/api/judge/pairs/{row}/only.png?person=ann").status_code == 200
        assert client.get(f"/api/judge/pairs/{row}/left.png?person=ann").status_code == 400
