"""params.yaml as typed, frozen values: the only module that reads the file.

Promises: every key is known, well typed and in range before a stage does any work; a mistake is reported in one line
with the file and line, the key, the nearest valid name and what is allowed. Stages take sections (`params.train`) and
pass those on; no library function takes the whole, so what a stage depends on can be read off its script.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from pipeline.errors import SeqtrackError
from pipeline.paths import PARAMS_FILE
from pipeline.suggestions import did_you_mean

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveInt = Annotated[int, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
NonEmpty = Annotated[str, Field(min_length=1)]
RUN_CHECKPOINT = r"runs:/([0-9a-f]+)/checkpoints/([\w-]+)"  # as train.checkpoint.log_to_mlflow logs them
Names = Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
Patterns = Annotated[tuple[NonEmpty, ...], Field(strict=False)]


def _is_import_path(path: str) -> str:
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", path):
        raise ValueError(f"{path!r} is no import path; write module:name, for example custom.losses:FocalLoss")
    return path


def _inside(pattern: str | None, key: str) -> str | None:
    """Check that a pattern of file names, or null, can only match below the folder that a key names."""
    parts = Path(pattern or "").parts
    if Path(pattern or "").is_absolute() or ".." in parts:
        raise ValueError(f"{pattern!r} leaves {key}: write it as seen from there, for example **/*.csv")
    if mixed := next((part for part in parts if "**" in part and part != "**"), None):
        raise ValueError(f"** stands for whole folders: write **/{mixed.replace('**', '*')} for {mixed}")
    return pattern


BUILT_IN_SLICES = ("length", "source", "group", "script")  # kinds of evaluate.slices that are no data.keep_columns
PredictFormat = Literal["jsonl", "csv", "tsv", "parquet"]
Precision = Literal["no", "bf16"]
# For editors, whose patterns are not Python's: no more than the form.
ImportPath = Annotated[
    str, AfterValidator(_is_import_path), WithJsonSchema({"type": "string", "pattern": r"^[^\s:]+:[^\s:]+$"})
]
ImportPaths = Annotated[tuple[ImportPath, ...], Field(strict=False)]
# The names of transformers.SchedulerType, which would take seconds to import; a test compares.
SchedulerName = Literal[
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
    "reduce_lr_on_plateau",
    "cosine_with_min_lr",
    "cosine_warmup_with_min_lr",
    "warmup_stable_decay",
    "greedy",
]


class Section(BaseModel):
    """Base of all sections: frozen, no unknown keys, no silent conversion of types (an int is welcome as a float)."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class Fetch(Section):
    """Where the data come from."""

    source: Literal["sample", "hub", "glue", "none"]
    """`sample`: BBC News, bundled with a package; `hub`: a Hugging Face data set; `glue`: a task of the GLUE benchmark;
    `none`: your own files."""
    name: str | None
    """Data set id on the hub, for example `nyu-mll/glue`; or a GLUE task, for example `mrpc`."""
    config: str | None
    """Configuration of the data set on the hub, for example `mrpc`."""
    revision: str | None
    """Branch, tag or commit on the hub; the commit it resolves to is recorded."""
    path: NonEmpty = "glue_data"
    """A folder that holds a folder per GLUE task. DVC watches it, so it is always there, if empty: a dependency cannot
    be null. A task that is not in it comes from the hub."""

    @model_validator(mode="after")
    def _source_needs_a_name(self) -> Fetch:
        if self.source == "hub" and not self.name:
            raise ValueError("source hub needs fetch.name, for example nyu-mll/glue")
        if self.source == "glue" and not self.name:
            raise ValueError("source glue needs fetch.name, for example mrpc")
        return self


class Data(Section):
    """Which files to read and what their columns mean."""

    path: NonEmpty
    """A folder or file to read, which DVC watches; `data/fetched` is what the fetch stage wrote."""
    pattern: NonEmpty | None = None
    """Which files in the folder data.path to read, for example `**/*.csv.gz` (`**`: any folders); null finds them."""
    text: str | None
    """Column with the text; null finds it by the names people use."""
    text_pair: str | None
    """Column with the second text of a pair; null finds it by name, or takes single texts."""
    label: str | None
    """Column with the label; null finds it by name."""
    label_names: Names | None
    """The closed label set in class order; null takes the labels seen, in natural order."""
    group_by: str | None = None
    """Column that names a document, user, ...: rows of one group stay in one split; null: rows stand alone."""
    time: str | None = None
    """Column with dates, times or numbers, for split.assignment time."""
    keep_columns: Annotated[tuple[NonEmpty, ...], Field(strict=False)] = ()
    """Other columns to carry along, for evaluate.slices; a file may lack some of them."""
    problem_type: Literal["single_label_classification", "multi_label_classification", "regression"] | None = None
    """The task; null infers it from the labels."""
    label_delimiter: str | None = Field(default=None, min_length=1)
    """What separates several labels in one string, for example `|`; null takes a string as one label."""
    labels_path: NonEmpty | None = None
    """Where the labels of a file with one text per line are, one per line, as seen from that file: `labels.txt` beside
    it, or `*.labels`, where `*` is its name without the extension. Inside data.path, so that DVC watches them."""
    encoding: str | None = None
    """Character encoding, for example `gb18030`; null finds it."""
    delimiter: str | None = Field(default=None, min_length=1, max_length=1)
    """What separates the fields of CSV and TSV; null finds it."""
    quoting: Literal["none", "minimal"] | None = None
    """`none`: quotes are part of the text; `minimal`: they delimit fields; null finds out."""
    header: bool | None = None
    """Whether delimited files start with a line of column names; null finds out."""
    columns: Names | None = None
    """Column names for files without a header line, in file order."""

    @field_validator("path")
    @classmethod
    def _path_is_no_pattern(cls, path: str) -> str:
        # DVC watches what data.path names, and knows no patterns. A folder may well be called `texts [old]`.
        parts = Path(path).parts
        at = next((index for index, part in enumerate(parts) if any(mark in part for mark in "*?[")), None)
        if at is None or Path(path).exists():
            return path
        folder = Path(*parts[:at]).as_posix()
        wanted = (
            f"set data.path: {folder}" if folder != "." else "put the files into a folder, set data.path to it"
        ) + f' and data.pattern: "{Path(*parts[at:]).as_posix()}"'
        raise ValueError(f"{path!r} is a pattern, and DVC watches only a folder or a file: {wanted}")

    @field_validator("pattern")
    @classmethod
    def _pattern_stays_inside(cls, pattern: str | None) -> str | None:
        return _inside(pattern, "data.path")

    @field_validator("keep_columns")
    @classmethod
    def _slices_stay_apart(cls, columns: tuple[str, ...]) -> tuple[str, ...]:
        for place, name in enumerate(columns):
            if name in BUILT_IN_SLICES:
                raise ValueError(
                    f"{name!r} is what evaluate.slices calls a kind of its own: give the column another name in your "
                    "files"
                )
            if name in columns[:place]:
                raise ValueError(f"{name!r} is there twice")
        return columns

    @field_validator("labels_path")
    @classmethod
    def _labels_path_is_relative(cls, labels_path: str | None) -> str | None:
        if Path(labels_path or "").is_absolute():
            raise ValueError(f"{labels_path!r} is absolute: write it as seen from the text file, such as labels.txt")
        return labels_path


# What a check that finds something does: `error` stops the stage, `warn` says so, `drop` rejects the rows it found,
# `off` does not look. Each check takes those that make sense for it.
UnfitRows = Literal["error", "drop"]  # rows that cannot be kept, so that neither warn nor off is possible
DoubtfulRows = Literal["error", "warn", "drop", "off"]
WholeData = Literal["error", "warn", "off"]  # what no single row is to blame for


class Policy(Section):
    """What each check of the validate stage does when it finds something; the checks' modules say what they look for.

    A check that params.yaml does not list keeps the value given here.
    """

    schema_: UnfitRows = Field(default="drop", alias="schema")  # pydantic keeps the plain name for itself
    """Rows that are not as their file says: ragged, not JSON, of the wrong type, of an unknown split."""
    encoding: UnfitRows = "drop"
    """Rows with bytes that are not text in the file's encoding."""
    empty_text: UnfitRows = "drop"
    """Rows without a text, or with white space alone."""
    missing_label: UnfitRows = "drop"
    """Rows without a label outside the test split."""
    unknown_label: UnfitRows = "drop"
    """Rows with a label that is not in data.label_names."""
    mojibake: DoubtfulRows = "warn"
    """Rows whose text was decoded wrongly before it got here."""
    characters: DoubtfulRows = "warn"
    """Rows with control, invisible or private characters."""
    length: WholeData = "warn"
    """Texts far longer than the rest, or many cut at one length."""
    scripts: WholeData = "warn"
    """Rows in another writing system than most."""
    small_classes: WholeData = "warn"
    """Classes with too few rows to learn from and to divide."""
    imbalance: WholeData = "warn"
    """A class far larger than another."""
    exact_duplicates: WholeData = "warn"
    """Rows with the same text but for case, width, punctuation and spacing."""
    conflicting_labels: WholeData = "warn"
    """The same text with different labels."""
    label_in_text: WholeData = "warn"
    """Texts that hold the name of their class: a shortcut."""
    length_shift: WholeData = "warn"
    """Texts of given splits that differ in length from those of train."""
    label_shift: WholeData = "warn"
    """Given splits whose shares of classes differ from those of train."""
    vocabulary_shift: WholeData = "warn"
    """Given splits with many words that train does not have."""


class Validate(Section):
    """What makes rows, and the data as a whole, acceptable."""

    max_rejected_ratio: Fraction
    """Largest share of rows that may be rejected before the stage fails."""
    policy: Policy = Policy()
    """What each check does when it finds something."""


class Ratios(Section):
    """Shares of the rows that each split gets; they add up to 1."""

    train: Annotated[float, Field(gt=0.0, le=1.0)]
    """Share of train."""
    validation: Fraction
    """Share of validation, which chooses the best checkpoint."""
    test: Fraction
    """Share of test, which is scored once, at the end."""

    @model_validator(mode="after")
    def _sum_to_one(self) -> Ratios:
        total = self.train + self.validation + self.test
        if abs(total - 1.0) > 1e-6:
            raise ValueError(f"train + validation + test must be 1, they add up to {total:g}")
        return self


class Split(Section):
    """How rows are divided, and what counts as a duplicate."""

    seed: Seed
    """Seed of the assignment."""
    ratios: Ratios
    near_duplicate_threshold: Annotated[float, Field(gt=0.0, le=1.0)]
    """Jaccard similarity of word shingles from which two texts are near duplicates."""
    shingle_size: Annotated[int, Field(ge=1, le=10)]
    """Words (characters for Chinese and Japanese) in a shingle."""
    assignment: Literal["hash", "exact", "time"]
    """`hash`: a row's split depends on its own text (or group) alone, so rows added later move no old row, and the
    ratios hold in expectation; `exact`: every class is cut at exactly the ratios, and added rows may move old ones;
    `time`: the oldest rows by data.time train, the newest test, equal times together."""
    folds: Annotated[int, Field(ge=2, le=1000)] | None
    """Cross-validation: cut the rows into this many folds; null divides by the ratios alone."""
    fold: Annotated[int, Field(ge=0)]
    """With folds: the fold, from 0, that is test, or validation where your files have a test split."""
    on_leak: Literal["drop_from_train", "drop_from_test", "fail"]
    """What to do with rows that your own splits share: clean train, clean test, or stop."""
    partial_overlap: Literal["report", "drop_from_train"]
    """What to do when one sentence of a pair stands in two splits: name the rows, or drop those in train, too."""
    num_perm: Annotated[int, Field(ge=16, le=1024)]
    """MinHash permutations: more find more candidates; every candidate is verified exactly."""
    semantic_threshold: Annotated[float, Field(gt=0.0, le=1.0)] | None
    """Cosine of sentence vectors from which two texts are semantic duplicates; null looks for none."""
    semantic_model: NonEmpty
    """The encoder behind these vectors, read like model.name_or_path; its own key, so that another base model to
    fine-tune divides nothing anew."""

    @model_validator(mode="after")
    def _fold_is_one_of_them(self) -> Split:
        if self.folds is not None and self.fold >= self.folds:
            raise ValueError(f"fold must be below folds ({self.folds}): folds are numbered from 0, found {self.fold}")
        if self.folds is not None and self.assignment == "time":
            raise ValueError("assignment time cuts once, at the ratios: set folds to null")
        return self


class Tokenize(Section):
    """How texts become token ids."""

    max_length: Annotated[int, Field(ge=4)]
    """Longest sequence in tokens, special tokens included; longer ones are cut and counted."""
    truncation: WholeData = "warn"
    """What the check `truncation` does when rows are cut: `error` stops, `warn` says so, `off` does not look."""


TokenizerKind = Literal["wordpiece", "unigram"]


class FromScratch(Section):
    """An architecture to train from nothing: the three keys here, and any others of transformers' config of this type
    (`hidden_size`, `num_hidden_layers`, `hidden_dropout_prob`, ...), which the vocabulary stage checks."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Any]

    model_type: NonEmpty
    """The architecture as transformers calls it, for example `bert`."""
    tokenizer: TokenizerKind = "wordpiece"
    """What is trained on the train split: `wordpiece`, in which every Chinese character stands alone, or `unigram`,
    with pieces of several."""
    vocab_size: PositiveInt = 8000
    """Most pieces in the vocabulary, special tokens included."""


class Model(Section):
    """The encoder: a pretrained one, or one from scratch."""

    name_or_path: NonEmpty
    """A hub id, a local folder, or `package:<module>/<folder>` for a model that a Python package carries."""
    from_scratch: FromScratch | None = None
    """An architecture that takes the place of name_or_path, with random weights and a tokenizer of the train split's
    own; null: pretrained."""
    revision: str | None
    """Branch, tag or commit on the hub."""
    trust_remote_code: bool
    """Whether code that comes with a hub model may run."""
    attn_implementation: (
        Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3", "flash_attention_4", "flex_attention"] | None
    ) = None
    """How attention is computed while training; null takes what is fastest on the device and always there."""


class Checkpoint(Section):
    """When training state is saved, and how much of it is kept."""

    every: Annotated[str, Field(json_schema_extra={"pattern": r"^\s*\d+(\.\d+)?\s*(step|epoch|minute)s?\s*$"})]
    """`<N> steps`, `<N> epochs` or `<N> minutes`."""
    keep: PositiveInt
    """Newest checkpoints kept on disk; the best one is kept besides."""
    log_to_mlflow: Literal["none", "best", "last", "all"]
    """Which checkpoints MLflow gets a copy of."""

    @field_validator("every", mode="before")
    @classmethod
    def _every_is_an_interval(cls, value: object) -> object:
        parse_interval(str(value))  # a bare 500 lacks its unit, which is the thing to say
        return value


class Lora(Section):
    """Low-rank adapters (Hu et al., 2021, arXiv:2106.09685); names are those of peft.LoraConfig."""

    r: PositiveInt = 8
    """Rank of the adapters."""
    lora_alpha: PositiveInt = 16
    """Adapters are scaled by lora_alpha / r."""
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapters' input."""
    target_modules: Names | None = None
    """Ends of the names of modules that get adapters; null is every linear layer of the encoder's layers."""


class Custom(Section):
    """The user's own parts, each as `module:name`; docs/custom_parts.md says what each must be."""

    model: ImportPath | None
    """A PreTrainedModel class, in place of the one that transformers has for the encoder."""
    loss: ImportPath | None
    """A function (logits, labels) to a loss per row, or a class of such."""
    optimizer: ImportPath | None
    """A torch optimiser class, or a function (groups, lr) to an optimiser."""
    metrics: ImportPaths
    """Functions (logits, labels) to a number, reported under the function's name."""
    callbacks: ImportPaths
    """Classes derived from pipeline.training.Listener."""


class Train(Section):
    """The recipe. Names mean what they mean in transformers."""

    seed: Seed
    """Seed of the head's first weights, the order of rows and dropout."""
    num_train_epochs: Annotated[float, Field(gt=0)]
    """Passes over the train split; fractions are possible."""
    per_device_train_batch_size: PositiveInt
    """Rows that a process computes at a time."""
    per_device_eval_batch_size: PositiveInt
    """Most rows of a batch while the validation split is scored; it has fewer where they are long."""
    gradient_accumulation_steps: PositiveInt
    """Micro-batches per optimiser step; total batch = per-device batch x processes x this."""
    total_train_batch_size: PositiveInt | None
    """Rows per optimiser step over all processes; gradient_accumulation_steps is then derived from it."""
    auto_find_batch_size: bool
    """When a GPU runs out of memory, halve the per-device batch, double the accumulation and go on."""
    train_sampling_strategy: Literal["group_by_length", "random"]
    """Whether a batch holds texts of similar length, which saves padding, or random ones."""
    per_device_max_tokens: PositiveInt | None
    """Tokens of a batch, padding included, above which it is computed in parts; null is no limit."""
    packing: bool
    """Lay a batch's texts end to end instead of padding them; meant for CUDA, where attention needs no mask for it. On
    a CPU the mask costs more than the 2 to 4% of padding that group_by_length leaves."""
    cheap_dropout: bool
    """On a CPU draw dropout's masks with a faster generator, at 16 bits an element; false takes PyTorch's own."""
    pad_to_max_length: bool
    """Pad every batch to tokenize.max_length, for devices that compile each shape anew (TPU)."""
    learning_rate: Annotated[float, Field(gt=0)]
    """The highest learning rate, which is reached when warm-up is over."""
    lr_scheduler_type: SchedulerName
    """How the learning rate changes after warm-up, by transformers' names."""
    lr_scheduler_kwargs: dict[str, Any]
    """What transformers' schedule of this name takes besides, for example `min_lr_rate` with cosine_with_min_lr."""
    warmup_ratio: Fraction
    """Share of the steps over which the learning rate rises from 0, rounded up."""
    warmup_steps: Annotated[int, Field(ge=0)] | None
    """Steps of warm-up; null takes warmup_ratio."""
    weight_decay: Annotated[float, Field(ge=0)]
    """Decoupled weight decay; biases and normalisation weights are left out."""
    layerwise_lr_decay: Annotated[float, Field(gt=0, le=1)] | Literal["auto"] | None
    """Each layer's learning rate is that of the layer above times this; null gives all the same. `auto` has the
    embeddings of a pretrained encoder learn at half the head's rate, layers in between; it is null for a model
    from scratch, with LoRA, and where layers cannot be told apart (ALBERT)."""
    freeze: Patterns
    """Patterns of names of parameters that stay as they are."""
    adam_beta1: Annotated[float, Field(ge=0, lt=1)]
    """AdamW: decay of the running mean of gradients."""
    adam_beta2: Annotated[float, Field(ge=0, lt=1)]
    """AdamW: decay of the running mean of their squares."""
    adam_epsilon: Annotated[float, Field(gt=0)]
    """AdamW: added to the denominator, so that it is never 0."""
    max_grad_norm: Annotated[float, Field(ge=0)]
    """Gradients are scaled down to this norm; 0 switches clipping off."""
    dropout: Annotated[float, Field(ge=0, lt=1)] | None
    """Probability of every dropout of the model while it trains; null leaves what its configuration says."""
    weight_averaging: Annotated[float, Field(ge=0)] | None
    """Score and keep an average of the weights over all steps, in which step t counts t to this power; null is the
    last weights."""
    label_smoothing_factor: Annotated[float, Field(ge=0, lt=1)]
    """Share of the target that is spread evenly over all classes."""
    r_drop: Annotated[float, Field(gt=0)] | None
    """Compute each row twice, with other dropout masks, and add to the loss how far both results are apart, with this
    weight (R-Drop's alpha); null computes it once."""
    class_weights: Literal["balanced"] | Annotated[dict[str, Annotated[float, Field(gt=0)]], Field(min_length=1)] | None
    """Weights of classes in the loss, by label (1 where not named) or from their counts; null counts rows alike."""
    gradient_checkpointing: bool
    """Recompute activations in the backward pass instead of keeping them: less memory, about a third more time."""
    lora: Lora | None
    """Train adapters instead of the encoder's weights; null trains the weights."""
    eval_strategy: Literal["epoch", "steps"]
    """When the validation split is scored: after each epoch, or every eval_steps."""
    eval_steps: PositiveInt | None
    """Optimiser steps between evaluations when eval_strategy is `steps`."""
    metric_for_best_model: str | None
    """A metric of the validation split, such as `accuracy` or `loss`, by which the best checkpoint wins; null is
    `f1_macro` for classes and `pearson` in regression."""
    greater_is_better: bool | None
    """Whether the best is the highest; null is false for `loss`, `mse` and `mae`, true for all others but one's own."""
    tune_thresholds: bool
    """Multi-label classification: give each class the threshold with the best F1 on the validation split, not 0.5."""
    early_stopping_patience: PositiveInt | None
    """Evaluations without improvement after which training stops; null trains to the end."""
    logging_steps: PositiveInt
    """Optimiser steps between points of the training curve."""
    resume_from: str | None
    """A checkpoint to go on from: its folder, or `runs:/<run_id>/checkpoints/last`; null: the training's own newest."""
    checkpoint: Checkpoint
    custom: Custom

    @field_validator("layerwise_lr_decay", mode="before")
    @classmethod
    def _decay_is_a_factor(cls, value: object) -> object:
        if value is None or value == "auto":  # as below: of one of several types
            return value
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
            raise ValueError(f"invalid value; expected auto, a number > 0 and <= 1 or null; found {value!r}")
        return float(value)

    @field_validator("class_weights", mode="before")
    @classmethod
    def _weights_are_positive(cls, value: object) -> object:
        # All of it here: what pydantic says of a value that could be one of several types names those, not the remedy.
        if value is None or value == "balanced":
            return value
        if not isinstance(value, Mapping) or not value:
            raise ValueError(f"{value!r} is neither null, balanced nor a mapping such as {{spam: 5.0}}")
        for name, weight in value.items():
            if not isinstance(weight, int | float) or isinstance(weight, bool) or not 0 < weight < math.inf:
                raise ValueError(f"the weight of {name!r} must be a number above 0, found {weight!r}")
        return {str(name): float(weight) for name, weight in value.items()}

    @field_validator("custom", mode="after")
    @classmethod
    def _metrics_have_names_of_their_own(cls, value: Custom) -> Custom:
        names = [path.partition(":")[2] for path in value.metrics]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"metrics: two are called {twice[0]}")
        return value

    @model_validator(mode="after")
    def _smoothing_is_for_cross_entropy(self) -> Train:
        if self.custom.loss is not None and self.label_smoothing_factor:
            raise ValueError("label_smoothing_factor is for cross entropy: set it to 0, or custom.loss to null")
        return self

    @model_validator(mode="after")
    def _two_passes_differ_by_dropout(self) -> Train:
        if self.r_drop is not None and self.dropout == 0:
            raise ValueError("r_drop compares two dropout masks: set dropout to 0.1 or null, or r_drop to null")
        return self

    @field_validator("resume_from", mode="after")
    @classmethod
    def _a_run_is_named_whole(cls, value: str | None) -> str | None:
        if value is not None and value.startswith("runs:") and not re.fullmatch(RUN_CHECKPOINT, value):
            raise ValueError(f"{value!r} is no checkpoint of a run; write runs:/<run_id>/checkpoints/last")
        return value

    @model_validator(mode="after")
    def _packed_texts_have_no_padding(self) -> Train:
        if self.packing and self.pad_to_max_length:
            raise ValueError("packing leaves no padding: set it to false, or pad_to_max_length to false")
        return self

    @model_validator(mode="after")
    def _accumulation_is_given_once(self) -> Train:
        if self.total_train_batch_size is not None and self.gradient_accumulation_steps != 1:
            raise ValueError(
                "total_train_batch_size decides the accumulation: set train.gradient_accumulation_steps to 1, "
                f"found {self.gradient_accumulation_steps}"
            )
        return self

    @model_validator(mode="after")
    def _steps_need_a_number(self) -> Train:
        if self.eval_strategy == "steps" and self.eval_steps is None:
            raise ValueError("eval_strategy steps needs train.eval_steps, for example 500")
        return self


class Launch(Section):
    """Flags of `accelerate launch`; dvc.yaml expands this section into them, so a flag you need is added here.

    Flags without a value in params.yaml are left to accelerate. `null` is not a value: leave the key out instead.
    """

    num_processes: PositiveInt = 1
    """Processes over all machines: as a rule one per GPU."""
    num_machines: PositiveInt = 1
    """Machines that train together."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """`no`: float32 throughout; `bf16`: matrix products in bfloat16; `fp16`: in float16, on a GPU."""
    num_cpu_threads_per_process: Annotated[int, Field(ge=0)] = 0
    """Threads of each process, 0 for this machine's cores divided among its processes; part of a run's identity on a
    CPU, where it decides the order of sums."""
    dynamo_backend: Literal["no", "auto", "inductor", "eager", "aot_eager"] = "no"
    """What compiles the model; `no` compiles nothing, `auto` measures some steps and takes inductor where that pays."""
    cpu: bool = False
    """Train on the CPU even where there is a GPU."""
    multi_gpu: bool = False
    """Start num_processes processes, one per GPU (or, without any GPU, on the CPU)."""
    gpu_ids: str = "all"
    """GPUs of this machine to use, for example `0,1`."""
    machine_rank: Annotated[int, Field(ge=0)] = 0
    """This machine's number among num_machines; the first is 0."""
    main_process_ip: str = ""
    """Address of machine 0, which all others can reach."""
    main_process_port: Annotated[int, Field(ge=0, lt=65536)] = 0
    """Port of machine 0 at which the others find it."""
    config_file: str = ""
    """An accelerate config file, for everything that has no key here; what it states wins over the keys here."""

    @model_validator(mode="after")
    def _several_processes_are_started(self) -> Launch:
        # Without one of these accelerate starts a single process, and says nothing.
        if self.num_processes > 1 and not self.multi_gpu and not self.config_file:
            raise ValueError(f"num_processes {self.num_processes} needs launch.multi_gpu: true, on a CPU too")
        if self.multi_gpu and self.num_processes == 1:
            raise ValueError("multi_gpu needs launch.num_processes of at least 2; one GPU needs no multi_gpu")
        return self


class Evaluate(Section):
    """How the final scores are computed."""

    per_device_batch_size: PositiveInt
    """Most rows of a batch; it has fewer where they are long, as suits the device."""
    mixed_precision: Precision = "no"
    """`no` computes in float32; `bf16` multiplies matrices in bfloat16, which is faster where the device can."""
    num_processes: PositiveInt | None = None
    """Processes with a model each, one per GPU; null takes all GPUs where there are 50,000 rows for each, and without a
    GPU one process."""
    bootstrap_samples: Annotated[int, Field(ge=100)]
    """Resamples behind each confidence interval."""
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)]
    """Coverage of the intervals, for example 0.95."""
    seed: Seed
    """Seed of the resamples."""
    max_errors: Annotated[int, Field(ge=0)]
    """Wrong rows kept per split, worst first."""
    slices: Annotated[tuple[str, ...], Field(strict=False)]
    """By what each split is divided into parts that are scored on their own: `length` in tokens, `source` file, `group`
    of data.group_by, writing system (`script`), and the names of data.keep_columns."""
    temperature_scaling: bool
    """Fit a temperature on the validation split, and report calibration with and without it."""


class Predict(Section):
    """What to classify with the trained model."""

    path: NonEmpty
    """Any file or folder that validate can read, labelled or not; `data/splits/test.parquet` is the test split."""
    pattern: NonEmpty | None = None
    """Which files in the folder predict.path, for example `test*.jsonl`; null takes its data files."""
    batch_size: PositiveInt
    """Most rows of a batch; it has fewer where they are long, as suits the device."""
    mixed_precision: Precision = "no"
    """As in `evaluate`: what one says of the other holds where both are the same."""
    num_processes: PositiveInt | None = None
    """As in `evaluate`."""
    format: PredictFormat = "jsonl"
    """What is written: `jsonl`, `csv`, `tsv` or `parquet`."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Divides the logits behind the probabilities of classes, for better calibrated ones; no prediction changes. What
    `evaluate.temperature_scaling` finds, it shows and writes to data/reports/calibration.json."""

    @field_validator("pattern")
    @classmethod
    def _pattern_stays_inside(cls, pattern: str | None) -> str | None:
        return _inside(pattern, "predict.path")


class Report(Section):
    """What the page data/reports/index.html tells beyond what earlier stages wrote."""

    attributions: Annotated[int, Field(ge=0)]
    """Wrong rows whose words are weighed by integrated gradients, worst first; 0 weighs none."""
    label_errors: bool
    """Look for labels that are probably wrong, by cross-validated confident learning; needs the extra label-errors."""


class Serve(Section):
    """The model over HTTP: what `make serve` takes, and what it refuses."""

    max_rows: PositiveInt
    """Most rows of a request; more are refused with status 413."""
    max_characters: PositiveInt
    """Most characters of a text, and of its pair; more are refused with status 413."""
    max_body_mib: PositiveInt
    """Most MiB of a request's body; more are refused with status 413."""
    max_wait_ms: Annotated[float, Field(ge=0, le=1000)]
    """Milliseconds that a request waits at most for others, to go through the model together; it waits only while
    several come at a time. 0 waits for none."""
    max_waiting_rows: PositiveInt
    """Most rows that wait for the model; requests beyond them are refused with status 503. A request that finds none
    waiting is always taken."""
    page: bool
    """Serve the page to try a text on, and the weights of words that it shows: those take the model's time."""


class Export(Section):
    """The model in another format, for programs without PyTorch."""

    format: Literal["onnx"] | None
    """`onnx`: write data/onnx; needs the extra onnx. null writes nothing but a manifest."""
    int8: bool
    """Also write a model with 8-bit weights, a quarter of the size; data/reports/export.json compares its scores."""
    tolerance: Annotated[float, Field(gt=0)]
    """Largest difference between a logit of the float32 export and PyTorch's, as a share of the largest logit and at
    least of 1; the stage fails beyond it."""


def _is_registry_name(name: str) -> str:
    if re.search(r"""[/:"'@\\\s]""", name):
        raise ValueError(f"{name!r} cannot be part of models:/<name>@<alias>: write letters, digits, '-', '_' and '.'")
    return name


def _is_alias(alias: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", alias) or re.fullmatch(r"latest|v\d+", alias, re.IGNORECASE):
        raise ValueError(f"{alias!r} is no alias for MLflow: write letters, digits, '-' and '_', not latest or v1")
    return alias


# For editors, whose patterns are not Python's: no more than the form.
RegistryName = Annotated[
    str, AfterValidator(_is_registry_name), WithJsonSchema({"type": "string", "minLength": 1, "pattern": r"^[^/:\s]+$"})
]
Alias = Annotated[
    str, AfterValidator(_is_alias), WithJsonSchema({"type": "string", "minLength": 1, "pattern": r"^[A-Za-z0-9_-]+$"})
]
Bounds = dict[NonEmpty, float]


class Register(Section):
    """How `make register` names the model in MLflow's registry, when it refuses, and whether it goes to the hub."""

    name: RegistryName
    """The model's name in MLflow's registry."""
    alias: Alias
    """What the registered version is called, so that `models:/<name>@<alias>` loads it."""
    minimum: Bounds
    """Scores that a model must reach, by their names in data/reports/metrics.json, for example `test.accuracy: 0.9` or
    `test.f1_macro_low: 0.8`, the lower end of an interval."""
    maximum: Bounds
    """Scores that it must not exceed, for example `test.ece: 0.05`."""
    metric: NonEmpty | None
    """The score by which the alias's holder must not be better; null takes test.f1_macro, or test.pearson in
    regression (of validation where test has no labels)."""
    license: NonEmpty | None
    """The licence of the trained model, by the hub's names, for example `apache-2.0`; null takes the base model's."""
    push_to_hub: bool
    """Upload the model, with its card, to the Hugging Face hub."""
    hub_model_id: NonEmpty | None
    """Where to, for example `my-team/news-classifier`."""
    hub_private_repo: bool
    """Whether a repository that is made there is private."""
    hub_revision: NonEmpty | None
    """The branch to upload to, made where there is none; null is the main one."""

    @model_validator(mode="after")
    def _a_push_has_a_target(self) -> Register:
        if self.push_to_hub and self.hub_model_id is None:
            raise ValueError("push_to_hub needs register.hub_model_id, for example my-team/news-classifier")
        return self


class Tracking(Section):
    """Where runs are filed in MLflow."""

    experiment_name: NonEmpty
    """The MLflow experiment that runs belong to; it is made where there is none of the name."""


class Range(Section):
    """Numbers between two bounds, both included, for a search to draw from."""

    low: int | float
    """The lowest."""
    high: int | float
    """The highest."""
    log: bool = False
    """Draw evenly from the logarithms, as suits learning rates."""
    step: Annotated[int | float, Field(gt=0)] | None = None
    """Only low, low + step, low + 2 x step, ...; null: any number in between."""

    @model_validator(mode="after")
    def _bounds_make_sense(self) -> Range:
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"log needs numbers above 0, and low is {self.low:g}")
        if self.log and self.step is not None:
            raise ValueError("log and step do not go together: list the numbers instead, for example [1e-5, 1e-4]")
        return self


Choices = Annotated[tuple[Any, ...], Field(strict=False, min_length=1)]


class Sweep(Section):
    """What `make sweep` searches; no stage of the graph reads this section."""

    n_trials: PositiveInt = 20
    """Trials in all, those of earlier starts of the same sweep included; a grid has as many as it has points."""
    n_jobs: PositiveInt = 1
    """Trials at a time, which share this machine's processors."""
    metric: NonEmpty | None = None
    """What to improve, as in metrics.json, for example `validation.loss`; null is train.metric_for_best_model on the
    validation split."""
    direction: Literal["maximize", "minimize"] | None = None
    """Which way is better; null is known for the built-in metrics."""
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """How values are chosen: `tpe` learns from the trials before (Bergstra et al., 2011), `random` does not, `grid`
    takes every combination."""
    pruner: Literal["median", "hyperband", "none"] = "median"
    """When a trial is stopped early: `median`: where it is worse than the median of the others at that evaluation;
    `hyperband`: by successive halving (Li et al., 2018); `none`: never."""
    seed: Seed = 13
    """Seed of the sampler."""
    space: dict[str, Range | Choices] = Field(default_factory=dict)
    """Keys of params.yaml, dotted, each with a range or a list of values."""


class Params(Section):
    """The whole of params.yaml, a section per stage and two that stages share (`data`, `model`)."""

    fetch: Fetch
    data: Data
    validate_: Validate = Field(alias="validate")  # pydantic keeps the plain name for itself
    split: Split
    tokenize: Tokenize
    model: Model
    train: Train
    launch: Launch
    evaluate: Evaluate
    predict: Predict
    report: Report
    serve: Serve
    export: Export
    register_: Register = Field(alias="register")  # pydantic keeps the plain name for itself
    tracking: Tracking
    sweep: Sweep = Field(default_factory=Sweep)

    @model_validator(mode="after")
    def _what_starts_at_random_learns(self) -> Params:
        held = "lora" if self.train.lora is not None else "freeze" if self.train.freeze else None
        if self.model.from_scratch is not None and held is not None:
            raise ValueError(
                f"train.{held} keeps weights as they are, and those of model.from_scratch are random: "
                f"set train.{held} to {'null' if held == 'lora' else '[]'}"
            )
        return self

    @model_validator(mode="after")
    def _dropout_is_said_once(self) -> Params:
        architecture = self.model.from_scratch
        said = [key for key in ({} if architecture is None else architecture.__pydantic_extra__) if "drop" in key]
        if said and self.train.dropout is not None:
            raise ValueError(
                f"train.dropout and model.from_scratch.{said[0]} both decide dropout: set train.dropout to null"
            )
        return self

    @model_validator(mode="after")
    def _slices_are_known(self) -> Params:
        known = [*BUILT_IN_SLICES, *self.data.keep_columns]
        for place, name in enumerate(self.evaluate.slices):
            if name not in known:
                problem = ValueError(
                    f"unknown slice {name!r}{did_you_mean(name, known)}; expected one of {', '.join(known)}; "
                    "a column of your files has to be in data.keep_columns, too"
                )
                # Not raised as it is, so that the message gives the line of the slice.
                raise ValidationError.from_exception_data(
                    "Params",
                    [
                        {
                            "type": "value_error",
                            "loc": ("evaluate", "slices", place),
                            "input": name,
                            "ctx": {"error": problem},
                        }
                    ],
                )
        return self

    def flat(self, *sections: str) -> dict[str, str | int | float | bool | None]:
        """Return the named sections (all, when none is named) with dotted keys, for a tracker to log."""
        whole = self.model_dump(mode="json", by_alias=True)
        return dict(_flatten({name: whole[name] for name in sections or whole}))


IntervalUnit = Literal["steps", "epochs", "minutes"]


class Interval(Section):
    """A distance in training: `amount` of `unit`."""

    amount: Annotated[float, Field(gt=0)]
    unit: IntervalUnit


def parse_interval(text: str) -> Interval:
    """Parse `500 steps`, `1 epoch`, `0.5 epochs` or `10 minutes`.

    Raises:
        ValueError: the text is none of these.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(step|epoch|minute)s?\s*", text)
    if not match or float(match[1]) <= 0 or (match[2] == "step" and not float(match[1]).is_integer()):
        raise ValueError(f"{text!r} is not an interval; write `500 steps`, `1 epoch` or `10 minutes`")
    unit: IntervalUnit
    for unit in get_args(IntervalUnit):
        if unit.startswith(match[2]):
            return Interval(amount=float(match[1]), unit=unit)
    raise AssertionError(match[2])


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Read and check params.yaml.

    Raises:
        SeqtrackError: the file is missing, not YAML, or has a missing, unknown, ill-typed or out-of-range key; the
            message names the first such key and its line, and how many others there are.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SeqtrackError(
            "file not found", where=str(path), fix="run from the folder that holds dvc.yaml and params.yaml"
        ) from None
    except UnicodeDecodeError as error:
        raise SeqtrackError("not UTF-8", where=str(path), found=f"byte {error.object[error.start]:#x}") from None
    return parse_params(text, path)


def parse_params(text: str, path: Path = PARAMS_FILE) -> Params:
    """Check what params.yaml holds, or is to hold; `path` is for messages.

    Raises:
        SeqtrackError: as `load_params` does.
    """
    try:
        # YAML 1.2, as DVC reads and writes it: 5e-5 is a number there and a string in YAML 1.1.
        document = YAML(typ="rt").load(io.StringIO(text))
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise SeqtrackError(f"not valid YAML: {error.problem}", where=f"{path}:{line}") from None
    except YAMLError as error:
        raise SeqtrackError(f"not valid YAML: {error}", where=str(path)) from None
    if not isinstance(document, CommentedMap):
        raise SeqtrackError("no sections found", where=str(path), expected=_names(Params))
    try:
        return Params.model_validate(_plain(document))
    except ValidationError as error:
        raise _explain(path, document, error) from None


def _explain(path: Path, document: CommentedMap, error: ValidationError) -> SeqtrackError:
    """Turn pydantic's findings into one line about the first of them in file order."""
    # An unknown key is usually the misspelling of a missing one, so it is the better thing to name.
    findings = sorted(error.errors(), key=lambda e: (e["type"] == "missing", _line(document, e["loc"])))
    finding = findings[0]
    key = ".".join(str(part) for part in finding["loc"])
    others = len({e["loc"] for e in findings}) - 1
    problem, expected, found, fix = _describe(finding)
    if others:
        fix = f"{fix + '; ' if fix else ''}{others} more after it"
    return SeqtrackError(
        f"{key}: {problem}" if key else problem,  # sections that do not fit together are no single key's fault
        where=f"{path}:{_line(document, finding['loc'])}" if key else str(path),
        expected=expected,
        found=found,
        fix=fix,
    )


def _describe(finding: ErrorDetails) -> tuple[str, str | None, str | None, str | None]:
    """Return (problem, expected, found, fix) for one finding of pydantic's."""
    if finding["type"] == "value_error":
        return str(finding["ctx"]["error"]), None, None, None
    *parents, name = finding["loc"]
    section = _section_at(parents)
    if finding["type"] == "extra_forbidden" and section:
        valid = _field_names(section)
        prefix = "".join(f"{part}." for part in parents)
        meant = did_you_mean(str(name), valid, shown=lambda near: f"{prefix}{near}")
        return f"unknown key{meant}", "one of " + ", ".join(valid), None, None
    if finding["type"] == "missing":
        return "missing key", _allowed(section, name), None, "add it to params.yaml"
    value = finding["input"]
    unquoted = finding["type"] == "string_type" and isinstance(value, bool | int | float)
    # Inside a list there is no field to look up, but pydantic's message.
    expected = _allowed(section, name) or finding["msg"].removeprefix("Input should be ")
    return "invalid value", expected, f"{value!r} ({type(value).__name__})", "put it in quotes" if unquoted else None


def section_names() -> frozenset[str]:
    """Return the dotted names of all sections, and of those within them, but for those that may be null."""
    return frozenset(_sections_in(Params))


def _sections_in(section: type[Section], prefix: str = "") -> list[str]:
    names = []
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            names += [f"{prefix}{field.alias or name}"]
            names += _sections_in(field.annotation, f"{prefix}{field.alias or name}.")
    return names


def _section_at(location: Sequence[int | str]) -> type[Section] | None:
    """Return the section class at a path of keys, or None when the path leads elsewhere."""
    section: type[Section] = Params
    for part in location:
        for name, field in section.model_fields.items():
            if (field.alias or name) == part:
                # A section, or a section that may be null.
                kinds = [kind for kind in (field.annotation, *get_args(field.annotation)) if isinstance(kind, type)]
                inner = next((kind for kind in kinds if issubclass(kind, Section)), None)
                if inner is None:
                    return None
                section = inner
                break
        else:
            return None
    return section


def _allowed(section: type[Section] | None, name: int | str) -> str | None:
    """Say in words which values a field takes, from its JSON schema."""
    if section is None:
        return None
    schema = section.model_json_schema(by_alias=True)
    field = schema.get("properties", {}).get(name)
    return None if field is None else _schema_in_words(field, schema.get("$defs", {}))


def _schema_in_words(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """Render a JSON schema node: types, choices and bounds."""
    if "anyOf" in field:
        return " or ".join(_schema_in_words(option, definitions) for option in field["anyOf"])
    if "$ref" in field:
        inner = definitions[field["$ref"].rsplit("/", 1)[1]]
        return "a section with " + ", ".join(inner["properties"])
    if "enum" in field:
        return "one of " + ", ".join(field["enum"])
    if "const" in field:
        return repr(field["const"])
    words = {
        "integer": "an integer",
        "number": "a number",
        "string": "a string",
        "boolean": "true or false",
        "array": "a list of strings",
        "object": "a mapping",
        "null": "null",
    }[field["type"]]
    bounds = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = [f"{sign} {field[bound]}" for bound, sign in bounds.items() if bound in field]
    if "minLength" in field or "minItems" in field:
        words = words.replace("a ", "a non-empty ", 1)
    return " ".join([words, " and ".join(limits)]).strip()


def _field_names(section: type[Section]) -> list[str]:
    return [field.alias or name for name, field in section.model_fields.items()]


def _names(section: type[Section]) -> str:
    return "sections " + ", ".join(_field_names(section))


def _line(document: CommentedMap, location: Sequence[int | str]) -> int:
    """Return the 1-based line of the deepest key of `location` that the document has."""
    node: Any = document
    line = 0
    for part in location:
        if isinstance(node, CommentedMap) and part in node:
            # A key that `<<` merged in has no line of its own.
            line = node.lc.key(part)[0] if part in (node.lc.data or {}) else line
        elif isinstance(node, CommentedSeq) and isinstance(part, int) and part < len(node):
            line = node.lc.item(part)[0]
        else:
            break
        node = node[part]
    return int(line) + 1


def _plain(node: Any) -> Any:
    """Strip ruamel's wrappers, so that strict types see plain Python values."""
    if isinstance(node, Mapping):
        return {key: _plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(value) for value in node]
    for plain in (bool, int, float, str):
        if isinstance(node, plain):
            return plain(node)
    return node


def _flatten(node: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for name, value in node.items():
        if isinstance(value, Mapping):
            pairs += _flatten(value, f"{prefix}{name}.")
        else:
            pairs.append((prefix + name, ", ".join(map(str, value)) if isinstance(value, list) else value))
    return pairs


if __name__ == "__main__":
    try:
        load_params()
    except SeqtrackError as error:
        raise SystemExit(f"error: {error}") from None
