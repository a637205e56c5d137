"""Bytes, parameters and multiply-accumulates of an artifact, read from its files."""

from __future__ import annotations

import json
import math
import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.errors import CheckpointError
from compress.quantized import read_quantization

if TYPE_CHECKING:
    import onnx

    from compress.quantized import Quantization

__all__ = ["macs_of_onnx", "macs_of_openvino", "macs_of_torch", "size_of", "vocabulary_of"]

_WEIGHTS = (".safetensors", ".onnx", ".data", ".onnx_data")
_IR = (".xml", ".bin")
_SAFETENSORS = {"F64": "fp64", "F32": "fp32", "F16": "fp16", "BF16": "bf16", "I8": "int8"}
_ONNX = {
    "DOUBLE": "fp64",
    "FLOAT": "fp32",
    "FLOAT16": "fp16",
    "BFLOAT16": "bf16",
    "INT8": "int8",
    "UINT8": "int8",
    "INT4": "int4",
    "UINT4": "int4",
}
_FEW = 1000
"""Token ids that any vocabulary has."""


def size_of(path: Path, form: str) -> dict[str, Any]:
    """Return the bytes of an artifact: a directory, or a single file with what it keeps beside it.

    Returns
    -------
    dict
        ``artifact_bytes`` (every file but the model card), ``weights_bytes`` (weights files, external data
        included), ``embedding_bytes`` (of the embedding tables in them), ``parameters``, and the ``precision`` of most
        of the weights.
    """
    folder, model = (path, path / "model.onnx") if path.is_dir() else (path.parent, path)
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file.name != "README.md"]
    if path.is_file():
        beside = {path.with_suffix(".bin").name} if path.suffix == ".xml" else _external_files(path)
        files = [file for file in files if file == path or file.name in beside]
    weights = [file for file in files if file.suffix in (_IR if form == "openvino" else _WEIGHTS)]
    if form == "onnx":
        found = _onnx_tensors(model)
    elif form == "openvino":
        found = _openvino_tensors(path if path.is_file() else path / "model.xml")
    else:
        found = _torch_tensors(weights, read_quantization(folder))
    return {
        "artifact_bytes": sum(file.stat().st_size for file in files),
        "weights_bytes": sum(file.stat().st_size for file in weights),
        **found,
    }


def vocabulary_of(path: Path) -> int:
    """Return how many token ids an artifact knows: from its config.json, else from the table that it gathers from."""
    config = (path if path.is_dir() else path.parent) / "config.json"
    if config.is_file():
        known = json.loads(config.read_text(encoding="utf-8")).get("vocab_size")
        if known:
            return int(known)
    if path.suffix == ".onnx" and path.is_file():
        import onnx

        try:
            graph = onnx.load(str(path), load_external_data=False).graph
        except Exception as error:  # protobuf's own, which it does not export
            raise CheckpointError(f"{path} is no ONNX model: {error}") from error
        tables = _gathered(graph)
        rows = [tensor.dims[0] for tensor in graph.initializer if tensor.name in tables and len(tensor.dims) == 2]
        if rows:
            return int(max(rows))
    return _FEW


def _external_files(path: Path) -> set[str]:
    """Return the names of the files that an ``.onnx`` file keeps its data in."""
    import onnx
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    graph = onnx.load(str(path), load_external_data=False).graph
    return {ExternalDataInfo(tensor).location for tensor in graph.initializer if uses_external_data(tensor)}


def _torch_tensors(weights: Iterable[Path], how: Quantization | None) -> dict[str, Any]:
    """Return bytes of embeddings, number and precision of parameters of safetensors files, from their headers.

    A quantized layer counts the parameters that it had before; its scales are bytes and no parameters.
    """
    layers = how.layers if how is not None else {}
    embedding = 0
    counts: Counter[str] = Counter()
    for layer in layers.values():
        counts[how.method if how is not None else ""] += layer.rows * layer.columns
    for file in weights:
        with file.open("rb") as stream:
            header = json.loads(stream.read(struct.unpack("<Q", stream.read(8))[0]))
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            owner, _, part = name.rpartition(".")
            quantized = owner in layers and part != "bias"
            if entry["dtype"].startswith(("I", "U", "B")) and entry["dtype"] not in _SAFETENSORS and not quantized:
                continue
            if not quantized:
                counts[_SAFETENSORS.get(entry["dtype"], entry["dtype"].lower())] += math.prod(entry["shape"])
            if "embeddings" in name and (quantized or len(entry["shape"]) == 2):
                start, end = entry["data_offsets"]
                embedding += end - start
    return {"embedding_bytes": embedding, "parameters": counts.total(), "precision": _most(counts)}


def _onnx_tensors(file: Path) -> dict[str, Any]:
    """Return bytes of tables that are gathered from, number and precision of parameters of an ONNX model.

    Parameters are floats and quantized integers of more than one element; scales, zero points and shapes are not. Of
    those that share bytes each counts, and what fills up the last block of a row.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(file)).graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    gathered, packed = _gathered(graph), _packed(graph)
    embedding = 0
    counts: Counter[str] = Counter()
    for name, tensor in weights.items():
        bits = packed.get(name, 8)
        count = math.prod(tensor.dims) * 8 // bits if bits else 0
        helper = name.endswith(("_scale", "_zero_point")) or not bits
        precision = _ONNX.get(onnx.TensorProto.DataType.Name(tensor.data_type)) if bits == 8 else f"int{bits}"
        if precision is not None and not helper and count > 1:
            counts[precision] += count
        if name in gathered and len(tensor.dims) == 2:
            embedding += numpy_helper.to_array(tensor, str(file.parent)).nbytes
    return {"embedding_bytes": embedding, "parameters": counts.total(), "precision": _most(counts)}


def _openvino_tensors(file: Path) -> dict[str, Any]:
    """Return bytes of tables that are gathered from, number and precision of parameters of a model of OpenVINO."""
    from compress.openvino_ir import read_constants

    embedding = 0
    counts: Counter[str] = Counter()
    for constant in read_constants(file):
        if constant.precision is not None and constant.role != "helper" and constant.count > 1:
            counts[constant.precision] += constant.count
        if constant.gathered and len(constant.shape) == 2:
            embedding += constant.nbytes
    return {"embedding_bytes": embedding, "parameters": counts.total(), "precision": _most(counts)}


def _gathered(graph: onnx.GraphProto) -> set[str]:
    """Return the names of the tables that rows are gathered from, through whatever dequantizes them."""
    produced = {name: node for node in graph.node for name in node.output}
    found = set()
    for node in graph.node:
        if node.op_type in ("Gather", "GatherBlockQuantized"):
            source = node.input[0]
            while source in produced and produced[source].op_type in ("DequantizeLinear", "Cast", "Identity"):
                source = produced[source].input[0]
            found.add(source)
    return found


def _packed(graph: onnx.GraphProto) -> dict[str, int]:
    """Return the bits of a number in each tensor that a block kernel reads; 0 for its scales and zero points."""
    found: dict[str, int] = {}
    for node in graph.node:
        if node.op_type in ("MatMulNBits", "GatherBlockQuantized"):
            bits = next((attribute.i for attribute in node.attribute if attribute.name == "bits"), 4)
            lookup = node.op_type == "GatherBlockQuantized"
            found[node.input[0 if lookup else 1]] = bits
            found |= dict.fromkeys(node.input[2:4], 0)
    return found


def _most(counts: Counter[str]) -> str:
    return counts.most_common(1)[0][0] if counts else "fp32"


def macs_of_torch(model: Any, batch: int, sequence: int, names: Iterable[str]) -> int:
    """Return multiply-accumulates of matrix products in one forward pass, from the operators that run."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    tokens = torch.ones((batch, sequence), dtype=torch.int64)
    inputs = {name: tokens if name != "token_type_ids" else torch.zeros_like(tokens) for name in names}
    before = model.config._attn_implementation  # noqa: SLF001 - transformers offers a setter only
    model.set_attn_implementation("eager")  # products of attention are then counted as the products they are
    try:
        with torch.inference_mode(), FlopCounterMode(display=False, custom_mapping=_integer_products()) as counter:
            model(**inputs)
    finally:
        model.set_attn_implementation(before)
    return int(counter.get_total_flops()) // 2


def _integer_products() -> dict[Any, Any]:
    """Return how to count the operators that multiply by an integer weight: torch's own, and those of bitsandbytes."""
    import torch

    def of_integers(left: Sequence[int], right: Sequence[int], *_: Any, **__: Any) -> int:
        return 2 * math.prod(left) * right[-1]

    product = torch.ops.aten._int_mm  # noqa: SLF001 - torch has no other name for it
    return {product: of_integers, **_bitsandbytes()}


def _bitsandbytes() -> dict[Any, Any]:
    """Return how to count the operators of bitsandbytes that multiply by a weight; nothing where it is not in use."""
    import sys

    if "bitsandbytes" not in sys.modules:
        return {}
    import torch

    def by_four_bits(inputs: Sequence[int], _: Any, weight: Sequence[int], *__: Any, **___: Any) -> int:
        return 2 * math.prod(inputs[:-1]) * math.prod(weight)

    def by_integers(inputs: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
        return 2 * math.prod(inputs[:-1]) * math.prod(weight)

    def with_outliers(inputs: Sequence[int], _: Any, weight: Sequence[int], *__: Any, **___: Any) -> int:
        return by_integers(inputs, weight)

    operators = torch.ops.bitsandbytes
    return {
        operators.gemm_4bit: by_four_bits,
        operators.int8_scaled_mm: by_integers,
        operators.int8_mixed_scaled_mm: with_outliers,
    }


def macs_of_onnx(model: onnx.ModelProto, batch: int, sequence: int) -> int:
    """Return multiply-accumulates of matrix products, from the graph's shapes at a fixed batch and sequence."""
    import onnx

    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in fixed.graph.input:
        for dimension, size in zip(value.type.tensor_type.shape.dim, (batch, sequence), strict=False):
            dimension.dim_value = size
    del fixed.graph.value_info[:]
    _write_plainly(fixed)
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


def _write_plainly(model: onnx.ModelProto) -> None:
    """Put plain products and lookups in the place of the runtime's own, for their shapes; in place.

    The shape inference does not know them, nor then what follows. Weights become inputs, which hold no numbers.
    """
    from onnx import TensorProto, helper

    from compress.onnx_graph import replace_nodes

    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        numbers = {attribute.name: attribute.i for attribute in node.attribute}
        name, kind = f"{node.output[0]}_weight", node.op_type
        if kind == "MatMulNBits":
            shape, plain = [numbers["K"], numbers["N"]], helper.make_node("MatMul", [node.input[0], name], node.output)
        elif kind == "GatherBlockQuantized" and node.input[0] in stored:
            rows, width = stored[node.input[0]].dims
            shape = [
                rows,
                width * (1 if stored[node.input[0]].data_type != TensorProto.UINT8 else 8 // numbers["bits"]),
            ]
            plain = helper.make_node("Gather", [name, node.input[1]], node.output)
        elif kind == "MatMulIntegerToFloat":
            shape = list(stored[node.input[1]].dims)
            nodes.append(helper.make_node("Cast", [node.input[0]], [f"{name}_input"], to=TensorProto.FLOAT))
            plain = helper.make_node("MatMul", [f"{name}_input", name], node.output)
        else:
            nodes.append(node)
            continue
        model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        nodes.append(plain)
    replace_nodes(model, nodes)


def macs_of_openvino(path: Path, batch: int, sequence: int) -> int:
    """Return multiply-accumulates of matrix products of a ``model.xml``, at a fixed batch and sequence."""
    import openvino

    model = openvino.Core().read_model(str(path))
    model.reshape({value: [batch, sequence] for value in model.inputs})
    total = 0
    for node in model.get_ordered_ops():
        if node.get_type_name() == "MatMul":
            left = list(node.input(0).get_shape())
            total += math.prod(node.output(0).get_shape()) * left[-2 if node.get_attributes()["transpose_a"] else -1]
    return total


def _symbolic(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

    shaped: onnx.ModelProto = SymbolicShapeInference.infer_shapes(model, auto_merge=True)
    return shaped
