"""What a run changed against its recipe as shipped."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from compress.errors import ConfigError, DataError

__all__ = ["differences"]

_HYDRA = ".hydra"
_ABSENT = "–"


def differences(run_dir: Path) -> list[tuple[str, str, str]] | None:
    """Return each key whose value is not that of the recipe with its defaults.

    Parameters
    ----------
    run_dir
        A run's directory, with the config that Hydra kept in it.

    Returns
    -------
    list of tuple of str, or None
        Key, the recipe's value and the value here; options of groups first, steps that do not run left out. None
        where no config was kept, or the recipe can no longer be composed (it was somebody's own, and is gone).

    Raises
    ------
    DataError
        If the kept config cannot be read.
    """
    from compress.config.registry import STEP_GROUPS

    here, hydra = _read(run_dir / _HYDRA / "config.yaml"), _read(run_dir / _HYDRA / "hydra.yaml")
    if here is None or hydra is None:
        return None
    runtime = (hydra.get("hydra") or {}).get("runtime") or {}
    choices = {str(group): option for group, option in (runtime.get("choices") or {}).items()}
    if not choices.get("recipe"):
        return None
    sources = [item for item in runtime.get("config_sources") or () if item.get("provider") == "command-line"]
    own = next((str(item["path"]) for item in sources if item.get("schema") == "file"), None)
    try:
        values, options = _defaults(str(choices["recipe"]), own)
    except ConfigError:  # the recipe, or the folder it lay in, is no longer there
        return None
    chosen = {group: option for group, option in choices.items() if "/" not in group and group != "recipe"}
    found = [
        *_changed({key: options.get(key) for key in chosen}, chosen),
        *_changed(values, dict(_flat(here, ""))),
    ]
    idle = set(STEP_GROUPS) - {*here.get("steps", ()), *values.get("steps", ()), "export"}  # an export may be implied
    return [line for line in found if line[0].partition(".")[0] not in idle]


@functools.lru_cache(maxsize=32)
def _defaults(recipe: str, config_dir: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the values of a recipe with its defaults by dotted key, and the options it chooses."""
    from omegaconf import OmegaConf

    # Only Hydra can tell what a recipe's defaults are; composing is the command line's affair.
    from compress.cli.compose import Composer, choices_of

    composed = Composer(config_dir).compose([f"recipe={recipe}"])
    values: Any = OmegaConf.to_container(composed, resolve=False)
    values.pop("hydra")
    return dict(_flat(values, "")), dict(choices_of(composed))


def _changed(default: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for key in dict.fromkeys([*default, *here]):
        if default.get(key, _ABSENT) != here.get(key, _ABSENT):
            yield key, _text(default.get(key, _ABSENT)), _text(here.get(key, _ABSENT))


def _text(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else "null" if value is None else str(value)


def _flat(values: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _read(file: Path) -> dict[str, Any] | None:
    import yaml

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{file}: cannot be read ({error}); remove it, the report does without") from error
    return content if isinstance(content, dict) else None
