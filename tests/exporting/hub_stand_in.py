"""The Hub's API, as far as pushing a data set needs it, on this machine: repositories, small files in commits, large ones by LFS."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_stand_in"
LFS_FROM = 2_000
"""Bytes from which a file goes by LFS."""


@dataclass
class Hub:
    """What the stand-in has: repository → path → bytes."""

    endpoint: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    commits: int = 0


@contextmanager
def running() -> Iterator[Hub]:
    """Serve until the block ends."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def answer(self, data: Any, status: int = 200, **headers: str) -> None:
            body = json.dumps(data).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", "application/json")
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                whole = b""
                while size := int(self.rfile.readline(), 16):
                    whole += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return whole
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def handle_any(self) -> None:
            data = self.body()
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(f"{self.command} {path}")
            if path.startswith("/upload/"):  # a signed address, as storage has it: no token
                digest = hashlib.sha256(data).hexdigest()
                hub.objects[digest] = data
                return self.answer({}, 200 if path.endswith(digest) else 400)
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self.answer({"error": "Invalid username or password."}, 401, X_Error_Message="Invalid username or password.")
            if path == "/api/validate-yaml":
                head = yaml.safe_load(json.loads(data)["content"].split("---\n")[1])
                missing = [{"message": f"{k} is missing"} for k in ("license", "tags", "size_categories") if not head.get(k)]
                return self.answer({"errors": missing, "warnings": []}, 400 if missing else 200)
            if path == "/api/repos/create":
                asked = json.loads(data)
                name = f"{asked.get('organization') or 'me'}/{asked['name']}"
                if name in hub.repositories:
                    return self.answer({"error": "You already created this dataset repo", "url": f"{hub.endpoint}/datasets/{name}"}, 409)
                hub.repositories[name], hub.private[name] = {}, asked.get("visibility") == "private" or bool(asked.get("private"))
                return self.answer({"url": f"{hub.endpoint}/datasets/{name}", "name": name})
            found = re.fullmatch(r"/(?:api/)?datasets/([^/]+/[^/]+?)(\.git/info/lfs/objects/batch|/.*)?", path)
            if found and found[1] in hub.repositories:
                return self.repository(found[1], found[2] or "", data)
            return self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")

        def repository(self, name: str, what: str, data: bytes) -> None:
            files = hub.repositories[name]
            if what.startswith("/preupload/"):
                asked = json.loads(data)["files"]
                modes = [
                    {"path": f["path"], "uploadMode": "lfs" if f["size"] >= LFS_FROM else "regular", "shouldIgnore": False, "oid": None}
                    for f in asked
                ]
                return self.answer({"files": modes})
            if what.endswith("/objects/batch"):
                objects = json.loads(data)["objects"]
                places = [
                    {"oid": o["oid"], "size": o["size"]}
                    | (
                        {}
                        if o["oid"] in hub.objects
                        else {"actions": {"upload": {"href": f"{hub.endpoint}/upload/{o['oid']}", "header": {}}}}
                    )
                    for o in objects
                ]
                return self.answer({"transfer": "basic", "objects": places})
            if what.startswith("/commit/"):
                lines = [json.loads(line) for line in data.splitlines() if line.strip()]
                for line in lines:
                    value = line["value"]
                    if line["key"] == "file":
                        files[value["path"]] = base64.b64decode(value["content"])
                    elif line["key"] == "lfsFile":
                        files[value["path"]] = hub.objects[value["oid"]]
                    elif line["key"] == "deletedFile":
                        del files[value["path"]]
                hub.commits += 1
                said = {
                    "success": True,
                    "commitOid": f"{hub.commits:040x}",
                    "commitUrl": f"{hub.endpoint}/datasets/{name}/commit/{hub.commits:040x}",
                }
                return self.answer(said | {"hookOutput": "", "pullRequestUrl": None})
            if what.startswith("/tree/"):
                listed = [{"type": "file", "path": p, "size": len(b), "oid": hashlib.sha1(b).hexdigest()} for p, b in sorted(files.items())]
                return self.answer(listed)
            siblings = [{"rfilename": p} for p in sorted(files)]
            return self.answer({"id": name, "sha": f"{hub.commits:040x}", "private": hub.private[name], "siblings": siblings, "tags": []})

        do_GET = do_POST = do_PUT = do_HEAD = handle_any

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
