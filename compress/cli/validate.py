"""From a composed config to a typed job; every fault names the key, the value and what is allowed."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from compress.cli.folders import conf_path, install, options
from compress.config.job import JobConfig
from compress.config.registry import GROUPS, STEP_SCHEMAS, Root, register
from compress.errors import ConfigError

__all__ = ["compose", "compose_job", "explain", "job_from_config"]

_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
_SHAPE = re.compile(r"([1-9]\d*)x([1-9]\d*)")


def compose(overrides: Sequence[str], config_dir: str | None = None) -> tuple[DictConfig, dict[str, str | None]]:
    """Compose the config of one job.

    Parameters
    ----------
    overrides
        As on the command line.
    config_dir
        A user's own folder of configs.

    Returns
    -------
    config : DictConfig
        Without Hydra's own node.
    choices : dict
        The option chosen of each group.

    Raises
    ------
    ConfigError
        For whatever cannot be composed.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    register()
    install()
    GlobalHydra.instance().clear()
    extra = [f"hydra.searchpath=[file://{config_dir}]"] if config_dir else []
    try:
        with initialize_config_dir(conf_path(), version_base="1.3"):
            config = hydra_compose("config", overrides=[*extra, *overrides], return_hydra_config=True)
            choices = {str(name): value for name, value in config.hydra.runtime.choices.items()}
    except Exception as error:
        raise explain(error) from error
    OmegaConf.set_struct(config, False)
    config.pop("hydra")
    return config, choices


def compose_job(recipe: str, overrides: Sequence[str] = ()) -> JobConfig:
    """Compose and validate a recipe with overrides: what ``python -m compress recipe=RECIPE ...`` would run."""
    given = [f"recipe={recipe}", *overrides]
    config, choices = compose(given)
    return job_from_config(config, choices, given)


def explain(error: Exception) -> ConfigError:
    """Turn what Hydra, OmegaConf or YAML raised into a message for the user; anything else is raised again."""
    from hydra.errors import HydraException
    from yaml import YAMLError

    if isinstance(error, ConfigError):
        return error
    cause = error.__cause__ if error.__cause__ is not None else error
    if isinstance(error, YAMLError) or isinstance(cause, YAMLError):
        return ConfigError(f"a config file is no valid YAML: {' '.join(str(error).split())}")
    if not isinstance(error, HydraException | OmegaConfBaseException):
        raise error
    text = str(error)
    match = re.search(r"Could not (?:override|append to config\.|delete from config\.) ?'?([\w.@/]+)'?", text)
    if match and isinstance(cause, OmegaConfBaseException) and "not in" in str(cause) or "To append to your config" in text:
        key = match.group(1) if match else text
        return ConfigError(f"{key}: unknown key{_suggest(key, _known_keys())}")
    if isinstance(cause, OmegaConfBaseException):
        full_key = re.search(r"full_key: (\S+)", str(cause))
        where = full_key.group(1) if full_key else (match.group(1) if match else "config")
        detail = str(cause).splitlines()[0]
        if "Missing mandatory" in detail:
            return ConfigError(f"{where}: a value is needed; set {where}=VALUE")
        return ConfigError(f"{where}: {detail}{_expected(where)}")
    found = re.search(r"Could not find '([\w.@/-]+)'", text)
    if found:
        group, _, name = found.group(1).rpartition("/")
        allowed = [choice for choice in options(group)] or ["none"]
        return ConfigError(f"{group}={name}: no such option{_suggest(name, allowed)}; allowed: {', '.join(allowed)}")
    return ConfigError(" ".join(text.split()))


def job_from_config(
    config: DictConfig, choices: Mapping[str, str | None], overrides: Sequence[str], *, sweep: bool = False
) -> JobConfig:
    """Check a composed config and return it typed.

    Parameters
    ----------
    config
        Without Hydra's own node.
    choices
        The option chosen of each group.
    overrides
        As given, for the checks that concern only what the user wrote.
    sweep
        In a sweep an override that changes nothing is a warning.

    Raises
    ------
    ConfigError
        Names the key, the value and what is allowed.
    """
    recipe = choices.get("recipe")
    if recipe is None:
        raise ConfigError(f"recipe=null: a recipe is needed; allowed: {', '.join(options('recipe'))}")
    scalars = _scalars(config)
    nodes = {str(key): config._get_node(key) for key in config if key not in scalars}
    typed = {key: _typed(key, node) for key, node in nodes.items() if not _is_none(node)}
    for group in ("model", "data", "task", "benchmark", "export"):
        if group not in typed:
            raise ConfigError(f"{group}=null: an option is needed; allowed: {', '.join(options(group))}")
    steps = _steps(scalars, typed)
    warnings = list(_unused(overrides, steps, typed, sweep))
    _check_root(scalars, steps)
    for shape in typed["benchmark"].shapes:
        if not _SHAPE.fullmatch(str(shape)):
            raise ConfigError(f"benchmark.shapes: {shape!r} is no shape; write BATCHxTOKENS, such as 1x32")
    if not typed["benchmark"].shapes:
        raise ConfigError("benchmark.shapes=[]: at least one shape is needed, such as [1x32]")
    if typed["benchmark"].min_rounds > typed["benchmark"].max_rounds:
        raise ConfigError(
            f"benchmark.min_rounds={typed['benchmark'].min_rounds}: must not exceed "
            f"benchmark.max_rounds={typed['benchmark'].max_rounds}"
        )
    return JobConfig(
        recipe=recipe,
        steps=steps,
        export=typed["export"],
        model=typed["model"],
        data=typed["data"],
        task=typed["task"],
        benchmark=typed["benchmark"],
        budget=scalars["budget"],
        store=scalars["store"],
        task_name=str(choices.get("task")),
        data_name=str(choices.get("data")),
        seed=scalars["seed"],
        device=scalars["device"],
        threads=scalars["threads"],
        dry_run=scalars["dry_run"],
        force=tuple(scalars["force"]),
        until=scalars["until"],
        overrides=tuple(overrides),
        warnings=tuple(warnings),
    )


def _is_none(node: Any) -> bool:
    return node is None or (isinstance(node, DictConfig) and node._is_none())


def _scalars(config: DictConfig) -> dict[str, Any]:
    """Return the keys of `Root`, typed and in bounds."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(Root):
        if field.name not in config:
            raise ConfigError(f"{field.name}: cannot be removed")
        try:
            value = config[field.name]
            if OmegaConf.is_config(value):
                if isinstance(value, DictConfig):
                    _check_fields(field.name, value, OmegaConf.get_type(value))
                value = OmegaConf.to_object(value)
        except MissingMandatoryValue as error:
            raise ConfigError(f"{field.name}: a value is needed; a recipe sets it, or {field.name}=[finetune,distill]") from error
        values[field.name] = value
    _check_bounds("", Root(**values), top=True)
    return values


def _typed(key: str, node: Any) -> Any:
    """Return a config node as an instance of its dataclass."""
    if not isinstance(node, DictConfig):
        raise ConfigError(f"{key}: unknown key{_suggest(key, _known_keys())}")
    schema = OmegaConf.get_type(node)
    if schema is None or not dataclasses.is_dataclass(schema):
        if key in GROUPS:
            raise ConfigError(f"{key}: its config was removed or replaced; choose {key}={' | '.join(options(key))}")
        raise ConfigError(f"{key}: unknown key, or a config built on no schema{_suggest(key, _known_keys())}")
    _check_fields(key, node, schema)
    try:
        value = OmegaConf.to_object(node)
    except MissingMandatoryValue as error:
        missing = sorted(OmegaConf.missing_keys(node))
        raise ConfigError(f"{key}.{missing[0]}: a value is needed; set {key}.{missing[0]}=VALUE") from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{key}: {str(error).splitlines()[0]}") from error
    _check_bounds(key, value)
    return value


def _check_fields(key: str, node: DictConfig, schema: Any) -> None:
    """Refuse keys that were added past the schema, or removed from it."""
    if not dataclasses.is_dataclass(schema):
        raise ConfigError(f"{key}: its config was replaced; set its fields one by one")
    names = [field.name for field in dataclasses.fields(schema)]
    for name in node:
        if name not in names:
            raise ConfigError(f"{key}.{name}: unknown key{_suggest(str(name), names)}; allowed: {', '.join(names)}")
    for field in dataclasses.fields(schema):
        if field.name not in node:
            raise ConfigError(f"{key}.{field.name}: cannot be removed; set a value or null")
        inner = node._get_node(field.name)
        if isinstance(inner, DictConfig) and not inner._is_none() and not inner._is_missing():
            _check_fields(f"{key}.{field.name}", inner, OmegaConf.get_type(inner))


def _check_bounds(prefix: str, value: Any, *, top: bool = False) -> None:
    for field in dataclasses.fields(value):
        name = field.name if top else f"{prefix}.{field.name}"
        held = getattr(value, field.name)
        if dataclasses.is_dataclass(held):
            _check_bounds(name, held)
            continue
        for item in held if isinstance(held, list) else [held]:
            fault = _fault(item, field.metadata)
            if fault:
                raise ConfigError(f"{name}={held}: {fault}")


def _fault(value: Any, limits: Mapping[str, Any]) -> str | None:
    choices = limits.get("choices")
    if value is None:
        return None
    if choices and value not in choices:
        return f"{value!r} is not allowed{_suggest(str(value), choices)}; allowed: {', '.join(choices)}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if value != value or value in (float("inf"), float("-inf")):
        return "must be a finite number"
    if limits.get("minimum") is not None and value < limits["minimum"]:
        return f"must be at least {limits['minimum']}"
    if limits.get("maximum") is not None and value > limits["maximum"]:
        return f"must be at most {limits['maximum']}"
    if limits.get("above") is not None and value <= limits["above"]:
        return f"must be above {limits['above']}"
    return None


def _step_schemas() -> tuple[type, ...]:
    from importlib.metadata import entry_points

    if not list(entry_points(group="compress.steps")):
        return STEP_SCHEMAS
    from compress.steps.registry import step_kinds

    return (*STEP_SCHEMAS, *(step.config for step in step_kinds().values()))


def _steps(scalars: Mapping[str, Any], typed: Mapping[str, Any]) -> dict[str, Any]:
    names = scalars["steps"]
    possible = [key for key, value in typed.items() if isinstance(value, _step_schemas())]
    if not names:
        raise ConfigError(f"steps=[]: at least one step is needed; there are {', '.join(possible)}")
    for name in names:
        if name not in possible:
            if name in GROUPS and name not in typed and any(schema in STEP_SCHEMAS for schema in GROUPS[name].values()):
                raise ConfigError(f"{name}=null: steps names {name}; allowed: {', '.join(options(name))}")
            raise ConfigError(f"steps: {name!r} is no step{_suggest(name, possible)}; allowed: {', '.join(possible)}")
    double = sorted({name for name in names if names.count(name) > 1})
    if double:
        raise ConfigError(
            f"steps: {double[0]} stands there twice; give the second a name of its own (- /{double[0]}@{double[0]}_2: default)"
        )
    return {name: typed[name] for name in names}


def _check_root(scalars: Mapping[str, Any], steps: Mapping[str, Any]) -> None:
    if not _DEVICE.fullmatch(scalars["device"]):
        raise ConfigError(f"device={scalars['device']}: allowed are auto, cpu, cuda and cuda:N")
    for key, names in (("force", scalars["force"]), ("until", [scalars["until"]] if scalars["until"] else [])):
        for name in names:
            if name not in steps:
                raise ConfigError(f"{key}={name}: not one of the steps{_suggest(name, list(steps))}; steps: {', '.join(steps)}")


def _unused(overrides: Sequence[str], steps: Mapping[str, Any], typed: Mapping[str, Any], sweep: bool) -> Iterator[str]:
    """Yield a warning for each override of a step that does not run; outside a sweep that is an error."""
    from compress.config.schemas import DynamicQuantization

    running = set(steps)
    if any(isinstance(config, DynamicQuantization) for config in steps.values()):
        running.add("export")  # implied where the recipe does not name it
    found = []
    for override in overrides:
        node = re.split(r"[.=@]", override.lstrip("+~"), maxsplit=1)[0]
        if isinstance(typed.get(node), STEP_SCHEMAS) and node not in running:
            message = f"{override}: {node} is not among the steps ({', '.join(steps)}), so this changes nothing"
            if not sweep:
                raise ConfigError(message)
            found.append(message)
    return iter(found)


def _known_keys() -> list[str]:
    keys = [field.name for field in dataclasses.fields(Root)]
    for group, named in GROUPS.items():
        keys.append(group)
        for schema in named.values():
            keys.extend(_flat(group, schema))
    for name in ("budget", "store"):
        keys.extend(_flat(name, next(f.type for f in dataclasses.fields(Root) if f.name == name)))
    return keys


def _flat(prefix: str, schema: Any) -> list[str]:
    from compress.config import schemas

    if isinstance(schema, str):
        schema = getattr(schemas, schema.removeprefix("schemas."), None)
    if not dataclasses.is_dataclass(schema):
        return []
    found = []
    for field in dataclasses.fields(schema):
        found.append(f"{prefix}.{field.name}")
        found.extend(_flat(f"{prefix}.{field.name}", field.type))
    return found


def _suggest(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def _expected(key: str) -> str:
    """Return what a key's schema allows, for messages about a wrong type."""
    from typing import get_type_hints

    group, _, rest = key.partition(".")
    schemas_of = list(GROUPS.get(group, {}).values()) if rest else [Root]
    for schema in schemas_of:
        current: Any = schema
        for part in (rest or key).split("."):
            hints = get_type_hints(current) if dataclasses.is_dataclass(current) else {}
            current = hints.get(re.sub(r"\[.*", "", part))
        if current is not None:
            return f" (expected {getattr(current, '__name__', None) or current})"
    return ""
