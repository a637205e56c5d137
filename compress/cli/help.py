"""What ``--help`` prints: written from the schemas and the option files, without composing anything."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from compress.cli.keys import Key, fields_of
from compress.config.registry import Root, groups
from compress.config.shipped import defaults, file_of, options, title

__all__ = ["text"]

_USAGE = """\
usage: python -m compress recipe=NAME [group=option ...] [key=value ...] [-m]

Fine-tune, compress and measure a transformer, as a recipe says.

options
  -m, --multirun      a sweep: recipe=int8,distill_int8 distill.temperature=1,2,4 seed='range(3)'
                      hydra.sweep.dir=DIR is where; begun before, it is finished: what is done there is kept
                      hydra/launcher=joblib hydra.launcher.n_jobs=2 runs jobs at the same time; also ray,
                      submitit_slurm (a cluster), submitit_local
                      hydra/sweeper=optuna hydra.sweeper.n_trials=20 searches instead of running every combination
  --cfg job           show the composed config
  --config-dir DIR    a folder of your own recipes (recipe/NAME.yaml) and options (GROUP/NAME.yaml)
  --version, --help
exit status
  0 done   1 failed   2 to be mended in the command or its input   3 done, but a budget was missed
also
  python -m compress.benchmark, .inspect, .peers, .predict, .report, .store  (each with --help)
"""
_WIDTH = 34
_OPTIONS_OF = {"random": "tiny", "schema": "minilm", "bitsandbytes": "nf4|fp4|llm_int8"}
"""Options that build on a schema, where they are not named as it is."""


def text() -> str:
    """Return the help: every group, its options, every key with its default and one line of help."""
    chosen = defaults()
    lines = [_USAGE]
    for group in ("recipe", "debug", "experiment"):
        names = options(group)
        if names:
            prefix = "+" if group == "experiment" else ""
            lines += [f"{prefix}{group}=", *(_option(group, name, chosen) for name in names)]
    lines.append("\nkeys of no group")
    lines += [_key(key, "", {}) for key in fields_of(Root)]
    for group, schemas in groups().items():
        lines.append(f"\n{group}=")
        lines += [_option(group, name, chosen) for name in options(group)]
        lines += _keys(group, schemas, chosen)
    return "\n".join(lines) + "\n"


def _option(group: str, name: str, chosen: Mapping[str, str | None]) -> str:
    mark = " *" if name == chosen.get(group) else ""
    lead = f"  {name + mark:<{_WIDTH - 2}}"
    return textwrap.fill(title(file_of(group, name)), 118, initial_indent=lead, subsequent_indent=" " * _WIDTH)


def _keys(group: str, schemas: Mapping[str, type], chosen: Mapping[str, str | None]) -> Iterator[str]:
    """Yield the keys that all schemas of a group share, then those of each."""
    values = _values(group, chosen.get(group) or "default")
    known = [list(fields_of(schema)) for schema in schemas.values()]
    shared = [key for key in known[0] if all(any(key.name == other.name for other in keys) for keys in known)]
    yield from (_key(key, f"{group}.", values) for key in shared)
    names = {key.name for key in shared}
    for schema, keys in zip(schemas, known, strict=True):
        own = [key for key in keys if key.name not in names]
        if own and len(schemas) > 1:
            option = schema.removesuffix("_schema")
            yield f"  with {group}={_OPTIONS_OF.get(option, option)}"
        yield from (_key(key, f"{group}.", {}) for key in own)


def _key(key: Key, prefix: str, values: Mapping[str, Any]) -> str:
    default = values.get(key.name, key.default)
    notes = []
    if key.limits.get("choices"):
        notes.append("|".join(key.limits["choices"]))
    if default is not None and default != "???" and len(str(default)) <= 30:
        notes.append(str(default).lower() if isinstance(default, bool) else str(default).replace("'", ""))
    help_line = key.limits["help"] + (f" [{'; '.join(notes)}]" if notes else "")
    name = f"  {prefix}{key.name}"
    lead = f"{name:<{_WIDTH}}" if len(name) < _WIDTH else f"{name} "
    return textwrap.fill(help_line, 118, initial_indent=lead, subsequent_indent=" " * _WIDTH)


def _values(group: str, option: str) -> dict[str, Any]:
    """Return what the default option sets, by dotted key; nothing if its file cannot be read."""
    from omegaconf import OmegaConf
    from yaml import YAMLError

    try:
        loaded = OmegaConf.to_container(OmegaConf.load(file_of(group, option)))
    except (OSError, ValueError, YAMLError):
        return {}
    return dict(_flat(loaded, "")) if isinstance(loaded, dict) else {}


def _flat(values: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
