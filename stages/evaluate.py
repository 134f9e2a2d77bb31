"""Score the trained model on the labelled rows of validation and test.

Reads:  data/model, data/tokenized, data/splits, data/validated/rows.parquet, data/validated/labels.json
Writes: data/reports/metrics.json (scores with bootstrap intervals), data/reports/all_results.json (also by class and by
        slice), data/reports/errors.jsonl (wrong rows, worst first), data/reports/calibration.json, and
        data/reports/evaluation/ (outputs by row, tables, figures); scores, reports and times in the MLflow run
"""

import time

from pipeline.allocator import keep_freed_memory
from pipeline.memory import stage_memory
from pipeline.outputs import read_manifest
from pipeline.params import Params
from pipeline.paths import LABELS, MODEL, REPORTS, ROWS, SPLITS, TOKENIZED
from pipeline.results import EVALUATION_SPEED, write_timed_results
from pipeline.tokens import TokenStore
from pipeline.tracking import tracked_run
from stages.runner import run_stage

# What a run's page should answer without the working folder: scores, errors, and how the data were split.
REPORT_FILES = tuple(
    REPORTS / name for name in ("metrics.json", "errors.jsonl", "calibration.json", "validation.json", "leakage.json")
)


def evaluate(params: Params) -> None:
    """Run the stage."""
    started = time.perf_counter()
    keep_freed_memory()
    # Late: they take seconds to load, and a mistake in params.yaml is told before.
    from pipeline.evaluation import evaluate_splits
    from pipeline.evaluation_report import FOLDER, write_reports
    from pipeline.replicas import open_classifier
    from pipeline.row_predictions import FILE

    settings = params.evaluate
    scored = sum(rows for split, rows in read_manifest(SPLITS)["rows"].items() if split != "train")
    with open_classifier(MODEL, settings, rows=scored) as classifier:
        evaluation = evaluate_splits(
            classifier, TokenStore.open(TOKENIZED), splits=SPLITS, rows=ROWS, labels=LABELS, evaluate=settings
        )
    figures = write_reports(evaluation, rows=ROWS, reports=REPORTS, evaluate=settings)
    with tracked_run(evaluation.run_key, params.tracking.experiment_name) as run:
        run.log_params(params.flat("evaluate"))
        run.log_scores(evaluation.metrics())
        run.log_metrics({EVALUATION_SPEED: evaluation.rows_per_second})
        run.log_files(REPORT_FILES, "reports")
        run.log_files(sorted((REPORTS / FOLDER).glob("*.csv")), "reports")
        run.log_files([REPORTS / FOLDER / FILE], "reports")  # what `make compare` reads of a run
        run.log_files(figures, "figures")
        run.log_metrics(stage_memory("evaluate"))
        run.log_stage_seconds("evaluate", time.perf_counter() - started)
        run.log_files([write_timed_results(REPORTS, run.metrics())], "reports")


if __name__ == "__main__":
    run_stage(evaluate, __doc__)
