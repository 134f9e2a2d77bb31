"""Write the trained model as ONNX, for programs without PyTorch, and compare it with PyTorch. Off by default.

Reads:  data/model, data/tokenized, data/splits/validation.parquet, data/validated/rows.parquet
Writes: data/onnx/ (model.onnx, with export.int8 model_quantized.onnx, tokenizer, configuration, labels, manifest; where
        export.format is null a manifest alone), data/reports/export.json (differences, scores); speed in the MLflow run
"""

import time

from pipeline.exporting import export_model, write_nothing
from pipeline.params import Params
from pipeline.paths import MODEL, ONNX, REPORTS, ROWS, SPLITS, TOKENIZED
from stages.runner import run_stage

REPORT = REPORTS / "export.json"


def export(params: Params) -> None:
    """Run the stage."""
    started = time.perf_counter()
    if params.export.format is None:
        write_nothing(ONNX, REPORT)
        return
    done = export_model(MODEL, ONNX, REPORT, tokenized=TOKENIZED, splits=SPLITS, rows=ROWS, export=params.export)
    from pipeline.tracking import tracked_run  # late: it is not needed where nothing is exported

    with tracked_run(done.run_key, params.tracking.experiment_name) as run:
        run.log_params(params.flat("export"))
        run.log_metrics({f"export/{name}_samples_per_second": speed for name, speed in done.samples_per_second.items()})
        run.log_files([REPORT], "reports")
        run.log_files(sorted(file for file in ONNX.iterdir() if file.is_file()), "onnx")
        run.log_stage_seconds("export", time.perf_counter() - started)


if __name__ == "__main__":
    run_stage(export, __doc__)
