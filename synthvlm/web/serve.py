"""Serve an application on 127.0.0.1 until Ctrl-C, and say where."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from synthvlm.errors import OptionError

HOST = "127.0.0.1"


def new_token() -> str:
    """Return a secret for one session."""
    return secrets.token_urlsafe(32)


def bind(port: int = 0) -> socket.socket:
    """Return a socket that is bound to this machine alone; port 0 takes a free one. Raises OptionError if the port is taken."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((HOST, port))
        sock.listen(128)  # from here on a browser waits, instead of being refused, until the server is up
    except (OSError, OverflowError) as error:
        sock.close()
        raise OptionError(
            f"port {port} cannot be used: {getattr(error, 'strerror', None) or error}", "leave --port out to take a free one"
        ) from error
    return sock


def link(sock: socket.socket, token: str, page: str = "") -> str:
    """Return the address of a page with the token in it."""
    return f"http://{HOST}:{sock.getsockname()[1]}/{page}?token={token}"


def server(app: FastAPI) -> uvicorn.Server:
    """Return a server for ``app``; addresses, which may hold the token, are not logged."""
    # No access log; and open pages, which ask every few seconds, do not hold up Ctrl-C.
    return uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1))


def serve(app: FastAPI, token: str, *, port: int = 0, page: str = "", tell: Callable[[str], None] = print) -> None:
    """Tell the link, then serve until Ctrl-C. Raises OptionError if the port is taken."""
    with bind(port) as sock:
        tell(link(sock, token, page))
        server(app).run(sockets=[sock])
