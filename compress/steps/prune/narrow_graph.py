"""An exported graph with fewer heads, neurons and layers, for timing alone: in milliseconds, not by another export.

What a pruned model's export would give is its dense model's graph with smaller weights: the graph names no number of
heads. Which numbers the weights hold does not change how long they take, so all variants share one file of weights, of
whose tensors they read the beginnings.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from compress.errors import ConfigError, UnsupportedError

if TYPE_CHECKING:
    import onnx

    from compress.models.families import Family

__all__ = ["NarrowGraphs", "check_narrower"]

_ALIGNMENT = 4096
"""Bytes. Where tensors begin in the file of weights, so that each can be mapped."""

_INLINE = 1024
"""Bytes. Smaller tensors stay in the graph, as shape inference reads them."""


class NarrowGraphs:
    """Writes graphs of any structure that a dense one can be narrowed to. Their answers mean nothing.

    Parameters
    ----------
    dense : onnx.ModelProto
        Export of the dense model (`compress.steps.export.export_graph`), fp32 or dynamic INT8; taken apart.
    places : Family
        Where its architecture keeps its layers.
    head_size : int
        Width of a head.
    folder : pathlib.Path
        Where the weights and the graphs are written; the weights take as many bytes as the dense model.

    Attributes
    ----------
    heads, widths : tuple of int
        The dense structure.
    like : pathlib.Path
        What the graphs are called like.

    Raises
    ------
    UnsupportedError
        If the graph's layers cannot be found or are of a kind that cannot be narrowed so.
    """

    def __init__(self, dense: onnx.ModelProto, places: Family, head_size: int, folder: Path) -> None:
        self._model, self._places, self._folder = dense, places, folder
        self._head_size = head_size
        self._prefix = f"{places.base}.{places.layers}."
        self._tensors = {tensor.name: tensor for tensor in dense.graph.initializer}
        self._products = {name: node for node in dense.graph.node if "MatMul" in node.op_type for name in node.input}
        self._makers = {name: node for node in dense.graph.node for name in node.output}
        numbers = [name.removeprefix(self._prefix).partition(".")[0] for name in self._tensors if self._prefix in name]
        layers = max((int(number) for number in numbers if number.isdigit()), default=0) + 1
        sizes = [self._sizes(layer) for layer in range(layers)]
        self.heads, self.widths = (tuple(column) for column in zip(*sizes, strict=True))
        self.like = folder / "model.onnx"
        for layer in range(layers):
            for path in (places.query, places.key, places.value, *places.ffn_inputs):
                self._give_own_bias(layer, path)
        self._bytes = _move_weights_out(dense, folder / "weights.data")

    def write(self, heads: Sequence[int], widths: Sequence[int]) -> Path:
        """Write a graph of a structure and return its path; layers that are not asked for are left out.

        Parameters
        ----------
        heads, widths
            Of each layer that is kept; 1 to those of the largest dense layer.

        Raises
        ------
        ConfigError
            If that is no narrower structure.
        UnsupportedError
            If layers cannot be left out of this graph, as where norms come before the blocks.
        """
        check_narrower(heads, widths, self.heads, self.widths)
        digest = hashlib.sha256(repr((list(heads), list(widths))).encode()).hexdigest()
        path = self._folder / f"{digest[:16]}.onnx"
        if not path.is_file():
            path.write_bytes(self._narrowed(heads, widths).SerializeToString())
        return path

    def _narrowed(self, heads: Sequence[int], widths: Sequence[int]) -> onnx.ModelProto:
        from compress.onnx_graph import canonicalise

        model = type(self._model)()
        model.CopyFrom(self._model)
        dropped = len(self.heads) - len(heads)
        if dropped:
            first, later = self._input(0), self._input(dropped)
            for node in model.graph.node:
                for at, name in enumerate(node.input):
                    if name == later:
                        node.input[at] = first
            canonicalise(model)
        tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        places = self._places
        if any(self._matrix(layer, places.query) in tensors for layer in range(dropped)):
            raise self._unsupported("layers that are left out are still read")
        for layer, (count, width) in enumerate(zip(heads, widths, strict=True), start=dropped):
            inner = count * self._head_size
            for path in (places.query, places.key, places.value):
                self._cut(tensors, layer, path, outputs=inner)
            self._cut(tensors, layer, places.attention_output, inputs=inner)
            for path in places.ffn_inputs:
                self._cut(tensors, layer, path, outputs=width)
            self._cut(tensors, layer, places.ffn_output, inputs=width)
        return model

    def _cut(
        self,
        tensors: dict[str, onnx.TensorProto],
        layer: int,
        path: str,
        inputs: int | None = None,
        outputs: int | None = None,
    ) -> None:
        """Narrow the matrix of a module, and what it has per output channel, to so many inputs or outputs."""
        stem = f"{self._prefix}{layer}.{path}"
        for name in (f"{stem}.weight", f"{stem}.weight_quantized"):
            if name in tensors:
                matrix = tensors[name]
                rows, columns = inputs or matrix.dims[0], outputs or matrix.dims[1]
                self._resize(matrix, [rows, columns])
        if outputs is not None:
            for name in (f"{stem}.bias", f"{stem}.weight_scale", f"{stem}.weight_zero_point"):
                if name in tensors and list(tensors[name].dims) not in ([], [1]):
                    self._resize(tensors[name], [outputs])

    def _resize(self, tensor: onnx.TensorProto, dims: list[int]) -> None:
        """Give a tensor other dimensions, and numbers from the file of weights, in whatever order they stand."""
        import onnx
        from onnx import numpy_helper

        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            values = np.resize(numpy_helper.to_array(tensor), dims)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
            return
        place = {entry.key: entry.value for entry in tensor.external_data}
        offset, length = int(place["offset"]), int(place["length"])
        length = length // int(np.prod(tensor.dims)) * int(np.prod(dims))
        if offset + length > self._bytes:
            offset = 0
        if length > self._bytes:
            raise self._unsupported(f"its weights are too few to make {tensor.name} of {dims}")
        _refer(tensor, place["location"], offset, length)
        del tensor.dims[:]
        tensor.dims.extend(dims)

    # --- the dense graph ---------------------------------------------------------------------------

    def _sizes(self, layer: int) -> tuple[int, int]:
        """Return heads and feed-forward width of a layer of the dense graph."""
        places = self._places
        shapes = {}
        for path in (places.query, places.key, places.value, places.attention_output, places.ffn_output):
            shapes[path] = self._shape(layer, path)
        inner = shapes[places.attention_output][0]
        if any(shapes[path][1] != inner for path in (places.query, places.key, places.value)):
            raise self._unsupported("its heads share keys and values")
        if inner % self._head_size:
            raise self._unsupported(f"{inner} channels of attention are no multiple of heads of {self._head_size}")
        return inner // self._head_size, shapes[places.ffn_output][0]

    def _shape(self, layer: int, path: str) -> tuple[int, int]:
        """Return inputs and outputs of a module."""
        name = self._matrix(layer, path)
        node = self._products.get(name)
        if node is None:
            raise self._unsupported(f"{name} is in no matrix product")
        rows, columns = self._tensors[name].dims
        return rows, columns

    def _matrix(self, layer: int, path: str) -> str:
        """Return the name of the matrix of a module."""
        stem = f"{self._prefix}{layer}.{path}.weight"
        for name in (stem, f"{stem}_quantized"):
            if name in self._tensors:
                return name
        raise self._unsupported(f"there is no {stem}")

    def _give_own_bias(self, layer: int, path: str) -> None:
        """Let a module have a bias of its own: of equal ones, as the zeros of fresh weights, exporters keep one."""
        own = f"{self._prefix}{layer}.{path}.bias"
        reached = set(self._products[self._matrix(layer, path)].output)
        for node in self._model.graph.node:
            if not reached.intersection(node.input):
                continue
            if node.op_type != "Add":
                reached.update(node.output)  # a quantized product is scaled first
                continue
            at = 1 if node.input[0] in reached else 0
            if node.input[at] in self._tensors and node.input[at] != own:
                bias = self._model.graph.initializer.add()
                bias.CopyFrom(self._tensors[node.input[at]])
                bias.name = node.input[at] = own
            return

    def _input(self, layer: int) -> str:
        """Return the name of the hidden states that a layer reads."""
        name = str(self._products[self._matrix(layer, self._places.query)].input[0])
        maker = self._makers.get(name)
        return str(maker.input[0]) if maker is not None and maker.op_type == "DynamicQuantizeLinear" else name

    def _unsupported(self, why: str) -> UnsupportedError:
        return UnsupportedError(
            f"this graph of {self._places.architecture} cannot be narrowed for timing: {why}. Use a target that "
            f"counts: params, macs, size"
        )


def _move_weights_out(model: onnx.ModelProto, file: Path) -> int:
    """Write the tensors of a graph that are not small to a file, and leave where they are; return the file's bytes."""
    from onnx import numpy_helper

    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as stream:
        for tensor in model.graph.initializer:
            values = np.ascontiguousarray(numpy_helper.to_array(tensor))
            if values.nbytes <= _INLINE:
                continue
            stream.write(b"\0" * (-stream.tell() % _ALIGNMENT))
            place = stream.tell()
            stream.write(values.tobytes())
            _refer(tensor, file.name, place, values.nbytes)
        return stream.tell()


def _refer(tensor: onnx.TensorProto, location: str, offset: int, length: int) -> None:
    """Make a tensor one whose numbers stand in a file."""
    import onnx

    for field in ("raw_data", "float_data", "int32_data", "int64_data"):
        tensor.ClearField(field)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value


def check_narrower(
    heads: Sequence[int], widths: Sequence[int], dense_heads: Sequence[int], dense_widths: Sequence[int]
) -> None:
    """Raise ConfigError if a structure has more layers than a dense one, or larger ones than its largest."""
    if not (
        0 < len(heads) == len(widths) <= len(dense_heads)
        and all(0 < count <= max(dense_heads) for count in heads)
        and all(0 < width <= max(dense_widths) for width in widths)
    ):
        raise ConfigError(
            f"heads {list(heads)} and widths {list(widths)} are no narrower structure than heads {list(dense_heads)} "
            f"and widths {list(dense_widths)}: 1 to all layers, each with at least 1 head and 1 neuron"
        )
