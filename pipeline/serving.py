"""A trained model over HTTP: MLflow's scoring protocol, and a page to try a text on.

Promises: the same answers as predict; requests that come at once go through the model together; what cannot be answered
gets a status of 4xx and a reason in JSON, as MLflow words it (`error_code`, `message`). `/invocations`, `/ping`,
`/health` and `/version` are those of `mlflow models serve`, which reads each request into a data frame and runs the
model for it alone; its clients find no difference.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from pipeline.attributions import Word, explain
from pipeline.decisions import HALF
from pipeline.errors import SeqtrackError
from pipeline.model_uri import TrainedModel
from pipeline.params import Serve
from pipeline.prediction import logits_of
from pipeline.prediction_input import Example
from pipeline.prediction_output import DECIMALS, records
from pipeline.serving_batches import LineTooLongError, Merger
from pipeline.serving_rows import Limits, RefusedError, one_row, read_object, read_rows

PAGE: Final = Path(__file__).parent / "serving_page.html"
Said = dict[str, Any]
"""What predict writes of a row, without its id: `label` (`labels`, `score`) and `probabilities` by class."""

_MIB: Final = 2**20
_EXPLAINED_AT_ONCE: Final = 8  # explanations in line; each takes a hundred times as long as an answer
_EXPLAIN_KEYS: Final = ("text", "text_pair", "label")
_HEADERS: Final = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}


def answer(model: TrainedModel, temperature: float, rows: Sequence[Example]) -> list[Said]:
    """Say what the model makes of rows.

    Args:
        model: the model.
        temperature: of the probabilities, see `pipeline.decisions.decide`.
        rows: at least one.

    Raises:
        SeqtrackError: the model gives NaN or infinity.
    """
    classifier = model.classifier
    decisions = classifier.decide(logits_of(classifier, rows, len(rows), lambda _: None), temperature)
    found = records([row.id for row in rows], decisions, classifier.labels, classifier.digest)
    return [{name: value for name, value in record.items() if name not in {"id", "model"}} for record in found]


def application(model: TrainedModel, settings: Serve, *, name: str, temperature: float = 1.0) -> Starlette:
    """Return the server's application, to be run by any ASGI server, in one process.

    Args:
        model: what to serve.
        settings: limits, and whether there is a page.
        name: of the model, for the page.
        temperature: of the probabilities.
    """
    served = _Served(model, settings, name, temperature)
    routes = [
        Route("/invocations", served.invocations, methods=["POST"]),
        Route("/ping", _ping),
        Route("/health", _ping),
        Route("/version", _version),
        Route("/model", served.model),
    ]
    if settings.page:
        routes += [Route("/", served.page), Route("/explain", served.explain, methods=["POST"])]
    handlers: Mapping[Any, Any] = {
        RefusedError: _refused,
        HTTPException: _no_such,
        ClientDisconnect: _gone,
        LineTooLongError: _busy,
        SeqtrackError: _failed,
        Exception: _failed,
    }
    return Starlette(routes=routes, exception_handlers=handlers, lifespan=served.running)


class _Served:
    """A model with the line of requests before it."""

    def __init__(self, model: TrainedModel, settings: Serve, name: str, temperature: float) -> None:
        self._trained, self._settings, self._name = model, settings, name
        pairs = None if model.columns is None else model.columns.text_pair is not None
        self._limits = Limits(serve=settings, pairs=pairs)
        self._merger = Merger(
            partial(answer, model, temperature),
            max_rows=settings.max_rows,
            max_wait=settings.max_wait_ms / 1000,
            max_waiting=settings.max_waiting_rows,
        )
        self._explaining = 0
        self._page, self._policy = _page(PAGE.read_text(encoding="utf-8"))

    @asynccontextmanager
    async def running(self, _: Starlette) -> AsyncIterator[None]:
        async with self._merger:
            yield

    async def invocations(self, request: Request) -> Response:
        body = await _body(request, self._settings.max_body_mib)
        rows = read_rows(body, request.headers.get("content-type", ""), self._limits)
        return _json({"predictions": await self._merger.ask(rows)})

    async def model(self, _: Request) -> Response:
        classifier = self._trained.classifier
        thresholds = None
        if classifier.labels.problem_type == "multi_label_classification":
            limits = [HALF] * classifier.labels.width if classifier.thresholds is None else classifier.thresholds
            thresholds = dict(zip(classifier.labels.names, map(float, limits), strict=True))
        return _json(
            {
                "name": self._name,
                "digest": classifier.digest,
                "problem_type": classifier.labels.problem_type,
                "labels": classifier.labels.names,
                "thresholds": thresholds,
                "text_pair": self._limits.pairs,
                "max_length": classifier.encoder.max_length,
                "max_rows": self._settings.max_rows,
                "max_characters": self._settings.max_characters,
            }
        )

    async def page(self, _: Request) -> Response:
        return HTMLResponse(self._page, headers={**_HEADERS, "Content-Security-Policy": self._policy})

    async def explain(self, request: Request) -> Response:
        body = await _body(request, self._settings.max_body_mib)
        if not request.headers.get("content-type", "").lower().startswith("application/json"):
            raise RefusedError(415, "send application/json")
        given = read_object(body, _EXPLAIN_KEYS)
        row = one_row(given.get("text"), given.get("text_pair"), self._limits)
        target = self._target(given.get("label"))
        if self._explaining >= _EXPLAINED_AT_ONCE:
            raise LineTooLongError(f"{self._explaining} texts are waiting to be explained")
        self._explaining += 1
        try:
            found = await self._merger.run(partial(explain, self._trained.classifier, row.text, row.text_pair, target))
        finally:
            self._explaining -= 1
        return _json(
            {
                "label": given.get("label"),
                "output": round(found.output, DECIMALS),
                "baseline": round(found.baseline, DECIMALS),
                "words": _words(found.words),
                "pair_words": None if found.pair_words is None else _words(found.pair_words),
            }
        )

    def _target(self, label: object) -> int:
        names = self._trained.classifier.labels.names
        if not names and label is None:
            return 0
        if label not in names:
            known = ", ".join(names) or "null, since the model gives a number"
            raise RefusedError(400, f"label: expected one of {known}" if names else f"label: expected {known}")
        return names.index(str(label))


def _words(words: Sequence[Word]) -> list[dict[str, str | float | None]]:
    return [
        {"text": word.text, "weight": None if word.weight is None else round(word.weight, DECIMALS)} for word in words
    ]


async def _body(request: Request, max_mib: int) -> bytes:
    """Read a request's body.

    One that is too large is read to its end all the same, up to a point, and forgotten: a client that is still sending
    would not see the answer.
    """
    if request.headers.get("content-encoding", "identity") != "identity":
        raise RefusedError(415, f"Content-Encoding is {request.headers['content-encoding']}; send the body as it is")
    limit, size = max_mib * _MIB, 0
    parts: list[bytes] = []
    async for part in request.stream():
        size += len(part)
        if size <= limit:
            parts.append(part)
        elif size > 4 * limit:
            break
    if size > limit:
        raise RefusedError(413, f"the body has more than {max_mib} MiB: send several requests")
    return b"".join(parts)


async def _ping(_: Request) -> Response:
    return Response("\n", media_type="application/json")


async def _version(_: Request) -> Response:
    return Response(version("mlflow"), media_type="application/json")


async def _refused(_: Request, refusal: RefusedError) -> Response:
    return _reason(refusal.status, refusal.reason)


async def _no_such(request: Request, error: HTTPException) -> Response:
    return _reason(error.status_code, f"{request.method} {request.url.path}: {error.detail}", error.headers)


async def _busy(_: Request, error: LineTooLongError) -> Response:
    return _reason(503, f"{error}: try again", {"Retry-After": "1"})


async def _gone(_: Request, _error: ClientDisconnect) -> Response:
    return Response(status_code=400)  # which nobody reads


async def _failed(_: Request, error: Exception) -> Response:
    return _reason(500, str(error) if isinstance(error, SeqtrackError) else "the server failed; its terminal says why")


def _reason(status: int, reason: str, headers: Mapping[str, str] | None = None) -> Response:
    message = reason if reason.endswith(".") else f"{reason}."
    return _json({"error_code": HTTPStatus(status).name, "message": message}, status=status, headers=headers)


def _json(value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(
        orjson.dumps(value), status_code=status, media_type="application/json", headers={**_HEADERS, **(headers or {})}
    )


def _page(html: str) -> tuple[str, str]:
    """Return the page, and a policy under which nothing runs or loads but what stands in it."""

    def hashed(tag: str) -> str:
        (inner,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        return f"'sha256-{base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()}'"

    policy = {
        "default-src": "'none'",
        "script-src": hashed("script"),
        "style-src": hashed("style"),
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return html, "; ".join(f"{name} {value}" for name, value in policy.items())
