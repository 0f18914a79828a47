"""A stand-in for an OpenAI-compatible server, in a thread: it answers as a test tells it to, and notes what it was asked."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """What to send back. ``cut``: close the connection after so many bytes. ``drip``: seconds between the bytes."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    cut: int | None = None
    drip: float = 0.0


def answer(text: str, finish_reason: str = "stop", **message: Any) -> Reply:
    """Return a proper chat completion."""
    choice = {"index": 0, "finish_reason": finish_reason, "message": {"role": "assistant", "content": text} | message}
    usage = {"prompt_tokens": 20, "completion_tokens": 7, "total_tokens": 27}
    return Reply(body={"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage})


def refuse(status: int, message: str, code: str | None = None, **headers: str) -> Reply:
    """Return an error as such servers write it."""
    return Reply(
        status, {"error": {"message": message, "type": "error", "code": code}}, {k.replace("_", "-"): v for k, v in headers.items()}
    )


def prompt_of(body: dict[str, Any]) -> str:
    """Return the prompt of a request."""
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else next(p["text"] for p in content if p["type"] == "text")


class Server:
    """``behave(body, attempt)`` says what to reply; attempt counts from 1 for each prompt."""

    def __init__(self, behave: Callable[[dict[str, Any], int], Reply] | None = None, models: Reply | None = None) -> None:
        self.behave = behave or (lambda body, _: answer("seen: " + prompt_of(body)))
        self.models = models or Reply(
            body={"object": "list", "data": [{"id": "m", "object": "model", "created": 1, "owned_by": "someone"}]}
        )
        self.bodies: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.keys: set[str | None] = set()
        self.attempts: dict[str, int] = {}
        self.running = self.most = 0
        self.lock = threading.Lock()
        self._stopped = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.send(self, server.models)

            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"]))
                if len(data) < int(self.headers["Content-Length"]):  # the client has gone
                    return
                body = json.loads(data)
                with server.lock:
                    prompt = prompt_of(body)
                    attempt = server.attempts[prompt] = server.attempts.get(prompt, 0) + 1
                    server.bodies.append(body)
                    server.times.append(time.monotonic())
                    server.keys.add(self.headers["Authorization"])
                    server.running += 1
                    server.most = max(server.most, server.running)
                try:
                    server.send(self, server.behave(body, attempt))
                finally:
                    with server.lock:
                        server.running -= 1

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def send(self, handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        """Send a reply as it is meant to be."""
        self._stopped.wait(reply.delay)
        if reply.cut == 0:
            return
        text = isinstance(reply.body, str)
        data = (reply.body if text else json.dumps(reply.body)).encode()
        try:
            handler.send_response(reply.status)
            for name, value in ({"Content-Type": "application/json"} | reply.headers).items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", str(len(data)))
            handler.end_headers()
            if reply.drip:
                for byte in data:
                    handler.wfile.write(bytes([byte]))
                    if self._stopped.wait(reply.drip):
                        return
            else:
                handler.wfile.write(data[: reply.cut])
        except OSError:  # the client has gone
            pass
