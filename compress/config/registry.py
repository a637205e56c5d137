"""Config groups and their schemas, registered with Hydra's ConfigStore."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

from omegaconf import MISSING

from compress.config import auto, elastic, quantization, schemas
from compress.config.nodes import node_of
from compress.config.options import option

__all__ = ["GROUPS", "NEEDS_ONNX", "STEP_GROUPS", "Root", "groups", "register", "step_schemas"]

GROUPS: Mapping[str, Mapping[str, type]] = MappingProxyType(
    {
        "model": {"schema": schemas.Model, "random_schema": schemas.RandomModel},
        "data": {
            "tweets_schema": schemas.TweetsData,
            "bbc_news_schema": schemas.BBCNewsData,
            "files_schema": schemas.FilesData,
            "hub_schema": schemas.HubData,
            "tiny_schema": schemas.TinyData,
        },
        "task": {
            "text_classification_schema": schemas.TextClassification,
            "token_classification_schema": schemas.TokenClassification,
        },
        "finetune": {"schema": schemas.Finetune},
        "prune": {"schema": schemas.Prune},
        "vocabulary": {"schema": schemas.Vocabulary},
        "distill": {"schema": schemas.Distill},
        "elastic": {"schema": elastic.Elastic},
        "cut": {"schema": elastic.Subnetwork},
        "export": {"schema": schemas.Export},
        "simplify": {"schema": schemas.Simplify},
        "quantize": {
            "dynamic_schema": quantization.DynamicQuantization,
            "static_schema": quantization.StaticQuantization,
            "aware_schema": quantization.QuantizationAwareTraining,
            "mixed_schema": quantization.MixedQuantization,
            "openvino_schema": quantization.OpenVINOQuantization,
            "trained_schema": quantization.TrainedQuantization,
            "bitsandbytes_schema": quantization.BitsAndBytes,
            "weight_only_schema": quantization.WeightOnlyQuantization,
        },
        "auto": {"schema": auto.Auto},
        "benchmark": {"schema": schemas.Benchmark},
        "tracker": {
            "none_schema": schemas.Tracker,
            "tensorboard_schema": schemas.TensorBoard,
            "mlflow_schema": schemas.MLflow,
        },
    }
)
"""Schemas of each group by the name that the option files build on."""

STEP_GROUPS = ("finetune", "prune", "vocabulary", "distill", "elastic", "cut", "export", "simplify", "quantize")
"""Groups whose nodes may stand in ``steps``."""

NEEDS_ONNX = (
    schemas.Simplify,
    quantization.DynamicQuantization,
    quantization.StaticQuantization,
    quantization.MixedQuantization,
    quantization.OpenVINOQuantization,
    quantization.TrainedQuantization,
    quantization.WeightOnlyQuantization,
)
"""Schemas of steps that read ONNX: before them an export is implied."""


@dataclass
class Root:
    """Keys that belong to no group."""

    steps: list[str] = option(MISSING, "names of the steps, in order; a recipe sets them")
    seed: int = option(0, "seed of everything random", minimum=0, maximum=2**32 - 1)
    device: str = option("auto", "auto, cpu, cuda or cuda:N")
    threads: int | None = option(None, "threads of training and of the other steps; null is all cores", minimum=1)
    dry_run: bool = option(False, "print the plan and write nothing")
    force: list[str] = option([], "steps to redo though they are cached")
    until: str | None = option(None, "the last step to run")
    budget: schemas.Budget = option(schemas.Budget(), "what the artifact must reach; a miss is exit status 3")
    store: schemas.Store = option(schemas.Store(), "where checkpoints live")


@cache
def _offered() -> Mapping[str, type]:
    """Return the schemas of the steps of other packages, by kind; nothing is imported where there are none."""
    from importlib.metadata import entry_points

    if not entry_points(group="compress.steps"):
        return {}
    from compress.steps.registry import step_kinds

    ours = tuple(schema for group in STEP_GROUPS for schema in GROUPS[group].values())
    return {kind: step.config for kind, step in step_kinds().items() if kind != "source" and step.config not in ours}


def groups() -> dict[str, dict[str, type]]:
    """Return the schemas of every group, those of other packages' steps (``KIND/schema``) included."""
    known = {group: dict(named) for group, named in GROUPS.items()}
    for kind, schema in _offered().items():
        known.setdefault(kind, {})[f"{schema.__name__.lower()}_schema" if kind in known else "schema"] = schema
    return known


def step_schemas() -> tuple[type, ...]:
    """Return the schemas whose nodes may stand in ``steps``."""
    return (*(schema for group in STEP_GROUPS for schema in GROUPS[group].values()), *_offered().values())


def register() -> None:
    """Register every schema with Hydra; safe to call again."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    store = ConfigStore.instance()
    if "base.yaml" in store.repo:
        return
    for group, named in groups().items():
        for name, schema in named.items():
            store.store(group=group, name=name, node=schema, provider="compress")
    from compress.sweeping.config import register as register_hydra_s

    register_hydra_s()
    # A structured root would refuse a second step of the same kind (`- /distill@distill_narrow: default`):
    # its typed leaves are put into an open node.
    typed: Any = OmegaConf.structured(Root)
    root: Any = OmegaConf.create({})
    for key in typed:
        root[key] = node_of(typed, key)
    store.store(name="base", node=root, provider="compress")
