"""One training by several processes: each computes its rows of every batch, and all take the same step.

A loss may be a mean over rows or over tokens, or compare every row with every other, so shares of it cannot be summed.
Shares of what the model puts out can be put together: each process runs the model on its rows, gathers the others'
outputs, and computes the loss of the whole batch. The gradients of that loss, each process's through its own rows, sum
up to the whole gradient, whatever the loss is.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from mmap import mmap
from typing import TYPE_CHECKING, Any

import cloudpickle
import numpy as np
import torch
from torch.nn.utils import parametrize
from transformers import PreTrainedModel
from transformers.utils import output_capturing

from compress.errors import StepError

if TYPE_CHECKING:
    from compress.training.processes import Team

__all__ = ["SharedModel", "average_gradients", "follow", "pack", "seed_share"]


class SharedModel:
    """Stands for a model in a loss function: computes this process's rows and returns those of all.

    Attributes and modules are the model's own. What a loss learns of the model otherwise than by calling it, by a hook
    for instance, is of this process's rows until it went through `gathered`.

    Parameters
    ----------
    model
        A transformers model.
    members
        The processes.
    """

    def __init__(self, model: Any, members: Team) -> None:
        self._model = model
        self._members = members
        self._rows: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, **inputs: Any) -> Any:
        """Return the output of the whole batch for inputs of the whole batch, ``[rows, ...]`` each."""
        rows = next(len(value) for value in inputs.values() if isinstance(value, torch.Tensor))
        self._rows = [len(part) for part in np.array_split(np.arange(rows), self._members.size)]
        first = sum(self._rows[: self._members.rank])
        # One without rows computes the last of the batch and has no part in what is put together.
        own = slice(first, first + self._rows[self._members.rank]) if self._own else slice(rows - 1, rows)
        shares = {
            name: value[own] if isinstance(value, torch.Tensor) and value.shape[:1] == (rows,) else value
            for name, value in inputs.items()
        }
        output = self._model(**shares)
        return type(output)(**{name: self.gathered(value) for name, value in output.items()})

    @property
    def _own(self) -> int:
        return self._rows[self._members.rank]

    def gathered(self, value: Any) -> Any:
        """Return a tensor ``[own rows, ...]`` of the last call, or a tuple of them, with the rows of all processes."""
        if isinstance(value, tuple):
            return tuple(self.gathered(one) for one in value)
        if not isinstance(value, torch.Tensor):
            return value
        if value.dim() == 0:
            raise StepError("a loss that the model computes itself is of one process's rows; give it no labels")
        return _Gathered.apply(value[: self._own], self._members, self._rows)  # type: ignore[no-untyped-call]


class _Gathered(torch.autograd.Function):
    """The rows of all processes; gradients come back to this process's own.

    Every process computes the whole loss, so all have the whole gradient here, and nothing needs to be sent. Gradients
    of parameters are averaged at the end, which is right for those that the loss uses beside the model: each process
    has all of theirs. Those within the model are shares of a sum; times the processes here, their mean is the sum.
    """

    @staticmethod
    def forward(ctx: Any, own: torch.Tensor, members: Team, rows: list[int]) -> torch.Tensor:
        ctx.own = sum(rows[: members.rank]), rows[members.rank], members.size
        return torch.cat(members.gather(own, rows))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        first, count, size = ctx.own
        return gradients[0][first : first + count] * size, None, None


def average_gradients(model: Any, members: Team) -> None:
    """Replace the gradients of a model by their mean over the processes."""
    by_type: dict[torch.dtype, list[torch.Tensor]] = {}
    for parameter in model.parameters():
        if parameter.grad is not None:
            by_type.setdefault(parameter.grad.dtype, []).append(parameter.grad)
    for tensors in by_type.values():
        members.average(tensors)


def seed_share(seed: int, rank: int, update: int, batch: int) -> None:
    """Seed the dropout of a process other than the first: anew in each batch, so that a resume needs nothing of it."""
    (drawn,) = np.random.SeedSequence([seed, rank, update, batch]).generate_state(1, np.uint64)
    torch.manual_seed(int(drawn >> np.uint64(1)))


# --- what a training needs, from one process to another -----------------------------------------------


def pack(job: Mapping[str, Any]) -> bytes:
    """Return as bytes what `compress.training.trainer.follow_trainer` takes.

    Closures and modules with hooks or parametrizations are packed too; arrays that are mapped from a file as its name,
    so that all processes need to see one file system.
    """
    stream = io.BytesIO()
    _Pickler(stream).dump(dict(job))
    return stream.getvalue()


def follow(members: Team) -> None:
    """Take part in one training of the first process."""
    from compress.training.reproducible import reproducible
    from compress.training.trainer import follow_trainer

    job = cloudpickle.loads(members.receive())
    with reproducible(job["seed"], job.pop("threads")):
        follow_trainer(**job, members=members)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    def reducer_override(self, obj: Any) -> Any:
        # A view of a mapped array says the file and offset of the whole one: it goes as numbers.
        whole = isinstance(getattr(obj, "base", None), mmap)
        if whole and isinstance(obj, np.memmap) and obj.mode == "r" and obj.flags.c_contiguous:
            return _mapped, (str(obj.filename), obj.dtype.str, obj.offset, obj.shape)
        # Once a model has given hidden states its hooks hold this, which is each process's own.
        if obj is output_capturing._active_collector:  # noqa: SLF001
            return _collector, ()
        if isinstance(obj, torch.nn.Module) and parametrize.is_parametrized(obj):
            return _empty, (parametrize.type_before_parametrizations(obj),), obj.__dict__, None, None, _set_parametrized
        if isinstance(obj, PreTrainedModel):
            return _empty, (type(obj),), obj.__dict__, None, None, _set_model
        return super().reducer_override(obj)


def _collector() -> Any:
    return output_capturing._active_collector  # noqa: SLF001


def _mapped(name: str, dtype: str, offset: int, shape: tuple[int, ...]) -> Any:
    return np.memmap(name, dtype, "r", offset=offset, shape=shape)


def _empty(kind: Any) -> Any:
    return kind.__new__(kind)


def _set_model(model: Any, state: dict[str, Any]) -> None:
    """Give a model its attributes, and do what else its constructor would have: without, it gives no hidden states."""
    model.__dict__.update(state)
    output_capturing._CAN_RECORD_REGISTRY[model] = model._can_record_outputs  # noqa: SLF001


def _set_parametrized(module: Any, state: dict[str, Any]) -> None:
    """Give a module its attributes, and the class with a property for each parametrized tensor."""
    module.__dict__.update(state)
    parametrize._inject_new_class(module)  # noqa: SLF001
    for name in module.parametrizations:
        parametrize._inject_property(module, name)  # noqa: SLF001
