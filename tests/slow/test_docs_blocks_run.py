"""The pages' bash and Python blocks run, page by page and in order, in a clone in which the pipeline has run.

Each page starts from the same clone, with a tiny encoder and 240 made-up reviews. A server that a block ends with is
waited for, stays up for the rest of its page, and is stopped. What no test can run is tagged console.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.clone import Clone, clean_environment, make_small
from tests.doc_blocks import RUN, SERVER, Block, blocks, give_environment, pages
from tests.test_docs_blocks import TRANSLATIONS

pytestmark = pytest.mark.slow
PAGES: Final = [
    page
    for page in pages()
    if page not in TRANSLATIONS
    and page != Path("CONTRIBUTING.md")
    and any(block.language in RUN for block in blocks(page))
]  # what CONTRIBUTING.md says to run is what runs this
SERVING_PORT: Final = 5001  # of `make serve`
PATIENCE: Final = 300.0
"""Seconds that a server, or a queue, gets on a busy machine."""


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    clone = Clone.make(tmp_path_factory.mktemp("clone"))
    make_small(clone, tmp_path_factory.mktemp("encoder") / "tiny")
    give_environment(clone.folder)
    clone.run("dvc", "repro")
    return clone


class Reader:
    """Someone who does what a page says."""

    def __init__(self, clone: Clone, scratch: Path) -> None:
        self.folder = clone.folder
        self.scratch = scratch
        self.port = free_port()
        self.servers: list[subprocess.Popen[bytes]] = []
        self.environment = clean_environment() | {"MLFLOW_PORT": str(self.port), "OMP_NUM_THREADS": "1"}

    def do(self, block: Block) -> None:
        if block.language == "python":
            self.python(block)
            return
        *before, last = block.commands
        if SERVER.match(last):
            if before:
                self.shell(block, "\n".join(before))
            self.serve(block, last)
        else:
            self.shell(block, block.text)
        if "dvc queue start" in block.text:
            self.wait_for_the_queue()

    def shell(self, block: Block, text: str) -> None:
        self.call(block, "bash", "-euo", "pipefail", "-c", self.local(text))

    def python(self, block: Block) -> None:
        if block.file is not None:
            target = self.folder / block.file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.text, encoding="utf-8")
            module = ".".join(block.file.with_suffix("").parts)
            self.call(block, "python", "-c", f"import {module}")
        else:
            self.call(block, "python", "-c", self.local(block.text))

    def call(self, block: Block, *command: str) -> None:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{block}: exit code {done.returncode}\n{block.text}\n{done.stdout[-4000:]}"

    def local(self, text: str) -> str:
        """Keep what a page puts into /tmp in this test's own folder."""
        return re.sub(r"/tmp\b", str(self.scratch), text)

    def serve(self, block: Block, command: str) -> None:
        log = self.scratch / f"server-{len(self.servers)}.log"
        named = re.search(r"(?:--port[ =]|-p |PORT=)(\d+)", command)
        port = (
            int(named[1])
            if named
            else SERVING_PORT
            if re.match(r"(make|python -m stages\.)\s*serve\b", command)
            else self.port
        )
        with log.open("wb") as stream:
            server = subprocess.Popen(
                ["bash", "-c", f"exec {self.local(command.partition(' #')[0])}"],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.servers.append(server)
        deadline = time.monotonic() + PATIENCE
        while not answers(port):
            assert server.poll() is None, f"{block}: the server ended\n{log.read_text()[-4000:]}"
            assert time.monotonic() < deadline, f"{block}: no answer on port {port}\n{log.read_text()[-4000:]}"
            time.sleep(0.5)

    def wait_for_the_queue(self) -> None:
        deadline = time.monotonic() + PATIENCE * 4
        while True:
            told = subprocess.run(
                ["dvc", "queue", "status"],
                cwd=self.folder,
                env=self.environment,
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            assert "Failed" not in told, told
            if not re.search(r"Queued|Running", told):
                return
            assert time.monotonic() < deadline, told
            time.sleep(2)

    def leave(self) -> None:
        for server in self.servers:
            os.killpg(server.pid, signal.SIGTERM)
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()


@pytest.fixture
def reader(clone: Clone, tmp_path: Path) -> Iterator[Reader]:
    """A reader of one page; what the page does to the clone is undone afterwards, but for runs and experiments."""
    kept = {name: (clone.folder / name).read_bytes() for name in ("dvc.lock", ".dvc/config")}
    head = clone.run("git", "rev-parse", "HEAD").stdout.strip()
    someone = Reader(clone, tmp_path)
    yield someone
    someone.leave()
    clone.run("git", "reset", "--quiet", "--hard", head)
    clone.run("git", "clean", "--quiet", "--force", "-d")
    for name, content in kept.items():
        (clone.folder / name).write_bytes(content)
    clone.run("dvc", "checkout", "--force")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_a_page_does_what_it_says(page: Path, reader: Reader) -> None:
    assert shutil.which("make") is not None
    for block in blocks(page):
        if block.language in RUN:
            reader.do(block)
