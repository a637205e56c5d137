"""A small world for steps: generated rows, a random BERT, contexts and writers, without the pipeline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from compress.checkpoint import Checkpoint, Writer, open_checkpoint
from compress.config.schemas import Finetune, RandomModel
from compress.data.base import Data
from compress.models.source import SourceModel, resolve
from compress.steps.base import Context, SourceFacts
from compress.steps.registry import step_for
from compress.tasks import create

LABELS = ("bad", "good", "plain")
WORDS = {"bad": ["awful", "sad", "poor"], "good": ["lovely", "fine", "great"], "plain": ["table", "road", "paper"]}


def rows(count: int, seed: int) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    labels = [LABELS[number] for number in generator.integers(0, 3, size=count)]
    texts = [
        " ".join(["the", *generator.choice(WORDS[label], size=int(generator.integers(1, 6))), "day"])
        for label in labels
    ]
    return pd.DataFrame({"text": texts, "label": labels})


def nested_of(source: SourceModel | Checkpoint) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return what the plan knows of the models within one."""
    found = source.manifest.facts.get("elastic") if isinstance(source, Checkpoint) else None
    return None if found is None else (tuple(found["widths"]), tuple(found["depths"]))


class World:
    """Runs steps into directories below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data = Data("made", "text_classification", rows(72, 0), rows(30, 1), rows(9, 2), LABELS, "f" * 64)
        self.source: SourceModel = resolve(RandomModel(max_length=32))
        self.made = 0

    def context(self, name: str, **changes: Any) -> Context:
        self.made += 1
        context = Context(
            name=name,
            task=create("text_classification", LABELS),
            data=self.data,
            max_length=32,
            seed=0,
            device="cpu",
            threads=1,
            scratch=self.root / f"scratch-{self.made}",
            cache=self.root / "cache",
        )
        return replace(context, **changes)

    def run(self, source: SourceModel | Checkpoint, config: Any, context: Context | None = None) -> Checkpoint:
        step = step_for(type(config))
        context = context or self.context(step.kind)
        facts = SourceFacts(
            source.format, source.precision, source.architecture, source.layers, nested=nested_of(source)
        )
        step.check(config, facts)
        after = step.after(config, facts)
        self.made += 1
        folder = self.root / f"checkpoint-{self.made}"
        folder.mkdir()
        out = Writer(folder)
        step.run(source, config, context, out)
        out.finish(
            format=after.format,
            precision=after.precision,
            task=context.task.name,
            metric=context.task.metric,
            labels=context.task.labels,
            max_length=context.max_length,
            architecture=after.architecture,
            layers=after.layers,
        )
        return open_checkpoint(folder)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture(scope="module")
def shared_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Return one for what the tests of a file share."""
    return World(tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="session")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Return a fine-tuned two-layer BERT."""
    world = World(tmp_path_factory.mktemp("tuned"))
    return world.run(world.source, Finetune(epochs=4, batch_size=8, learning_rate=5e-3))


@pytest.fixture(scope="session")
def sure(tuned: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Return it after a long epoch more: of equal epochs the earliest is kept, which answers right but not surely."""
    return World(tmp_path_factory.mktemp("sure")).run(tuned, Finetune(epochs=1, batch_size=2, learning_rate=3e-3))


@pytest.fixture
def facts() -> Callable[..., SourceFacts]:
    def make(layers: int = 6, precision: str = "fp32") -> SourceFacts:
        return SourceFacts("torch", precision, "bert", layers)

    return make
