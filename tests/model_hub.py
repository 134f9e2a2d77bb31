"""A stand-in for the hub's models: one that can be downloaded, others that are refused."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

NAME = "team/encoder"
COMMIT = "89abcdef0123456789abcdef0123456789abcdef"
FAILURES: Mapping[str, tuple[int, dict[str, str]]] = {
    "team/gated": (403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access restricted"}),
    "team/missing": (404, {"X-Error-Code": "RepoNotFound"}),
    "team/broken": (500, {}),
    "team/login": (200, {"Content-Type": "text/html"}),
}


@contextmanager
def model_hub(files: Mapping[str, bytes]) -> Iterator[tuple[str, list[str]]]:
    """Serve files as the model NAME on a free port; yields the endpoint and the names downloaded so far."""
    downloaded: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Stay silent."""

        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            failure = next((answer for name, answer in FAILURES.items() if f"models/{name}" in path), None)
            if failure:
                self._send(failure[0], b"<html>" if failure[0] == 200 else b"", failure[1])
            elif re.fullmatch(rf"/api/models/{NAME}(/revision/({COMMIT}|main))?", path):
                info = {"id": NAME, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
                self._send(200, json.dumps(info).encode(), {"Content-Type": "application/json"})
            elif path.startswith(f"/api/models/{NAME}/revision/"):
                self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
            elif path.startswith(f"/api/models/{NAME}/tree/{COMMIT}"):
                entries = [
                    {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for name, data in files.items()
                ]
                self._send(200, json.dumps(entries).encode(), {"Content-Type": "application/json"})
            elif (name := path.removeprefix(f"/{NAME}/resolve/{COMMIT}/")) in files:
                if self.command == "GET":
                    downloaded.append(name)
                digest = hashlib.sha1(files[name]).hexdigest()
                self._send(200, files[name], {"ETag": f'"{digest}"', "X-Repo-Commit": COMMIT})
            else:
                self._send(404, b"", {"X-Error-Code": "EntryNotFound"})

        do_HEAD = do_GET  # noqa: N815

        def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", downloaded
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
