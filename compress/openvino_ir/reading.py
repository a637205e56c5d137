"""What a ``model.xml`` says of its weights; read without OpenVINO."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compress.errors import CheckpointError

__all__ = ["Constant", "read_constants"]

_PRECISIONS = {
    "f64": "fp64",
    "f32": "fp32",
    "f16": "fp16",
    "bf16": "bf16",
    "i8": "int8",
    "u8": "int8",
    "i4": "int4",
    "u4": "int4",
    "nf4": "int4",
}
_INTEGERS = frozenset({"i8", "u8", "i4", "u4", "nf4"})
_SHAPING = frozenset({"Convert", "Reshape", "Gather", "Transpose", "Unsqueeze", "Squeeze"})
"""Operations that hand the values of their first input on."""


@dataclass(frozen=True)
class Constant:
    """A stored tensor.

    Attributes
    ----------
    name : str
        Of the layer.
    precision : str or None
        ``fp32``, ``int8``, ...; None for what is no number of a model: shapes, indices.
    shape : tuple of int
        Its shape.
    nbytes : int
        Bytes in ``model.bin``.
    role : str
        ``weight``, or ``helper``: a scale, a zero point or a limit of a quantization.
    gathered : bool
        Whether rows of it are looked up.
    """

    name: str
    precision: str | None
    shape: tuple[int, ...]
    nbytes: int
    role: str
    gathered: bool

    @property
    def count(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class _Layer:
    kind: str
    name: str
    data: Mapping[str, str]
    sources: Sequence[str]
    """Layers that its inputs come from, in order."""


def read_constants(file: Path) -> list[Constant]:
    """Return the stored tensors of a ``model.xml``, in its order.

    Raises
    ------
    CheckpointError
        If the file is none.
    """
    layers = _read_layers(file)
    readers: dict[str, list[tuple[str, int]]] = {}
    for number, layer in layers.items():
        for position, source in enumerate(layer.sources):
            readers.setdefault(source, []).append((number, position))
    found = []
    for number, layer in layers.items():
        if layer.kind != "Const":
            continue
        uses = list(_uses(number, layers, readers))
        helps = bool(uses) and all(_helps(layers[reader], position, layers) for reader, position in uses)
        shape = tuple(int(size) for size in layer.data.get("shape", "").split(",") if size.strip())
        found.append(
            Constant(
                layer.name,
                _PRECISIONS.get(layer.data["element_type"]),
                shape,
                int(layer.data["size"]),
                "helper" if helps else "weight",
                _is_gathered(number, layers, readers),
            )
        )
    return found


def _read_layers(file: Path) -> dict[str, _Layer]:
    try:
        # A verified checkpoint's own file; expat of Python 3.11 neither resolves external entities nor lets
        # internal ones grow without bounds (https://docs.python.org/3/library/xml.html#xml-vulnerabilities).
        root = ET.parse(file).getroot()  # noqa: S314
        edges: dict[str, dict[str, str]] = {}
        for edge in root.iterfind("edges/edge"):
            edges.setdefault(edge.attrib["to-layer"], {})[edge.attrib["to-port"]] = edge.attrib["from-layer"]
        layers = {}
        for layer in root.iterfind("layers/layer"):
            number, data = layer.attrib["id"], layer.find("data")
            ports = [port.attrib["id"] for port in layer.iterfind("input/port")]
            sources = [edges[number][port] for port in ports]
            attributes = {} if data is None else data.attrib
            layers[number] = _Layer(layer.attrib["type"], layer.attrib.get("name", ""), attributes, sources)
    except (OSError, ET.ParseError, KeyError) as error:
        raise CheckpointError(f"{file} is no readable model of OpenVINO: {error}") from error
    return layers


def _uses(
    number: str, layers: Mapping[str, _Layer], readers: Mapping[str, list[tuple[str, int]]]
) -> Iterator[tuple[str, int]]:
    """Yield who computes with a constant's values, and at which input, past what only hands them on."""
    for reader, position in readers.get(number, []):
        if layers[reader].kind in _SHAPING and position == 0:
            yield from _uses(reader, layers, readers)
        else:
            yield reader, position


def _helps(reader: _Layer, position: int, layers: Mapping[str, _Layer]) -> bool:
    """Whether an input of a layer is a limit of a quantization, or what turns stored integers into floats."""
    if reader.kind == "FakeQuantize":
        return position > 0
    if reader.kind not in ("Multiply", "Subtract"):
        return False
    if "smooth_quant" in reader.name:
        return True
    return _is_stored_integer(reader.sources[1 - position], layers)


def _is_stored_integer(number: str, layers: Mapping[str, _Layer]) -> bool:
    layer = layers[number]
    while layer.kind in _SHAPING or layer.kind == "Subtract":
        layer = layers[layer.sources[0]]
    return layer.kind == "Const" and layer.data["element_type"] in _INTEGERS


def _is_gathered(number: str, layers: Mapping[str, _Layer], readers: Mapping[str, list[tuple[str, int]]]) -> bool:
    """Whether rows of a constant are looked up, be it before or after they become floats."""
    waiting = list(readers.get(number, []))
    while waiting:
        reader, position = waiting.pop()
        kind = layers[reader].kind
        if kind == "Gather" and position == 0:
            return True
        if kind in ("Convert", "Subtract", "Multiply", "FakeQuantize") and position == 0:
            waiting.extend(readers.get(reader, []))
    return False
