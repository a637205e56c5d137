"""From a composed config to a typed job; every fault names the key, the value and what is allowed."""

from __future__ import annotations

import dataclasses
import math
import operator
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from compress.cli.keys import known_keys, suggest
from compress.config.job import JobConfig
from compress.config.nodes import filled, node_of
from compress.config.registry import NEEDS_ONNX, Root, groups, step_schemas
from compress.config.shapes import expand
from compress.config.shipped import GROUPS_WITHOUT_SCHEMA, file_of, options
from compress.errors import ConfigError

if TYPE_CHECKING:
    from compress.config.schemas import Benchmark, Model

__all__ = ["as_schema", "compose_job", "job_of"]

_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
_NEEDED = ("model", "data", "task", "export", "benchmark", "tracker")


def compose_job(recipe: str, overrides: Sequence[str] = (), *, config_dir: str | Path | None = None) -> JobConfig:
    """Compose and validate a job: what ``python -m compress recipe=RECIPE OVERRIDES`` would run.

    Parameters
    ----------
    recipe
        Name of a recipe.
    overrides
        As on the command line.
    config_dir
        A folder of your own recipes and configs.

    Raises
    ------
    ConfigError
        Names the key, the value and what is allowed.
    """
    from compress.cli.compose import Composer

    return job_of(Composer(config_dir).compose([f"recipe={recipe}", *overrides]))


def job_of(composed: DictConfig, *, sweep: bool = False) -> JobConfig:
    """Check a composed config and return it typed.

    Parameters
    ----------
    composed
        The config, with Hydra's own node in it.
    sweep
        In a sweep an override that changes nothing for this job is a warning, elsewhere an error.

    Raises
    ------
    ConfigError
        Names the key, the value and what is allowed.
    """
    try:
        return _job_of(composed, sweep)
    except OmegaConfBaseException as error:  # an interpolation that leads nowhere
        where = f"{error.full_key}: " if error.full_key else ""
        raise ConfigError(f"{where}{str(error).splitlines()[0]}") from error


def _job_of(composed: DictConfig, sweep: bool) -> JobConfig:
    from compress.cli.compose import choices_of, lines_of

    choices = choices_of(composed)
    overrides = lines_of(composed)
    recipe = choices.get("recipe")
    if recipe is None:
        raise ConfigError(f"recipe=null: a recipe is needed; allowed: {', '.join(options('recipe'))}")
    _check_top(composed)
    root = _root(composed)
    typed: dict[str, Any] = {}
    for key in composed:
        node = node_of(composed, key)
        if key != "hydra" and key not in _root_names() and filled(node):
            typed[str(key)] = as_schema(str(key), node)
    for group in _NEEDED:
        if group not in typed:
            raise ConfigError(f"{group}=null: an option is needed; allowed: {', '.join(options(group))}")
    steps = _steps(root.steps, typed)
    _check_root(root, steps)
    _check_benchmark(typed["benchmark"])
    warnings = _idle_overrides(overrides, steps, typed)
    if warnings and not sweep:
        raise ConfigError(warnings[0])
    return JobConfig(
        recipe=recipe,
        steps=steps,
        export=typed["export"],
        model=_unpinned(typed["model"], choices.get("model")),
        data=typed["data"],
        task=typed["task"],
        benchmark=typed["benchmark"],
        budget=root.budget,
        store=root.store,
        task_name=str(choices.get("task")),
        data_name=str(choices.get("data")),
        seed=root.seed,
        device=root.device,
        threads=root.threads,
        dry_run=root.dry_run,
        force=tuple(root.force),
        until=root.until,
        overrides=tuple(overrides),
        warnings=tuple(warnings),
        tracker=typed["tracker"],
        auto=typed.get("auto"),
        config_dir=_config_dir(composed),
    )


def _config_dir(config: DictConfig) -> str | None:
    """Return the folder that ``--config-dir`` added, where one was."""
    sources = config.hydra.runtime.config_sources
    return next((str(one.path) for one in sources if one.provider == "command-line" and one.schema == "file"), None)


def _unpinned(model: Model, option: str | None) -> Model:
    """Drop the SHA-256 that an option pins, where `model.path` is no longer the option's."""
    file = file_of("model", str(option))
    if model.sha256 is None or not file.is_file():
        return model
    pinned: Any = OmegaConf.load(file)
    if pinned.get("sha256") == model.sha256 and pinned.get("path") != model.path:
        return dataclasses.replace(model, sha256=None)
    return model


def _root_names() -> list[str]:
    return [field.name for field in dataclasses.fields(Root)]


def _root(config: DictConfig) -> Root:
    """Return the keys of `Root`, typed and in bounds."""
    values: dict[str, Any] = {}
    for name in _root_names():
        if name not in config:
            if OmegaConf.is_missing(config, name):
                raise ConfigError(f"{name}: a value is needed; a recipe sets it, as in {name}: [finetune, distill]")
            raise ConfigError(f"{name}: cannot be removed; set a value")
        node = node_of(config, name)
        if isinstance(node, DictConfig):
            values[name] = as_schema(name, node)
            continue
        try:
            value = config[name]
            values[name] = OmegaConf.to_object(value) if OmegaConf.is_config(value) else value
        except OmegaConfBaseException as error:
            raise ConfigError(f"{name}: {str(error).splitlines()[0]}") from error
    root = Root(**values)
    _check_bounds("", root)
    return root


def _check_top(composed: DictConfig) -> None:
    """Refuse what stands at the top and is neither a key of `Root` nor a config node."""
    for key in map(str, composed):
        if key in GROUPS_WITHOUT_SCHEMA:
            raise ConfigError(
                f"{key}: its file does not set keys at the top; begin it with `# @package _global_`, "
                f"then lines of `key: value`"
            )
        if key not in _root_names() and not isinstance(node_of(composed, key), DictConfig):
            raise ConfigError(f"{key}: unknown key{suggest(key, known_keys())}")


def as_schema(key: str, node: Any) -> Any:
    """Return a config node as an instance of its dataclass."""
    schema = OmegaConf.get_type(node)
    if not filled(node) or schema is None or not dataclasses.is_dataclass(schema):
        if key in groups():
            raise ConfigError(
                f"{key}: its config was removed or replaced; choose an option ({key}={'|'.join(options(key))}) "
                f"and set its fields one by one"
            )
        if key in _root_names():
            raise ConfigError(f"{key}: cannot be null or replaced; set its fields one by one, as {key}.FIELD=VALUE")
        raise ConfigError(f"{key}: unknown key, or a config that builds on no schema{suggest(key, known_keys())}")
    _check_fields(key, node, schema)
    try:
        missing = sorted(OmegaConf.missing_keys(node))
        if missing:
            raise ConfigError(f"{missing[0]}: a value is needed; set {missing[0]}=VALUE")
        value = OmegaConf.to_object(node)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{key}: {str(error).splitlines()[0]}") from error
    _check_bounds(f"{key}.", value)
    return value


def _check_fields(key: str, node: DictConfig, schema: Any) -> None:
    """Refuse keys that were added past the schema, or removed from it."""
    names = [field.name for field in dataclasses.fields(schema)]
    for name in map(str, node):
        if name not in names:
            raise ConfigError(f"{key}.{name}: unknown key{suggest(name, names)}; allowed: {', '.join(names)}")
    for name in names:
        inner = node_of(node, name)
        if inner is None:
            raise ConfigError(f"{key}.{name}: cannot be removed; set a value or null")
        kind = OmegaConf.get_type(inner) if filled(inner) else None
        if dataclasses.is_dataclass(kind):
            _check_fields(f"{key}.{name}", inner, kind)


def _check_bounds(prefix: str, value: Any) -> None:
    for field in dataclasses.fields(value):
        held = getattr(value, field.name)
        if dataclasses.is_dataclass(held):
            _check_bounds(f"{prefix}{field.name}.", held)
            continue
        for item in held if isinstance(held, list) else [held]:
            fault = _fault(item, field.metadata)
            if fault:
                raise ConfigError(f"{prefix}{field.name}={held}: {fault}")


def _fault(value: Any, limits: Mapping[str, Any]) -> str | None:
    choices = limits.get("choices")
    if value is None:
        return None
    if choices and value not in choices:
        return f"not allowed{suggest(str(value), choices)}; allowed: {', '.join(choices)}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not math.isfinite(value):
        return "must be a finite number"
    for name, holds, words in (
        ("minimum", operator.ge, "at least"),
        ("maximum", operator.le, "at most"),
        ("above", operator.gt, "above"),
        ("below", operator.lt, "below"),
    ):
        if limits.get(name) is not None and not holds(value, limits[name]):
            return f"must be {words} {limits[name]}"
    return None


def _steps(names: Sequence[str], typed: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of each step, in order."""
    possible = [key for key, value in typed.items() if isinstance(value, step_schemas())]
    if not names:
        raise ConfigError(f"steps=[]: at least one step is needed; there are {', '.join(possible)}")
    for name in names:
        if name in possible:
            continue
        if name in groups() and name not in typed:
            raise ConfigError(f"{name}=null: but steps names {name}; allowed: {', '.join(options(name))}")
        raise ConfigError(f"steps: {name!r} is no step{suggest(name, possible)}; allowed: {', '.join(possible)}")
    double = next((name for name in names if list(names).count(name) > 1), None)
    if double is not None:
        kind = double if double in groups() else "KIND"
        raise ConfigError(
            f"steps={list(names)}: {double} stands there twice; give the second a name of its own in a recipe's "
            f"defaults, as `- /{kind}@{double}_2: default`"
        )
    return {name: typed[name] for name in names}


def _check_root(root: Root, steps: Mapping[str, Any]) -> None:
    if not _DEVICE.fullmatch(root.device):
        raise ConfigError(f"device={root.device}: allowed are auto, cpu, cuda and cuda:N")
    for key, names in (("force", root.force), ("until", [] if root.until is None else [root.until])):
        for name in names:
            if name not in steps:
                raise ConfigError(
                    f"{key}={name}: not one of the steps{suggest(name, list(steps))}; allowed: {', '.join(steps)}"
                )


def _check_benchmark(config: Benchmark) -> None:
    try:
        expand(config.shapes)
    except ValueError as error:
        raise ConfigError(f"benchmark.shapes={config.shapes}: {error}") from error
    if config.min_rounds > config.max_rounds:
        raise ConfigError(
            f"benchmark.min_rounds={config.min_rounds}: must be at most benchmark.max_rounds={config.max_rounds}"
        )


def _idle_overrides(overrides: Sequence[str], steps: Mapping[str, Any], typed: Mapping[str, Any]) -> list[str]:
    """Return a message for each override of a step that does not run."""
    from compress.cli.compose import given

    running = set(steps)
    if any(isinstance(config, NEEDS_ONNX) for config in steps.values()):
        running.add("export")  # implied where the recipe does not name it
    return [
        f"{item.line}: {item.node} is not among the steps ({', '.join(steps)}), so this changes nothing"
        for item in given(overrides)
        if isinstance(typed.get(item.node), step_schemas()) and item.node not in running
    ]
