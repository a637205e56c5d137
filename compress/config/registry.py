"""Config groups and their schemas, registered with Hydra's ConfigStore."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from omegaconf import MISSING

from compress.config import schemas
from compress.config.options import option

__all__ = ["GROUPS", "STEP_SCHEMAS", "Root", "register"]

GROUPS: MappingProxyType[str, dict[str, type]] = MappingProxyType(
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
        "distill": {"schema": schemas.Distill},
        "export": {"schema": schemas.Export},
        "quantize": {"dynamic_schema": schemas.DynamicQuantization},
        "benchmark": {"schema": schemas.Benchmark},
    }
)
"""Schemas of each group by the name that the option files build on."""

STEP_SCHEMAS = (schemas.Finetune, schemas.Distill, schemas.Export, schemas.DynamicQuantization)
"""Schemas whose nodes may stand in ``steps``; those of other packages are found through ``compress.steps``."""


@dataclass
class Root:
    """Keys that belong to no group."""

    steps: list[str] = option(MISSING, "names of the steps, in order; each is a config node")
    seed: int = option(0, "seed of everything random", minimum=0)
    device: str = option("auto", "auto, cpu, cuda or cuda:N")
    threads: int | None = option(None, "threads of training and of the other steps; null is all cores", minimum=1)
    dry_run: bool = option(False, "print the plan and write nothing")
    force: list[str] = option([], "steps to redo though they are cached")
    until: str | None = option(None, "the last step to run")
    budget: schemas.Budget = option(schemas.Budget(), "what the artifact must reach")
    store: schemas.Store = option(schemas.Store(), "where checkpoints live")


def register() -> None:
    """Register every schema; safe to call again."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    store = ConfigStore.instance()
    for group, named in GROUPS.items():
        for name, schema in named.items():
            store.store(group=group, name=name, node=schema, provider="compress")
    # A structured root would refuse a second step of the same kind (`- /distill@narrow: default`):
    # its typed leaves are put into an open node.
    typed: Any = OmegaConf.structured(Root)
    root: Any = OmegaConf.create({})
    for key in typed:
        root[key] = typed._get_node(key)
    store.store(name="base", node=root, provider="compress")
