"""Who may ask: the token, Host, Origin; what cannot be read; the headers of every answer."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from synthvlm import marks
from synthvlm.errors import OptionError
from synthvlm.web.serve import bind
from tests.web.serving import Served

PATHS = [
    "/",
    "/api/run",
    "/api/live",
    "/api/pairs",
    "/api/pairs/0/0",
    "/thumbs/0/0",
    "/images/0/0",
    "/static/view.js",
    "/static/base.css",
    "/nothing",
]


@pytest.mark.parametrize("path", PATHS)
def test_nothing_is_answered_without_the_token(view: Served, path):
    for headers in (
        {},
        {"cookie": f"synthvlm-{view.port}=guess"},
        {"cookie": "synthvlm-1=" + view.token},
        {"authorization": f"Bearer {view.token}"},
    ):
        status, got, body = view.ask(path, **headers)
        assert status == 403
        assert b"Open the link" in body and "set-cookie" not in got


def test_the_link_sets_a_cookie_that_scripts_and_other_sites_do_not_get(view: Served):
    status, headers, body = view.ask(f"/?token={view.token}")
    assert status == 200 and view.token not in body.decode()
    assert headers["set-cookie"] == f"synthvlm-{view.port}={view.token}; HttpOnly; SameSite=Strict; Path=/"
    assert b'content="0; url=/"' in body
    status, headers, _ = view.ask("/?token=wrong")
    assert status == 403 and "set-cookie" not in headers
    # Where to go on to is a path of this server, whatever the link says.
    assert b"url=/evil.example/x" in view.ask(f"//evil.example/x?token={view.token}")[2]


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "0.0.0.0", "", "localhost.evil.example", "[::2]"]
)
def test_a_foreign_host_is_refused_even_with_the_token(view: Served, host):
    for path in ("/api/run", f"/?token={view.token}"):
        status, headers, _ = view.ask(path, host=host, **view.cookie)
        assert status == 403 and "set-cookie" not in headers


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "LOCALHOST"])
def test_this_machine_by_any_port_is_let_in(view: Served, host):
    assert view.ask("/api/run", host=f"{host}:9999", **view.cookie)[0] == 200  # an SSH tunnel has a port of its own


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://127.0.0.1:{port}", "http://127.0.0.1:1", "http://127.0.0.1:{port}.evil.example"]
)
def test_a_foreign_origin_is_refused_even_with_the_token(view: Served, origin):
    body = '{"pairs": [{"row": 0, "candidate": 0}], "mark": "drop"}'
    headers = {"origin": origin.format(port=view.port), "content-type": "application/json"} | view.cookie
    assert view.ask("/api/marks", "POST", body, **headers)[0] == 403
    assert view.ask("/api/run", **headers)[0] == 403
    assert marks.load(view.run).num_rows == 0


def test_what_changes_something_must_say_where_it_comes_from(view: Served):
    body = '{"pairs": [{"row": 0, "candidate": 0}], "mark": "drop"}'
    assert view.ask("/api/marks", "POST", body, **{"content-type": "application/json"}, **view.cookie)[0] == 403
    for site in ("cross-site", "same-site"):  # another port of this machine is another program
        assert view.ask("/api/run", **{"sec-fetch-site": site}, **view.cookie)[0] == 403
    assert view.ask("/api/run", **{"sec-fetch-site": "same-origin"}, **view.cookie)[0] == 200
    assert marks.load(view.run).num_rows == 0


@pytest.mark.parametrize(
    "path",
    ["/static/../browse.py", "/static/%2e%2e/browse.py", "/static/..%2f..%2frun.py", "/static//etc/passwd", "/thumbs/../../run.json", "/images/%2e%2e/%2e%2e", "/images/-1/0",
     "/images/0/-1", "/images/0/99999", "/images/9999999/0", "/images/1e3/0", "/thumbs/0/0%00", "/images/99999999999999999999/0", "/run.json", "/api/pairs/..%2f..%2fetc/0"],
)  # fmt: skip
def test_no_path_outside_can_be_read(view: Served, path):
    status, _, body = view.ask(path, **view.cookie)
    assert status in (400, 404, 405, 422)
    assert b"root:" not in body and b"APIRouter" not in body and b"sources" not in body


def test_every_answer_bears_the_headers(view: Served):
    for path, headers in (
        ("/", view.cookie),
        ("/api/run", view.cookie),
        ("/thumbs/0/0", view.cookie),
        ("/api/run", {}),
        ("/nothing", view.cookie),
    ):
        got = view.ask(path, **headers)[1]
        policy = got["content-security-policy"]
        assert "default-src 'none'" in policy and "script-src 'self'" in policy and "unsafe" not in policy
        assert got["x-content-type-options"] == "nosniff" and got["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in got
    assert view.ask("/api/run", **view.cookie)[1]["cache-control"] == "no-store"
    assert view.ask("/docs", **view.cookie)[0] == view.ask("/openapi.json", **view.cookie)[0] == 404


@pytest.mark.parametrize(
    "query",
    ["sort=tar", "sort=clip%3B+DROP+TABLE+pairs", "r=clip:x:1", "r=1", "r=tar::1", "mark=x", "within=x", "limit=0", "limit=100000", "offset=-1",
     "sort=total", "sort=total&w=nothing:1", "top=10%25&w=clip:1e999", "top=x&w=clip:1", "r=clip:nan:"],
)  # fmt: skip
def test_what_cannot_be_listed_is_said(view: Served, query):
    status, _, body = view.ask(f"/api/pairs?{query}", **view.cookie)
    assert status in (400, 422), body
    assert b"error" in body


def test_texts_are_values_not_sql(view: Served):
    for text in ("%27%27", "%27+OR+1=1+--", "%22%22", "%00", "%5C", "100%25_", "%25", "a_red"):
        for name in ("q", "stage", "reason"):
            status, _, body = view.ask(f"/api/pairs?{name}={text}", **view.cookie)
            assert status == 200 and b'"total":0' in body


def test_it_listens_on_this_machine_alone():
    with bind() as sock:
        assert sock.getsockname()[0] == "127.0.0.1"
        with pytest.raises(OptionError, match="cannot be used"):
            bind(sock.getsockname()[1])


def test_other_addresses_of_this_machine_are_not_bound(view: Served):
    others: set[Any] = {i[4][0] for i in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {"127.0.0.1"}
    for address in others:
        with socket.socket() as s:
            s.settimeout(2)
            assert s.connect_ex((address, view.port)) != 0
