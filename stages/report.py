"""Draw one page of the whole run: data, checks, curves, scores, errors with the words behind them, lineage.

Reads:  data/model, data/splits, data/validated, and in data/reports what validate, split, tokenize, train and evaluate
        wrote
Writes: data/reports/index.html, one file without scripts that needs no network; a copy with seconds, peak memory and
        the MLflow run in .seqtrack/results/<run_key>/index.html, and in the MLflow run
"""

import time

from pipeline.console import say
from pipeline.memory import stage_memory
from pipeline.outputs import write_text
from pipeline.params import Params
from pipeline.paths import MODEL, REPORTS, SPLITS, VALIDATED
from pipeline.tracking import tracked_run
from stages.runner import run_stage


def report(params: Params) -> None:
    """Run the stage."""
    started = time.perf_counter()
    # Late: they take seconds to load, and a mistake in params.yaml is told before.
    from pipeline.report import PAGE, build_report, write_timed_page
    from pipeline.report_inputs import Outputs
    from pipeline.report_run import Measured

    found = build_report(
        Outputs(validated=VALIDATED, splits=SPLITS, model=MODEL, reports=REPORTS), params.report, params.split
    )
    page = REPORTS / PAGE
    write_text(page, found.html())
    with tracked_run(found.run_key, params.tracking.experiment_name) as run:
        run.log_params(params.flat("report"))
        run.log_metrics(stage_memory("report"))
        run.log_stage_seconds("report", time.perf_counter() - started)
        timed = write_timed_page(found, Measured.of(run.metrics(), run.run_id))
        run.log_files([timed], "reports")
    say(f"report: {page}; with times, memory and the MLflow run: {timed}")


if __name__ == "__main__":
    run_stage(report, __doc__)
