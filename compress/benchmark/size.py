"""Bytes, parameters and multiply-accumulates of an artifact, read from its files."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

__all__ = ["macs_of_onnx", "macs_of_torch", "size_of"]

_WEIGHTS = (".safetensors", ".onnx", ".data")


def size_of(path: Path, form: str, architecture: str) -> dict[str, int]:
    """Return the bytes of a checkpoint directory.

    Returns
    -------
    dict
        ``artifact_bytes`` (every file but the model card), ``weights_bytes`` (weights files, external data
        included), ``embedding_bytes`` (of the embedding tables in them), ``parameters``.
    """
    files = [file for file in sorted(path.rglob("*")) if file.is_file() and file.name != "README.md"]
    weights = [file for file in files if file.suffix in _WEIGHTS]
    embedding, parameters = _onnx_tensors(path) if form == "onnx" else _torch_tensors(weights)
    return {
        "artifact_bytes": sum(file.stat().st_size for file in files),
        "weights_bytes": sum(file.stat().st_size for file in weights),
        "embedding_bytes": embedding,
        "parameters": parameters,
    }


def _torch_tensors(weights: Iterable[Path]) -> tuple[int, int]:
    """Return bytes of embeddings and number of parameters of safetensors files, from their headers."""
    embedding = parameters = 0
    for file in weights:
        with file.open("rb") as stream:
            header = json.loads(stream.read(struct.unpack("<Q", stream.read(8))[0]))
        for name, entry in header.items():
            if name == "__metadata__" or (entry["dtype"].startswith(("I", "U", "B")) and entry["dtype"] != "BF16"):
                continue
            parameters += math.prod(entry["shape"])
            if "embeddings" in name and len(entry["shape"]) == 2:
                start, end = entry["data_offsets"]
                embedding += end - start
    return embedding, parameters


def _onnx_tensors(path: Path) -> tuple[int, int]:
    """Return bytes of tables that are gathered from, and number of parameters, of an ONNX model.

    Parameters are floats and quantized integers of more than one element; scales, zero points and shapes are not.
    """
    import onnx
    from onnx import TensorProto, numpy_helper

    graph = onnx.load(str(path / "model.onnx")).graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    gathered = set()
    produced = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type in ("Gather", "GatherBlockQuantized"):
            source = node.input[0]
            while source in produced and produced[source].op_type in ("DequantizeLinear", "Cast", "Identity"):
                source = produced[source].input[0]
            gathered.add(source)
    floats = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
    integers = {TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4}
    embedding = parameters = 0
    for name, tensor in weights.items():
        count = math.prod(tensor.dims)
        helper = name.endswith(("_scale", "_zero_point"))
        if tensor.data_type in floats | integers and not helper and count > 1:
            parameters += count
        if name in gathered and len(tensor.dims) == 2:
            embedding += numpy_helper.to_array(tensor, str(path)).nbytes
    return embedding, parameters


def macs_of_torch(model: Any, batch: int, sequence: int, names: Iterable[str]) -> int:
    """Return multiply-accumulates of matrix products in one forward pass, from the operators that run."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    tokens = torch.ones((batch, sequence), dtype=torch.int64)
    inputs = {name: tokens if name != "token_type_ids" else torch.zeros_like(tokens) for name in names}
    before = model.config._attn_implementation  # noqa: SLF001 - transformers offers a setter only
    model.set_attn_implementation("eager")  # products of attention are then counted as the products they are
    try:
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            model(**inputs)
    finally:
        model.set_attn_implementation(before)
    return int(counter.get_total_flops()) // 2


def macs_of_onnx(model: onnx.ModelProto, batch: int, sequence: int) -> int:
    """Return multiply-accumulates of matrix products, from the graph's shapes at a fixed batch and sequence."""
    import onnx

    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in fixed.graph.input:
        for dimension, size in zip(value.type.tensor_type.shape.dim, (batch, sequence), strict=False):
            dimension.dim_value = size
    del fixed.graph.value_info[:]
    try:
        shaped = _symbolic(fixed)
    except Exception:  # the symbolic pass knows more operators, the plain one never fails on them
        shaped = onnx.shape_inference.infer_shapes(fixed, data_prop=True)
    shapes = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*shaped.graph.value_info, *shaped.graph.input, *shaped.graph.output)
    }
    shapes |= {tensor.name: list(tensor.dims) for tensor in shaped.graph.initializer}
    total = 0
    for node in shaped.graph.node:
        if node.op_type in ("MatMul", "MatMulInteger", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "FusedMatMul"):
            left, out = shapes.get(node.input[0]), shapes.get(node.output[0])
            total += math.prod(out) * left[-1] if left and out else 0
        elif node.op_type == "Gemm":
            transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
            left, out = shapes.get(node.input[0]), shapes.get(node.output[0])
            total += math.prod(out) * (left[0] if transposed else left[-1]) if left and out else 0
    return total


def _symbolic(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

    shaped: onnx.ModelProto = SymbolicShapeInference.infer_shapes(model, auto_merge=True)
    return shaped
