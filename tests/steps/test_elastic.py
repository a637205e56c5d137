"""elastic and cut: one training serves every size, and what is cut out computes what it did within the whole."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from compress.checkpoint import Checkpoint
from compress.config.elastic import Elastic, Subnetwork
from compress.config.schemas import Distill, Finetune, Prune, Student, Vocabulary
from compress.config.training import Augmentation, DistillWeights
from compress.errors import ConfigError
from compress.models.examples import example_inputs
from compress.models.nested import Size, SubNetworks
from compress.models.structure import Widths
from compress.models.torch_io import load_model
from compress.steps.base import SourceFacts
from compress.steps.elastic import CutStep, ElasticStep
from compress.steps.elastic.sandwich import Sandwich, matching_at
from compress.steps.elastic.step import sizes_of
from compress.steps.registry import step_for
from compress.training.distillation import Draws, Scene
from compress.training.distillation.layer_maps import Matching
from compress.training.distillation.live import LiveTeacher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .conftest import World

QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 8, "learning_rate": 3e-3, "calibration_rows": 32, "shape": "1x8"}
FOUR: dict[str, Any] = {**QUICK, "widths": [0.5, 1.0], "depths": [0.5, 1.0]}


@pytest.fixture(scope="module")
def elastic(tmp_path_factory: pytest.TempPathFactory, tuned: Checkpoint) -> Checkpoint:
    """Return a model of four sizes."""
    from .conftest import World

    world = World(tmp_path_factory.mktemp("elastic"))
    return world.run(tuned, Elastic(**{**FOUR, "epochs": 4}))


def test_every_sub_network_is_listed_with_what_it_costs_and_is_worth(elastic: Checkpoint) -> None:
    listed = elastic.manifest.facts["elastic"]["subnetworks"]
    assert [(one["width"], one["depth"]) for one in listed] == [(0.5, 0.5), (0.5, 1.0), (1.0, 0.5), (1.0, 1.0)]
    assert [one["layers"] for one in listed] == [[0], [0, 1], [0], [0, 1]]
    assert [one["heads"] for one in listed] == [[1], [1, 1], [2], [2, 2]]
    assert [one["neurons"] for one in listed] == [[32], [32, 32], [64], [64, 64]]
    for cost in ("macs", "parameters"):
        small, _, _, whole = (one[cost] for one in listed)
        assert small == min(one[cost] for one in listed) < whole == max(one[cost] for one in listed)
    assert all(one["validation"]["accuracy"] > 0.6 for one in listed), "a third is chance"
    assert listed[-1]["validation"]["accuracy"] == pytest.approx(
        elastic.manifest.facts["validation"]["accuracy"], abs=1e-6
    )
    assert elastic.manifest.facts["best_epoch"] == 4, "the last is kept"
    assert elastic.layers == 2
    assert set(load_file(elastic.path / "model.safetensors")) == set(load_model(elastic).state_dict())


@pytest.mark.parametrize("size", [Size(0.5, 0.5), Size(0.5, 1.0), Size(1.0, 0.5), Size(1.0, 1.0)])
def test_what_is_cut_out_answers_as_it_did_within(world: World, elastic: Checkpoint, size: Size) -> None:
    left = world.run(elastic, Subnetwork(width=size.width, depth=size.depth))
    whole, alone = load_model(elastic), load_model(left)
    networks = SubNetworks(whole, [size.width])
    with torch.no_grad(), networks.at(size):
        expected = whole(**example_inputs(whole)).logits
    torch.testing.assert_close(alone(**example_inputs(alone)).logits, expected, atol=1e-5, rtol=1e-5)
    known = elastic.manifest.facts["elastic"]["subnetworks"]
    entry = next(one for one in known if (one["width"], one["depth"]) == (size.width, size.depth))
    assert left.manifest.facts["validation"] == entry["validation"]
    assert left.layers == len(entry["layers"])
    assert sum(one.numel() for one in alone.parameters()) == entry["parameters"]


def test_what_is_cut_out_is_trained_exported_and_quantized_as_any_other(world: World, elastic: Checkpoint) -> None:
    from compress.config.schemas import DynamicQuantization, Export

    left = world.run(elastic, Subnetwork())
    taught = world.run(left, Distill(epochs=1, batch_size=8, student=Student(layers=None)))
    exported = world.run(taught, Export(check_rows=8))
    assert world.run(exported, DynamicQuantization(max_metric_drop=None)).precision == "int8"


def test_rewiring_changes_no_logits_and_puts_what_matters_first(world: World, tuned: Checkpoint) -> None:
    from compress.models.torch_io import load_tokenizer
    from compress.steps.elastic.rewiring import rewired
    from compress.steps.importance import TaylorImportance
    from compress.tasks.padding import padding_of
    from compress.training.batches import Collator
    from compress.training.loop import task_loss

    model, tokenizer, context = load_model(tuned), load_tokenizer(tuned.path), world.context("elastic")
    other = rewired(model, tokenizer, Elastic(**FOUR), context)
    inputs = example_inputs(model)
    torch.testing.assert_close(other(**inputs).logits, model(**inputs).logits, atol=1e-5, rtol=1e-5)
    features = context.task.encode(world.data.train, tokenizer, 32)
    batch = Collator(context.task, features, padding_of(tokenizer))(range(len(features)))
    scores = TaylorImportance().scores(other, [batch], task_loss(context.task))
    for layer in (*scores.heads, *scores.neurons):
        # On other rows than those that gave the order: the first half matters more all the same.
        assert layer[: len(layer) // 2].sum() > layer[len(layer) // 2 :].sum()


def test_smallest_and_largest_are_in_every_batch_and_others_as_drawn() -> None:
    sizes = sizes_of(Elastic())
    way = Sandwich(SimpleNamespace(), sizes, 2)  # type: ignore[arg-type]
    generator = np.random.default_rng(0)
    seen = [way.chosen(generator) for _ in range(60)]
    assert all(one[:2] == [Size(0.25, 0.5), Size(1.0, 1.0)] and len(set(one)) == 4 for one in seen)
    assert {size for one in seen for size in one} == set(sizes)
    assert Sandwich(SimpleNamespace(), sizes[-1:], 3).chosen(generator) == [Size(1.0, 1.0)]  # type: ignore[arg-type]


def test_layers_of_a_sub_network_are_compared_with_what_the_next_one_is_given() -> None:
    """Of six layers a half is 0, 2, 4: what 0 hands to 2 is compared with the teacher's after layer 1."""
    config = Elastic()
    assert matching_at(config, 0.5, 6).layers == ((0, 1), (1, 3), (2, 5))
    assert matching_at(config, 0.75, 12).layers == tuple(enumerate((0, 1, 3, 4, 5, 7, 8, 9, 11)))
    assert matching_at(config, 1.0, 3).layers == ((0, 0), (1, 1), (2, 2))


def test_a_loss_is_the_mean_over_the_sub_networks_of_a_batch() -> None:
    """The stand-in of a loss says the width that runs, and the depth that it was made for."""
    running: list[float] = []

    @contextmanager
    def at(size: Size) -> Iterator[None]:
        running[:] = [size.width]
        yield
        running[:] = [float("nan")]

    class Said:
        def __init__(self, matched: Matching) -> None:
            self.layers = len(matched.layers)

        def answered(self, batch: dict[str, Any]) -> dict[str, Any]:
            return {**batch, "answered": True}

        def __call__(self, model: Any, batch: dict[str, Any], progress: float) -> torch.Tensor:
            assert batch == {"answered": True}
            return torch.tensor(running[0] * self.layers + progress)

    networks = SimpleNamespace(at=at, structure=SimpleNamespace(layers=6))
    way = Sandwich(networks, [Size(0.5, 0.5), Size(0.5, 1.0), Size(1.0, 1.0)], 1)  # type: ignore[arg-type]
    config = Elastic()
    scene = Scene(None, lambda: None, config, way.matching(config, 6, 6), Said, Draws(0))  # type: ignore[arg-type]
    found = float(way.begin(scene)(None, {}, 0.25))
    assert found == pytest.approx((0.5 * 3 + 1.0 * 6 + 0.5 * 6) / 3 + 0.25)


def test_equal_work_gives_equal_bytes_though_killed(
    world: World, tuned: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    from compress.training.trainer import _EpochEnd

    config = Elastic(**FOUR)
    whole = world.run(tuned, config)
    original = _EpochEnd.on_step_end

    def dying(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        if state.global_step == 7:
            raise KeyboardInterrupt
        return original(self, args, state, control, **kwargs)

    context = world.context("elastic")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(_EpochEnd, "on_step_end", dying)
        world.run(tuned, replace(config, checkpoint_seconds=0.0), context)
    assert world.run(tuned, config, context).digest == whole.digest


def test_a_teacher_that_answers_as_it_trains_is_asked_once_per_batch(
    world: World, tuned: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    original = LiveTeacher.answers

    def counting(self: LiveTeacher, *arguments: Any) -> Any:
        before = self.rows
        found = original(self, *arguments)
        asked.append(self.rows - before)
        return found

    monkeypatch.setattr(LiveTeacher, "answers", counting)
    world.run(tuned, Elastic(**{**FOUR, "epochs": 1}, teacher_bytes=10.0))
    assert sum(asked) == len(world.data.train)
    asked.clear()
    mixed = Augmentation(share=0.5, mixup=0.4)
    world.run(tuned, Elastic(**{**FOUR, "epochs": 1}, augment=mixed))
    assert sum(asked) == len(world.data.train) / 2


def test_tokens_are_learned_at_every_size(world: World) -> None:
    import pandas as pd

    from compress.data.base import Data
    from compress.tasks import create

    labels = ("O", "B-X", "I-X")
    words = {"O": "road", "B-X": "north", "I-X": "city"}

    def sentences(count: int, seed: int) -> pd.DataFrame:
        generator = np.random.default_rng(seed)
        tags = [["O", *(["B-X", "I-X"] if size % 2 else []), *["O"] * size] for size in generator.integers(1, 6, count)]
        return pd.DataFrame({"tokens": [[words[tag] for tag in row] for row in tags], "tags": tags})

    world.data = Data(
        "made", "token_classification", sentences(40, 0), sentences(16, 1), sentences(4, 2), labels, "e" * 64
    )
    task = create("token_classification", labels)
    tune = Finetune(epochs=3, batch_size=8, learning_rate=1e-2)
    teacher = world.run(world.source, tune, world.context("finetune", task=task))
    left = world.run(teacher, Elastic(**{**FOUR, "epochs": 3}), world.context("elastic", task=task))
    assert all(one["validation"]["f1"] > 0.8 for one in left.manifest.facts["elastic"]["subnetworks"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": [0.5]}, r"widths=\[0\.5\]: list shares of the whole, each once, 1\.0 among them"),
        ({"depths": [1.0, 1.0]}, "each once"),
        ({"depths": []}, r"1\.0 among them"),
        ({"weights": DistillWeights(attention=1.0)}, r"weights\.attention=1 compares what heads do"),
        ({"layer_map": "last"}, "layer_map=last is set"),
        ({"teacher_layers": [0, 1]}, "teacher_layers is set"),
        ({"patience": 2}, "patience=2: .*the last epoch is kept"),
        ({"shape": "natural"}, "one shape BATCHxTOKENS is needed"),
        ({"shape": "1x64"}, "the model takes at most 32 tokens"),
        ({"weights": DistillWeights(task=0.0, logits=0.0)}, "nothing to learn from"),
    ],
)
def test_what_cannot_be_trained_is_refused_while_planning(options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ElasticStep().check(Elastic(**options), SourceFacts("torch", "fp32", "bert", 6, 32))


def test_only_what_was_trained_is_cut_out(facts: Callable[..., SourceFacts]) -> None:
    with pytest.raises(ConfigError, match="put elastic before it in steps"):
        CutStep().check(Subnetwork(), facts())
    holds = ElasticStep().after(Elastic(), facts())
    CutStep().check(Subnetwork(width=0.25, depth=0.75), holds)
    with pytest.raises(ConfigError, match=r"width=0\.4 was not trained; choose one of 0\.25, 0\.5, 0\.75, 1"):
        CutStep().check(Subnetwork(width=0.4), holds)
    with pytest.raises(ConfigError, match=r"depth=0\.25 was not trained; .*or add it to elastic\.depths"):
        CutStep().check(Subnetwork(depth=0.25), holds)
    assert CutStep().after(Subnetwork(depth=0.75), holds).layers == 5
    assert CutStep().after(Subnetwork(), holds).nested is None
    wide = replace(holds, widths=Widths(384, 12, 1536))
    assert CutStep().after(Subnetwork(width=0.25), wide).widths == Widths(384, 3, 384)


@pytest.mark.parametrize(
    ("config", "stays"),
    [(Vocabulary(), True), (Finetune(), False), (Prune(), False), (Distill(student=Student(layers=None)), False)],
)
def test_models_within_stay_models_only_where_no_layer_is_touched(
    config: Any, stays: bool, facts: Callable[..., SourceFacts]
) -> None:
    holds = ElasticStep().after(Elastic(), facts())
    left = step_for(type(config)).after(config, holds)
    assert (left.nested == holds.nested) is stays


def test_a_pruned_vocabulary_does_not_keep_from_cutting(world: World, elastic: Checkpoint) -> None:
    fewer = world.run(elastic, Vocabulary(max_metric_drop=None))
    holds = Checkpoint(fewer.path, replace(fewer.manifest, facts=elastic.manifest.facts))
    assert world.run(holds, Subnetwork()).layers == 1


def test_a_shape_that_a_shortened_model_cannot_take_is_refused(world: World, tuned: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the model takes at most"):
        world.run(tuned, Elastic(**{**FOUR, "shape": "1x4000"}))
