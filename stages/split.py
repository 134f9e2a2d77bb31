"""Divide the rows into train, validation and test, with no duplicate on two sides.

Reads   data/validated/rows.parquet, labels.json
Writes  data/splits/{train,validation,test}.parquet (row ids), manifest.json; where rows left the test split you gave,
        test_as_given.parquet, so that evaluate can say what they were worth
        data/reports/leakage.json             counts, what was dropped, the verification
        data/reports/duplicates.jsonl         every pair of duplicates: both rows, score, kind, action
        data/reports/label_distribution.csv   rows by split and label
        .seqtrack/signatures, embeddings      what a search with another threshold can use again
Params  split
"""

from __future__ import annotations

from pipeline.duplicates import find_duplicates
from pipeline.errors import SeqtrackError
from pipeline.labels import LabelSet
from pipeline.leakage import list_pairs, show, verify, write_reports
from pipeline.outputs import output_folder, sha256_file, write_manifest
from pipeline.params import Params
from pipeline.paths import LABELS, REPORTS, ROWS, SPLIT_NAMES, SPLITS, state
from pipeline.rows import read_rows
from pipeline.signatures import SignatureStore
from pipeline.splitting import divide, write_splits
from stages.runner import run_stage


def split(params: Params) -> None:
    """Find duplicates, divide the rows, prove the result, write it."""
    rows, identity = read_rows(ROWS), sha256_file(ROWS)
    problem_type = LabelSet.read(LABELS).problem_type
    store = SignatureStore(folder=state() / "signatures", identity=identity)
    duplicates = find_duplicates(rows, params.split, store)
    division = divide(rows, duplicates, params.split, problem_type=problem_type)
    pairs = list_pairs(rows, duplicates, division, params.split)
    verification = verify(division, duplicates, pairs, params.split)
    if not verification.passed:
        raise SeqtrackError(verification.verdict, fix="this is a fault of the split stage: please report it")
    with output_folder(SPLITS) as folder:
        write_splits(folder, rows, division)
        write_manifest(
            folder,
            inputs={ROWS.as_posix(): identity},
            params=params.split.model_dump(mode="json"),
            rows=dict(zip(SPLIT_NAMES, division.counts().sum(axis=0).tolist(), strict=True)),
        )
        write_reports(REPORTS, division, duplicates, pairs, verification, params.split)
    show(division, pairs, verification)


if __name__ == "__main__":
    run_stage(split, __doc__, output=SPLITS)
