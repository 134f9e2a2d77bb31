"""The encoder with a fresh classification head, and its export.

Promises: weights are float32 in memory (mixed precision is autocast's business); a new head is a function of the seed,
and so are all weights of a model from scratch; a pretrained encoder is never left random without a word; the exported
folder works with `transformers.pipeline` and carries class names.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from pipeline.encoding import Encoder
from pipeline.errors import SeqtrackError
from pipeline.labels import LabelSet
from pipeline.model_source import ModelSource
from pipeline.parts import load_part, require_call
from pipeline.scaling import Scale, find_head

AUTO_CLASS = "AutoModelForSequenceClassification"
OWN = "train.custom.model"
NAMELESS = ("LABEL_0",)  # what transformers calls the one output of a regression


def load_classifier(
    source: ModelSource,
    labels: LabelSet,
    *,
    seed: int,
    trust_remote_code: bool,
    attn_implementation: str | None = None,
    own_class: type[PreTrainedModel] | None = None,
    scale: Scale | None = None,
    dropout: float | None = None,
) -> PreTrainedModel:
    """Load an encoder and put a new classification head on it; a head of this shape that it has already stays.

    Args:
        source: the pretrained model, or what one from scratch is made of.
        labels: decides the head's width and the names in config.json.
        seed: of the weights that are new.
        trust_remote_code: whether code in the model's folder may run.
        attn_implementation: how attention is computed; None is the plain way on a CPU, and transformers' choice (its
            fused one, where the model has it) on other devices.
        own_class: the user's class, in place of the one that transformers has for the encoder.
        scale: of regression targets. A head that the model has already gives numbers on the labels' scale, and is
            changed so that it gives standardised ones.
        dropout: the probability of every dropout that the model's configuration names; None leaves them as they are.

    Raises:
        SeqtrackError: the folder holds no model that can classify sequences, attention cannot be computed that way, the
            user's class gives no logits, or there is no dropout to set.
    """
    if attn_implementation is None and not torch.accelerator.is_available():
        # PyTorch's fused attention is slower than the plain one in backward passes on a CPU.
        attn_implementation = "eager"
    loader: Any = own_class or AutoModelForSequenceClassification
    names = labels.names or NAMELESS
    head: dict[str, Any] = {
        "num_labels": labels.width,
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
        "problem_type": labels.problem_type,
    }
    how: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": attn_implementation}
    torch.manual_seed(seed)
    model: PreTrainedModel
    report: Mapping[str, Any]
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(source.folder, trust_remote_code=trust_remote_code, **head)
            dropouts = {} if dropout is None else dict.fromkeys(_dropouts(config), dropout)
            if source.pretrained:
                model, report = loader.from_pretrained(
                    source.folder,
                    **head,
                    **dropouts,
                    **how,
                    # A head of another width, left by an earlier fine-tuning, gives way to the new one.
                    ignore_mismatched_sizes=True,
                    trust_remote_code=trust_remote_code,
                    output_loading_info=True,
                )
            else:
                config.update(dropouts)
                # The public method is that of transformers' Auto class; other classes have it under this name.
                build = loader.from_config if own_class is None else own_class._from_config
                model = build(config, **how)
    except (ImportError, OSError, ValueError, SafetensorError) as error:
        if attn_implementation is not None and re.search("attention|attn", str(error), re.IGNORECASE):
            raise SeqtrackError(
                f"no {attn_implementation} attention for this model on this machine ({error})",
                where="params.yaml: model.attn_implementation",
                fix="set it to null, eager or sdpa",
            ) from error
        raise SeqtrackError(
            f"cannot load a sequence classifier ({error})",
            where=f"params.yaml: model.name_or_path: {source.name}",
            expected="a transformers encoder with config.json and weights",
        ) from error
    if source.pretrained:
        _require_encoder(model, report, source)
    if own_class is not None:
        _require_logits(model, labels.width)
    if scale is not None and source.pretrained and (found := find_head(model)) is not None:
        name, layer = found
        fresh = {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}
        if not fresh.intersection({f"{name}.weight", f"{name}.bias"}):
            scale.unfold(layer)
    return model


def _dropouts(config: PreTrainedConfig) -> list[str]:
    """Return the keys of a configuration that are probabilities of dropout, of elements rather than of layers.

    Raises:
        SeqtrackError: there is none.
    """
    names = [
        name
        for name, value in config.to_dict().items()
        if "drop" in name and "layer" not in name and isinstance(value, float | int) and not isinstance(value, bool)
    ]
    if not names:
        raise SeqtrackError(
            f"the configuration of {config.model_type} names none",
            where="params.yaml: train.dropout",
            fix="set it to null",
        )
    return names


def own_model_class(path: str | None) -> type[PreTrainedModel] | None:
    """Load the user's model class, if there is one.

    Raises:
        SeqtrackError: it cannot be imported, or is no PreTrainedModel with a suitable `forward`.
    """
    if path is None:
        return None
    part = load_part(path, OWN)
    if (
        not inspect.isclass(part)
        or not issubclass(part, PreTrainedModel)
        or part.__module__.startswith("transformers.")
    ):
        raise SeqtrackError(
            f"{path} is no model class of your own",
            where=f"params.yaml: {OWN}",
            expected="a class derived from transformers.PreTrainedModel, outside of transformers",
            found=str(part),
        )
    form = "(input_ids=..., attention_mask=..., token_type_ids=...)"
    require_call(
        part.forward, path, OWN, None, input_ids=None, attention_mask=None, token_type_ids=None, form=f"forward{form}"
    )
    return part


def enable_gradient_checkpointing(model: PreTrainedModel) -> None:
    """Have activations recomputed in backward passes instead of kept (Chen et al., 2016, arXiv:1604.06174).

    Raises:
        SeqtrackError: the architecture cannot.
    """
    if not model.supports_gradient_checkpointing:
        raise SeqtrackError(
            f"{type(model).__name__} cannot do it",
            where="params.yaml: train.gradient_checkpointing",
            fix="set it to false; a smaller train.per_device_train_batch_size saves memory too",
        )
    # The newer of PyTorch's two ways works with frozen embeddings too.
    model.activation_checkpointing_enable({"use_reentrant": False})


def _require_logits(model: PreTrainedModel, classes: int) -> None:
    tokens = torch.zeros(1, 4, dtype=torch.int64)
    with torch.no_grad():
        logits = getattr(model(input_ids=tokens, attention_mask=torch.ones_like(tokens)), "logits", None)
    if not isinstance(logits, torch.Tensor) or logits.shape != (1, classes):
        found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise SeqtrackError(
            f"{type(model).__name__} gives no score per class",
            where=f"params.yaml: {OWN}",
            expected=f"an output with logits of shape (rows, classes), here (1, {classes})",
            found=str(found),
        )


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


def trusts_code(manifest: Mapping[str, Any]) -> bool:
    """Return whether the code in a model folder may run: the user trusted the base model's, or wrote it."""
    return bool(manifest["params"]["model"]["trust_remote_code"]) or manifest.get("own_code") is not None


def export(model: PreTrainedModel, encoder: Encoder, labels: LabelSet, folder: Path) -> None:
    """Write a model folder: safetensors, config.json with class names, tokenizer, labels.json.

    The tokenizer carries the encoder's max_length, so `truncation=True` cuts where training did. The source file of a
    class of the user's goes with it, so that the folder loads wherever code in it is trusted.
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
    if not type(model).__module__.startswith(("transformers.", "transformers_modules.")):
        type(model).register_for_auto_class(AUTO_CLASS)  # type: ignore[no-untyped-call]
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
