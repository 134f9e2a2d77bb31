"""What a user would write instead of `make serve`: transformers' pipeline behind FastAPI.

FastAPI runs it in its pool of threads, so requests that come at once are computed at once, each for itself.
"""

from __future__ import annotations

import argparse
import socket

import transformers
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel


class Row(BaseModel):
    text: str
    text_pair: str | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    classify = transformers.pipeline("text-classification", model=options.model, top_k=None, truncation=True)
    app = FastAPI()

    @app.post("/classify")
    def answer(row: Row) -> list[dict[str, str | float]]:
        # The pipeline gives a list of lists for a list, and for a pair the list alone.
        found = classify([row.text] if row.text_pair is None else row.model_dump())
        return found[0] if isinstance(found[0], list) else found

    listening = socket.create_server(("127.0.0.1", options.port), backlog=1024)
    print(f"serving http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listening])


if __name__ == "__main__":
    main()
