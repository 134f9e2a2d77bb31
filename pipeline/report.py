"""The report stage's work: one page that tells of a run, from its data to its errors.

Promises: the page is one file without scripts that asks the network for nothing; equal runs give equal bytes. A copy
with what differs from run to run (seconds, memory, the MLflow run) lies outside DVC's outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import params
from pipeline.console import say
from pipeline.embedding import Embedder
from pipeline.inference import Classifier
from pipeline.label_errors import find_label_errors, require_cleanlab
from pipeline.labels import LabelSet, ProblemType
from pipeline.outputs import write_text
from pipeline.paths import SPLIT_NAMES, state
from pipeline.report_blocks import Page, Section
from pipeline.report_data import checks_section, data_section, duplicates_section, subtitle
from pipeline.report_inputs import Inputs, Outputs, read_inputs
from pipeline.report_page import render
from pipeline.report_rows import (
    ExplainedError,
    FoundSuspects,
    errors_section,
    explain_errors,
    label_errors_section,
)
from pipeline.report_run import Measured, Weights, lineage_section, resources_section
from pipeline.report_scores import (
    calibration_section,
    classes_section,
    metrics_section,
    slices_section,
    tiles,
    training_section,
)
from pipeline.rows import read_row_ids, read_rows
from pipeline.semantic import find_encoder

PAGE = "index.html"
TASKS: dict[ProblemType, str] = {
    "single_label_classification": "Classification",
    "multi_label_classification": "Multi-label classification",
    "regression": "Regression",
}


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that a page tells but for what was measured.

    Attributes:
        inputs: what earlier stages wrote.
        weights: the model's size.
        explained: wrong rows with the weights of their words.
        suspects: labels that may be wrong; None where nobody asked.
    """

    inputs: Inputs
    weights: Weights
    explained: Sequence[ExplainedError]
    suspects: FoundSuspects | None

    @property
    def run_key(self) -> str:
        """The identity of the run."""
        return str(self.inputs.model["run_key"])

    def html(self, measured: Measured | None = None) -> str:
        """Return the page; with what was measured it differs from run to run."""
        inputs = self.inputs
        sections: list[Section] = [
            metrics_section(inputs),
            training_section(inputs),
            classes_section(inputs),
            *([calibration_section(inputs)] if "reliability" in inputs.scored else []),
            slices_section(inputs),
            errors_section(inputs, self.explained),
            label_errors_section(inputs, self.suspects),
            data_section(inputs),
            checks_section(inputs),
            duplicates_section(inputs),
            resources_section(inputs, self.weights, measured),
            lineage_section(inputs),
        ]
        task = TASKS[inputs.results["problem_type"]]
        return render(
            Page(
                title="Run report",
                subtitle=f"{task}: {subtitle(inputs)}",
                tiles=tiles(inputs),
                sections=sections,
                note=f"run_key {self.run_key[:10]}. Drawn from the files in data/reports, which hold all numbers.",
            )
        )


def build_report(outputs: Outputs, report: params.Report, split: params.Split) -> Report:
    """Read what the stages wrote, weigh words, look for label errors.

    Args:
        outputs: where the stages wrote.
        report: the section.
        split: the section; its semantic_model embeds texts where label errors are looked for.

    Raises:
        SeqtrackError: a file is missing or of another run, an extra is not installed, or a model cannot be used.
    """
    labels = LabelSet.read(outputs.validated / "labels.json")
    searched = report.label_errors and labels.problem_type != "regression"
    if searched:
        require_cleanlab()
    inputs = read_inputs(outputs)
    encoder = find_encoder(split) if searched else None
    classifier = Classifier.load(outputs.model)
    weights = Weights.of(classifier.model, inputs.model["params"]["train"])
    explained = explain_errors(inputs, classifier, report.attributions) if report.attributions else ()
    suspects = None
    if encoder is not None:
        rows = _labelled(outputs)
        found = find_label_errors(labels, rows, Embedder.load(encoder))
        kept = {suspect.row for suspect in found.suspects}
        say(f"report: {len(kept):,} of {rows.num_rows:,} labels look wrong")
        suspects = FoundSuspects(encoder=split.semantic_model, errors=found, rows=rows.to_pylist())
    return Report(inputs=inputs, weights=weights, explained=explained, suspects=suspects)


def write_timed_page(report: Report, measured: Measured) -> Path:
    """Write `.seqtrack/results/<run_key>/index.html`, and return where it lies."""
    file = state() / "results" / report.run_key / PAGE
    write_text(file, report.html(measured))
    return file


def _labelled(outputs: Outputs) -> pa.Table:
    """Return the labelled rows of all splits, with the split that each is in."""
    rows = read_rows(outputs.validated / "rows.parquet", ["row_id", "text", "text_pair", "label", "source", "line"])
    ids = [read_row_ids(outputs.splits / f"{name}.parquet") for name in SPLIT_NAMES]
    homes = pa.concat_arrays([pa.repeat(name, len(part)) for name, part in zip(SPLIT_NAMES, ids, strict=True)])
    places = pc.index_in(rows["row_id"], value_set=pa.concat_arrays(ids))
    rows = rows.append_column("split", pc.take(homes, places))
    return rows.filter(pc.and_(pc.is_valid(places), pc.is_valid(rows["label"])))
