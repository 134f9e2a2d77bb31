"""A model card in Hugging Face's format, from what the stages wrote about data, training and scores.

Promises: every number comes from a report of this model; equal reports give equal bytes; the example of use runs as it
stands. Format: Mitchell et al., 2019, arXiv:1810.03993, in the form of huggingface_hub's metadata.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from pipeline.base_licence import base_licence
from pipeline.card_example import example
from pipeline.errors import SeqtrackError
from pipeline.metrics import HEADLINES
from pipeline.outputs import Json, folder_digest, read_json, read_manifest, write_text
from pipeline.params import Register
from pipeline.paths import FETCHED, REPORTS, SPLIT_NAMES, SPLITS, VALIDATED
from pipeline.trained import Trained, is_local

CARD: Final = "model_card.md"
FEW_ROWS: Final = 500  # of a scored split, below which the card says that its scores are rough
MOST_LISTED: Final = 50  # classes, slices
TASKS: Final = {
    "single_label_classification": "says which of {classes} classes {text} belongs to",
    "multi_label_classification": "says which of {classes} labels {text} has, perhaps none",
    "regression": "gives {text} a number",
}


def write_card(trained: Trained, settings: Register, file: Path) -> Path:
    """Write the card of a model and return the file.

    Args:
        trained: the model and its scores.
        settings: for the licence, and where the model is to be found.
        file: where to write.

    Raises:
        SeqtrackError: a report is missing or of other data.
    """
    write_text(file, card(trained, settings))
    return file


def card(trained: Trained, settings: Register) -> str:
    """Return a model's card: metadata in YAML, then Markdown.

    Raises:
        SeqtrackError: a report is missing or of other data.
    """
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    model = trained.manifest["params"]["model"]
    name = settings.hub_model_id or settings.name
    source = _Source.read()
    theirs = base_licence(model)
    results = [
        EvalResult(
            task_type="text-classification",
            dataset_type=source.id,
            dataset_name=source.name,
            dataset_config=source.config,
            dataset_split=split,
            metric_type=metric,
            metric_name=metric,
            metric_value=trained.metrics[f"{split}.{metric}"],
        )
        for split in trained.results["splits"]
        for metric in HEADLINES[trained.labels.problem_type]
    ]
    on_hub = model.get("from_scratch") is None and not is_local(model["name_or_path"])
    data = ModelCardData(
        license=settings.license or theirs,
        library_name="transformers",
        pipeline_tag="text-classification",
        base_model=trained.base_model if on_hub and not trained.base_model.startswith("package:") else None,
        datasets=[source.id] if source.on_hub else None,
        metrics=list(HEADLINES[trained.labels.problem_type]),
        tags=["seqtrack", trained.labels.problem_type],
        model_name=name.rpartition("/")[2],
        eval_results=results,
    )
    sections = [
        _opening(trained, name),
        "## How to use\n\n" + example(trained, settings.hub_model_id or trained.folder.as_posix()),
        *_labels(trained),
        _scores(trained),
        *_slices(trained),
        _data(trained, source),
        _limits(trained),
        _training(trained),
        _licences(trained, settings.license, theirs),
    ]
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n"))


class _Source:
    """Where the data came from, as far as fetch wrote it down."""

    def __init__(self, kind: str, name: str | None, config: str | None, revision: str | None) -> None:
        self.on_hub = kind in ("hub", "glue") and name is not None
        self.id = {"hub": name or "", "glue": "nyu-mll/glue", "none": "own-files"}.get(kind, kind)
        self.name = {"hub": name or "", "glue": f"GLUE {name}", "sample": "BBC News"}.get(kind, "own files")
        self.config = config if kind == "hub" else (name or "").lower() if kind == "glue" else None
        self.revision = revision

    @staticmethod
    def read() -> _Source:
        """Read it; files that fetch did not write are the user's own."""
        own = _Source("none", None, None, None)
        if not (FETCHED / "manifest.json").is_file():
            return own
        fetched = read_manifest(FETCHED)
        taken = set(read_manifest(VALIDATED)["inputs"].values())
        if not taken or not taken <= set(fetched["files"].values()):
            return own
        said = fetched["params"]
        return _Source(said["source"], said.get("name"), said.get("config"), fetched.get("commit"))


def _opening(trained: Trained, name: str) -> str:
    text = "a pair of texts" if trained.pairs else "a text"
    does = TASKS[trained.labels.problem_type].format(classes=len(trained.labels.names), text=text)
    return (
        f"# {name}\n\nA text classifier that {does}. Fine-tuned from `{trained.base_model}` with seqtrack; "
        f"run_key `{trained.run_key[:16]}`, model `{trained.digest[:16]}`."
    )


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    """Return text that cannot end its cell or be taken for markup."""
    marks = str.maketrans({"|": "\\|", "<": "&lt;", ">": "&gt;", "\n": " ", "\r": " ", "`": "'"})
    return text.translate(marks)


def _labels(trained: Trained) -> Iterator[str]:
    names = trained.labels.names
    if not names:
        return
    limits = trained.results.get("thresholds")
    columns = ["id", "class"] + ([] if limits is None else ["threshold"])
    rows = [
        [str(place), name] + ([] if limits is None else [f"{limits[place]:.4g}"])
        for place, name in enumerate(names[:MOST_LISTED])
    ]
    more = f"\n\nand {len(names) - MOST_LISTED} more, in `config.json`." if len(names) > MOST_LISTED else ""
    yield f"## Classes\n\n{_table(columns, rows)}{more}"


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) >= 1 else f"{value:.4f}"


def _interval(found: Json, name: str) -> str:
    if name not in found["intervals"]:
        return "–"
    low, high = found["intervals"][name]
    return f"{_number(low)} to {_number(high)}"


def _scores(trained: Trained) -> str:
    how = trained.results["bootstrap"]
    parts = [
        f"## Scores\n\nBeside each score its {how['confidence']:.0%} interval ({how['method']} bootstrap over rows, "
        f"{how['samples']:,} samples): what other rows of the same kind may give."
    ]
    for split, found in trained.results["splits"].items():
        headlines = HEADLINES[trained.labels.problem_type]
        names = [*headlines, *(name for name in found["metrics"] if name not in headlines)]
        rows = [[name, _number(found["metrics"][name]), _interval(found, name)] for name in names]
        parts.append(f"### {split}, {found['rows']:,} rows\n\n{_table(['score', 'value', 'interval'], rows)}")
    return "\n\n".join(parts)


def _slices(trained: Trained) -> Iterator[str]:
    headlines = HEADLINES[trained.labels.problem_type][:2]
    found = trained.results["splits"][trained.split]["slices"]
    if not found:
        return
    rows = [
        [
            f"{piece['by']}: {piece['name']}",
            f"{piece['rows']:,}" + (" (few)" if piece["few_rows"] else ""),
            *(f"{_number(piece['metrics'][name])} ({_interval(piece, name)})" for name in headlines),
        ]
        for piece in found[:MOST_LISTED]
    ]
    yield f"## Scores of parts of {trained.split}\n\n{_table(['part', 'rows', *headlines], rows)}"


def _data(trained: Trained, source: _Source) -> str:
    report, leakage = read_json(REPORTS / "validation.json"), read_json(REPORTS / "leakage.json")
    splits = read_manifest(SPLITS)
    wanted = trained.manifest["inputs"]["splits"]
    if folder_digest(SPLITS) != wanted:
        raise SeqtrackError(
            "splits of another training",
            where=str(SPLITS),
            expected=wanted[:10],
            found=folder_digest(SPLITS)[:10],
            fix="run `dvc repro`",
        )
    where = f"`{source.id}`" + (f", {source.config}" if source.config else "") if source.on_hub else source.name
    revision = f", revision `{source.revision}`" if source.revision else ""
    rejected = ", ".join(f"{reason} {rows:,}" for reason, rows in sorted(report["rejected"].items())) or "none"
    dropped = ", ".join(f"{why} {rows:,}" for why, rows in sorted(leakage["rows"]["dropped"].items())) or "none"
    pairs = leakage["pairs"]
    digests = {"splits": wanted, "tokens": trained.manifest["inputs"]["tokenized"], **splits["inputs"]}
    rows = [[name, f"{splits['rows'].get(name, 0):,}"] for name in SPLIT_NAMES]
    lines = [
        f"Source: {where}{revision}; {report['rows']:,} rows, text in column "
        + " and ".join(f"`{name}`" for name in (report["columns"]["text"], report["columns"]["text_pair"]) if name)
        + ".",
        _table(["split", "rows"], rows),
        f"- Rejected rows, by reason: {rejected}.\n"
        f"- Duplicate pairs found (verified, exact or near from a Jaccard similarity of "
        f"{leakage['search']['near_duplicate_threshold']:g} on): {pairs['total']:,}; with different labels "
        f"{pairs['label_conflicts']:,}.\n"
        f"- Rows dropped by what was done about them: {dropped}.\n"
        f"- Leakage: {leakage['verification']['verdict']}.",
        "Digests (sha256): " + ", ".join(f"{_cell(name)} `{value}`" for name, value in sorted(digests.items())) + ".",
    ]
    return "## Data\n\n" + "\n\n".join(lines)


def _limits(trained: Trained) -> str:
    tokens = read_json(REPORTS / "tokenization.json")
    checks = {check["name"]: check for check in read_json(REPORTS / "validation.json")["checks"]}
    lines = [
        f"Texts are cut at {trained.manifest['max_length']:,} tokens, as they were in training; of all rows "
        f"{tokens['truncated_ratio']:.1%} were longer."
    ]
    if "scripts" in checks and checks["scripts"]["status"] in ("pass", "warn"):
        lines.append(f"Writing systems seen: {_cell(checks['scripts']['message'])}; others were not tried.")
    for name in ("length_shift", "label_shift", "vocabulary_shift", "label_in_text", "imbalance", "small_classes"):
        if name in checks and checks[name]["status"] == "warn":
            lines.append(f"The data's check `{name}` says: {_cell(checks[name]['message'])}.")
    if "test" not in trained.results["splits"]:
        lines.append("There is no labelled test split: scores of validation, which chose the model, are too good.")
    for split, found in trained.results["splits"].items():
        if found["rows"] < FEW_ROWS:
            lines.append(f"Scores of {split} come from {found['rows']:,} rows: go by the intervals, not the values.")
    if (fitted := trained.results.get("temperature")) is not None:
        lines.append(f"Probabilities are better calibrated at a temperature of {fitted:g}.")
    lines.append("Texts of another kind, time or place than the training data may be answered worse than these scores.")
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _training(trained: Trained) -> str:
    train = trained.manifest["params"]["train"]
    shown = (
        *("seed", "num_train_epochs", "learning_rate", "lr_scheduler_type", "weight_decay"),
        *("per_device_train_batch_size", "total_train_batch_size", "metric_for_best_model"),
    )
    rows = [[name, str(train[name])] for name in shown if train.get(name) is not None]
    libraries = trained.manifest.get("identity", {}).get("libraries", {})
    versions = ", ".join(f"{name} {number}" for name, number in sorted(libraries.items())) or "not recorded"
    return f"## Training\n\n{_table(['setting', 'value'], rows)}\n\nLibraries: {versions}."


def _licences(trained: Trained, ours: str | None, theirs: str | None) -> str:
    base = f"`{trained.base_model}`, " + ("licence unknown" if theirs is None else f"licence {theirs}")
    if trained.manifest["params"]["model"].get("from_scratch") is not None:
        base = f"none: {trained.base_model}"
    own = ours or theirs
    return f"## Base model and licence\n\nBase model: {base}. This model: licence {own or 'unknown'}."
