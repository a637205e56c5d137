"""Several processes that train together, as ``torchrun`` and ``accelerate launch`` start them.

The first process, rank 0, runs the command as if it were alone. The others wait until it trains something, are sent the
model and all else that a training reads, take their share of every batch (`compress.training.sharing`), and wait again.
They write nothing but errors. What launchers say in the environment is read once and removed from it, so that neither
libraries nor child processes take it for an order to split up their own work.

This module is the only one that knows how processes find each other. It imports torch when there are several.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from compress.errors import CompressError, StepError, UnsupportedError

if TYPE_CHECKING:
    import torch

__all__ = ["Team", "alone_or_together", "process_count", "team"]

log = logging.getLogger(__name__)

_LONG = timedelta(days=30)
"""Of collectives: others wait in them while the first process evaluates. A process that dies ends them at once."""
_POLL_SECONDS = 0.2
_OVER = b"over"
_TRAIN = b"train"
_REMOVED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK")
_REFUSED = ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP", "ACCELERATE_USE_MEGATRON_LM")

_team: Team | None = None


def team() -> Team | None:
    """Return the processes that this one trains with; None where it is alone."""
    return _team


def process_count() -> int:
    """Return how many processes train together."""
    return 1 if _team is None else _team.size


def alone_or_together(work: Callable[[], int]) -> int:
    """Do the work of a command in the first process while the others wait for trainings; returns the exit status.

    Parameters
    ----------
    work
        Returns the exit status. Called in the first process only.

    Raises
    ------
    UnsupportedError
        If the launcher asks for DeepSpeed, FSDP or Megatron.
    """
    global _team
    if int(os.environ.get("WORLD_SIZE") or 1) <= 1:
        return work()
    _team = _meet()
    if _team.rank > 0:
        return _serve(_team)
    try:
        return work()
    finally:
        _team.end()
        _team = None


def _meet() -> Team:
    """Return the team that the environment describes, connected to its store."""
    from torch import distributed

    asked = [name for name in _REFUSED if os.environ.get(name, "").lower() in ("true", "1")]
    if asked:
        raise UnsupportedError(
            f"{asked[0]} is set: trainings of several processes hold the whole model in each; start them with "
            f"torchrun, or accelerate launch --multi_gpu"
        )
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local, beside = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    rendezvous: Any = distributed.rendezvous  # type: ignore[attr-defined]
    store, _, _ = next(rendezvous("env://", rank, size, timeout=timedelta(minutes=10)))
    # The others set up no logging, and transformers would warn of a group that it does not use.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    for name in _REMOVED:
        os.environ.pop(name, None)
    return Team(rank, size, local, beside, store)


def _serve(members: Team) -> int:
    """Take part in every training of the first process, until its command is over."""
    from compress.training.sharing import follow

    logging.getLogger("compress").setLevel(logging.ERROR)
    while members.next_training():
        try:
            follow(members)
        except CompressError as error:  # of the training itself, which the first process meets too
            log.debug("%s", error)
        except Exception as error:
            print(f"error: process {members.rank}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            return 1
    return 0


@dataclass
class Team:
    """One of several processes, and its way to the others.

    Attributes
    ----------
    rank, size : int
        Its number, and how many there are.
    local_rank, local_size : int
        The same among the processes of its machine.
    store
        A torch.distributed store that all are connected to.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    store: Any
    trainings: int = 0
    connected: bool = False

    def threads(self, threads: int) -> int:
        """Return this process's part of the machine's threads."""
        return max(1, threads // self.local_size)

    def device(self, device: str) -> str:
        """Return the device of this process where the first process has `device`."""
        if device == "cpu":
            return device
        import torch

        first = int(device.partition(":")[2] or 0)
        return f"cuda:{(first + self.local_rank) % torch.cuda.device_count()}"

    # --- beginnings and ends ---------------------------------------------------------------------

    def begin(self, job: bytes) -> None:
        """Have the others take part in a training, which `job` describes."""
        import torch

        self._tell(_TRAIN)
        self._connect()
        held = torch.frombuffer(bytearray(job), dtype=torch.uint8)
        self._broadcast(torch.tensor([len(held)]))
        self._broadcast(held)

    def end(self) -> None:
        """Let the others go."""
        try:
            self._tell(_OVER)
        except RuntimeError:  # the launcher is ending, and its store has gone
            log.debug("the store of the processes has gone")

    def next_training(self) -> bool:
        """Wait until the first process trains; returns False where its command is over."""
        key = f"compress/{self.trainings}"
        while True:
            try:
                if self.store.check([key]):
                    break
            except RuntimeError:  # whoever kept the store has ended
                return False
            time.sleep(_POLL_SECONDS)
        self.trainings += 1
        return bool(self.store.get(key) == _TRAIN)

    def receive(self) -> bytes:
        """Return what the first process gave `begin`."""
        import torch

        self._connect()
        size = torch.zeros(1, dtype=torch.int64)
        self._broadcast(size)
        held = torch.empty(int(size), dtype=torch.uint8)
        self._broadcast(held)
        return held.numpy().tobytes()

    def _tell(self, what: bytes) -> None:
        self.store.set(f"compress/{self.trainings}", what)
        self.trainings += 1

    def _connect(self) -> None:
        import torch
        from torch import distributed

        if self.connected:
            return
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
            store=distributed.PrefixStore("compress/group", self.store),  # type: ignore[attr-defined]
            rank=self.rank,
            world_size=self.size,
            timeout=_LONG,
        )
        self.connected = True

    # --- within a training -----------------------------------------------------------------------

    def _broadcast(self, tensor: torch.Tensor) -> None:
        from torch import distributed

        with _of_all():
            distributed.broadcast(tensor, 0)

    def agree(self, decision: bool) -> bool:
        """Return what the first process decided; the others' argument says nothing."""
        import torch

        held = torch.tensor([int(decision)])
        self._broadcast(held)
        return bool(held.item())

    def gather(self, tensor: torch.Tensor, rows: list[int]) -> list[torch.Tensor]:
        """Return every process's tensor ``[its rows, ...]``, by rank.

        Parameters
        ----------
        tensor
            This process's; equal to the others' in all but the rows.
        rows
            Of each process.
        """
        import torch
        from torch import distributed

        most = max(rows)
        own = tensor.new_zeros((most, *tensor.shape[1:]))
        own[: len(tensor)] = tensor
        found = [torch.empty_like(own) for _ in rows]
        with _of_all():
            distributed.all_gather(found, own)
        return [part[:count] for part, count in zip(found, rows, strict=True)]

    def average(self, tensors: list[torch.Tensor]) -> None:
        """Replace tensors by their mean over the processes, in place."""
        from torch import distributed
        from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

        flat = _flatten_dense_tensors(tensors)  # type: ignore[no-untyped-call]
        with _of_all():
            distributed.all_reduce(flat)
        flat /= self.size
        for tensor, mean in zip(tensors, _unflatten_dense_tensors(flat, tensors), strict=True):  # type: ignore[no-untyped-call]
            tensor.copy_(mean)


@contextmanager
def _of_all() -> Iterator[None]:
    """Say what it means where a collective fails: another process has gone."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise StepError(f"another process of the training has ended; its own error says why ({reason})") from error
