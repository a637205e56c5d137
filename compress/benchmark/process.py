"""Starting worker processes and asking them, one at a time; a new one for every launch."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from compress.errors import StepError

__all__ = ["Launches", "WorkerProcess"]

_FORKS = sys.platform == "linux"
"""Elsewhere a system library may have threads that a fork loses (macOS), or there is no fork (Windows)."""


class WorkerProcess:
    """A process that holds one variant; waits in a blocking read while another is measured.

    Parameters
    ----------
    name
        The variant, for messages.
    cores
        What OpenMP may use; waiting policies stay at their runtime's defaults.

    Attributes
    ----------
    program : sequence of str
        What Python runs; answers as `compress.benchmark.worker` does.
    """

    program: Sequence[str] = ("-m", "compress.benchmark.worker")

    def __init__(self, name: str, cores: int) -> None:
        self.name = name
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(cores),
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_VERBOSITY": "error",
        }
        self._process = subprocess.Popen(
            [sys.executable, *self.program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            text=True,
        )

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and wait for the answer.

        Raises
        ------
        StepError
            If the worker reports a fault or dies.
        """
        self.send(do, **arguments)
        return self.receive(do)

    def send(self, do: str, **arguments: Any) -> None:
        """Send a request; `receive` is to follow."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()

    def receive(self, do: str) -> dict[str, Any]:
        """Wait for the answer to a request; raises as `ask`."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise StepError(f"benchmark: the process of {self.name} died in {do!r} (exit {code}): {self._tail()}")
        answer: dict[str, Any] = json.loads(line)
        if not answer.pop("ok"):
            failure = StepError(f"benchmark: {self.name}: {do} failed: {answer['kind']}: {answer['error']}")
            failure.exit_status = answer.get("exit_status") or failure.exit_status
            raise failure
        return answer

    def _tail(self) -> str:
        self._errors.seek(0)
        return " ".join(self._errors.read().decode(errors="replace").split()[-60:])

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._process.kill()
        self.close()


class Launches:
    """One process after another for a variant, each with memory of its own that holds nothing but the artifact.

    On Linux a process that has imported the runtime, and has done nothing with it, forks for every launch: torch and
    transformers are imported once, not each time. Elsewhere every launch is a process from the start.

    Parameters
    ----------
    name
        The variant, for messages.
    cores
        What OpenMP may use.
    path, device, provider
        What is opened, and where.
    energy
        Whether the processes read energy counters.

    Attributes
    ----------
    energy : dict or None
        The counters' source, or why there is none; known from the first launch on.
    """

    def __init__(self, name: str, cores: int, path: Path, device: str, provider: str, energy: bool) -> None:
        self.name = name
        self.energy: dict[str, Any] | None = None
        self._reads_energy = energy
        self._cores = cores
        self._asked = {"path": str(path), "device": device, "provider": provider}
        self._worker = WorkerProcess(name, cores) if _FORKS else None
        if self._worker is not None:
            self._worker.send("prepare", path=str(path))
        self._prepared = False

    def start(self, threads: int) -> WorkerProcess:
        """Return a new process that holds the artifact, opened for a number of threads; `end` is to follow."""
        if self._worker is None:
            self._worker = WorkerProcess(self.name, self._cores)
        elif not self._prepared:
            self._worker.receive("prepare")
            self._prepared = True
        if _FORKS:
            self._worker.ask("fork")
        opened = self._worker.ask("open", **self._asked, threads=threads)
        if self._reads_energy:
            self.energy = self._worker.ask("energy", device=opened["device"])
        return self._worker

    def end(self) -> None:
        """End the launch's process."""
        assert self._worker is not None
        if _FORKS:
            self._worker.ask("end")
            return
        self._worker.close()
        self._worker = None

    def __enter__(self) -> Launches:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._worker is not None:
            self._worker.__exit__(kind, error, trace)
