"""Which whole layers leave, and by which texts that is judged."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from compress.checkpoint import Checkpoint
from compress.models.torch_io import load_model
from compress.steps.prune.whole_parts import layers_to_keep


@pytest.mark.parametrize("count", [1, 5, 8, 32])
def test_layers_are_judged_on_texts_of_all_lengths(count: int, tuned: Checkpoint) -> None:
    """Calibration batches come sorted by length, longest first."""
    batches = [{"input_ids": torch.ones(1, length, dtype=torch.int64)} for length in range(count, 0, -1)]
    seen: set[int] = set()

    def loss(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        seen.add(batch["input_ids"].shape[1])
        return torch.tensor(0.0)

    layers_to_keep(load_model(tuned), 1, batches, loss)
    assert len(seen) == min(count, 8)
    assert max(seen) == count
    assert min(seen) <= 1 + count // 8
