"""The step `prune`: targets, criteria, dimensions, what it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from compress.checkpoint import Checkpoint
from compress.config.schemas import Prune, PruneRatio, PruneTarget, Vocabulary
from compress.errors import ConfigError, StepError
from compress.keys import source_digest
from compress.steps.base import SourceFacts
from compress.steps.prune import cutting
from compress.steps.prune import step as prune_step
from compress.steps.prune.targets import nearest_target

CRITERIA = [option for option in Prune.__dataclass_fields__["importance"].metadata["choices"] if option != "ziplm"]


def pruning(**target: Any) -> Prune:
    return Prune(PruneTarget(**target), calibration_rows=32, multiple=8)


def structure(checkpoint: Checkpoint) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((checkpoint.path / "structure.json").read_text())
    return found


def parameters(checkpoint: Checkpoint) -> int:
    from compress.models.torch_io import load_model

    return sum(tensor.numel() for tensor in load_model(checkpoint).parameters())


@pytest.mark.slow
def test_a_share_of_parameters_is_kept(world: Any, tuned: Checkpoint) -> None:
    left = world.run(tuned, pruning(params=0.8))
    assert 0.7 < parameters(left) / parameters(tuned) <= 0.8
    assert left.manifest.facts["prune"]["share"] <= 0.8


@pytest.mark.slow
@pytest.mark.parametrize("importance", CRITERIA)
def test_every_criterion_meets_the_target(importance: str, world: Any, tuned: Checkpoint) -> None:
    config = pruning(macs=0.6)
    config.importance = importance
    left = world.run(tuned, config)
    assert left.manifest.facts["prune"]["share"] <= 0.6
    assert sum(structure(left)["intermediate_size"]) < sum(structure(tuned)["intermediate_size"])


@pytest.mark.parametrize("allocation", ["search", "lagrangian", "reweighted", "global", "uniform"])
def test_every_allocation_meets_the_target(allocation: str, world: Any, tuned: Checkpoint) -> None:
    config = pruning(size=0.8)
    config.importance, config.allocation = "magnitude_l2", allocation
    assert world.run(tuned, config).manifest.facts["prune"]["share"] <= 0.8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ratio", "wanted"),
    [
        ({"heads": 0.5}, {"heads": 2}),
        ({"neurons": 0.5}, {"intermediate_size": 64}),
        ({"layers": 0.5}, {"layers": 1}),
        ({"hidden": 0.5}, {"hidden_size": 16}),
    ],
    ids=str,
)
def test_a_ratio_of_one_dimension_leaves_the_others(
    ratio: dict[str, float], wanted: dict[str, int], world: Any, tuned: Checkpoint
) -> None:
    before, after = structure(tuned), structure(world.run(tuned, pruning(ratio=PruneRatio(**ratio))))

    def sizes(of: dict[str, Any]) -> dict[str, int]:
        lists = {name: sum(of[name]) for name in ("heads", "intermediate_size")}
        return {**lists, "layers": of["layers"], "hidden_size": of["hidden_size"], "vocabulary": of["vocabulary"]}

    expected = {**sizes(before), **wanted}
    if "layers" in ratio:
        expected["heads"], expected["intermediate_size"] = expected["heads"] // 2, expected["intermediate_size"] // 2
    assert sizes(after) == expected


@pytest.mark.slow
def test_all_dimensions_at_once(world: Any, tuned: Checkpoint) -> None:
    ratio = PruneRatio(heads=0.5, neurons=0.25, layers=0.5, hidden=0.25)
    found = structure(world.run(tuned, pruning(ratio=ratio)))
    assert (found["layers"], found["hidden_size"], found["heads"], found["intermediate_size"]) == (1, 24, [1], [48])


@pytest.mark.parametrize("ratio", [{"heads": 0.5}, {"neurons": 0.5}, {"layers": 0.5}, {"hidden": 0.5}], ids=str)
def test_a_model_that_is_not_the_masked_one_is_never_saved(
    ratio: dict[str, float], world: Any, tuned: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from compress.models import checking

    real = checking.cut

    def wrong(model: Any, what: Any) -> Any:
        pruned = real(model, what)
        with torch.no_grad():
            pruned.classifier.weight[0, 0] += 1.0
        return pruned

    monkeypatch.setattr(checking, "cut", wrong)
    config = pruning(ratio=PruneRatio(**ratio))
    config.importance = "magnitude_l2"
    with pytest.raises(StepError, match="differs from the masked one"):
        world.run(tuned, config)


class Watch:
    """Times by a formula, a tenth slower in the end than the table says."""

    def __init__(self, *arguments: Any) -> None:
        from compress.steps.prune.cost import LinearCost

        self.cost = LinearCost(1.0, 0.5, 1.0, 1 / 32)
        self.measured: list[float] = []

    def table(self) -> Any:
        cost = self.cost

        class Table:
            rest, layer = cost.rest, cost.layer
            attention, ffn, total = cost.attention, cost.ffn, cost.total

        return Table()

    def reference_ms(self) -> float:
        return self.cost.total([2, 2], [64, 64])

    def ratio(self, counts: Any) -> float:
        dense = self.cost.total([2, 2], [64, 64])
        found = self.cost.total([heads for heads, _ in counts], [neurons for _, neurons in counts])
        self.measured.append(1.1 * found / dense)
        return self.measured[-1]

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *what: Any) -> None:
        pass


def test_a_speedup_that_was_missed_is_corrected_once(
    world: Any, tuned: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cutting, "Stopwatch", Watch)
    config = pruning(speedup=1.6)
    config.importance = "magnitude_l2"
    facts = world.run(tuned, config).manifest.facts["prune"]
    assert facts["attempts"] == 2
    assert facts["speedup"] == pytest.approx(1.6, rel=0.1)
    assert facts["predicted_ms"] < facts["measured_ms"]


def test_a_speedup_that_stays_missed_is_said_so(
    world: Any, tuned: Checkpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Stuck(Watch):
        def ratio(self, counts: Any) -> float:
            return 1.0

    monkeypatch.setattr(cutting, "Stopwatch", Stuck)
    config = pruning(speedup=1.6)
    config.importance = "magnitude_l2"
    facts = world.run(tuned, config).manifest.facts["prune"]
    assert facts["met"] is False
    assert "speedup=1.6 is missed by 60.0%" in caplog.text


def test_a_speedup_out_of_reach_names_the_nearest(
    world: Any, tuned: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cutting, "Stopwatch", Watch)
    config = pruning(speedup=50)
    config.importance = "magnitude_l2"
    with pytest.raises(ConfigError, match=r"target\.speedup=50.*target\.speedup=2\."):
        world.run(tuned, config)


@pytest.mark.slow
def test_a_speedup_on_this_machine(world: Any, tuned: Checkpoint) -> None:
    """So small a model is all overhead: what is promised is that it ends with figures that fit together."""
    config = pruning(speedup=1.02, shape="2x16", threads=1)
    config.importance, config.multiple = "magnitude_l2", 32
    facts = world.run(tuned, config).manifest.facts["prune"]
    assert facts["speedup"] == pytest.approx(facts["reference_ms"] / facts["measured_ms"], rel=0.01)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({}, "exactly one of"),
        ({"macs": 0.5, "params": 0.5}, "exactly one of"),
        ({"macs": 0.5, "ratio": PruneRatio(heads=0.5)}, "both set"),
        ({"ratio": PruneRatio(layers=0.95)}, "leaves none of 6 layers"),
        ({"macs": 0.5, "shape": "natural"}, "one shape"),
        ({"macs": 0.5, "shape": "1/8x32"}, "one shape"),
        ({"macs": 0.5, "shape": "32"}, r"target\.shape=32: one shape BATCHxTOKENS is needed"),
        ({"params": 2}, "below 1 a share"),
        ({"macs": 50}, r"target\.macs=50: multiply-accumulates that stay; below 1 a share"),
        ({"size": 1}, r"target\.size=1: bytes that stay; below 1 a share"),
        ({"ratio": PruneRatio(layers=0.05)}, r"takes none of 6 layers; 0\.17 takes one"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_before_work(target: dict[str, Any], message: str, facts: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=message):
        prune_step.PruneStep().check(pruning(**target), facts())


def test_a_shape_longer_than_the_positions_is_refused(world: Any, tuned: Checkpoint) -> None:
    facts = SourceFacts("torch", "fp32", "bert", 6, positions=160)
    with pytest.raises(ConfigError, match=r"target\.shape=1x200: the model takes at most 160 tokens"):
        prune_step.PruneStep().check(pruning(macs=0.5, shape="1x200"), facts)
    prune_step.PruneStep().check(pruning(params=0.5, shape="1x200"), facts)
    shorter = world.run(tuned, Vocabulary(max_metric_drop=None))
    with pytest.raises(ConfigError, match=r"target\.shape=1x64: the model takes at most 32 tokens"):
        world.run(shorter, pruning(macs=0.5, shape="1x64"))


def test_a_target_out_of_reach_names_the_nearest(world: Any, tuned: Checkpoint) -> None:
    config = pruning(macs=0.001)
    config.importance = "magnitude_l2"
    with pytest.raises(ConfigError, match=r"target\.macs=0\.\d+"):
        world.run(tuned, config)


@pytest.mark.parametrize(
    "target",
    [{"macs": 0.001}, {"params": 0.001}, {"size": 0.001}, {"ratio": {"heads": 0.99}}, {"ratio": {"neurons": 0.99}}],
    ids=str,
)
def test_the_nearest_that_is_named_is_reached(target: dict[str, Any], world: Any, tuned: Checkpoint) -> None:
    def config(asked: dict[str, Any]) -> Prune:
        made = pruning(**{name: PruneRatio(**one) if name == "ratio" else one for name, one in asked.items()})
        made.importance, made.multiple, made.least_heads = "magnitude_l2", 7, 1
        return made

    with pytest.raises(ConfigError, match="out of reach") as caught:
        world.run(tuned, config(target))
    found = re.search(r"nearest that can be reached is target\.([\w.]+)=([\d.]+\d)", str(caught.value))
    assert found is not None
    name, _, inner = found[1].partition(".")
    value = float(found[2])
    world.run(tuned, config({name: {inner: value} if inner else value}))


@pytest.mark.parametrize(
    ("name", "least", "whole", "nearest"),
    [
        ("speedup", 1.0, 2.009, "target.speedup=2.00"),
        ("latency_ms", 1.2341, 9.0, "target.latency_ms=1.24"),
        ("latency_ms", 123.41, 900.0, "target.latency_ms=124"),
        ("macs", 0.1231, 1.0, "target.macs=0.124 (a share)"),
        ("macs", 0.3, 1.0, "target.macs=0.300 (a share)"),
    ],
)
def test_the_nearest_target_is_rounded_to_the_side_that_is_reached(
    name: str, least: float, whole: float, nearest: str
) -> None:
    assert nearest_target(name, least, whole) == nearest


def test_the_gate_holds(world: Any, tuned: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = iter([0.9, 0.5])
    monkeypatch.setattr(prune_step, "validation_metric", lambda *_: next(metrics))
    config = pruning(macs=0.6)
    config.importance, config.max_metric_drop = "magnitude_l2", 0.1
    with pytest.raises(StepError, match=r"from 0\.9000 to 0\.5000.*max_metric_drop allows 0\.1"):
        world.run(tuned, config)


@pytest.mark.parametrize(
    ("target", "alone"), [({"speedup": 2}, True), ({"latency_ms": 3}, True), ({"macs": 0.5}, False)]
)
def test_a_step_that_times_something_wants_the_machine_to_itself(target: dict[str, float], alone: bool) -> None:
    assert prune_step.PruneStep().measures(pruning(**target)) is alone


def test_the_key_covers_what_counts_and_times_a_target() -> None:
    step = prune_step.PruneStep()
    assert step.resolve(pruning(macs=0.5)) == {"counted by": source_digest("compress.benchmark.size")}
    assert set(step.resolve(pruning(speedup=2))["timed by"]) == {"compress.onnx_graph", "compress.steps.export"}
    assert step.resolve(pruning(params=0.5)) == step.resolve(pruning(ratio=PruneRatio(heads=0.5))) == {}
