"""Check the user's files and write them as canonical rows.

Reads   data.path (params.yaml): a CSV, TSV or JSON Lines file, or a folder with such files.
Writes  data/validated/rows.parquet     row_id, text, text_pair, label, split, source, line
        data/validated/labels.json      the closed label set, in class order
        data/validated/rejected.jsonl   every row left out, with file, line and reason
        data/reports/validation.json    counts, columns, classes, lengths, and what was inferred from what

Texts are kept exactly as given; labels lose surrounding whitespace. Splits come from the file names (train, dev,
test, ...) or a column named split. Fails when more than validate.max_rejected_ratio of the rows is rejected.
"""

from __future__ import annotations

from pipeline import paths, validation
from pipeline.console import say, table
from pipeline.outputs import output_folder, write_json
from pipeline.params import Params
from stages.runner import run_stage


def validate(params: Params) -> None:
    """Write data/validated and its report."""
    with output_folder(paths.VALIDATED) as folder:
        report = validation.validate(params.data, params.validate_, folder)
    write_json(paths.REPORTS / "validation.json", report.as_json())
    table(
        "Validated",
        ("file", "format", "split", "rows", "rejected"),
        [
            (file.source, file.format, file.split or "-", f"{file.rows:,}", f"{file.rejected:,}")
            for file in report.files
        ],
    )
    for line in report.summary():
        say(line)


if __name__ == "__main__":
    run_stage(validate, __doc__, output=paths.VALIDATED)
