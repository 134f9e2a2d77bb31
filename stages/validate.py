"""Check the user's files and write them as canonical rows.

Reads   data.path (params.yaml): CSV, TSV, JSON, text, Parquet or Arrow files, or a folder of them
Writes  data/validated/rows.parquet     row_id, text, text_pair, label, split, source, line, group, time,
                                        kept (columns of data.keep_columns)
        data/validated/labels.json      the closed label set, in class order
        data/validated/columns.json     which column is the text, the pair, the label; it goes into the model folder
        data/validated/rejected.jsonl   every row left out, with file, line and reason
        data/reports/validation.json    every check, counts, columns, classes, lengths, what was inferred from what

Texts are kept exactly as given; labels lose surrounding whitespace. Splits come from the file names (train, dev,
test, ...) or a column named split. Fails, and writes none of these, when more than validate.max_rejected_ratio of the
rows is rejected or a check finds something that validate.policy calls an error; the report is then in
.seqtrack/last_validation.json.
"""

from __future__ import annotations

from pipeline import paths, validation
from pipeline.console import say
from pipeline.outputs import output_folder, write_json
from pipeline.params import Params
from pipeline.validation_report import ChecksFailedError, show
from stages.runner import run_stage


def validate(params: Params) -> None:
    """Write data/validated and its report."""
    last = paths.state() / "last_validation.json"  # of a run that failed
    last.unlink(missing_ok=True)
    try:
        with output_folder(paths.VALIDATED) as folder:
            report = validation.validate(params.data, params.validate_, folder)
    except ChecksFailedError as failure:
        write_json(last, failure.report.as_json())
        show(failure.report)
        say(f"nothing is written but the report, in {last}")
        raise
    write_json(paths.REPORTS / "validation.json", report.as_json())
    show(report)
    for line in report.summary():
        say(line)


if __name__ == "__main__":
    run_stage(validate, __doc__, output=paths.VALIDATED)
