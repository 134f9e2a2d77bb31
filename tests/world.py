"""Everything that evaluate and predict read, in a folder: rows, splits, tokens and a tiny random classifier."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pipeline.encoding import FlatRows
from pipeline.evaluation import Evaluation, evaluate_splits
from pipeline.evaluation_report import write_reports
from pipeline.inference import Classifier
from pipeline.labels import LabelSet, ProblemType
from pipeline.params import Evaluate
from pipeline.row_store import Kept
from pipeline.rows import SCHEMA, row_id, write_parquet
from pipeline.tokens import TokenStore, shard_writer, token_columns
from tests.tiny import save_tiny_classifier

NAMES = ("体育", "business", "tech")
WORDS = ["goal", "match", "money", "bank", "chip", "code", "$5"]
SETTINGS = Evaluate(
    per_device_batch_size=8,
    bootstrap_samples=100,
    confidence=0.9,
    seed=1,
    max_errors=5,
    slices=("length", "source"),
    temperature_scaling=False,
)


class OneOutput(torch.nn.Module):
    """The first output of a model: a number per row."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.device = model.device

    def forward(self, **inputs: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.model(**inputs).logits[:, :1])


class World:
    """Everything evaluate reads, in a folder; label_of, source_of and kept_of decide the label, the file and
    the kept columns of each row."""

    def __init__(
        self,
        folder: Path,
        label_of: Callable[[int], str | None] = lambda index: NAMES[index % 3],
        *,
        source_of: Callable[[int], str] = lambda _: "all.csv",
        kept_of: Callable[[int], Kept | None] = lambda _: None,
        task: ProblemType = "single_label_classification",
        settings: Evaluate = SETTINGS,
    ) -> None:
        self.settings = settings
        generator = np.random.default_rng(0)
        self.rows: list[dict[str, Any]] = []
        for index in range(60):
            text = " ".join(generator.choice(WORDS, size=generator.integers(1, 20)))
            label, split = label_of(index), ("validation" if index % 4 == 0 else "test")
            self.rows.append(
                {
                    "row_id": row_id(text, None, label, split, index),
                    "text": text,
                    "text_pair": None,
                    "label": label,
                    "split": split,
                    "source": source_of(index),
                    "line": index + 2,
                    "kept": kept_of(index),
                }
            )
        self.folder = folder
        (folder / "splits").mkdir()
        write_parquet(pa.Table.from_pylist(self.rows, SCHEMA), folder / "rows.parquet")
        for split in ("validation", "test"):
            ids = [row["row_id"] for row in reversed(self.rows) if row["split"] == split]  # not the rows' order
            self.write_split(split, ids)
        labels = LabelSet(problem_type=task, names=() if task == "regression" else NAMES)
        labels.write(folder / "labels.json")
        save_tiny_classifier(folder / "model", [row["text"] for row in self.rows], NAMES)
        self.classifier = replace(Classifier.load(folder / "model"), labels=labels)
        if task == "regression":
            self.classifier = replace(self.classifier, model=OneOutput(self.classifier.model))
        (folder / "tokens").mkdir()
        with shard_writer(folder / "tokens", token_types=True) as writer:
            encoded = self.classifier.encoder.encode([row["text"] for row in self.rows], None)
            row_ids = pa.array([row["row_id"] for row in self.rows])
            writer.write(row_ids, token_columns(FlatRows.of(encoded)))
        self.tokens = TokenStore(sorted((folder / "tokens").iterdir()), self.classifier.encoder.padding)

    def write_split(self, split: str, ids: list[str]) -> None:
        write_parquet(pa.table({"row_id": pa.array(ids, pa.string())}), self.folder / "splits" / f"{split}.parquet")

    def evaluate(self) -> Evaluation:
        return evaluate_splits(
            self.classifier,
            self.tokens,
            splits=self.folder / "splits",
            rows=self.folder / "rows.parquet",
            labels=self.folder / "labels.json",
            evaluate=self.settings,
        )

    def report(self, evaluation: Evaluation, name: str = "reports") -> tuple[Path, tuple[Path, ...]]:
        reports = self.folder / name
        figures = write_reports(evaluation, rows=self.folder / "rows.parquet", reports=reports, evaluate=self.settings)
        return reports, figures

    def expected(self, split: str) -> dict[str, tuple[str, str, float]]:
        """Return row_id to (actual, predicted, loss), a row at a time and without our batches."""
        found = {}
        for row in self.rows:
            if row["split"] != split or row["label"] is None:
                continue
            inputs = self.classifier.encoder.tokenizer(row["text"], truncation=True, max_length=32, return_tensors="pt")
            logits = self.classifier.model(**inputs).logits[0].detach().double()
            loss = -logits.log_softmax(0)[NAMES.index(row["label"])].item()
            found[row["row_id"]] = (row["label"], NAMES[int(logits.argmax())], loss)
        return found
