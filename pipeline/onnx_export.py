"""A classifier as an ONNX graph, in float32 or with 8-bit weights.

Promises: batch and sequence are free; equal models give equal bytes: what the exporter writes down of its own source
files and steps is taken out.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch

from pipeline.errors import SeqtrackError
from pipeline.inference import Classifier

OPSET: Final = 18  # what PyTorch's exporter writes without converting
OUTPUT: Final = "logits"
AXES: Final = ("batch", "sequence")
MOST_BYTES: Final = 1_900_000_000  # of weights in a protobuf, which ends at 2 GiB; more lie in a file beside it


class _Logits(torch.nn.Module):
    """A classifier whose inputs come by place and whose output is the logits alone."""

    def __init__(self, model: Any, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(**dict(zip(self.names, inputs, strict=True))).logits
        return logits


def input_names(classifier: Classifier) -> tuple[str, ...]:
    """Return the names of the graph's inputs, those that the tokenizer gives."""
    types = ("token_type_ids",) if classifier.encoder.has_token_types else ()
    return ("input_ids", "attention_mask", *types)


def onnx_model(classifier: Classifier, file: Path) -> None:
    """Write a classifier's graph.

    Inputs are int64 [batch, sequence], the output `logits` is float32 [batch, classes].

    Args:
        classifier: on the CPU.
        file: where to; weights of more than 1.9 GB come into `<file>.data`.

    Raises:
        SeqtrackError: PyTorch cannot express the model as a graph.
    """
    import onnx

    names = input_names(classifier)
    padding = classifier.encoder.padding
    # Any rows will do; lengths of 0 and 1 would be taken for fixed ones.
    batch = padding.batch([[padding.pad_token_id] * 5] * 2, [[0] * 5] * 2 if len(names) == 3 else None, multiple_of=1)
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    large = sum(weights.nbytes for weights in classifier.model.parameters()) > MOST_BYTES
    with _quiet():
        try:
            program = torch.onnx.export(
                _Logits(classifier.model, names).eval(),
                tuple(batch[name] for name in names),
                input_names=list(names),
                output_names=[OUTPUT],
                dynamic_shapes=(tuple(free for _ in names),),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise SeqtrackError(
                f"PyTorch cannot export {type(classifier.model).__name__} ({str(error).strip().splitlines()[0]})",
                where="params.yaml: export.format",
                fix="set it to null",
            ) from error
    assert program is not None  # which it is without dynamo alone
    program.save(file, external_data=large)
    graph = onnx.load(file, load_external_data=False)
    _clean(graph)
    onnx.save(graph, file)


def int8_model(source: Path, file: Path) -> None:
    """Write a graph with the weights of its matrix products and embeddings in 8 bits, activations quantized on the fly.

    Args:
        source: what `onnx_model` wrote.
        file: where to.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet():
        quantize_dynamic(
            source,
            file,
            weight_type=QuantType.QInt8,
            use_external_data_format=source.with_name(f"{source.name}.data").exists(),
        )


def _clean(model: Any) -> None:
    """Take out what depends on how and where the graph was made, and name its axes."""
    graph = model.graph
    model.producer_version = model.producer_version.partition("+")[0]  # CPU and GPU builds write the same graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for function in model.functions:
        for part in (function, *function.node):
            part.ClearField("metadata_props")
            part.ClearField("doc_string")
    graph.ClearField("value_info")  # shapes on the way, which runtimes infer
    for value in graph.input:
        for axis, name in zip(value.type.tensor_type.shape.dim, AXES, strict=True):
            axis.dim_param = name
    graph.output[0].type.tensor_type.shape.dim[0].dim_param = AXES[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence remarks on packages that are not needed, and advice to users of the exporter itself."""
    loggers = {name: logging.getLogger(name).level for name in (None, "torch.onnx", "onnxscript", "onnx_ir")}
    for name in loggers:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in loggers.items():
            logging.getLogger(name).setLevel(level)
