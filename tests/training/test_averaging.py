"""The average of weights: what it is, that it is what is judged and kept, and that kills do not change it."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from compress.tasks.padding import padding_of
from compress.training.averaging import Average
from compress.training.batches import logits_of


def test_the_average_is_that_of_the_formula_and_takes_its_turn_in_the_model() -> None:
    model = torch.nn.Linear(2, 1)
    average, expected = Average(model, 0.5), model.weight.detach().clone()
    for update in range(1, 30):
        with torch.no_grad():
            model.weight += update
        decay = min(0.5, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * model.weight.detach()
        average.update(update)
    raw = model.weight.detach().clone()
    with average.applied():
        torch.testing.assert_close(model.weight.detach(), expected)
    assert torch.equal(model.weight, raw)


def followed(tiny: ModuleType, scratch: Path, decay: float, **options: Any) -> tuple[Any, Any, list[torch.Tensor]]:
    """Train; return the model, the result, and the weight of the classifier that each batch met."""
    model, seen = tiny.tiny_model(), []

    def loss(model: Any, batch: dict[str, torch.Tensor], progress: float) -> torch.Tensor:
        seen.append(model.classifier.weight.detach().clone())
        return model(**batch).loss

    result = tiny.tiny_training(scratch, model, average=decay, loss_fn=loss, **options)
    return model, result, seen


def test_the_average_is_judged_and_kept_and_training_goes_on_with_the_weights(tiny: ModuleType, tmp_path: Path) -> None:
    plain, averaged = tiny.tiny_model(), 0.9
    tiny.tiny_training(tmp_path / "plain", plain, epochs=1)
    model, result, seen = followed(tiny, tmp_path / "average", averaged, epochs=1)
    _, _, same = followed(tiny, tmp_path / "other", 0.1, epochs=1)
    assert all(torch.equal(first, second) for first, second in zip(seen, same, strict=True))
    expected = seen[0]
    for update, weight in enumerate([*seen[1:], plain.classifier.weight.detach()], 1):
        decay = min(averaged, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * weight
    torch.testing.assert_close(model.classifier.weight.detach(), expected)
    task, features = tiny.tiny_task(), tiny.tiny_features(40, 1)
    answers = logits_of(model, task, features, padding_of(tiny.TOKENIZER))
    assert task.metrics(answers, features)["accuracy"] == result.metric


def test_killed_it_ends_with_the_same_bytes(tiny: ModuleType, tmp_path: Path) -> None:
    whole = tiny.tiny_model()
    expected = tiny.tiny_training(tmp_path / "whole", whole, average=0.95)
    left = [17]

    def dying(model: Any, batch: dict[str, torch.Tensor], progress: float) -> torch.Tensor:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return model(**batch).loss

    with pytest.raises(KeyboardInterrupt):
        tiny.tiny_training(tmp_path / "killed", tiny.tiny_model(), average=0.95, checkpoint_seconds=0.0, loss_fn=dying)
    resumed = tiny.tiny_model(seed=7)
    assert tiny.tiny_training(tmp_path / "killed", resumed, average=0.95) == expected
    pairs = zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    assert all(torch.equal(first, second) for first, second in pairs)
