"""What the jobs of a sweep know of each other while it runs: a folder, since they may share nothing but a disk."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import platform
import re
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from compress.errors import ConfigError

__all__ = ["LEDGER", "Ledger", "Orders", "alone_in", "occupied"]

LEDGER = ".jobs"
"""Folder of a sweep, while it runs."""

_THREAD_VARIABLES = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "BLIS_NUM_THREADS"),
    *("VECLIB_MAXIMUM_THREADS", "NUMBA_NUM_THREADS", "NUMEXPR_NUM_THREADS"),
)


@dataclass(frozen=True)
class Orders:
    """What the sweep decided for all of its jobs.

    Attributes
    ----------
    when : str
        ``job`` or ``end``: what ``benchmark.when=auto`` stands for here.
    parallel : bool
        Whether jobs run at the same time.
    parent : int or None
        Process without which the jobs are to end; None where they may outlive it, as on a cluster.
    threads : mapping
        The variables that bound threads, as the sweep was started with: a launcher that changes them for its processes
        would change what is trained and measured.
    """

    when: str = "job"
    parallel: bool = False
    parent: int | None = None
    threads: Mapping[str, str | None] = field(
        default_factory=lambda: {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    )

    def obey(self) -> None:
        """Give this process the variables of the sweep, and let it end with the sweep."""
        for name, value in self.threads.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if self.parent is not None and os.getppid() == self.parent:
            _end_with(self.parent)


_watched: set[int] = set()


def _end_with(parent: int) -> None:
    """End this process at once when its parent is gone, killed for instance, so that no job goes on unseen."""
    if parent in _watched:
        return
    _watched.add(parent)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, name="end with the sweep", daemon=True).start()


class Ledger:
    """The folder, as the sweep writes it and its jobs read it.

    Parameters
    ----------
    sweep_dir
        The sweep's directory.
    """

    def __init__(self, sweep_dir: Path) -> None:
        self.folder = sweep_dir.absolute() / LEDGER

    def open(self, orders: Orders) -> None:
        """Begin anew."""
        self.close()
        self.folder.mkdir(parents=True)
        (self.folder / "orders.json").write_text(json.dumps(dataclasses.asdict(orders)), encoding="utf-8")

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def orders(self) -> Orders:
        """What the sweep decided for all of its jobs."""
        return Orders(**json.loads((self.folder / "orders.json").read_text(encoding="utf-8")))

    def start(self, run_dir: Path) -> None:
        """Note that a job has been started."""
        self._note(run_dir).write_text(str(run_dir), encoding="utf-8")

    def started(self, run_dir: Path) -> bool:
        """Return whether a job has been started since the ledger was opened."""
        return self._note(run_dir).is_file()

    def forget(self, run_dir: Path) -> None:
        """Let a job count as not started."""
        self._note(run_dir).unlink(missing_ok=True)

    def runs(self) -> list[Path]:
        """Return the directory of every job that was started."""
        return [Path(note.read_text(encoding="utf-8")) for note in sorted(self.folder.glob("run-*"))]

    def _note(self, run_dir: Path) -> Path:
        relative = os.path.relpath(run_dir.absolute(), self.folder.parent)
        return self.folder / f"run-{quote(relative, safe='')}"

    def claim(self, digest: str, name: str) -> str:
        """Claim a job for a directory; returns the one that has it, which is another where an equal job was first."""
        claim = self.folder / f"job-{digest}"
        try:
            with claim.open("x", encoding="utf-8") as stream:
                stream.write(name)
        except FileExistsError:
            return claim.read_text(encoding="utf-8")
        return name

    @contextmanager
    def lease(self, device: str, count: int) -> Iterator[str]:
        """Give a job a GPU of its own where there are several; waits while all are taken.

        Parameters
        ----------
        device
            As configured; a certain one (``cuda:1``) or none (``cpu``) is left as it is.
        count
            GPUs of this machine.

        Yields
        ------
        str
            The device to use.
        """
        if count < 2 or device not in ("auto", "cuda"):
            yield device
            return
        machine = re.sub(r"[^\w.-]", "-", platform.node())
        while True:
            for number in range(count):
                with (self.folder / f"gpu-{machine}-{number}").open("a") as stream:
                    try:
                        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        continue
                    yield f"cuda:{number}"
                    return
            time.sleep(0.5)


@contextmanager
def occupied(run_dir: Path) -> Iterator[None]:
    """Work in a run's directory alone: what an earlier start of the sweep still does there is waited for."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / ".lock").open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@contextmanager
def alone_in(sweep_dir: Path) -> Iterator[None]:
    """Run a sweep in a directory alone.

    Raises
    ------
    ConfigError
        If another process runs one there.
    """
    sweep_dir.mkdir(parents=True, exist_ok=True)
    with (sweep_dir / ".lock").open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"hydra.sweep.dir={sweep_dir}: a sweep is running there; wait for it or name another directory"
            ) from None
        yield
