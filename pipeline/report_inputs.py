"""What a report is drawn from: the reports and manifests that earlier stages wrote, read together.

Promises: files may be large and what is kept of them is not: of duplicates and of points only as many as a page shows.
"""

from __future__ import annotations

import csv
import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import orjson

from pipeline.errors import SeqtrackError
from pipeline.outputs import Json, folder_digest, read_json, read_manifest
from pipeline.report_charts import MOST_DOTS

MOST_PAIRS = 40  # of duplicates: those with different labels first, then those across the user's splits
MOST_CURVE_POINTS = 400
WEIGHTS = (".safetensors",)  # of a model folder's files


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Folders that stages wrote, and the reports beside them.

    Attributes:
        validated, splits, model: the stages' output folders.
        reports: the folder of reports.
    """

    validated: Path
    splits: Path
    model: Path
    reports: Path


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """All that a page tells of; JSON as the stages' own pages of documentation describe it.

    Attributes:
        validation, leakage, tokenization, results: the reports of these names, `results` being all_results.json.
        pairs: at most MOST_PAIRS of duplicates.jsonl.
        errors: errors.jsonl, worst first within each split.
        history: a line per evaluation during training, as text by column; `curve`: thinned, of the steps between.
        labels, lengths: lines of label_distribution.csv and length_distribution.csv.
        roc, recall: points by class, of at most as many as the figure has.
        numbers: (actual, predicted) in regression, thinned.
        by_length: lines of evaluation/lengths.csv.
        model: the model folder's manifest; `config` its config.json.
        model_bytes: size of its weights.
        digests: of the folders that stages wrote, by name.
        raw: digests of the user's files, by name.
        evaluate: the section of params.yaml that the scores were computed with.
    """

    validation: Json
    leakage: Json
    tokenization: Json
    results: Json
    pairs: Sequence[Json]
    errors: Sequence[Json]
    history: Sequence[dict[str, str]]
    curve: Sequence[dict[str, str]]
    labels: Sequence[dict[str, str]]
    lengths: Sequence[dict[str, str]]
    roc: Sequence[dict[str, str]]
    recall: Sequence[dict[str, str]]
    numbers: Sequence[dict[str, str]]
    by_length: Sequence[dict[str, str]]
    model: Json
    config: Json
    model_bytes: int
    digests: dict[str, str]
    raw: dict[str, str]
    evaluate: Json

    @property
    def split(self) -> str:
        """The split that the page tells most of: test, or validation where test has no labels."""
        return "test" if "test" in self.results["splits"] else "validation"

    @property
    def scored(self) -> Json:
        """What all_results.json says of that split."""
        return self.results["splits"][self.split]


def read_inputs(outputs: Outputs) -> Inputs:
    """Read everything.

    Raises:
        SeqtrackError: a file is missing or damaged.
    """
    reports = outputs.reports
    evaluation = reports / "evaluation"
    model = read_manifest(outputs.model)
    results = read_json(reports / "all_results.json")
    if results["model"] != (digest := folder_digest(outputs.model)):
        raise SeqtrackError(
            "the scores are those of another model",
            where=str(reports / "all_results.json"),
            expected=digest[:10],
            found=str(results["model"])[:10],
            fix="run `dvc repro`",
        )
    return Inputs(
        validation=read_json(reports / "validation.json"),
        leakage=read_json(reports / "leakage.json"),
        tokenization=read_json(reports / "tokenization.json"),
        results=results,
        pairs=_pairs(reports / "duplicates.jsonl"),
        errors=tuple(_json_lines(reports / "errors.jsonl")),
        history=_csv(reports / "history.csv"),
        curve=_thinned(_csv(reports / "training_curve.csv"), MOST_CURVE_POINTS),
        labels=_csv(reports / "label_distribution.csv"),
        lengths=_csv(reports / "length_distribution.csv"),
        roc=_csv(evaluation / "roc.csv"),
        recall=_csv(evaluation / "precision_recall.csv"),
        numbers=_thinned(_csv(evaluation / "regression.csv"), MOST_DOTS),
        by_length=_csv(evaluation / "lengths.csv"),
        model=model,
        config=read_json(outputs.model / "config.json"),
        model_bytes=sum(file.stat().st_size for file in outputs.model.iterdir() if file.suffix in WEIGHTS),
        digests={
            "validated rows": folder_digest(outputs.validated),
            "splits": folder_digest(outputs.splits),
            "tokens": model["inputs"]["tokenized"],
            "model": digest,
        },
        raw=read_manifest(outputs.validated)["inputs"],
        evaluate=read_manifest(evaluation)["params"],
    )


def _pairs(path: Path) -> tuple[Json, ...]:
    ranked = (
        (not pair["label_conflict"], not pair["crosses_given_splits"], place, pair)
        for place, pair in enumerate(_json_lines(path))
    )
    return tuple(pair for *_, pair in heapq.nsmallest(MOST_PAIRS, ranked, key=lambda ranks: ranks[:3]))


def _json_lines(path: Path) -> Iterator[Json]:
    with _opened(path).open("rb") as stream:
        for line in stream:
            yield orjson.loads(line)


def _csv(path: Path) -> tuple[dict[str, str], ...]:
    with _opened(path).open(encoding="utf-8", newline="") as stream:
        return tuple(csv.DictReader(stream))


def _opened(path: Path) -> Path:
    if not path.is_file():
        raise SeqtrackError("file not found", where=str(path), fix="run `dvc repro` to build it")
    return path


def _thinned(lines: Sequence[dict[str, str]], most: int) -> tuple[dict[str, str], ...]:
    """Return evenly spaced lines, the last among them."""
    step = -(-len(lines) // most) if lines else 1
    return tuple(reversed(tuple(islice(reversed(lines), 0, None, step))))
