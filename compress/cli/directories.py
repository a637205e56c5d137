"""Directories of runs: two that start in the same second get different ones."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from compress.errors import MachineError

__all__ = ["given_by_user", "make_fresh"]


def given_by_user(overrides: Sequence[str], key: str) -> bool:
    """Return whether the user named the directory: then it is taken as it is, existing or not."""
    return any(line.lstrip("+").partition("=")[0] == key for line in overrides)


def make_fresh(path: Path) -> Path:
    """Make a directory that did not exist: the path, or the path with ``-2``, ``-3``, ... added.

    Raises
    ------
    MachineError
        If no directory can be made there.
    """
    for number in itertools.count(1):
        candidate = path if number == 1 else path.with_name(f"{path.name}-{number}")
        try:
            candidate.mkdir(parents=True)
        except FileExistsError:
            if not candidate.is_dir():
                raise MachineError(f"{candidate} is a file where a run's directory should be; remove it") from None
            continue
        except OSError as error:
            raise MachineError(f"{candidate}: cannot be made ({error.strerror}); set hydra.run.dir=DIR") from error
        return candidate
    raise AssertionError("unreachable")
