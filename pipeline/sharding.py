"""Weights that FSDP2 divides among the processes (Zhao et al., 2023, arXiv:2304.11277).

Promises: an encoder's layers are what is gathered at a time, whatever its architecture; gradients are summed in
float32; a divided tensor can be made whole and a whole one divided again, so a checkpoint does not show how it was.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from accelerate import Accelerator, DistributedType
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from transformers import PreTrainedModel

from pipeline.errors import SeqtrackError
from pipeline.layers import parameter_depths
from pipeline.params import Train

FILE = "params.yaml: launch.config_file"


def is_sharded(accelerator: Accelerator) -> bool:
    """Return whether weights are divided among processes."""
    return bool(accelerator.distributed_type == DistributedType.FSDP)


def check_sharding(accelerator: Accelerator, train: Train) -> None:
    """See whether train can do what divides the weights, if anything does.

    Raises:
        SeqtrackError: it cannot, or not together with something in the recipe.
    """
    kind = accelerator.distributed_type
    if kind in (DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        raise SeqtrackError(
            f"train cannot save or resume what {kind.value} divides among processes",
            where=FILE,
            fix="use configs/accelerate/fsdp2.yaml, which divides the same",
        )
    if not is_sharded(accelerator):
        return
    if not accelerator.is_fsdp2:
        raise SeqtrackError("train does not do the first FSDP", where=FILE, fix="set fsdp_version to 2 in the file")
    if accelerator.mixed_precision == "fp16":
        raise SeqtrackError(
            "fp16 does not go with FSDP2 here", where="params.yaml: launch.mixed_precision", fix="set it to bf16 or no"
        )
    if train.auto_find_batch_size:
        # A process that runs out of memory leaves the others waiting for its part of the weights.
        raise SeqtrackError(
            "does not go with FSDP2",
            where="params.yaml: train.auto_find_batch_size",
            fix="set it to false and lower train.per_device_train_batch_size by hand",
        )


def set_up_sharding(accelerator: Accelerator, model: PreTrainedModel) -> None:
    """Tell accelerate how to divide a model, before it prepares it.

    Layers are the units unless the config file names others; the classes that transformers has for it in some
    encoders hold the embeddings, which accelerate would divide twice.

    Args:
        accelerator: whose FSDP2 settings are completed.
        model: the model to be prepared.
    """
    plugin = accelerator.state.fsdp_plugin
    if plugin.transformer_cls_names_to_wrap is None:
        plugin.transformer_cls_names_to_wrap = _layer_classes(model)
    if accelerator.mixed_precision == "bf16":
        # accelerate would sum gradients in 16 bits.
        plugin.mixed_precision_policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)


def _layer_classes(model: PreTrainedModel) -> list[str]:
    """Return the names of the layers' classes; none where layers are not whole modules: the model is one unit then."""
    try:
        stacks = parameter_depths(model, needed_by="launch.config_file").stacks
    except SeqtrackError:
        return []
    if len(stacks) > 1:  # parts of layers, which may change each other's outputs in place, and FSDP2 forbids that
        return []
    return sorted({type(layer).__name__ for layer in model.get_submodule(stacks[0]).children()})


def divider(accelerator: Accelerator) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what makes of a tensor, equal on all processes, what they will make of a weight."""
    if not is_sharded(accelerator):
        return whole
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    return lambda tensor: distribute_tensor(tensor, mesh, [Shard(0)], src_data_rank=None)


def is_divided(tensor: torch.Tensor) -> bool:
    """Return whether each process has a part of a tensor."""
    return isinstance(tensor, DTensor)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor in one piece; of a divided one all processes must ask for it together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: torch.Tensor) -> torch.Tensor:
    """Return what this process has of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def divided_like(tensor: torch.Tensor, example: torch.Tensor) -> torch.Tensor:
    """Divide a whole tensor, equal on all processes, as one of its shape is; for another kind it stays as it is."""
    if not isinstance(example, DTensor) or tensor.shape != example.shape:
        return tensor
    return distribute_tensor(tensor, example.device_mesh, example.placements, src_data_rank=None)
