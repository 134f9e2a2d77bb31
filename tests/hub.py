"""A stand-in for the Hugging Face hub on localhost: one data set that loads, others that fail in the hub's own ways."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

NAME = "team/reviews"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CARD = """---
dataset_info:
- config_name: stars
  features:
  - name: sentence
    dtype: string
  - name: label
    dtype:
      class_label:
        names:
          '0': bad
          '1': good
configs:
- config_name: stars
  data_files:
  - split: train
    path: train.csv
  - split: test
    path: test.csv
---
"""
FILES = {
    "README.md": CARD.encode(),
    "train.csv": "sentence,label\nnicht übel,1\nmeh,0\n".encode(),
    "test.csv": b"sentence,label\nwho knows,-1\n",
}
# Name of a data set to status and headers, as the real hub answers.
FAILURES: Mapping[str, tuple[int, dict[str, str]]] = {
    "team/gated": (403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access restricted"}),
    "team/missing": (404, {"X-Error-Code": "RepoNotFound"}),
    "team/broken": (500, {}),
    "team/unavailable": (503, {}),
    "team/unauthorised": (401, {}),
    "team/login": (200, {"Content-Type": "text/html"}),
}


@contextmanager
def hub() -> Iterator[str]:
    """Serve on a free port; yields the endpoint."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Stay silent."""

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        failure = next((answer for name, answer in FAILURES.items() if f"datasets/{name}" in path), None)
        if failure:
            self._send(failure[0], b"<html>" if failure[0] == 200 else b"", failure[1])
        elif re.fullmatch(rf"/api/datasets/{NAME}(/revision/({COMMIT}|main))?", path):
            siblings = [{"rfilename": name} for name in FILES]
            info = {"id": NAME, "sha": COMMIT, "siblings": siblings, "private": False, "tags": [], "downloads": 0}
            self._send(200, json.dumps(info).encode(), {"Content-Type": "application/json"})
        elif path.startswith(f"/api/datasets/{NAME}/revision/"):
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif path.startswith(f"/api/datasets/{NAME}/tree/{COMMIT}"):
            files = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in FILES.items()
            ]
            self._send(200, json.dumps(files).encode(), {"Content-Type": "application/json"})
        elif (file := path.removeprefix(f"/datasets/{NAME}/resolve/{COMMIT}/")) in FILES:
            digest = hashlib.sha1(FILES[file]).hexdigest()
            self._send(200, FILES[file], {"ETag": f'"{digest}"', "X-Repo-Commit": COMMIT})
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
