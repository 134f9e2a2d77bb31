"""The pretrained encoder with a fresh classification head, and its export.

Promises: weights are float32 in memory (mixed precision is autocast's business); a new head is a function of the seed;
an encoder is never left random without a word; the exported folder works with `transformers.pipeline` and carries
class names.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers.utils import logging as transformers_logging

from pipeline.encoding import Encoder
from pipeline.errors import SeqtrackError
from pipeline.labels import LabelSet
from pipeline.model_source import ModelSource


def load_classifier(source: ModelSource, labels: LabelSet, *, seed: int, trust_remote_code: bool) -> PreTrainedModel:
    """Load an encoder and put a new classification head on it; a head of this shape that it has already stays.

    Args:
        source: the pretrained model.
        labels: decides the head's width and the names in config.json.
        seed: of the head's weights.
        trust_remote_code: whether code in the model's folder may run.

    Raises:
        SeqtrackError: the folder holds no model that can classify sequences.
    """
    torch.manual_seed(seed)
    try:
        with quiet_transformers():
            model: PreTrainedModel
            model, report = AutoModelForSequenceClassification.from_pretrained(
                source.folder,
                dtype=torch.float32,
                num_labels=len(labels.names),
                id2label=dict(enumerate(labels.names)),
                label2id={name: index for index, name in enumerate(labels.names)},
                problem_type=labels.problem_type,
                # A head of another width, left by an earlier fine-tuning, gives way to the new one.
                ignore_mismatched_sizes=True,
                trust_remote_code=trust_remote_code,
                # PyTorch's fused attention is slower than the plain one in backward passes on a CPU.
                attn_implementation=None if torch.accelerator.is_available() else "eager",
                output_loading_info=True,
            )
    except (OSError, ValueError, SafetensorError) as error:
        raise SeqtrackError(
            f"cannot load a sequence classifier ({error})",
            where=f"params.yaml: model.name_or_path: {source.name}",
            expected="a transformers encoder with config.json and weights",
        ) from error
    _require_encoder(model, report, source)
    return model


def _require_encoder(model: PreTrainedModel, report: Mapping[str, Any], source: ModelSource) -> None:
    """Refuse weights of another architecture, which transformers replaces by random ones with no more than a report."""
    prefix = f"{model.base_model_prefix}."
    encoder = {name for name in model.state_dict() if name.startswith(prefix)}
    # Encoders come without a pooler, for one; that is in order.
    absent = encoder.intersection(report["missing_keys"])
    misshapen = encoder.intersection(name for name, *_ in report["mismatched_keys"])
    if misshapen or 2 * len(absent) > len(encoder):
        raise SeqtrackError(
            f"the weights do not fit config.json: {len(absent)} of the encoder's {len(encoder)} tensors are missing, "
            f"{len(misshapen)} have another shape",
            where=f"params.yaml: model.name_or_path: {source.name}",
            expected=f"weights of a {model.config.model_type} model",
        )


def export(model: PreTrainedModel, encoder: Encoder, labels: LabelSet, folder: Path) -> None:
    """Write a model folder: safetensors, config.json with class names, tokenizer, labels.json.

    The tokenizer carries the encoder's max_length, so `truncation=True` cuts where training did.
    """
    tokenizer = encoder.tokenizer
    # Where the base model lay on this machine is no property of the result.
    model.config._name_or_path = ""
    tokenizer.name_or_path = ""
    tokenizer.model_max_length = encoder.max_length
    if tokenizer.is_fast:
        # Some base models ship with truncation and padding switched on in the tokenizer itself.
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
    with quiet_transformers():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    labels.write(folder / "labels.json")


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence the report that a new head is new, and the bars of loading and saving: both expected here."""
    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.ERROR)
    _show_bars(False)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        _show_bars(bars)


def _show_bars(shown: bool) -> None:
    if shown:
        transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
    else:
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
