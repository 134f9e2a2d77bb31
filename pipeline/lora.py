"""Low-rank adapters in place of full fine-tuning (Hu et al., 2021, arXiv:2106.09685), through peft.

Promises: the encoder's embeddings and layers stay as they are, adapters and all above the layers (pooler, head) learn;
merged adapters leave a model of the plain architecture, whose outputs are those of the adapted one.
"""

from __future__ import annotations

import importlib.util

import torch
from transformers import PreTrainedModel

from pipeline.errors import SeqtrackError
from pipeline.layers import parameter_depths
from pipeline.params import Lora

KEY = "train.lora"


def require_peft(lora: Lora | None) -> None:
    """Check that peft is installed where it is needed.

    Raises:
        SeqtrackError: it is not.
    """
    if lora is not None and importlib.util.find_spec("peft") is None:
        raise SeqtrackError(
            "peft is not installed",
            where=f"params.yaml: {KEY}",
            fix='install the extra: python -m pip install ".[lora]", or set train.lora to null',
        )


def add_adapters(model: PreTrainedModel, lora: Lora, *, seed: int) -> None:
    """Put adapters into a classifier, in place, and freeze the weights of its embeddings and layers.

    The model computes what it did before until the adapters are trained: one of each pair of matrices starts at zero.

    Args:
        model: a sequence classifier; what is frozen already stays so.
        lora: the section.
        seed: of the adapters' weights.

    Raises:
        SeqtrackError: the model's layers cannot be told, or no module has such a name.
    """
    from peft import LoraConfig, inject_adapter_in_model

    depths = parameter_depths(model, needed_by=KEY)
    trained = {
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and depths.by_name[name] > depths.layers
    }
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    in_layers = [name for name in linear if name.startswith(tuple(f"{stack}." for stack in depths.stacks))]
    torch.manual_seed(seed)
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=in_layers if lora.target_modules is None else list(lora.target_modules),
    )
    try:
        inject_adapter_in_model(config, model)
    except ValueError as error:
        raise SeqtrackError(
            f"peft refuses ({error})",
            where=f"params.yaml: {KEY}.target_modules",
            expected="ends of names of modules such as "
            + ", ".join(sorted({name.rpartition(".")[2] for name in in_layers})),
        ) from error
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name or name.replace(".base_layer.", ".") in trained)


def merge_adapters(model: PreTrainedModel) -> None:
    """Add the adapters to the weights they adapt and take them out, in place.

    Raises:
        SeqtrackError: a merged weight is not finite.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            try:
                module.merge(safe_merge=True)
            except ValueError as error:
                raise SeqtrackError(f"cannot merge the adapters ({error})", where=f"params.yaml: {KEY}") from error
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.get_base_layer())
    for attribute in ("peft_config", "peft_type"):
        if hasattr(model, attribute):
            delattr(model, attribute)
