"""Classify every row of a split or of any data file, labelled or not.

Reads:  data/model, predict.path (a split in data/splits with data/validated/rows.parquet, or a CSV, TSV or JSON Lines
        file)
Writes: data/predictions/ (<name>.jsonl with id, label, probabilities and model digest; manifest);
        row count and time in the MLflow run
"""

import time
from pathlib import Path

from pipeline.inference import Classifier
from pipeline.params import Params
from pipeline.paths import MODEL, PREDICTIONS, ROWS
from pipeline.prediction import open_source, predict_source
from pipeline.tracking import tracked_run
from stages.runner import run_stage


def predict(params: Params) -> None:
    """Run the stage."""
    started = time.perf_counter()
    source = open_source(Path(params.predict.path), params.data, rows=ROWS)
    predictions = predict_source(Classifier.load(MODEL), source, PREDICTIONS, batch_size=params.predict.batch_size)
    with tracked_run(predictions.run_key, params.tracking.experiment_name) as run:
        run.log_params(params.flat("predict"))
        run.log_metrics({"predict/rows": predictions.rows})
        run.log_files([PREDICTIONS / "manifest.json"], "predictions")
        run.log_stage_seconds("predict", time.perf_counter() - started)


if __name__ == "__main__":
    run_stage(predict, __doc__)
