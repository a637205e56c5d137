"""finetune and source: from a Hugging Face model to a checkpoint that answers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from compress.checkpoint import Checkpoint
from compress.config.schemas import Finetune
from compress.errors import ConfigError
from compress.models.torch_io import load_model, load_tokenizer
from compress.steps.registry import step_for, step_kinds
from compress.steps.source import SourceConfig
from compress.tasks.padding import padding_of
from compress.training import logits_of

if TYPE_CHECKING:
    from .conftest import World


def test_finetune_learns_and_the_checkpoint_has_the_metric_it_claims(world: World, tuned: Checkpoint) -> None:
    model, tokenizer = load_model(tuned), load_tokenizer(tuned.path)
    context = world.context("finetune")
    features = context.task.encode(world.data.validation, tokenizer, 32)
    answers = logits_of(model, context.task, features, padding_of(tokenizer))
    claimed = tuned.manifest.facts["validation"]["accuracy"]
    assert context.task.metrics(answers, features)["accuracy"] == claimed
    assert claimed > 0.8
    assert not world.data.test.empty


def test_equal_work_gives_equal_bytes_and_another_seed_does_not(world: World, tuned: Checkpoint) -> None:
    config = Finetune(epochs=4, batch_size=8, learning_rate=5e-3, checkpoint_seconds=0.0)
    again = world.run(world.source, config)
    assert again.digest == tuned.digest
    other = world.run(world.source, replace(config, epochs=1), world.context("finetune", seed=1))
    assert other.digest != tuned.digest


def test_a_finetuned_checkpoint_can_be_trained_on(world: World, tuned: Checkpoint) -> None:
    more = world.run(tuned, Finetune(epochs=1, batch_size=8, learning_rate=1e-4))
    assert more.labels == tuned.labels
    assert more.digest != tuned.digest


def test_a_fine_tuned_model_of_others_becomes_a_checkpoint_with_its_labels_in_its_order(
    world: World, tuned: Checkpoint, tmp_path: Path
) -> None:
    from compress.config.schemas import Model
    from compress.models.source import resolve

    folder = tmp_path / "theirs"
    folder.mkdir()
    for name in tuned.manifest.files:
        if name != "structure.json":
            (folder / name).write_bytes((tuned.path / name).read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {"0": "plain", "1": "bad", "2": "good"}
    config["label2id"] = {"plain": 0, "bad": 1, "good": 2}
    (folder / "config.json").write_text(json.dumps(config))
    source = resolve(Model(path=str(folder), max_length=32))
    assert source.labels == ("plain", "bad", "good")
    context = world.context("source")
    task = type(context.task)(source.labels, metric="accuracy")
    taken = world.run(source, SourceConfig(), replace(context, task=task))
    assert taken.labels == ("plain", "bad", "good")
    same = load_model(tuned).state_dict()
    assert all((tensor == same[name]).all() for name, tensor in load_model(taken).state_dict().items())
    with pytest.raises(ConfigError, match=r"not those of the data.*only in the data \['bad'\]"):
        world.run(replace(source, labels=("plain", "worse", "good")), SourceConfig(), context)
    with pytest.raises(ConfigError, match="no fine-tuned head"):
        world.run(replace(source, labels=None), SourceConfig(), context)


def test_the_type_of_a_config_picks_its_step() -> None:
    for kind, step in step_kinds().items():
        assert step.kind == kind
        assert step_for(step.config) is step
    with pytest.raises(ConfigError, match="no step takes a config of type int; kinds of steps: source, finetune, "):
        step_for(int)
