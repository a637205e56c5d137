"""``--help``: short, made from the schemas and the folders without composing anything."""

from __future__ import annotations

import dataclasses
from typing import Any

from compress.cli.folders import options
from compress.config.registry import GROUPS, Root

__all__ = ["help_text"]

_HEAD = """\
python -m compress recipe=NAME [group=option] [group.key=value] ...

Take a fine-tuned transformer through the steps of a recipe, then measure every checkpoint from disk.

  -m                 a sweep: comma-separated values run as jobs, e.g. distill.temperature=1,2,4
  --config-dir DIR   a folder of your own recipes (DIR/recipe/NAME.yaml) and configs
  --cfg job          show the composed config
  dry_run=true       show the plan, write nothing

Exit status: 0 done; 1 the run failed; 2 the command or its input must be changed; 3 a budget was missed.
"""


def help_text() -> str:
    """Return the help: every group with its options, every key with its default and one line of help."""
    lines = [_HEAD, f"recipe: {', '.join(options('recipe'))}"]
    experiments = options("experiment")
    if experiments:
        lines.append(f"+experiment: {', '.join(experiments)} (with -m)")
    lines += [f"debug: {', '.join(options('debug'))}", "", "Keys:"]
    for field in dataclasses.fields(Root):
        if not _fields_of(field):
            lines.append(_line("", field))
    for name in ("budget", "store"):
        lines += ["", f"{name}:"]
        field = next(field for field in dataclasses.fields(Root) if field.name == name)
        lines += [_line(f"{name}.", inner) for inner in _fields_of(field)]
    for group, named in GROUPS.items():
        lines += ["", f"{group}={'|'.join(options(group))}"]
        shown: set[str] = set()
        for schema in named.values():
            lines += _schema_lines(f"{group}.", schema, shown)
    return "\n".join(lines)


def _fields_of(field: Any) -> tuple[Any, ...]:
    if field.default_factory is dataclasses.MISSING:
        return ()
    value = field.default_factory()
    return dataclasses.fields(value) if dataclasses.is_dataclass(value) else ()


def _schema_lines(prefix: str, schema: Any, shown: set[str]) -> list[str]:
    lines = []
    for field in dataclasses.fields(schema):
        name = f"{prefix}{field.name}"
        if name in shown:
            continue
        shown.add(name)
        inner = _fields_of(field)
        if inner:
            lines += [_line(f"{name}.", each) for each in inner]
        else:
            lines.append(_line(prefix, field))
    return lines


def _line(prefix: str, field: Any) -> str:
    default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
    shown = {None: "null", "???": "needed", True: "true", False: "false"}.get(default) if _hashable(default) else None
    choices = f" ({', '.join(field.metadata['choices'])})" if field.metadata.get("choices") else ""
    name = f"{prefix}{field.name}"
    return f"  {name:<32} {field.metadata.get('help', '')}{choices} [{shown if shown is not None else default}]"


def _hashable(value: Any) -> bool:
    return value is None or isinstance(value, bool | str)
