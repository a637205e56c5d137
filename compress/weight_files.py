"""Whether a file of weights is what its name says: a look at its first bytes and its length, nothing is loaded."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from compress.errors import CheckpointError

__all__ = ["check_weights"]

_ZIP = (b"PK\x03\x04",)
"""What torch writes begins so."""
_PICKLE = tuple(bytes([0x80, protocol, 0x95]) for protocol in (4, 5)) + tuple(
    bytes([0x80, protocol, opcode]) for protocol in (2, 3) for opcode in b"](}c\x8a"
)
"""How pickles of the protocols 2 to 5 begin: the protocol, and a frame or a container, a global or torch's number."""


def check_weights(file: Path) -> None:
    """Refuse weights that are not what their name says, whatever their hash says.

    Parameters
    ----------
    file
        Any file of a checkpoint; those that are not ``.safetensors``, ``.onnx``, ``.xml`` or ``.bin`` pass.

    Raises
    ------
    CheckpointError
        For a pickle under such a name, a damaged header, or a length that is not the header's.
    """
    if file.suffix == ".safetensors":
        _check_safetensors(file)
    elif file.suffix == ".onnx":
        with file.open("rb") as stream:
            start = stream.read(1)
        # ModelProto begins with ir_version: field 1, varint. No pickle and no zip archive begins with that byte.
        if start != b"\x08":
            raise CheckpointError(f"{file} is not an ONNX model (a pickle, or damaged); pickles are never loaded")
    elif file.suffix == ".xml":
        with file.open("rb") as stream:
            start = stream.read(200)
        if not start.startswith(b"<?xml") or b"<net" not in start:
            raise CheckpointError(f"{file} is not a model of OpenVINO; copy it anew")
    elif file.suffix == ".bin":
        with file.open("rb") as stream:
            start = stream.read(6)
        # Numbers without a header. OpenVINO reads them as such; what would unpickle is refused all the same.
        if start.startswith((*_ZIP, *_PICKLE)):
            raise CheckpointError(f"{file} holds a pickle in place of weights; pickles are never loaded")


def _check_safetensors(file: Path) -> None:
    """Refuse what is no safetensors file, whatever its name and hash say (https://huggingface.co/docs/safetensors)."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        header = stream.read(length) if 0 < length <= min(size - 8, 100_000_000) else b""
    try:
        content = json.loads(header)
        ends = [entry["data_offsets"][1] for name, entry in content.items() if name != "__metadata__"]
        end = int(max(ends, default=0))
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{file} is not a safetensors file (a pickle, or damaged); pickles are never loaded"
        ) from error
    if 8 + length + end != size:
        what = "truncated" if size < 8 + length + end else "longer than its header says"
        raise CheckpointError(f"{file} is {what}: {size} bytes instead of {8 + length + end}; copy it anew")
