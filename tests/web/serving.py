"""Serve a run that was made by hand from this process, as the command does; ask it as anybody could."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synthvlm.pipeline import Run
from synthvlm.web.app import Page, create_app
from synthvlm.web.browse import Browser, routes
from synthvlm.web.serve import bind, link, new_token, server
from tests.fabricate import captions, fabricate_run

CHROMIUM = "/usr/bin/chromium"
HOSTILE = "<script>window.broken = 1</script><img src=x onerror='window.broken = 1'> & \"quoted\""
"""A caption that would run if it were shown as HTML."""
CAPTIONS = 50
REPEAT = 3


@dataclass
class Served:
    """A run that is being served."""

    run: Run
    browser: Browser
    link: str
    port: int
    token: str

    @property
    def cookie(self) -> dict[str, str]:
        return {"cookie": f"synthvlm-{self.port}={self.token}"}

    def ask(self, path: str, method: str = "GET", body: str | None = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """Send one request as it is written, and return status, headers and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.putrequest(method, path, skip_host=True)
            data = body.encode() if body else b""
            length = {"content-length": str(len(data))} if data else {}
            for name, value in ({"host": f"127.0.0.1:{self.port}"} | length | headers).items():
                connection.putheader(name, value)
            connection.endheaders(data or None)
            response = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
        finally:
            connection.close()


@contextmanager
def served(run: Run, more: Callable[[Browser], list[Page]] = lambda _: []) -> Iterator[Served]:
    """Serve a run as the command does, until the block ends; ``more``: further pages."""
    browser = Browser(run)
    browser.start()
    token = new_token()
    sock = bind()
    uvicorn = server(create_app(run, [Page("", "view.html", routes(browser)), *more(browser)], token))
    thread = threading.Thread(target=lambda: uvicorn.run(sockets=[sock]))
    thread.start()
    try:
        assert browser.live.ready.wait(60)
        yield Served(run, browser, link(sock, token), sock.getsockname()[1], token)
    finally:
        uvicorn.should_exit = True
        thread.join()
        sock.close()
        browser.close()


def make(root: Path, **settings: Any) -> Run:
    """Make the run of these tests: 50 captions and a hostile one, 3 candidates each, one failed, one without pixels, a selection."""
    texts = {str(n): c for n, c in enumerate(captions(CAPTIONS))} | {"hostile": HOSTILE}
    wrong = {"failed": {("3", 1)}, "dropped": {("5", 0)}, "meta": {"2": {"licence": "none"}}}
    fabricate_run(root, texts, REPEAT, side=240, shard_size=20, **wrong | settings)
    return Run.open(root).select(top="20%")
