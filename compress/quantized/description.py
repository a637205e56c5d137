"""How the weights of a torch checkpoint were quantized: quantization.json, beside the tensors it tells how to read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from compress.errors import CheckpointError
from compress.files import canonical_json
from compress.machine import need_extra

__all__ = ["QUANTIZATION", "Layer", "Quantization", "read_quantization", "require_bitsandbytes"]

QUANTIZATION = "quantization.json"
"""In a checkpoint whose layers have few bits."""

_VERSION = 1
_METHODS = ("nf4", "fp4", "int8")
_COMPUTE = ("fp32", "bf16", "fp16")
_KINDS = ("linear", "embedding")


@dataclass(frozen=True)
class Layer:
    """A quantized layer.

    Attributes
    ----------
    kind : str
        ``linear`` or ``embedding``.
    rows, columns : int
        Shape of its weight before: ``[out_features, in_features]`` or ``[num_embeddings, embedding_dim]``.
    """

    kind: str
    rows: int
    columns: int


@dataclass(frozen=True)
class Quantization:
    """What quantization.json says.

    Attributes
    ----------
    method : str
        ``nf4``, ``fp4`` or ``int8``.
    layers : mapping of str to Layer
        The quantized layers by name.
    block_size : int
        Weights of a row that share a scale; of ``nf4`` and ``fp4``. Rows are filled up with zeros to whole blocks.
    double_quant : bool
        Whether the scales are bytes too, of which 256 share a scale; of ``nf4`` and ``fp4``.
    threshold : float
        Input from which on a column is multiplied in float; 0 is never; of ``int8``.
    compute : str
        Type of the products: ``fp32``, ``bf16`` or ``fp16``; of ``nf4`` and ``fp4``.
    scale_values : tuple of float
        The 256 values that a byte of a scale may mean; empty without `double_quant`.
    """

    method: str
    layers: Mapping[str, Layer] = field(default_factory=dict)
    block_size: int = 64
    double_quant: bool = False
    threshold: float = 0.0
    compute: str = "fp32"
    scale_values: tuple[float, ...] = ()

    def padded(self, columns: int) -> int:
        """Return the columns of a row in whole blocks."""
        return -(-columns // self.block_size) * self.block_size

    def to_bytes(self) -> bytes:
        """Return the bytes of quantization.json."""
        return canonical_json({"version": _VERSION, "library": "bitsandbytes", **asdict(self)})


def read_quantization(directory: Path) -> Quantization | None:
    """Return how the weights of a checkpoint were quantized; None where there is no quantization.json.

    Raises
    ------
    CheckpointError
        If the file is damaged, or of a later release.
    """
    file = directory / QUANTIZATION
    if not file.is_file():
        return None
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        version, library = content.pop("version"), content.pop("library")
        layers = {str(name): Layer(**layer) for name, layer in content.pop("layers").items()}
        values = tuple(float(value) for value in content.pop("scale_values"))
        read = Quantization(layers=layers, scale_values=values, **content)
        sound = _sound(read)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{file} is damaged: {error}; copy the checkpoint anew") from error
    if version != _VERSION or library != "bitsandbytes":
        raise CheckpointError(
            f"{file} has version {version!r} for {library!r}; this release reads version {_VERSION} for bitsandbytes: "
            f"update the package"
        )
    if not sound:
        raise CheckpointError(f"{file} is damaged: a value is none that quantization writes; copy the checkpoint anew")
    return read


def _sound(read: Quantization) -> bool:
    layers = read.layers.values()
    return (
        read.method in _METHODS
        and read.compute in _COMPUTE
        and type(read.block_size) is int
        and read.block_size > 0
        and read.block_size % 2 == 0
        and len(read.scale_values) == (256 if read.double_quant else 0)
        and read.threshold >= 0
        and all(layer.kind in _KINDS for layer in layers)
        and all(type(size) is int and size > 0 for layer in layers for size in (layer.rows, layer.columns))
    )


def require_bitsandbytes() -> None:
    """Refuse to go on where bitsandbytes is not installed; imports nothing.

    Raises
    ------
    UnsupportedError
        Says how to install it.
    """
    need_extra("bitsandbytes", ["bitsandbytes"], "a torch checkpoint with weights of few bits")
