"""Recovery, rounds and the family of models on the way."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from compress.checkpoint import Checkpoint, open_checkpoint
from compress.cli.validate import compose_job
from compress.config.schemas import DistillWeights, Prune, PruneGates, PruneRatio, PruneTarget, Recovery
from compress.errors import ConfigError
from compress.models.source import SourceModel
from compress.pipeline.plan import Plan, make_plan
from compress.steps.prune import recovery
from compress.steps.prune import step as prune_step
from compress.steps.prune.keep import links_of
from compress.steps.prune.targets import between

QUICK = Recovery(epochs=2, batch_size=8, learning_rate=3e-3)


def pruning(recover: Recovery | None = None, rounds: int = 1, **target: Any) -> Prune:
    return Prune(
        PruneTarget(**target),
        importance="magnitude_l2",
        calibration_rows=32,
        multiple=8,
        rounds=rounds,
        recover=recover or Recovery(),
    )


def facts_of(checkpoint: Checkpoint) -> dict[str, Any]:
    found: dict[str, Any] = checkpoint.manifest.facts["prune"]
    return found


def sizes_of(checkpoint: Checkpoint) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((checkpoint.path / "structure.json").read_text())
    return found


# --- recovery ---------------------------------------------------------------------------------


def test_recovery_wins_back_what_the_cut_lost(world: Any, tuned: Checkpoint) -> None:
    left = world.run(tuned, pruning(replace(QUICK, epochs=4), ratio=PruneRatio(layers=0.5, hidden=0.5)))
    lost = facts_of(left)["rounds"][0]["validation"]
    assert lost["cut"] < 0.85
    assert lost["recovered"] > lost["cut"] + 0.1
    assert left.manifest.facts["validation"]["accuracy"] == lost["recovered"]
    assert [entry["epoch"] for entry in left.manifest.facts["history"]] == [1, 2, 3, 4]


def test_a_narrower_model_recovers_by_hidden_states_through_projections(world: Any, tuned: Checkpoint) -> None:
    weights = DistillWeights(task=0.0, logits=0.0, hidden=1.0)
    left = world.run(tuned, pruning(replace(QUICK, epochs=3, weights=weights), ratio=PruneRatio(hidden=0.5)))
    history = left.manifest.facts["history"]
    assert history[-1]["loss"] < history[0]["loss"]
    names = load_file(left.path / "model.safetensors")
    assert not [name for name in names if "distillation" in name]
    assert sizes_of(left)["hidden_size"] < sizes_of(tuned)["hidden_size"]


def test_the_unpruned_model_teaches_unless_labels_alone_do(
    world: Any, tuned: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught: list[str] = []
    real = recovery.teach

    def teach(*arguments: Any, **options: Any) -> Any:
        taught.extend(teacher.digest for teacher in arguments[3])
        return real(*arguments, **options)

    monkeypatch.setattr(recovery, "teach", teach)
    world.run(tuned, pruning(replace(QUICK, epochs=1), macs=0.6))
    assert taught == [tuned.digest]
    assert len(list((world.root / "cache" / "teacher").glob("*/*.bin"))) == 1
    weights = DistillWeights(task=1.0, logits=0.0)
    context = world.context("prune", cache=world.root / "other")
    world.run(tuned, pruning(replace(QUICK, epochs=1, weights=weights), macs=0.6), context)
    assert not (world.root / "other").exists()


def test_a_training_that_only_harms_leaves_the_cut_as_it_was(world: Any, tuned: Checkpoint) -> None:
    plain = world.run(tuned, pruning(macs=0.95))
    ruined = world.run(tuned, pruning(replace(QUICK, epochs=1, learning_rate=50.0, max_grad_norm=0.0), macs=0.95))
    assert facts_of(ruined)["rounds"][0]["best_epoch"] == 0
    assert ruined.manifest.files["model.safetensors"] == plain.manifest.files["model.safetensors"]


# --- rounds -----------------------------------------------------------------------------------


def test_every_round_changes_by_the_same_ratio() -> None:
    path = [between(8.0, 1.0, number / 3) for number in range(4)]
    assert path == pytest.approx([8, 4, 2, 1])


@pytest.mark.parametrize("target", [{"macs": 0.5}, {"params": 0.6}, {"size": 0.6}], ids=str)
def test_rounds_lead_to_the_target_of_the_source(target: dict[str, float], world: Any, tuned: Checkpoint) -> None:
    left = world.run(tuned, pruning(rounds=3, **target))
    shares = [one["share"] for one in facts_of(left)["rounds"]]
    (value,) = target.values()
    assert shares == sorted(shares, reverse=True)
    for number, share in enumerate(shares, 1):
        assert 0.85 * value ** (number / 3) < share <= value ** (number / 3) + 1e-6
    assert facts_of(left)["share"] == shares[-1]


def test_ratios_in_rounds_end_with_those_of_one_shot(world: Any, tuned: Checkpoint) -> None:
    ratio = PruneRatio(heads=0.5, neurons=0.5, layers=0.5, hidden=0.5)
    once, thrice = (sizes_of(world.run(tuned, pruning(rounds=rounds, ratio=ratio))) for rounds in (1, 3))
    assert once == {**thrice, "shapes": once["shapes"]}
    assert (thrice["layers"], thrice["heads"], thrice["intermediate_size"], thrice["hidden_size"]) == (1, [1], [32], 16)


def test_importance_is_computed_anew_in_every_round(
    world: Any, tuned: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    from compress.steps.prune import cutting

    seen: list[tuple[int, int]] = []
    real = cutting.losses_of

    def losses_of(model: Any, *arguments: Any) -> Any:
        losses = real(model, *arguments)
        seen.append((sum(max(one) for one in losses.heads), sum(max(one) for one in losses.neurons)))
        return losses

    monkeypatch.setattr(cutting, "losses_of", losses_of)
    left = sizes_of(world.run(tuned, pruning(rounds=3, macs=0.4)))
    assert len(set(seen)) == len(seen) == 3
    assert seen[0] == (4, 128)
    assert sum(left["intermediate_size"]) < seen[-1][1]


@pytest.mark.parametrize(
    "target", [{"macs": 0.01}, {"ratio": PruneRatio(heads=0.9)}, {"ratio": PruneRatio(neurons=0.95)}], ids=str
)
def test_a_target_out_of_reach_is_refused_before_anything_is_judged(
    target: dict[str, Any], world: Any, tuned: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    from compress.steps.prune import cutting

    def losses_of(*arguments: Any) -> Any:
        raise AssertionError("importance was computed")

    monkeypatch.setattr(cutting, "losses_of", losses_of)
    with pytest.raises(ConfigError, match="out of reach"):
        world.run(tuned, pruning(QUICK, rounds=3, **target))


def test_a_layer_is_never_given_the_width_of_another(world: Any, tuned: Checkpoint) -> None:
    """Widths stay multiples of 16, or the layer's own: 24 is that of one layer alone."""
    import torch

    from compress.models.surgery import remove_neurons
    from compress.models.torch_io import load_model
    from compress.steps.prune.choose import losses_of

    model = remove_neurons(load_model(tuned), {0: range(40)})
    batches = [{"input_ids": torch.ones(2, 8, dtype=torch.int64), "labels": torch.zeros(2, dtype=torch.int64)}]
    losses = losses_of(
        model, Prune(PruneTarget(macs=0.5), multiple=16), batches, lambda model, batch: model(**batch).loss, 0
    )
    assert [sorted(levels) for levels in losses.neurons] == [[16, 24], [16, 32, 48, 64]]


class KilledError(Exception):
    """Stands for a signal."""


@pytest.mark.parametrize("dies_in", ["cut-2", "round-2", "training"])
def test_a_killed_run_goes_on_and_ends_with_equal_bytes(
    dies_in: str, world: Any, tuned: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = pruning(QUICK, rounds=2, macs=0.5)
    undisturbed = world.run(tuned, config)
    made: list[str] = []
    keep, train = prune_step.Stages._keep, recovery.teach

    def dying(self: Any, name: str, stage: Any) -> Any:
        if name == dies_in and "killed" not in made:
            made.append("killed")
            raise KilledError
        made.append(name)
        return keep(self, name, stage)

    def training(*arguments: Any, **options: Any) -> Any:
        lesson = train(*arguments, **options)
        if dies_in == "training" and "round-1" in made and "killed" not in made:
            made.append("killed")
            raise KilledError
        return lesson

    monkeypatch.setattr(prune_step.Stages, "_keep", dying)
    monkeypatch.setattr(recovery, "teach", training)
    context = world.context("prune")
    with pytest.raises(KilledError):
        world.run(tuned, config, context)
    before = made.index("killed")
    resumed = world.run(tuned, config, context)
    assert resumed.digest == undisturbed.digest
    assert not set(made[:before]) & set(made[before + 1 :]), "no stage is made twice"
    assert {"cut-1", "round-1", "cut-2", "round-2"} <= set(made)


def test_a_damaged_stage_is_made_again(world: Any, tuned: Checkpoint) -> None:
    context = world.context("prune")
    first = world.run(tuned, pruning(rounds=2, macs=0.5), context)
    (context.scratch / "rounds" / "cut-1" / "model.safetensors").write_bytes(b"")
    assert world.run(tuned, pruning(rounds=2, macs=0.5), context).digest == first.digest


def test_one_shot_keeps_nothing(world: Any, tuned: Checkpoint) -> None:
    context = world.context("prune")
    world.run(tuned, pruning(macs=0.6), context)
    assert not context.scratch.exists()


# --- the family -------------------------------------------------------------------------------

BASE = SourceModel("m", None, "f" * 64, "bert", 6, None)


def plan_of(*overrides: str) -> Plan:
    job = compose_job("prune", list(overrides))
    return make_plan(job, BASE, None).with_keys(job, "d" * 64)


def test_a_family_is_a_chain_of_steps() -> None:
    plan = plan_of("prune.target.macs=0.125", "prune.keep=[2x,4x]", "prune.recover.epochs=1")
    assert [step.name for step in plan.steps] == ["finetune", "prune_2x", "prune_4x", "prune", "export"]
    members = plan.steps[1:4]
    assert [step.config.target.macs for step in members] == [0.5, 0.25, 0.125]
    assert [step.config.reference for step in members] == [None, "finetune", "finetune"]
    assert [step.folder for step in plan.steps] == [None, "2x", "4x", None, None]
    assert not any(step.implied for step in plan.steps)
    assert len({step.key for step in plan.steps}) == 5


def test_a_member_that_is_the_target_is_the_step_itself() -> None:
    plan = plan_of("prune.target.macs=null", "prune.target.speedup=6", "prune.keep=[1.5x,6x]")
    assert [(step.name, step.folder) for step in plan.steps[1:3]] == [("prune_1_5x", "1.5x"), ("prune", "6x")]
    assert [step.config.target.speedup for step in plan.steps[1:3]] == [1.5, 6]
    rounded = plan_of("prune.target.macs=0.1667", "prune.keep=[6x]")
    assert [(step.name, step.folder) for step in rounded.steps[1:2]] == [("prune", "6x")]


def test_the_first_member_is_the_step_of_a_run_without_a_family() -> None:
    family = plan_of("prune.target.macs=0.25", "prune.keep=[2x]")
    alone = plan_of("prune.target.macs=0.5")
    assert family.steps[1].key == alone.steps[1].key


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["prune.keep=[4x,2x]"], "2x does not rise above 4x"),
        (["prune.keep=[2x,2.0x]"], "2.0x does not rise above 2x"),
        (["prune.keep=[2]"], "'2' is no factor above 1"),
        (["prune.keep=[0.5x]"], "'0.5x' is no factor above 1"),
        (["prune.keep=[]"], "name at least one"),
        (["prune.keep=[2x,16x]"], r"16x lies beyond prune\.target\.macs=0\.125.*set prune\.target\.macs=0\.0625"),
        (["prune.target.macs=null", "prune.target.speedup=3", "prune.keep=[4x]"], r"set prune\.target\.speedup=4"),
        (["prune.target.macs=null", "prune.target.ratio.heads=0.5", "prune.keep=[2x]"], r"target\.ratio has no one"),
        (["prune.target.macs=null", "prune.target.latency_ms=1", "prune.keep=[2x]"], r"set target\.speedup"),
        (["prune.target.macs=null", "prune.target.params=5e6", "prune.keep=[2x]"], "as a share below 1"),
    ],
    ids=str,
)
def test_a_family_that_cannot_be_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_of("prune.target.macs=0.125", *overrides)


def test_a_member_under_a_taken_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "twice.yaml").write_text(
        "# @package _global_\n"
        "defaults:\n  - /prune@prune_2x: default\n"
        "  - override /finetune: default\n  - override /prune: default\n"
        "steps: [finetune, prune, prune_2x]\n"
    )
    job = compose_job("twice", ["prune.target.macs=0.25", "prune.keep=[2x]"], config_dir=tmp_path)
    with pytest.raises(ConfigError, match="prune_2x, which is taken"):
        make_plan(job, BASE, None)


def test_targets_of_members_are_relative_to_the_reference(world: Any, tuned: Checkpoint) -> None:
    config = replace(pruning(macs=0.4), keep=["1.5x"])
    first, last = links_of("prune", config, "finetune")
    half = world.run(tuned, first.config, world.context(first.name))
    whole = world.context(last.name, inputs={"finetune": tuned})
    facts = facts_of(world.run(half, last.config, whole))
    assert facts["share"] <= 0.4
    assert facts_of(half)["share"] <= 1 / 1.5
    assert facts["share"] > 0.3, "relative to the member before it would be at most 0.27"
    assert facts["validation"]["before"] == facts_of(half)["validation"]["before"]


@pytest.mark.slow
def test_a_run_leaves_every_member(tmp_path: Path) -> None:
    from compress.library import run

    overrides = [
        "debug=tiny",
        f"store.path={tmp_path / 'store'}",
        "prune.importance=magnitude_l2",
        "prune.multiple=8",
        "prune.target.macs=0.4",
        "prune.keep=[1.25x,2.5x]",
        "prune.recover.epochs=1",
        "benchmark.shapes=[1x8]",
    ]
    left = run("prune", overrides, directory=tmp_path / "run")
    assert [step["name"] for step in left.record["steps"]] == ["finetune", "prune_1_25x", "prune", "export"]
    assert {"prune_1_25x", "prune"} <= set(left.record["variants"])
    found = {path.name: open_checkpoint(path) for path in (tmp_path / "run" / "family").iterdir()}
    assert sorted(found) == ["1.25x", "2.5x"]
    assert [entry["name"] for entry in found["2.5x"].lineage] == ["finetune", "prune_1_25x", "prune"]
    macs = {name: left.record["variants"][name]["size"]["macs"] for name in ("finetune", "prune_1_25x", "prune")}
    assert macs["finetune"] > macs["prune_1_25x"] > macs["prune"]
    assert macs["prune"] <= 0.41 * macs["finetune"]


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reference": "finetune", "target": PruneTarget(ratio=PruneRatio(heads=0.5))}, "reference=finetune is set"),
        ({"gates": PruneGates(updates=3)}, "gates are trained by importance=hard_concrete"),
        ({"importance": "ziplm", "compensate": "masks"}, "ziplm updates what stays"),
        ({"recover": Recovery(learning_rate=1e-3)}, r"recover\.epochs=0.*set recover\.epochs=3"),
        ({"recover": Recovery(epochs=1, weights=DistillWeights(0.0, 0.0, 0.0))}, "nothing to learn from"),
        ({"keep": ["2x"]}, "steps of their own"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused(change: dict[str, Any], message: str, facts: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=message):
        prune_step.PruneStep().check(replace(pruning(macs=0.5), **change), facts())
