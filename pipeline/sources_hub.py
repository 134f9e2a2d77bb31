"""Data sets of the Hugging Face hub, turned into plain files.

Promises: what is loaded is one commit, named in full; class ids become class names; whatever the hub, the network or
the data set does wrong ends in one SeqtrackError that says what to do without a hub. HF_ENDPOINT, HF_HUB_OFFLINE and
HF_TOKEN mean what they mean everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

from pipeline.errors import SeqtrackError
from pipeline.paths import hub_endpoint, hub_offline

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

TIMEOUT: Final = 30.0  # seconds to wait for the hub's first answer
_WITHOUT_HUB: Final = (
    "check the network and HF_ENDPOINT; without a hub, set fetch.source to sample, or to none with data.path "
    "pointing at your own files"
)


def resolve_commit(name: str, revision: str | None) -> str:
    """Return the commit (40 hex digits) that a revision of a data set stands for now.

    Raises:
        SeqtrackError: the hub cannot be reached, or does not have or give the data set or the revision.
    """
    if hub_offline():
        raise SeqtrackError("HF_HUB_OFFLINE forbids the way to the hub", where=_place(name), fix=_WITHOUT_HUB)
    from huggingface_hub import HfApi

    with _explained(name, revision):
        commit = HfApi(endpoint=hub_endpoint()).dataset_info(name, revision=revision, timeout=TIMEOUT).sha
    if not commit:
        raise SeqtrackError("the hub names no commit for this data set", where=_place(name), fix=_WITHOUT_HUB)
    return commit


def load_hub(name: str, config: str | None, commit: str) -> DatasetDict:
    """Download a data set, or find it in the library's cache, at one commit.

    Raises:
        SeqtrackError: the hub cannot be reached any more, the configuration does not exist, or the files of the data
            set cannot be read.
    """
    import datasets
    from datasets.exceptions import DatasetGenerationError, DatasetsError

    with _explained(name, commit):
        try:
            # The prefix keeps a folder that happens to have the data set's name from being loaded in its place.
            return datasets.load_dataset(f"hf://datasets/{name}", config, revision=commit)
        except (DatasetsError, FileNotFoundError, ValueError, RuntimeError) as error:
            # ValueError: an unknown or missing configuration, with those there are; RuntimeError: a loading script.
            cause = error.__cause__ if isinstance(error, DatasetGenerationError) and error.__cause__ else error
            raise SeqtrackError(
                f"the data set cannot be loaded: {_first_line(cause)}",
                where=_place(name),
                fix="check fetch.name, fetch.config and fetch.revision in params.yaml",
            ) from error


def write_splits(splits: DatasetDict, folder: Path) -> dict[str, int]:
    """Write each split as `<split>.jsonl`, an object a line with the columns in their order.

    Class ids become class names; -1, which GLUE has for "withheld" and SNLI for "no agreement", becomes null.

    Returns:
        File name to rows in it.

    Raises:
        SeqtrackError: there is no split, or a value has no form in JSON, such as an image.
    """
    if not splits:
        raise SeqtrackError("the data set has no split", where="fetch.source hub")
    return {f"{name}.jsonl": _write_split(splits[name], folder / f"{name}.jsonl") for name in sorted(splits)}


def split_rows(split: Dataset) -> Iterator[dict[str, Any]]:
    """Iterate over the rows of a split, with class names for class ids."""
    converters = {column: convert for column, feature in split.features.items() if (convert := _converter(feature))}
    # As Arrow: the library's own decoding would import what images and sound need, only for writing to fail.
    for table in split.with_format("arrow").iter(batch_size=1000):
        for row in table.to_pylist():
            for column, convert in converters.items():
                row[column] = convert(row[column])
            yield row


def _write_split(split: Dataset, file: Path) -> int:
    with file.open("wb") as stream:
        for row in split_rows(split):
            stream.write(_json_line(row, file.name))
    return len(split)


def _converter(feature: Any) -> Callable[[Any], Any] | None:
    """Return what turns class ids into names, in a column of classes or of lists of classes; None elsewhere."""
    from datasets import ClassLabel, List

    if isinstance(feature, ClassLabel):
        names = feature.names
        return lambda index: None if index is None or index < 0 else names[index]
    if isinstance(feature, List) and isinstance(feature.feature, ClassLabel):
        one = _converter(feature.feature)
        assert one is not None
        return lambda indices: None if indices is None else [one(index) for index in indices]
    return None


def _json_line(row: Mapping[str, Any], file: str) -> bytes:
    try:
        return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError as error:
        raise SeqtrackError(
            f"the data set holds values that JSON has no form for ({error})",
            where=f"fetch.source hub, {file}",
            fix="fetch takes data sets of text and numbers; convert this one and use fetch.source none",
        ) from None


@contextmanager
def _explained(name: str, revision: str | None) -> Iterator[None]:
    """Turn what the hub's client raises into one line; seen with huggingface_hub 2.4 and datasets 5.2."""
    from huggingface_hub import errors
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # kept there for libraries like this one

    try:
        yield
    except errors.HFValidationError as error:
        raise SeqtrackError("not the id of a data set", where=_place(name), found=_first_line(error)) from error
    except errors.GatedRepoError as error:
        raise _refused(
            name, "is gated: its authors let in whom they know", "ask for access on its page, log in", error
        ) from error
    except errors.RevisionNotFoundError as error:
        raise _refused(name, f"has no revision {revision!r}", "change fetch.revision", error) from error
    except errors.RepositoryNotFoundError as error:
        raise _refused(
            name, "does not exist, or is private", "check fetch.name, and log in if it is private", error
        ) from error
    except errors.HfHubHTTPError as error:
        raise _refused(name, "was not handed out", "try again later", error) from error
    except json.JSONDecodeError as error:
        raise SeqtrackError(
            f"{hub_endpoint()} answers, but not as a hub does (a proxy or login page?)",
            where=_place(name),
            fix=_WITHOUT_HUB,
        ) from error
    except (httpx.HTTPError, ConnectionError, TimeoutError) as error:
        raise SeqtrackError(
            f"the hub {hub_endpoint()} cannot be reached: {_first_line(error)}", where=_place(name), fix=_WITHOUT_HUB
        ) from error


def _refused(name: str, problem: str, fix: str, error: Exception) -> SeqtrackError:
    return SeqtrackError(
        f"the data set {problem}; the hub {hub_endpoint()} says: {_first_line(error)}",
        where=_place(name),
        fix=f"{fix}, or {_WITHOUT_HUB}",
    )


def _place(name: str) -> str:
    return f"fetch.source hub, {name}"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__
