"""A stand-in for the hub that takes uploads: what arrives is kept, by branch and path."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

TOKEN = "hf_sesame"
COMMIT = "fedcba9876543210fedcba9876543210fedcba98"


@dataclass
class Repositories:
    """What the hub has.

    Attributes:
        endpoint: its address.
        private: name of a repository to whether it was made private.
        files: (name, branch) to path to content.
        requests: how many came.
    """

    endpoint: str = ""
    private: dict[str, bool] = field(default_factory=dict)
    files: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    requests: int = 0


@contextmanager
def push_hub() -> Iterator[Repositories]:
    """Serve on a free port; it refuses other tokens than TOKEN (401), and names of the team `gone` (404)."""
    kept = Repositories()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Stay silent."""

        def do_PUT(self) -> None:
            kept.large[self.path.rpartition("/")[2]] = self._body()
            self._send(200, {})

        def do_POST(self) -> None:
            kept.requests += 1
            body = self._body()
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self._send(401, {"error": "Invalid username or password."})
                return
            path = self.path.split("?")[0]
            if path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked['organization']}/{asked['name']}"
                if asked["organization"] == "gone":
                    self._send(404, {"error": "Not found"})
                elif name in kept.private:
                    self._send(409, {"error": "You already created this model repo", "url": f"{kept.endpoint}/{name}"})
                else:
                    kept.private[name] = asked.get("visibility") == "private"
                    self._send(200, {"url": f"{kept.endpoint}/{name}"})
            elif path == "/api/validate-yaml":
                self._send(200, {"errors": [], "warnings": []})
            elif found := re.fullmatch(r"/api/models/(\w+/\w+)/branch/(\w+)", path):
                kept.files.setdefault((found[1], found[2]), {})
                self._send(200, {})
            elif re.fullmatch(r"/api/models/\w+/\w+/preupload/\w+", path):
                names = [file["path"] for file in json.loads(body)["files"]]
                modes = {name: "lfs" if name.endswith(".safetensors") else "regular" for name in names}
                files = [{"path": name, "uploadMode": mode, "shouldIgnore": False} for name, mode in modes.items()]
                self._send(200, {"files": files})
            elif path.endswith("/info/lfs/objects/batch"):
                objects = [
                    {**each, "actions": {"upload": {"href": f"{kept.endpoint}/large/{each['oid']}"}}}
                    for each in json.loads(body)["objects"]
                ]
                self._send(200, {"transfer": "basic", "objects": objects})
            elif found := re.fullmatch(r"/api/models/(\w+/\w+)/commit/(\w+)", path):
                files = kept.files.setdefault((found[1], found[2]), {})
                for line in body.splitlines():
                    entry = json.loads(line)
                    value = entry["value"]
                    if entry["key"] == "file":
                        files[value["path"]] = base64.b64decode(value["content"])
                    elif entry["key"] == "lfsFile":
                        files[value["path"]] = kept.large[value["oid"]]
                self._send(200, {"commitUrl": f"{kept.endpoint}/{found[1]}/commit/{COMMIT}", "commitOid": COMMIT})
            else:
                self._send(404, {"error": f"no {path} here"})

        def do_GET(self) -> None:
            self._send(404, {"error": f"no {self.path} here"})

        do_HEAD = do_GET  # noqa: N815

        def _body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def _send(self, status: int, value: dict[str, Any]) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    kept.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield kept
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
