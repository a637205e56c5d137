"""What a step's output depends on, as one key; imports nothing heavy."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compress.files import canonical_json, sha256_file
from compress.machine import package_version

__all__ = ["config_facts", "source_digest", "step_key"]


def config_facts(config: Any) -> Any:
    """Return a config dataclass as plain values, less the fields that cannot change an output (``in_key=False``)."""
    if dataclasses.is_dataclass(config):
        return {
            field.name: config_facts(getattr(config, field.name))
            for field in dataclasses.fields(config)
            if field.metadata.get("in_key", True)
        }
    if isinstance(config, Mapping):
        return {str(name): config_facts(value) for name, value in config.items()}
    if isinstance(config, list | tuple):
        return [config_facts(value) for value in config]
    return config


@functools.cache
def source_digest(module: str) -> str:
    """Return a SHA-256 over the source of a module, or of a package and all below it, without running it."""
    parts = module.split(".")
    root = importlib.util.find_spec(parts[0])
    if root is None or root.origin is None:
        raise ModuleNotFoundError(f"no module {module}")
    path = Path(root.origin).parent.joinpath(*parts[1:])
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    listing = {file.relative_to(path.parent).as_posix(): sha256_file(file) for file in files}
    return hashlib.sha256(canonical_json(listing)).hexdigest()


def step_key(
    *,
    source_key: str,
    kind: str,
    config: Any,
    resolved: Mapping[str, Any],
    data_fingerprint: str,
    inputs: Mapping[str, str],
    seed: int | None,
    device_kind: str | None,
    threads: int | None,
    packages: Sequence[str],
    modules: Sequence[str],
) -> str:
    """Return the store key of a step: equal keys give equal bytes on equal machines.

    Parameters
    ----------
    source_key
        Key of the source checkpoint, or the fingerprint of the model a run starts from.
    kind, config
        The step's kind and typed config.
    resolved
        Whatever else the output depends on: the task, the ISA, what the machine decided for the config.
    data_fingerprint
        Fingerprint of the prepared data.
    inputs
        Keys of further checkpoints, by step name.
    seed, device_kind, threads
        For steps that train, else None.
    packages
        Distributions whose versions count.
    modules
        Our modules whose source counts.
    """
    content = {
        "source": source_key,
        "kind": kind,
        "config": config_facts(config),
        "resolved": config_facts(resolved),
        "data": data_fingerprint,
        "inputs": dict(inputs),
        "seed": seed,
        "device": device_kind,
        "threads": threads,
        "packages": {name: package_version(name) for name in sorted(packages)},
        "modules": {name: source_digest(name) for name in sorted(modules)},
    }
    return hashlib.sha256(canonical_json(content)).hexdigest()
