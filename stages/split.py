"""Divide the rows into train, validation and test, with no duplicate on two sides.

Reads   data/validated/rows.parquet
Writes  data/splits/{train,validation,test}.parquet (row ids), manifest.json
        data/reports/leakage.json             counts, what was dropped, the verification
        data/reports/duplicates.jsonl         every pair of duplicates: both rows, score, kind, action
        data/reports/label_distribution.csv   rows by split and label
Params  split
"""

from __future__ import annotations

from pipeline.duplicates import find_duplicates
from pipeline.errors import SeqtrackError
from pipeline.leakage import list_pairs, show, verify, write_reports
from pipeline.outputs import output_folder, sha256_file, write_manifest
from pipeline.params import Params
from pipeline.paths import REPORTS, ROWS, SPLIT_NAMES, SPLITS
from pipeline.rows import read_rows
from pipeline.splitting import divide, write_splits
from stages.runner import run_stage


def split(params: Params) -> None:
    """Find duplicates, divide the rows, prove the result, write it."""
    rows = read_rows(ROWS)
    duplicates = find_duplicates(rows, params.split)
    division = divide(rows, duplicates, params.split)
    pairs = list_pairs(rows, duplicates, division)
    verification = verify(division, duplicates, pairs, params.split)
    if not verification.passed:
        raise SeqtrackError(verification.verdict, fix="this is a fault of the split stage: please report it")
    with output_folder(SPLITS) as folder:
        write_splits(folder, rows, division)
        write_manifest(
            folder,
            inputs={ROWS.as_posix(): sha256_file(ROWS)},
            params=params.split.model_dump(mode="json"),
            rows=dict(zip(SPLIT_NAMES, division.counts().sum(axis=0).tolist(), strict=True)),
        )
        write_reports(REPORTS, division, duplicates, pairs, verification, params.split)
    show(division, pairs, verification)


if __name__ == "__main__":
    run_stage(split, __doc__, output=SPLITS)
