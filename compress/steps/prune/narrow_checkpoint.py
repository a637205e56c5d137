"""A torch checkpoint with fewer heads, neurons and layers, for timing alone: what `narrow_graph` is for graphs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from compress.errors import UnsupportedError
from compress.models.families import family
from compress.models.structure import read_structure
from compress.steps.prune.narrow_graph import check_narrower

if TYPE_CHECKING:
    import torch

    from compress.checkpoint import Checkpoint

__all__ = ["NarrowCheckpoints"]


class NarrowCheckpoints:
    """Writes checkpoints of any structure that a dense one can be narrowed to, one in place of another.

    Parameters
    ----------
    dense : Checkpoint
        A torch checkpoint with a task.
    folder : pathlib.Path
        Where they are written; as many bytes as `dense`.

    Attributes
    ----------
    heads, widths : tuple of int
        The dense structure.
    like : pathlib.Path
        A folder with the same config and nothing else.

    Raises
    ------
    UnsupportedError
        If its structure is not known, or heads share keys and values.
    """

    def __init__(self, dense: Checkpoint, folder: Path) -> None:
        from compress.models.weights import read_tensors

        structure = read_structure(dense.path / "structure.json")
        if structure is None or structure.head_size is None or structure.key_value_heads is not None:
            raise UnsupportedError(
                f"{dense.path}: latency of {dense.architecture} cannot be measured by structure; use a target that "
                f"counts: params, macs, size"
            )
        self._dense, self._folder, self._structure = dense, folder / "model", structure
        self._head_size = structure.head_size
        self._places = family(dense.architecture)
        self._tensors = read_tensors(dense.path / "model.safetensors")
        self.heads, self.widths = structure.heads, structure.intermediate_size
        self.like = folder / "like"
        self.like.mkdir(parents=True)
        shutil.copyfile(dense.path / "config.json", self.like / "config.json")

    def write(self, heads: Sequence[int], widths: Sequence[int]) -> Path:
        """Write the checkpoint of a structure in place of the one before, and return its path.

        Parameters
        ----------
        heads, widths
            Of each layer that is kept; 1 to those of the largest dense layer.

        Raises
        ------
        ConfigError
            If that is no narrower structure.
        """
        from safetensors.torch import save_file

        from compress.checkpoint import Writer
        from compress.steps.companions import copy_companions

        check_narrower(heads, widths, self.heads, self.widths)
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()
        out, manifest = Writer(self._folder), self._dense.manifest
        copy_companions(self._dense, out)
        config = json.loads((out.path / "config.json").read_text(encoding="utf-8"))
        config[self._places.config_layers] = len(heads)
        (out.path / "config.json").write_text(json.dumps(config), encoding="utf-8")
        numbers = self._structure.head_numbers
        out.structure = replace(
            self._structure,
            layers=len(heads),
            heads=tuple(heads),
            intermediate_size=tuple(widths),
            head_numbers=None if numbers is None else tuple(tuple(range(count)) for count in heads),
        ).to_json()
        save_file(dict(self._narrowed(heads, widths)), str(out.path / "model.safetensors"), metadata={"format": "pt"})
        out.finish(
            format="torch",
            precision=manifest.precision,
            task=manifest.task,
            metric=manifest.metric,
            labels=manifest.labels,
            max_length=manifest.max_length,
            architecture=manifest.architecture,
            layers=len(heads),
        )
        return out.path

    def _narrowed(self, heads: Sequence[int], widths: Sequence[int]) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the tensors of a structure by name: the beginnings of the dense ones, of the first layers."""
        places = self._places
        prefix = f"{places.base}.{places.layers}."
        for name, tensor in self._tensors.items():
            if not name.startswith(prefix):
                yield name, tensor
                continue
            number, _, inside = name.removeprefix(prefix).partition(".")
            if int(number) >= len(heads):
                continue
            path, _, kind = inside.rpartition(".")
            inner, width = heads[int(number)] * self._head_size, widths[int(number)]
            if path in (places.query, places.key, places.value):
                yield name, _resized(tensor, 0, inner)
            elif path in places.ffn_inputs:
                yield name, _resized(tensor, 0, width)
            elif kind == "weight" and path == places.attention_output:
                yield name, _resized(tensor, 1, inner)
            elif kind == "weight" and path == places.ffn_output:
                yield name, _resized(tensor, 1, width)
            else:
                yield name, tensor


def _resized(tensor: torch.Tensor, axis: int, size: int) -> torch.Tensor:
    """Return the first so many rows or columns, from the first again where they are too few."""
    import torch

    return tensor.index_select(axis, torch.arange(size) % tensor.shape[axis])
