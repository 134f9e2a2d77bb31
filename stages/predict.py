"""Apply the trained model to every row of a split, or of any files, labelled or not.

Reads:  data/model, predict.path (a split in data/splits with data/validated/rows.parquet, or any file or folder that
        validate can read; predict.pattern chooses files in a folder)
Writes: data/predictions/ (<name>.<predict.format> with id, label or score, probabilities and model digest; manifest;
        for test sets of GLUE submission/<TASK>.tsv, also kept in .seqtrack/submission); row count and time in the
        MLflow run
"""

import time
from pathlib import Path

from pipeline.allocator import keep_freed_memory
from pipeline.columns import read_columns
from pipeline.params import Params
from pipeline.paths import COLUMNS, MODEL, PREDICTIONS, ROWS
from pipeline.prediction_input import open_sources
from pipeline.submission import keep
from pipeline.tracking import tracked_run
from stages.runner import run_stage


def predict(params: Params) -> None:
    """Run the stage."""
    started = time.perf_counter()
    keep_freed_memory()
    settings = params.predict
    trained = read_columns(MODEL / COLUMNS.name)
    sources = open_sources(Path(settings.path), params.data, rows=ROWS, pattern=settings.pattern, trained=trained)
    # Late: they take seconds to load, and a mistake in params.yaml or the input is told before.
    from pipeline.prediction import predict_sources
    from pipeline.replicas import open_classifier

    with open_classifier(MODEL, settings, rows=sum(source.rows for source in sources)) as classifier:
        predictions = predict_sources(classifier, sources, PREDICTIONS, settings)
    keep(predictions.submissions)
    with tracked_run(predictions.run_key, params.tracking.experiment_name) as run:
        run.log_params(params.flat("predict"))
        run.log_metrics({"predict/rows": predictions.rows})
        run.log_files([PREDICTIONS / "manifest.json"], "predictions")
        run.log_stage_seconds("predict", time.perf_counter() - started)


if __name__ == "__main__":
    run_stage(predict, __doc__)
