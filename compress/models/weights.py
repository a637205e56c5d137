"""The tensors of a model: each in memory once, put in place by name and shape, of equal models equal bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.errors import CheckpointError

if TYPE_CHECKING:
    import torch

__all__ = ["assign", "read_tensors", "unique_tensors", "write_tensors"]


def unique_tensors(model: Any) -> dict[str, torch.Tensor]:
    """Return the state by name; of tensors that share memory the first name only."""
    seen: dict[tuple[int, tuple[int, ...]], str] = {}
    tensors = {}
    for name, tensor in model.state_dict().items():
        place = (tensor.data_ptr(), tuple(tensor.shape))
        if place in seen and tensor.numel():
            continue
        seen[place] = name
        tensors[name] = tensor.detach().to("cpu").contiguous()
    return tensors


def write_tensors(model: Any, file: Path) -> None:
    """Write the state of a model, each tensor once; equal models give equal bytes."""
    from safetensors.torch import save_file

    save_file(unique_tensors(model), str(file), metadata={"format": "pt"})


def read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file in memory of their own.

    Views of the mapped file would lie at odd addresses, where products may round otherwise than they did before the
    weights were saved. The file is mapped anew for each, so that at most one tensor is in memory twice.
    """
    from safetensors import safe_open

    with safe_open(file, framework="pt") as mapped:
        names = list(mapped.keys())
    tensors = {}
    for name in names:
        with safe_open(file, framework="pt") as mapped:
            tensors[name] = mapped.get_tensor(name).clone()
    return tensors


def assign(model: Any, tensors: Mapping[str, torch.Tensor], where: Path) -> None:
    """Make tensors the weights of a model that has none yet.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        As `compress.models.skeleton` builds it.
    tensors
        By name; not copied, so each is in memory once.
    where
        The checkpoint, for messages.

    Raises
    ------
    CheckpointError
        If a weight is missing, unexpected or of another shape.
    """
    wanted = model.state_dict(keep_vars=True)
    held = {id(tensor): name for name, tensor in reversed(wanted.items())}  # of tied weights the first name
    missing = sorted(set(held.values()) - set(tensors))
    unexpected = sorted(set(tensors) - set(wanted))
    shapes = sorted(name for name in set(tensors) & set(wanted) if tensors[name].shape != wanted[name].shape)
    for what, names in (("lacks", missing), ("has the unknown", unexpected), ("has another shape of", shapes)):
        if names:
            raise CheckpointError(
                f"{where}: model.safetensors {what} {', '.join(names[:4])} for its config.json and structure.json"
            )
    model.load_state_dict(tensors, strict=False, assign=True)
    model.tie_weights()
