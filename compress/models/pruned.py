"""Saving and loading transformers models of known families, pruned or not, without a task: the same files, verified."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.errors import CheckpointError, ConfigError, UnsupportedError
from compress.models.families import TASK_OF_HEAD, family
from compress.models.structure import read_structure, structure_of
from compress.models.weights import assign, read_tensors, write_tensors
from compress.quantized import read_quantization
from compress.quantized.model import put_quantized_layers

if TYPE_CHECKING:
    from compress.checkpoint import Checkpoint, Writer

__all__ = ["load_pruned", "load_weights", "save_pruned", "write_model"]

_PRECISIONS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
_NO_TASK = "none"
_LENGTH_UNKNOWN = 512


def save_pruned(model: Any, directory: str | os.PathLike[str], tokenizer: Any = None) -> Checkpoint:
    """Write a transformers model of any structure as a checkpoint.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Of a known family, of any class that transformers has: with any head, or none.
    directory
        Written whole or not at all. An earlier checkpoint there is replaced.
    tokenizer
        A fast tokenizer or an image processor to go with it. A classifier or tagger with its tokenizer is a checkpoint
        that ``compress.load`` opens and recipes go on from; anything else is opened by `load_pruned`.

    Returns
    -------
    Checkpoint
        The verified checkpoint.

    Raises
    ------
    UnsupportedError
        If the family is not known.
    ConfigError
        If something else is in the directory.
    """
    from compress.checkpoint import MANIFEST, Writer, open_checkpoint
    from compress.files import replace_tree
    from compress.models.torch_io import save_tokenizer

    target = Path(directory)
    if target.exists() and not (target / MANIFEST).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target} holds something else than a checkpoint; give a new or an empty directory")
    places = family(model.config.model_type)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        out = Writer(Path(folder) / "whole")
        out.path.mkdir()
        length = _max_length(model, tokenizer)
        if getattr(tokenizer, "is_fast", False):
            save_tokenizer(out, tokenizer, length)
        elif tokenizer is not None:
            tokenizer.save_pretrained(str(out.path))
        write_model(out, model)
        precision = _PRECISIONS.get(_dtype(model), _dtype(model))
        task, metric = _task(model, tokenizer, precision)
        labels = model.config.id2label or {}
        out.finish(
            format="torch",
            precision=precision,
            task=task,
            metric=metric,
            labels=[str(labels[number]) for number in sorted(labels)],
            max_length=length,
            architecture=places.architecture,
            layers=len(places.layer_list(model)),
        )
        replace_tree(out.path, target)
    return open_checkpoint(target)


def load_pruned(directory: str | os.PathLike[str]) -> Any:
    """Return the model of any torch checkpoint as the transformers class it was saved from, in eval mode.

    Parameters
    ----------
    directory
        Written by `save_pruned` or by a recipe; every file is verified.

    Raises
    ------
    CheckpointError
        If it is not whole, no torch checkpoint, or its files contradict each other.
    UnsupportedError
        If its family or class is not known.
    """
    import transformers
    from transformers import AutoConfig, GenerationConfig

    from compress.checkpoint import open_checkpoint
    from compress.models.torch_io import quiet

    checkpoint = open_checkpoint(directory)
    path = checkpoint.path
    if checkpoint.format != "torch":
        raise CheckpointError(f"{path} is a checkpoint of format {checkpoint.format}; a torch one is needed")
    with quiet():
        try:
            config = AutoConfig.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path}: config.json cannot be read: {str(error).splitlines()[0]}") from error
        name = next(iter(config.architectures or []), None)
        kind = getattr(transformers, str(name), None)
        if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
            raise UnsupportedError(f"{path}: config.json names the class {name!r}, which transformers does not have")
        config._attn_implementation = family(config.model_type).attention  # noqa: SLF001
        model = load_weights(lambda: kind(config), path)
        if (path / "generation_config.json").is_file() and model.can_generate():
            model.generation_config = GenerationConfig.from_pretrained(str(path), local_files_only=True)
    return model.eval()


def load_weights(build: Any, path: Path) -> Any:
    """Return the model of a directory with config.json, structure.json and model.safetensors.

    With a quantization.json its layers are as they were quantized: nothing is quantized anew.

    Parameters
    ----------
    build
        Returns the model that transformers builds from config.json.
    path
        The directory.

    Raises
    ------
    CheckpointError
        If structure.json, config.json and the tensors contradict each other, or a weight is missing.
    UnsupportedError
        If its layers need a package that is not installed.
    """
    from compress.models.skeleton import build_skeleton

    model = build_skeleton(build, read_structure(path / "structure.json"), path)
    how = read_quantization(path)
    if how is not None:
        put_quantized_layers(model, how, path)
    assign(model, read_tensors(path / "model.safetensors"), path)
    return model


def write_model(out: Writer, model: Any) -> None:
    """Write config.json, model.safetensors and what structure.json will say; equal models give equal bytes."""
    config = model.config.to_dict()
    for name in ("_name_or_path", "_attn_implementation_internal", "_commit_hash", "torch_dtype"):
        config.pop(name, None)
    config["architectures"] = [type(model).__name__]
    config["dtype"] = _dtype(model)
    (out.path / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if model.can_generate():
        content = json.dumps(model.generation_config.to_diff_dict(), indent=2, sort_keys=True)
        (out.path / "generation_config.json").write_text(content + "\n", encoding="utf-8")
    write_tensors(model, out.path / "model.safetensors")
    out.structure = structure_of(model).to_json()


def _dtype(model: Any) -> str:
    return str(next(model.parameters()).dtype).removeprefix("torch.")


def _task(model: Any, tokenizer: Any, precision: str) -> tuple[str, str]:
    """Return task and main metric of a model that predicting from text can be done with."""
    from compress import tasks

    name = next((task for ending, task in TASK_OF_HEAD.items() if type(model).__name__.endswith(ending)), _NO_TASK)
    known = name in family(model.config.model_type).tasks
    if not known or precision != "fp32" or not getattr(tokenizer, "is_fast", False):
        return _NO_TASK, _NO_TASK
    return name, tasks.create(name, list(model.config.id2label.values())).metric


def _max_length(model: Any, tokenizer: Any) -> int:
    """Return the longest input in tokens: what the positions have room for, and the tokenizer cuts at."""
    from compress.models.examples import usable_positions

    declared = getattr(model.config, "max_position_embeddings", None)
    room = usable_positions(model) or declared or _LENGTH_UNKNOWN
    return min(int(room), int(getattr(tokenizer, "model_max_length", room) or room))
