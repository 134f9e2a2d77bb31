"""The export stage's work: the trained model in another format, compared with itself.

Promises: where nothing is asked for, nothing heavy is loaded and the same bytes are written whatever the model is; an
export whose float32 logits are not PyTorch's fails, and leaves nothing.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pipeline.console import say, table
from pipeline.errors import SeqtrackError
from pipeline.labels import ProblemType
from pipeline.outputs import MANIFEST, Json, output_folder, write_json, write_manifest
from pipeline.params import Export

if TYPE_CHECKING:
    from pipeline.onnx_parity import Compared

FLOAT: Final = "model.onnx"
INT8: Final = "model_quantized.onnx"  # as optimum and transformers.js call it
FILES: Final = {"onnx": FLOAT, "onnx_int8": INT8}
SPLIT: Final = "validation"  # that the formats are compared on: test is for the scores that are published
PACKAGES: Final = ("onnx", "onnxruntime", "onnxscript")
WEIGHTS: Final = (".safetensors", ".safetensors.index.json")
SHOWN: Final = 2  # scores in the terminal


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What came of it.

    Attributes:
        run_key: of the training.
        samples_per_second: rows per second of each format on this machine's CPU, by `pytorch`, `onnx`, `onnx_int8`;
            differs from run to run, so no file holds it.
    """

    run_key: str
    samples_per_second: dict[str, float]


def write_nothing(folder: Path, report: Path) -> None:
    """Write a folder with nothing but a manifest, and a report that says so."""
    with output_folder(folder) as out:
        write_manifest(out, inputs={}, params={"format": None}, rows={})
    write_json(report, {"format": None})


def require_onnx() -> None:
    """Check that the packages of the extra are installed.

    Raises:
        SeqtrackError: one is not.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise SeqtrackError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed",
            where="params.yaml: export.format",
            fix='install the extra: python -m pip install ".[onnx]", or set export.format to null',
        )


def export_model(
    model: Path, folder: Path, report: Path, *, tokenized: Path, splits: Path, rows: Path, export: Export
) -> Exported:
    """Write the model as ONNX, and how it compares with PyTorch on the validation split.

    Args:
        model: what train wrote.
        folder: to write: model.onnx, model_quantized.onnx where int8 is asked for, and all files of the model but its
            weights.
        report: JSON to write.
        tokenized: the tokens of all rows.
        splits: with validation.parquet.
        rows: canonical rows.
        export: the section.

    Raises:
        SeqtrackError: a package is missing, the model cannot be exported, or the export's logits differ by more than
            export.tolerance.
    """
    require_onnx()
    from pipeline.onnx_export import OPSET, int8_model, onnx_model
    from pipeline.onnx_parity import Validation, compare, on_cpu, require_parity, runtime
    from pipeline.outputs import read_manifest

    classifier = on_cpu(model)
    validation = Validation.read(classifier.labels, tokenized, splits / f"{SPLIT}.parquet", rows)
    say(f"export: {model} to {folder / FLOAT}, compared on {len(validation.positions):,} rows of {SPLIT}")
    with output_folder(folder) as out:
        onnx_model(classifier, out / FLOAT)
        if export.int8:
            int8_model(out / FLOAT, out / INT8)
        made = {name: runtime(classifier, out / file) for name, file in FILES.items() if (out / file).exists()}
        found = compare(classifier, made, validation)
        require_parity(found["onnx"], export.tolerance)
        manifest = read_manifest(model)
        for name in manifest["files"]:
            if not name.endswith(WEIGHTS) and name != MANIFEST:
                (out / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(model / name, out / name)
        write_manifest(
            out,
            inputs={"model": classifier.digest},
            params=export.model_dump(mode="json"),
            rows={},
            run_key=classifier.run_key,
            max_length=manifest["max_length"],
        )
        sizes = {name: sum(part.stat().st_size for part in out.glob(f"{file}*")) for name, file in FILES.items()}
    write_json(
        report,
        {
            "format": export.format,
            "opset": OPSET,
            "model": classifier.digest,
            "run_key": classifier.run_key,
            "split": SPLIT,
            "rows": len(validation.positions),
            "labelled_rows": len(validation.targets),
            "tolerance": export.tolerance,
            "formats": {
                name: _as_json(compared) | ({"bytes": sizes[name]} if sizes.get(name) else {})
                for name, compared in found.items()
            },
        },
    )
    _show(found, sizes, classifier.labels.problem_type)
    return Exported(
        run_key=classifier.run_key,
        samples_per_second={name: compared.samples_per_second for name, compared in found.items()},
    )


def _as_json(compared: Compared) -> dict[str, Json]:
    return {
        "largest_logit_difference": compared.largest_difference,
        "label_agreement": compared.agreement,
        "metrics": compared.metrics,
    }


def _show(found: Mapping[str, Compared], sizes: Mapping[str, int], task: ProblemType) -> None:
    from pipeline.metrics import HEADLINES

    names = [name for name in HEADLINES[task] if name in found["pytorch"].metrics][:SHOWN]
    lines = [
        [
            name,
            f"{sizes[name] / 1e6:,.1f}" if sizes.get(name) else "",
            f"{compared.largest_difference:.1e}",
            "" if compared.agreement is None else f"{compared.agreement:.2%}",
            *(f"{compared.metrics[metric]:.4f}" for metric in names),
            f"{compared.samples_per_second:,.0f}",
        ]
        for name, compared in found.items()
    ]
    columns = ["format", "MB", "logits differ by", "same label", *names, "rows/s"]
    table(f"export: {SPLIT}, on this machine's CPU", columns, lines)
