"""Training with the rows of the token table that are read: the same model, and the other rows as they came."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from compress.errors import StepError
from compress.steps.quantize.fake import wrap_tables
from compress.tasks.padding import padding_of
from compress.training.batches import logits_of
from compress.training.read_rows import only_rows, rows_to_read

VOCABULARY = 400


def large(tiny: ModuleType, kind: str = "bert") -> Any:
    """Return a two-layer model whose texts read an eighth of its table."""
    import transformers

    torch.manual_seed(0)
    name = {"bert": "Bert", "roberta": "Roberta"}[kind]
    config = getattr(transformers, f"{name}Config")(
        **{**tiny.tiny_model().config.to_dict(), "vocab_size": VOCABULARY, "model_type": kind, "pad_token_id": 0}
    )
    return getattr(transformers, f"{name}ForSequenceClassification")(config).eval()


def read(tiny: ModuleType, model: Any) -> np.ndarray:
    rows = rows_to_read(model, [tiny.tiny_features(90, 0), tiny.tiny_features(40, 1)], [0])
    assert rows is not None
    return rows


def train_whole(tiny: ModuleType, scratch: Path, model: Any, patch: pytest.MonkeyPatch, **options: Any) -> Any:
    with patch.context() as patched:
        patched.setattr("compress.training.read_rows.rows_to_read", lambda *_: None)
        return tiny.tiny_training(scratch, model, **options)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_without_clipping_and_decay_it_is_the_plain_training_to_the_bit(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """RoBERTa finds positions in the ids as they came."""
    options = {"weight_decay": 0.0, "max_grad_norm": 0.0}
    whole, less = large(tiny, kind), large(tiny, kind)
    expected = train_whole(tiny, tmp_path / "whole", whole, monkeypatch, **options)
    assert tiny.tiny_training(tmp_path / "less", less, **options) == expected
    pairs = zip(whole.state_dict().items(), less.state_dict().values(), strict=True)
    assert all(torch.equal(first, second) for (_, first), second in pairs)


def test_clipped_it_is_the_plain_training_but_for_rounding(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"weight_decay": 0.0, "max_grad_norm": 0.5, "epochs": 1}
    whole, less = large(tiny), large(tiny)
    train_whole(tiny, tmp_path / "whole", whole, monkeypatch, **options)
    tiny.tiny_training(tmp_path / "less", less, **options)
    for (name, first), second in zip(whole.state_dict().items(), less.state_dict().values(), strict=True):
        torch.testing.assert_close(first, second, atol=1e-6, rtol=0, msg=name)


def test_rows_that_are_not_read_stay_as_they_came(tiny: ModuleType, tmp_path: Path) -> None:
    model = large(tiny)
    table = model.get_input_embeddings()
    weight, before, rows = table.weight, table.weight.detach().clone(), read(tiny, model)
    tiny.tiny_training(tmp_path, model, weight_decay=0.1)
    changed = (table.weight != before).any(dim=1).numpy()
    assert set(np.flatnonzero(changed)) == set(rows.tolist()) - {0}, "all that are read but padding"
    assert table.weight is weight
    assert (table.num_embeddings, table.padding_idx) == (VOCABULARY, 0)
    assert not table._forward_pre_hooks
    assert not dict(table.named_buffers())
    assert table(torch.tensor([VOCABULARY - 1])).shape == (1, 16)


def test_killed_it_ends_with_the_same_bytes_from_a_state_of_the_small_table(tiny: ModuleType, tmp_path: Path) -> None:
    expected, model = large(tiny), large(tiny)
    tiny.tiny_training(tmp_path / "whole", expected)
    died = iter([False] * 16 + [True])

    def dying(model: Any, batch: dict[str, torch.Tensor], progress: float) -> torch.Tensor:
        if next(died):
            raise KeyboardInterrupt
        return model(**batch).loss

    with pytest.raises(KeyboardInterrupt):
        tiny.tiny_training(tmp_path / "killed", model, checkpoint_seconds=0.0, loss_fn=dying)
    assert model.get_input_embeddings().num_embeddings == VOCABULARY, "whole again after an error"
    (state,) = (tmp_path / "killed" / "training").glob("state-*")
    kept = torch.load(state / "model.pt", weights_only=True)
    assert len(kept["bert.embeddings.word_embeddings.weight"]) == len(read(tiny, model))
    resumed = large(tiny)
    tiny.tiny_training(tmp_path / "killed", resumed)
    pairs = zip(expected.state_dict().values(), resumed.state_dict().values(), strict=True)
    assert all(torch.equal(first, second) for first, second in pairs)


def test_a_state_of_other_rows_is_discarded(
    tiny: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_whole(tiny, tmp_path, large(tiny), monkeypatch, epochs=1, checkpoint_seconds=0.0)
    tiny.tiny_training(tmp_path, large(tiny), epochs=1)
    assert "damaged or of another training: discarded" in caplog.text


def test_a_token_without_a_row_is_an_error(tiny: ModuleType) -> None:
    model = large(tiny)
    rows = read(tiny, model)
    with only_rows(model, rows):
        table = model.get_input_embeddings()
        with pytest.raises(StepError, match="token 99"):
            table(torch.tensor([[3, 99]]))
        for wrong in (-1, VOCABULARY):
            with pytest.raises(IndexError):
                table(torch.tensor([[3, wrong]]))


def test_answers_are_those_of_the_whole_table_rounded_ones_too(tiny: ModuleType) -> None:
    model, features, padding = large(tiny), tiny.tiny_features(30, 0), padding_of(tiny.TOKENIZER)

    def answers() -> Any:
        return np.stack(logits_of(model, tiny.tiny_task(), features, padding))

    plain = answers()
    with only_rows(model, read(tiny, model)):
        assert np.array_equal(answers(), plain)
    (handle,) = wrap_tables([model.get_input_embeddings()], 4, 8)
    rounded = answers()
    with only_rows(model, read(tiny, model)):
        assert np.array_equal(answers(), rounded)
    assert np.array_equal(answers(), rounded), "the hook is still there"
    handle.remove()
    assert np.abs(rounded - plain).max() > 0


def test_a_table_that_is_shared_parametrized_or_read_whole_is_left_alone(tiny: ModuleType) -> None:
    features = [tiny.tiny_features(90, 0)]
    assert rows_to_read(tiny.tiny_model(), features) is None, "48 of 50 rows are read"
    shared = large(tiny)
    shared.output = torch.nn.Linear(16, VOCABULARY)
    shared.output.weight = shared.get_input_embeddings().weight
    assert rows_to_read(shared, features) is None
    changed = large(tiny)
    torch.nn.utils.parametrize.register_parametrization(changed.get_input_embeddings(), "weight", torch.nn.Identity())
    assert rows_to_read(changed, features) is None
    assert rows_to_read(large(tiny), features, [VOCABULARY]) is None, "the plain table says what is wrong"
    model = large(tiny)
    before = model.get_input_embeddings().weight
    with only_rows(model, None):
        assert model.get_input_embeddings().weight is before
