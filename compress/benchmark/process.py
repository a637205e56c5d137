"""Starting worker processes and asking them, one at a time."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from types import TracebackType
from typing import Any

from compress.errors import StepError

__all__ = ["WorkerProcess"]


class WorkerProcess:
    """A process that holds one variant; waits in a blocking read while another is measured.

    Parameters
    ----------
    name
        The variant, for messages.
    cores
        What OpenMP may use; waiting policies stay at their runtime's defaults.
    """

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
            [sys.executable, "-m", "compress.benchmark.worker"],
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
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
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
