"""What a step hands on unchanged: config, tokenizer and structure."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compress.checkpoint import Checkpoint, Writer

__all__ = ["copy_companions"]

_WEIGHT_SUFFIXES = (".safetensors", ".onnx", ".onnx.data", ".xml", ".bin")


def copy_companions(source: Checkpoint, out: Writer) -> None:
    """Copy the files of a checkpoint that are not weights."""
    for name in sorted(source.manifest.files):
        if name.endswith(_WEIGHT_SUFFIXES) or name == "checkpoint.json":
            continue
        if name == "structure.json":
            out.structure = json.loads((source.path / name).read_text(encoding="utf-8"))
            continue
        target = out.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.path / name, target)
