"""Read and write ``model.onnx``: one file while protobuf allows it, else the weights beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from compress.errors import CheckpointError

if TYPE_CHECKING:
    import onnx

__all__ = ["EXTERNAL_FILE", "MODEL_FILE", "SINGLE_FILE_BYTES", "load_graph", "save_graph"]

MODEL_FILE = "model.onnx"
EXTERNAL_FILE = "model.onnx.data"
SINGLE_FILE_BYTES = 2_000_000_000
"""Weights above this go into a second file: a protobuf message ends at 2 GiB."""


def load_graph(directory: Path) -> onnx.ModelProto:
    """Read a checkpoint's ``model.onnx`` with all of its weights.

    Raises
    ------
    CheckpointError
        If there is no such file or it is not ONNX.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    path = directory / MODEL_FILE
    if not path.is_file():
        raise CheckpointError(f"{directory}: no {MODEL_FILE}; export the model first")
    try:
        return onnx.load(str(path))
    except (DecodeError, onnx.checker.ValidationError) as error:
        raise CheckpointError(f"{path} is not a readable ONNX model: {error}") from error


def weight_bytes(model: onnx.ModelProto) -> int:
    """Return the bytes of all initialisers."""
    return sum(tensor.ByteSize() for tensor in model.graph.initializer)


def save_graph(model: onnx.ModelProto, directory: Path, single_file_bytes: int = SINGLE_FILE_BYTES) -> None:
    """Write ``model.onnx`` into `directory`, with ``model.onnx.data`` beside it where the weights are too many.

    Equal graphs (see `canonicalise`) give equal bytes.
    """
    import onnx

    path = directory / MODEL_FILE
    if weight_bytes(model) < single_file_bytes:
        path.write_bytes(model.SerializeToString(deterministic=True))
        return
    onnx.save_model(
        model,
        str(path),
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=EXTERNAL_FILE,
        size_threshold=1024,
    )
