"""Writing an ONNX file, and opening it again."""

import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["write_onnx"]

PROTOBUF_LIMIT = 2**31  # bytes, above which an ONNX file keeps its weights in a second one


def write_onnx(
    path: Path, network: nn.Module, examples: tuple[Tensor, ...], inputs: list[str], outputs: list[str], shapes: Any
) -> Any:
    """Write a network, and open the file by onnxruntime.

    Args:
        path: of the file; weights of 2 GB and more go into a second one.
        examples: an input each.
        inputs, outputs: their names.
        shapes: torch.export's dynamic shapes of the inputs.

    Returns:
        The InferenceSession.
    """
    import onnxruntime

    large = sum(tensor.nbytes for tensor in network.state_dict().values()) >= PROTOBUF_LIMIT
    for name in ("onnx_ir", "onnxscript"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations
        torch.onnx.export(
            network, examples, path, dynamo=True, verbose=False, external_data=large,
            input_names=inputs, output_names=outputs, dynamic_shapes=shapes,
        )  # fmt: skip
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
