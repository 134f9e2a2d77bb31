"""The process that serves: its address, and its end.

Promises: a port that cannot be had is told in one line, before the model is loaded; SIGINT and SIGTERM end it in order,
requests at hand answered, with status 0.
"""

from __future__ import annotations

import errno
import ipaddress
import signal
import socket
import sys
from typing import Final

import uvicorn
from starlette.applications import Starlette

from pipeline.errors import SeqtrackError

_GRACE_SECONDS: Final = 10  # for requests at hand, once asked to stop


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens; what comes before the server runs waits for it.

    Args:
        host: a name or an address; not of this machine alone: a warning on standard error.
        port: 0 takes a free one.

    Raises:
        SeqtrackError: the port is taken, or there is no such host.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        found = socket.create_server(address[:2], family=family, backlog=1024)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        raise SeqtrackError(
            "the port is taken" if taken else f"cannot listen ({error.strerror})",
            where=f"{host}:{port}",
            fix="give another one by --port (make serve PORT=...)" if taken else "check --host and --port",
        ) from None
    if not ipaddress.ip_address(found.getsockname()[0]).is_loopback:
        print(
            f"warning: whoever reaches {host}:{port} over the network can use the model: the server asks for no "
            "password and does not encrypt; put a proxy that does before it",
            file=sys.stderr,
        )
    return found


def url_of(listening: socket.socket) -> str:
    """Return the address for a browser on this machine."""
    host, port = listening.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{port}"


def run(application: Starlette, listening: socket.socket) -> None:
    """Serve until a signal asks to stop; a second SIGINT does not wait for requests at hand."""
    config = uvicorn.Config(
        application,
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    # uvicorn sets its own handlers, and at its end gives the signal to those it found: then all is done.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    uvicorn.Server(config).run(sockets=[listening])
