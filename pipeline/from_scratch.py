"""The vocabulary stage's work: what a model that is trained from nothing is made of, as a model folder without weights.

Promises: of the rows, those of the train split alone are read; a pretrained encoder gets a manifest that is the same
for all data, so that another split changes nothing for the stages that read it.
"""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.console import facts
from pipeline.errors import SeqtrackError
from pipeline.outputs import output_folder, sha256_file, write_manifest
from pipeline.params import FromScratch
from pipeline.rows import read_row_ids, select_rows
from pipeline.suggestions import did_you_mean

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from pipeline.vocabulary import Trained

WHERE = "params.yaml: model.from_scratch"
# What the data, the tokenizer and the train stage decide.
DECIDED = {
    "architectures", "bos_token_id", "cls_token_id", "dtype", "eos_token_id", "id2label", "label2id", "num_labels",
    "pad_token_id", "problem_type", "sep_token_id", "transformers_version",
}  # fmt: skip


def write_vocabulary(rows: Path, train_ids: Path, folder: Path, scratch: FromScratch | None) -> None:
    """Train a tokenizer on the train split, and write it beside the configuration.

    Args:
        rows: canonical rows.
        train_ids: ids of the train split's rows.
        folder: output folder: config.json and the tokenizer's files, or, for a pretrained encoder, a manifest alone.
        scratch: the architecture; None: the encoder is a pretrained one.

    Raises:
        SeqtrackError: transformers knows no such architecture, a key of it is unknown or has a value that does not fit,
            vocab_size is too small, or rows are missing.
    """
    if scratch is None:
        with output_folder(folder) as out:
            write_manifest(out, inputs={}, params={"from_scratch": None}, rows={})
        return
    # Here, not at the top: these take seconds to import, and most trainings start from a pretrained encoder.
    from pipeline.vocabulary import train_tokenizer

    _config(scratch, scratch.vocab_size)  # mistakes are told before the work
    ids = read_row_ids(train_ids)
    table = select_rows(rows, ids, ["row_id", "text", "text_pair"])
    texts = [text for name in ("text", "text_pair") for text in table[name].to_pylist() if text is not None]
    trained = train_tokenizer(texts, scratch.tokenizer, scratch.vocab_size)
    config, model = _config(scratch, trained.tokenizer.get_vocab_size())
    with output_folder(folder) as out:
        config.save_pretrained(out)
        _save_tokenizer(trained, model, out)
        write_manifest(
            out,
            inputs={"rows": sha256_file(rows), "train": sha256_file(train_ids)},
            params={"from_scratch": scratch.model_dump(mode="json")},
            rows={"train": len(ids)},
        )
    facts(
        "vocabulary",
        [
            ("rows read", f"{len(ids):,}, all of the train split"),
            ("pieces", f"{trained.tokenizer.get_vocab_size():,} of at most {scratch.vocab_size:,}"),
            ("characters", f"{trained.characters:,}; {trained.left_out:,} rare ones are read as unknown"),
            ("model", f"{type(model).__name__}, {model.num_parameters():,} weights"),
        ],
    )


def _config(scratch: FromScratch, vocab_size: int) -> tuple[PretrainedConfig, PreTrainedModel]:
    """Return the configuration, and the classifier that it describes, without memory for its weights."""
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from transformers import (
        CONFIG_MAPPING,
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
        AutoModelForSequenceClassification,
    )

    from pipeline.vocabulary import CLS, PAD, SEP, SPECIAL

    kinds = sorted(kind.model_type for kind in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING)
    if scratch.model_type not in kinds:
        raise SeqtrackError(
            f"no architecture that classifies texts{did_you_mean(scratch.model_type, kinds)}",
            where=f"{WHERE}.model_type",
            expected="what transformers calls one, for example bert, roberta, electra or modernbert",
            found=scratch.model_type,
        )
    kind: Any = CONFIG_MAPPING[scratch.model_type]
    given = dict(scratch.__pydantic_extra__)
    _check_keys(given, kind)
    special = {"pad_token_id": PAD, "bos_token_id": CLS, "cls_token_id": CLS, "eos_token_id": SEP, "sep_token_id": SEP}
    known = {field.name for field in fields(kind)}
    ids = {name: SPECIAL.index(token) for name, token in special.items() if name in known}
    try:
        config: PretrainedConfig = kind(**{**given, **ids, "vocab_size": vocab_size})
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config)  # type: ignore[no-untyped-call]
    except (StrictDataclassError, ValueError, TypeError, RuntimeError, ZeroDivisionError, ImportError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[-1].strip()
        raise SeqtrackError(
            f"transformers makes no {scratch.model_type} of this ({reason})",
            where=WHERE,
            found=", ".join(f"{key}: {value}" for key, value in given.items()) or "no keys besides",
            fix="give each key a value that fits it and the others, such as a hidden_size that the heads divide",
        ) from error
    return config, model


def _check_keys(given: dict[str, Any], kind: type[PretrainedConfig]) -> None:
    """Refuse keys that the configuration does not have: it would keep them, and they would do nothing.

    Raises:
        SeqtrackError: there is one.
    """
    known = ({field.name for field in fields(kind)} | set(kind.attribute_map)) - DECIDED
    for key in given:
        if key in DECIDED:
            raise SeqtrackError("not yours to set: it follows from data and tokenizer", where=f"{WHERE}.{key}")
        if key not in known:
            raise SeqtrackError(
                f"unknown key{did_you_mean(key, known)}",
                where=f"{WHERE}.{key}",
                expected=f"model_type, tokenizer, vocab_size, or a key of transformers' {kind.__name__}",
            )


def _save_tokenizer(trained: Trained, model: PreTrainedModel, folder: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    from pipeline.vocabulary import CLS, MASK, PAD, SEP, UNKNOWN

    inputs = ["input_ids", "attention_mask"]
    if (
        "token_type_ids" in inspect.signature(model.forward).parameters
        and getattr(model.config, "type_vocab_size", 0) > 1
    ):
        inputs.insert(1, "token_type_ids")
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=trained.tokenizer,
        model_input_names=inputs,
        pad_token=PAD,
        unk_token=UNKNOWN,
        cls_token=CLS,
        sep_token=SEP,
        mask_token=MASK,
    )
    tokenizer.save_pretrained(folder)
