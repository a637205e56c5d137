"""Tells the command line where a sweep's directory is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback

__all__ = ["RememberSweep", "sweep_directory"]

_found: list[Path] = []


class RememberSweep(Callback):
    """A Hydra callback that keeps the sweep's directory."""

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        """Keep the directory."""
        _found.append(Path(config.hydra.sweep.dir).absolute())


def sweep_directory() -> Path | None:
    """Return the directory of the sweep that ran in this process, if any."""
    return _found[-1] if _found else None
