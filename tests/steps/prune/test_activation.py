"""`prune.activation`: another activation in what stays."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from compress.checkpoint import Checkpoint
from compress.config.schemas import Prune, PruneTarget
from compress.errors import UnsupportedError
from compress.steps.prune.step import PruneStep

CONFIG = Prune(PruneTarget(macs=0.6), importance="magnitude_l2", activation="relu", calibration_rows=32, multiple=8)


def test_the_pruned_checkpoint_has_relu_and_says_so(world: Any, tuned: Checkpoint) -> None:
    from compress.models.torch_io import load_model

    left = world.run(tuned, CONFIG)
    facts = left.manifest.facts["prune"]
    assert facts["activation"] == "relu"
    assert facts["share"] <= 0.6
    assert set(facts["validation"]) == {"before", "after"}
    assert json.loads((left.path / "config.json").read_text())["hidden_act"] == "relu"
    kinds = [type(module).__name__ for module in load_model(left).bert.encoder.modules()]
    assert kinds.count("ReLU") == left.layers
    assert json.loads((tuned.path / "config.json").read_text())["hidden_act"] == "gelu"


def test_without_it_the_activation_of_the_source_stays(world: Any, tuned: Checkpoint) -> None:
    left = world.run(tuned, replace(CONFIG, activation=None))
    assert "activation" not in left.manifest.facts["prune"]
    assert json.loads((left.path / "config.json").read_text())["hidden_act"] == "gelu"


def test_a_gated_family_is_refused_before_work(facts: Callable[..., Any]) -> None:
    with pytest.raises(UnsupportedError, match="llama gate one product of the feed-forward part by another"):
        PruneStep().check(CONFIG, replace(facts(), architecture="llama"))


def test_a_speedup_is_not_measured_on_the_graph_of_another_activation(tuned: Checkpoint) -> None:
    from compress.models.activation import with_activation
    from compress.models.torch_io import load_model
    from compress.steps.prune.measured import _is_narrower

    model = load_model(tuned)
    assert _is_narrower(model, model)
    assert not _is_narrower(with_activation(model, "relu"), model)
