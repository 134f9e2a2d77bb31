"""Everything that the report stage reads, in a folder: a tiny model's real scores, and small reports of the data."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pipeline.inference import Classifier
from pipeline.labels import ProblemType, joined
from pipeline.outputs import folder_digest, read_manifest, write_json, write_manifest, write_text
from pipeline.report import Report
from pipeline.report_inputs import Outputs, read_inputs
from pipeline.report_rows import explain_errors
from pipeline.report_run import Weights
from tests.world import NAMES, OneOutput, World

EVIL = """<script>alert('1')</script> "quoted" & <img src=x onerror="alert(2)"> </p></section> {{ 7*7 }} عربي 中文"""
LONG = "long " * 4000
KINDS = ("exact", "normalized", "near", "semantic", "partial", "group")
TRAIN = {"learning_rate": 1e-4, "freeze": ["*.embeddings.*"], "lora": None, "custom": {"metrics": []}}
IDENTITY = {
    "weights": "b" * 64,
    "code": "c" * 64,
    "libraries": {"torch": "2.x", "transformers": "5.x"},
    "layout": {"world_size": 1, "device": "cpu", "threads": 3, "mixed_precision": "bf16"},
    "total_batch_size": 16,
}


class EmbeddingOutput(OneOutput):
    """One output, and a way to its embeddings."""

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.model.get_input_embeddings()


@dataclass(frozen=True, kw_only=True)
class ReportWorld:
    """The folders, and the model that cannot always be loaded from them."""

    folder: Path
    task: ProblemType
    world: World
    outputs: Outputs

    @staticmethod
    def make(folder: Path, task: ProblemType, *, labelled_test: bool = True) -> ReportWorld:
        sets = [joined(NAMES[place] for place in range(3) if bits >> place & 1) for bits in range(8)]

        def label_of(index: int) -> str | None:
            if index % 4 and not labelled_test:
                return None
            if task == "regression":
                return str(index % 7 / 2)
            return sets[index % 8] if task == "multi_label_classification" else NAMES[index % 3]

        world = World(folder, label_of, task=task)
        _describe_model(world)
        reports, _ = world.report(world.evaluate())
        validated = folder / "validated"
        validated.mkdir()
        for name in ("rows.parquet", "labels.json"):
            shutil.copyfile(folder / name, validated / name)
        write_manifest(validated, inputs={f"{EVIL}.csv": "a" * 64}, params={}, rows={"accepted": 60, "rejected": 0})
        world.write_split("train", [])
        write_manifest(folder / "splits", inputs={}, params={}, rows={"train": 0, "validation": 15, "test": 45})
        _write_data_reports(reports, task)
        errors = [json.loads(line) for line in (reports / "errors.jsonl").read_text(encoding="utf-8").splitlines()]
        places = [place for place, error in enumerate(errors) if error["split"] == "test"] or [0, 1]
        errors[places[0]]["text"] = EVIL
        errors[places[1]]["text"] = LONG
        _write_lines(reports / "errors.jsonl", errors)
        outputs = Outputs(validated=validated, splits=folder / "splits", model=folder / "model", reports=reports)
        return ReportWorld(folder=folder, task=task, world=world, outputs=outputs)

    def classifier(self) -> Classifier:
        if self.task != "regression":
            return self.world.classifier
        return replace(self.world.classifier, model=EmbeddingOutput(self.world.classifier.model.model))

    def report(self, *, attributions: int = 0) -> Report:
        inputs = read_inputs(self.outputs)
        classifier = self.classifier()
        return Report(
            inputs=inputs,
            weights=Weights.of(classifier.model, TRAIN),
            explained=explain_errors(inputs, classifier, attributions),
            suspects=None,
        )


def _describe_model(world: World) -> None:
    folder = world.folder / "model"
    manifest = read_manifest(folder)
    (folder / "manifest.json").unlink()
    write_manifest(
        folder,
        inputs={"tokenized": "d" * 64, "splits": "e" * 64},
        params={
            "model": {"name_or_path": "tiny/<model>", "revision": None, "trust_remote_code": False},
            "train": TRAIN,
        },
        rows={},
        run_key=manifest["run_key"],
        max_length=manifest["max_length"],
        identity=IDENTITY,
    )
    world.classifier = replace(world.classifier, digest=folder_digest(folder))


def _check(name: str, status: str) -> dict[str, Any]:
    return {
        "name": name,
        "status": status,
        "policy": "warn",
        "count": 2 if status == "warn" else 0,
        "message": "rows are odd",
        "fix": "look at them" if status == "warn" else "",
        "examples": [{"source": "a.csv", "line": 7, "snippet": EVIL}] if status == "warn" else [],
    }


def _write_data_reports(reports: Path, task: ProblemType) -> None:
    classes = [] if task == "regression" else list(NAMES)
    write_json(
        reports / "validation.json",
        {
            "rows": 60,
            "rejected": {"empty_text": 1},
            "files": [
                {
                    "source": f"{EVIL}.csv",
                    "format": "CSV",
                    "notes": ["UTF-8"],
                    "columns": ["text", "label"],
                    "split": None,
                    "rows": 61,
                    "rejected": 1,
                    "rows_over_several_lines": 0,
                }
            ],
            "columns": {"text": EVIL, "text_pair": None, "label": "label", "split": None},
            "problem_type": task,
            "classes": classes,
            "inferred": [f"text is column {EVIL!r}: found by its name"],
            "checks": [_check("schema", "pass"), _check("characters", "warn"), _check("length_shift", "off")],
        },
    )
    pairs = [_pair(place) for place in range(60)]
    _write_lines(reports / "duplicates.jsonl", pairs)
    nothing = dict.fromkeys(KINDS, 0)
    write_json(
        reports / "leakage.json",
        {
            "checks": [_check("near_duplicates", "pass")],
            "rows": {"input": 60, "kept": {"train": 0, "validation": 15, "test": 45}, "dropped": {}},
            "pairs": {
                "total": len(pairs),
                "across_given_splits": {**nothing, "near": 5},
                "inside_given_splits": {**nothing, "near": 55},
                "by_action": {"kept_together": 60},
                "label_conflicts": 10,
            },
            "search": {"near_duplicate_threshold": 0.8},
            "verification": {
                "near_pairs_refuted": 0,
                "verdict": "no verified duplicate crosses splits (60 near pairs)",
            },
        },
    )
    write_json(
        reports / "tokenization.json",
        {
            "check": _check("truncation", "warn"),
            "lengths_before_truncation": {"p50": 8, "p90": 14, "p95": 16, "p99": 18, "max": 21},
            "max_length": 32,
            "tokens": 600,
            "truncated_rows": 1,
            "truncated_ratio": 1 / 60,
        },
    )
    write_text(
        reports / "history.csv",
        "step,epoch,train_loss,learning_rate,eval_loss,eval_accuracy,eval_pearson\n"
        "10,1,0.7,0.0001,0.6,0.5,\n20,2,0.5,0.00005,0.55,0.75,\n",
    )
    write_text(
        reports / "training_curve.csv", "step,epoch,loss,learning_rate,grad_norm\n5,0.5,0.8,1e-4,1\n20,2,0.5,0,1\n"
    )
    labels = [f"{split},{name},5,x" for split in ("train", "validation", "test") for name in (*classes, "(unlabelled)")]
    write_text(reports / "label_distribution.csv", "\n".join(["split,label,count,bar", *labels]) + "\n")
    write_text(reports / "length_distribution.csv", "tokens_up_to,rows\n8,30\n16,25\n24,5\n")


def _pair(place: int) -> dict[str, Any]:
    def member(text: str, label: str) -> dict[str, Any]:
        return {
            "row_id": f"{place:032x}",
            "source": "a.csv",
            "line": place + 1,
            "text": text,
            "text_pair": None,
            "label": label,
            "given_split": None,
            "split": "train",
        }

    return {
        "kind": "near",
        "score": 0.875,
        "action": "kept_together",
        "label_conflict": place >= 50,
        "crosses_given_splits": place % 12 == 0,
        "first": member(f"first text {place} {EVIL}", NAMES[0]),
        "second": member(f"second text {place}", NAMES[1]),
    }


def _write_lines(path: Path, values: list[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values))
