"""What to look at after a run: `make repro` ends with it.

Promises: prints what exists, from the reports on disk; fails never for want of a report.
"""

from __future__ import annotations

from pipeline.console import facts
from pipeline.outputs import read_json
from pipeline.paths import MODEL, PREDICTIONS, REPORTS

LOOK = (
    (REPORTS / "index.html", "the whole run on one page, to open in a browser"),
    (REPORTS / "validation.json", "what was read, and what was rejected and why"),
    (REPORTS / "leakage.json", "duplicates and leaks; every pair is in duplicates.jsonl beside it"),
    (REPORTS / "metrics.json", "scores with intervals; also: dvc metrics show"),
    (REPORTS / "errors.jsonl", "the rows it got wrong, worst first"),
    (REPORTS / "evaluation", "pictures and tables by class and slice; interactive ones: dvc plots show"),
    (MODEL, 'the model: transformers.pipeline("text-classification", "data/model")'),
    (PREDICTIONS, "a label and all probabilities for each row"),
)
SHOWN = ("accuracy", "f1_micro", "pearson")  # one per task


def main() -> None:
    """Print the scores and the list."""
    metrics = REPORTS / "metrics.json"
    if metrics.is_file():
        for split, scores in read_json(metrics).items():
            name = next(name for name in SHOWN if name in scores)
            value, low, high = (scores[f"{name}{end}"] for end in ("", "_low", "_high"))
            facts("", [(f"{split} {name}", f"{value:.4f} (between {low:.4f} and {high:.4f})")])
    facts("where to look next", [(str(path), meaning) for path, meaning in LOOK if path.exists()])
    facts(
        "",
        [
            ("make ui", "compare runs in MLflow: curves, scores, models, checkpoints"),
            ("dvc exp run -S train.learning_rate=5e-5", "try another value; only what depends on it re-runs"),
            ("dvc exp show", "experiments side by side"),
        ],
    )


if __name__ == "__main__":
    main()
