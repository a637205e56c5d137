"""The step `vocabulary`: what stays beside what was seen, factorized embeddings, poolers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig

from compress.checkpoint import Checkpoint, copy_checkpoint
from compress.config.schemas import Distill, Student, Vocabulary
from compress.errors import StepError, UnsupportedError
from compress.models.families import families, family
from compress.models.structure import structure_of
from compress.models.surgery import drop_pooler
from compress.models.torch_io import load_model, load_tokenizer
from compress.steps.prune.vocabulary_step import _Answers, _changed
from compress.tasks import create


def facts(checkpoint: Checkpoint) -> dict[str, Any]:
    found: dict[str, Any] = checkpoint.manifest.facts["vocabulary"]
    return found


@pytest.fixture
def poor(world: Any) -> Any:
    """Return the world with training rows that lack four words of the validation rows."""
    train = world.data.train
    train = train[~train["text"].str.contains("lovely|awful|fine|sad")].reset_index(drop=True)
    world.data = replace(world.data, train=train)
    return world


def test_unseen_tokens_stay_until_predictions_do(poor: Any, tuned: Checkpoint) -> None:
    without = facts(poor.run(tuned, Vocabulary(max_changed=None, max_metric_drop=None)))
    assert without["validation_coverage"]["whole"] < 1
    assert without["validation_changed"] > 0
    left = poor.run(tuned, Vocabulary(max_changed=0.0))
    assert facts(left)["validation_changed"] == 0
    assert facts(left)["validation"]["before"] == facts(left)["validation"]["after"]
    assert facts(left)["kept_for"]["likely"] >= 2
    assert {"lovely", "awful"} <= set(load_tokenizer(left.path).get_vocab())
    some = facts(poor.run(tuned, Vocabulary(max_changed=1.0, max_metric_drop=None)))
    assert some["tokens"] == without["tokens"], "what is allowed anyway needs no token more"
    wide = Vocabulary(max_changed=without["validation_changed"] + 1e-6, max_metric_drop=None)
    bound = facts(poor.run(tuned, wide))
    assert bound["tokens"] > without["tokens"], "a few texts are no proof that no more of others change"


def test_a_bound_on_tokens_holds_for_unseen_ones_too(poor: Any, tuned: Checkpoint) -> None:
    without = facts(poor.run(tuned, Vocabulary(max_changed=None, max_metric_drop=None)))
    seen = without["kept_for"]["seen"]
    bound = Vocabulary(tokens=seen, max_changed=0.0, max_metric_drop=None)
    assert facts(poor.run(tuned, bound))["tokens"] == without["tokens"]


def test_words_are_counted_one_by_one(world: Any, tuned: Checkpoint) -> None:
    """A tagger's predictions under two tokenizers are matched by word, those that are cut off count as changed."""
    task = create("token_classification", ("O", "B-X", "I-X"))
    tokenizer, words = load_tokenizer(tuned.path), ["the", "table", "day"]
    whole = task.encode_raw([words], tokenizer, 32)
    cut = task.encode_raw([words], tokenizer, 4)
    assert (len(whole.inputs[0]["input_ids"]), len(cut.inputs[0]["input_ids"])) == (5, 4)
    logits = [np.eye(3, dtype=np.float32)[[0, 0, 1, 2, 0]]]
    assert _changed(_Answers(whole, logits), _Answers(whole, logits), task) == 0
    other = [logits[0][[0, 0, 3, 0]]]
    assert _changed(_Answers(whole, logits), _Answers(cut, [logits[0][:4]]), task) == pytest.approx(1 / 3)
    assert _changed(_Answers(whole, logits), _Answers(cut, other), task) == pytest.approx(2 / 3)


def test_the_gate_holds(poor: Any, tuned: Checkpoint) -> None:
    with pytest.raises(StepError, match=r"max_metric_drop allows 0\. Keep more tokens"):
        poor.run(tuned, Vocabulary(tokens=1, max_metric_drop=0.0))


def test_a_factorized_embedding_is_distilled_and_reloads_to_equal_logits(
    world: Any, tuned: Checkpoint, tmp_path: Any
) -> None:
    small = world.run(tuned, Vocabulary(rank=8, max_metric_drop=None))
    assert facts(small)["rank"] == 8
    config = Distill(epochs=2, batch_size=8, learning_rate=5e-3, student=Student(layers=None), teacher="finetune")
    taught = world.run(small, config, world.context("distill", inputs={"finetune": tuned}))
    model = load_model(taught)
    assert structure_of(model).embedding_rank == 8
    changed = (
        load_model(small).get_input_embeddings().projection.weight - model.get_input_embeddings().projection.weight
    )
    assert changed.abs().max() > 1e-4, "both of its matrices learn"
    again = load_model(copy_checkpoint(taught, tmp_path / "moved"))
    ids = torch.arange(5, 21).reshape(2, 8)
    with torch.inference_mode():
        assert torch.equal(model(input_ids=ids).logits, again(input_ids=ids).logits)
    before = small.manifest.facts["validation"]["accuracy"]
    assert taught.manifest.facts["validation"]["accuracy"] >= max(0.8, before)


@pytest.mark.parametrize("name", ["text_classification", "token_classification"])
@pytest.mark.parametrize("kind", sorted(families()))
def test_no_model_of_a_task_holds_a_pooler_that_its_head_does_not_read(kind: str, name: str) -> None:
    if name not in family(kind).tasks:
        pytest.skip("no recipe fine-tunes it")
    names = family(kind)
    sizes = {names.config_hidden: 16, names.config_layers: 1, names.config_heads: 2, names.config_intermediate: 8}
    config = AutoConfig.for_model(kind, vocab_size=60, max_position_embeddings=24, **sizes)
    model = create(name, ("O", "B-X", "I-X")).model_class().from_config(config).eval()
    with pytest.raises(UnsupportedError, match="has no pooler|reads the pooler"):
        drop_pooler(model)


def test_a_model_that_answers_otherwise_is_never_saved(
    world: Any, tuned: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    from compress.models import checking

    real = checking.cut

    def wrong(model: Any, what: Any) -> Any:
        pruned = real(model, what)
        with torch.no_grad():
            pruned.bert.embeddings.word_embeddings.weight[:] = pruned.bert.embeddings.word_embeddings.weight.flip(0)
        return pruned

    monkeypatch.setattr(checking, "cut", wrong)
    with pytest.raises(StepError, match="differs from the masked one"):
        world.run(tuned, Vocabulary(tokens=5, max_changed=None, max_metric_drop=None))
