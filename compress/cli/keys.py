"""Every key there is, and what each allows: for messages and for --help."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from compress.config.registry import Root, groups

__all__ = ["Key", "expected", "fields_of", "known_keys", "suggest", "type_name", "unknown_key"]


@dataclass(frozen=True)
class Key:
    """A config key.

    Attributes
    ----------
    name : str
        Dotted, without the group.
    type : object
        Annotation.
    default : object
        The schema's.
    limits : mapping
        Metadata of `compress.config.options.option`.
    """

    name: str
    type: Any
    default: Any
    limits: typing.Mapping[str, Any]


def fields_of(schema: type, prefix: str = "", values: Any = None) -> Iterator[Key]:
    """Yield the leaf keys of a schema in order; defaults are those of `values`, an instance, where one is given."""
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        kind = hints[field.name]
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if values is not None:
            default = getattr(values, field.name)
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            yield from fields_of(kind, f"{prefix}{field.name}.", default)
            continue
        yield Key(f"{prefix}{field.name}", kind, default, field.metadata)


@cache
def known_keys() -> tuple[str, ...]:
    """Return every key and group."""
    names: dict[str, None] = {}
    for key in fields_of(Root):
        names.update({key.name.partition(".")[0]: None, key.name: None})
    for group, schemas in groups().items():
        names[group] = None
        for schema in schemas.values():
            names.update({f"{group}.{key.name}": None for key in fields_of(schema)})
    names.update(dict.fromkeys(("recipe", "experiment", "debug")))
    return tuple(names)


def suggest(word: str, known: Sequence[str]) -> str:
    """Return ``; did you mean X?``, or nothing where no known word is near."""
    alike = [name for name in known if "." in name] if "." in word else known
    near = difflib.get_close_matches(word, alike, n=1, cutoff=0.6)
    if near:  # of names that are as near, as elastic.temperature and distill.temperature are, the first one known
        best = difflib.SequenceMatcher(b=word, a=near[0]).ratio()
        near = [one for one in alike if difflib.SequenceMatcher(b=word, a=one).ratio() >= best][:1]
    if not near and "." not in word:  # `temperature` for `distill.temperature`
        near = [name for name in known if name.rpartition(".")[2] == word][:1]
    return f"; did you mean {near[0]}?" if near else ""


def unknown_key(key: str) -> str:
    """Return the message about a key that the composed config does not have."""
    group, _, name = key.partition(".")
    having = [
        schema.removesuffix("_schema")
        for schema, kind in groups().get(group, {}).items()
        if any(name == known.name for known in fields_of(kind))
    ]
    if having:
        return f"{key}: unknown key with the chosen option of {group}; those that have it build on: {', '.join(having)}"
    return f"{key}: unknown key{suggest(key, known_keys())}"


def type_name(kind: Any) -> str:
    """Return an annotation as a user reads it: ``int | null``, ``list[str]``."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return " | ".join(type_name(part) for part in typing.get_args(kind))
    if kind is type(None):
        return "null"
    return kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind)


def expected(key: str) -> str:
    """Return ``; expected: TYPE, one of ...`` for a dotted key, or nothing for one that is not known."""
    key = key.partition("[")[0]
    group, _, rest = key.partition(".")
    schemas = groups().get(group, {}).values() if rest else ()
    for schema in (Root, *schemas):
        for known in fields_of(schema):
            if known.name == (key if schema is Root else rest):
                chosen = known.limits.get("choices")
                return f"; expected: {type_name(known.type)}" + (f", one of {', '.join(chosen)}" if chosen else "")
    return ""
