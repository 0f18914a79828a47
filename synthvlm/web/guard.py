"""Who may ask at all: requests that bear the session's token, were sent to this machine by name, and come from this server's own pages.

The link that ``serve`` prints holds the token once; its answer sets a cookie (HttpOnly, SameSite=Strict) and goes on to the page without
it. Why each check is there:

- **token**: other users and programs of this machine reach the port too.
- **Host** must name this machine: a site whose name is made to point at 127.0.0.1 (DNS rebinding) sends its own name.
- **Origin** and **Sec-Fetch-Site**: another site's page may send requests, but cannot forge these. A request that changes something
  must name its origin, and it must be this server. The port may be another than ours: it is, through an SSH tunnel.
"""

from __future__ import annotations

import hmac
import http.cookies
import urllib.parse
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HOSTS = ("127.0.0.1", "localhost", "[::1]")
COOKIE = "synthvlm"
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
_LANDING = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>SynthVLM</title>
<link rel="icon" href="/static/icon.svg" type="image/svg+xml"><meta http-equiv="refresh" content="0; url={path}"></head><body><p><a href="{path}">Go on</a></p></body></html>"""


class Guard:
    """ASGI middleware that lets through what may ask, and nothing else; ``token`` is the session's secret."""

    def __init__(self, app: App, token: str) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403, or the landing page of a good link, or pass the request on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # there are no web sockets here
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        problem = _foreign(scope["method"], headers)
        if problem:
            await _answer(send, 403, problem)
            return
        query = urllib.parse.parse_qs(scope["query_string"].decode("latin-1"))
        if "token" in query and scope["method"] == "GET":
            await self._land(scope, query["token"][0], send)
        elif not self._knows(_cookie(headers, cookie_name(scope))):
            await _answer(send, 403, "Open the link that the command printed: it holds the key to this page.")
        elif headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            await _answer(send, 403, "This request came from another page.")
        else:
            await self._app(scope, receive, _with_headers(send))

    def _knows(self, token: str | None) -> bool:
        return token is not None and hmac.compare_digest(token.encode(), self._token.encode())

    async def _land(self, scope: Scope, token: str, send: Send) -> None:
        """Set the cookie and go on to the page without the token in its address.

        By a page that refreshes, not by a redirect: a Strict cookie is not sent along redirects that another site's link began.
        """
        if not self._knows(token):
            await _answer(send, 403, "This link is of another session: open the one that the command printed last.")
            return
        path = urllib.parse.quote("/" + scope["path"].lstrip("/"))
        cookie = f"{cookie_name(scope)}={token}; HttpOnly; SameSite=Strict; Path=/"
        await _answer(send, 200, _LANDING.format(path=path), "text/html", [(b"set-cookie", cookie.encode())])


def cookie_name(scope: Scope) -> str:
    """Return the cookie's name: cookies do not tell ports apart, and each server of this machine has a token of its own."""
    return f"{COOKIE}-{(scope.get('server') or ('', 0))[1]}"


def _foreign(method: str, headers: dict[str, str]) -> str | None:
    """Say why a request does not come from this machine's own pages, or None."""
    host = headers.get("host", "")
    if _name(host) not in HOSTS:
        return "This server answers to 127.0.0.1 and localhost only."
    origin = headers.get("origin")
    if origin is not None and origin.lower() != f"http://{host.lower()}":
        return "This request came from another site."
    if origin is None and method not in ("GET", "HEAD"):
        return "A request that changes something must say where it comes from."
    return None


def _name(host: str) -> str:
    """Return a Host header's name without its port."""
    return host[: host.find("]") + 1].lower() if host.startswith("[") else host.partition(":")[0].lower()


def _cookie(headers: dict[str, str], name: str) -> str | None:
    try:
        found = http.cookies.SimpleCookie(headers.get("cookie", "")).get(name)
    except http.cookies.CookieError:
        return None
    return found.value if found else None


def _with_headers(send: Send) -> Send:
    async def wrapped(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            have = {k.lower() for k, _ in message["headers"]}
            more = HEADERS if b"cache-control" in have else HEADERS | {"cache-control": "no-store"}
            message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in more.items())]
        await send(message)

    return wrapped


async def _answer(send: Send, status: int, text: str, kind: str = "text/plain", more: list[tuple[bytes, bytes]] | None = None) -> None:
    body = text.encode()
    headers = [(b"content-type", f"{kind}; charset=utf-8".encode()), (b"content-length", str(len(body)).encode()), *(more or [])]
    out = _with_headers(send)
    await out({"type": "http.response.start", "status": status, "headers": headers})
    await out({"type": "http.response.body", "body": body})
