"""A small whole checkpoint, made without torch."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from compress.checkpoint import Checkpoint, Writer


def safetensors(values: bytes = b"\x00\x01\x02\x03\x04\x05\x06\x07") -> bytes:
    """Return a safetensors file with one fp32 tensor."""
    entry = {"dtype": "F32", "shape": [len(values) // 4], "data_offsets": [0, len(values)]}
    header = json.dumps({"weight": entry}).encode()
    return struct.pack("<Q", len(header)) + header + values


def write(folder: Path) -> Checkpoint:
    """Write a checkpoint of three files and a structure; equal calls must give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    out = Writer(folder)
    (folder / "model.safetensors").write_bytes(safetensors())
    (folder / "config.json").write_text('{"model_type": "bert"}\n')
    (folder / "vocab").mkdir()
    (folder / "vocab" / "vocab.txt").write_text("[PAD]\nüber\n", encoding="utf-8")
    out.structure = {"layers": [0, 2], "heads": {"0": 4}}
    out.facts["largest_difference"] = 1.5e-6
    return out.finish(
        format="torch",
        precision="fp32",
        task="text_classification",
        metric="accuracy",
        labels=["[bold]no", "ja, größer"],
        max_length=32,
        architecture="bert",
        layers=2,
        lineage=[{"name": "finetune", "kind": "finetune", "config": {"epochs": 3}, "key": "ab" * 32}],
    )


@pytest.fixture
def make() -> Callable[[Path], Checkpoint]:
    """Return the function that writes the checkpoint into a folder."""
    return write


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    """Return a whole checkpoint of the test's own."""
    return write(tmp_path / "checkpoint")
