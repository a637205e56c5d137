"""A store of the test's own and a way to put checkpoints into it."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from compress.checkpoint import Checkpoint, Writer
from compress.store import Store


def fill(out: Writer, content: bytes = b"\x00" * 64) -> Checkpoint:
    """Write a whole checkpoint whose weights are `content`."""
    header = json.dumps({"w": {"dtype": "I8", "shape": [len(content)], "data_offsets": [0, len(content)]}}).encode()
    (out.path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + content)
    return out.finish(
        format="torch",
        precision="fp32",
        task="t",
        metric="m",
        labels=["a"],
        max_length=8,
        architecture="bert",
        layers=1,
        lineage=[{"name": "finetune", "kind": "finetune", "config": {}, "key": "aa"}],
    )


@pytest.fixture(name="fill")
def _fill() -> Callable[..., Checkpoint]:
    """Return the function that writes a checkpoint with a writer."""
    return fill


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return an empty store."""
    return Store(tmp_path / "store")
