"""What a person sees while it runs: a console on standard error, progress, and the log file."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Progress", "get_console", "progress_of", "setup_logging"]

log = logging.getLogger(__name__)

_LINE_EVERY = 20.0
"""Seconds between two progress lines where there is no terminal."""

_console: Console | None = None


def get_console() -> Console:
    """Return the one console, on standard error: standard output belongs to results."""
    global _console
    if _console is None:
        from rich.console import Console

        _console = Console(stderr=True, force_jupyter=False, highlight=False, soft_wrap=not sys.stderr.isatty())
    return _console


def setup_logging(file: Path | None = None, *, level: int = logging.INFO) -> None:
    """Send this package's log to the console and, if given, to a file; quieten the libraries.

    Parameters
    ----------
    file
        ``compress.log`` of the run; appended to, so that a resumed run keeps what came before.
    level
        Least level on the console; the file gets everything from INFO.
    """
    # Read by transformers and huggingface_hub when they are first imported.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logger = logging.getLogger("compress")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(min(level, logging.INFO))
    logger.propagate = False
    shown = _ConsoleHandler(level)
    shown.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(shown)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        kept = logging.FileHandler(file, encoding="utf-8")
        kept.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logger.addHandler(kept)


class _ConsoleHandler(logging.Handler):
    """Prints through the console, so that a line and a progress bar do not write over each other."""

    def emit(self, record: logging.LogRecord) -> None:
        style = {logging.WARNING: "yellow", logging.ERROR: "red", logging.CRITICAL: "red"}.get(record.levelno)
        prefix = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        try:
            get_console().print(prefix + self.format(record), style=style, markup=False)
        except OSError:
            self.handleError(record)


class Progress:
    """How far a piece of work is: a bar with an estimate on a terminal, a log line now and then elsewhere."""

    def __init__(self, description: str, total: int, unit: str, bar: Any = None) -> None:
        self.description = description
        self.total = total
        self.unit = unit
        self.done = 0
        self._bar = bar
        self._task = None if bar is None else bar.add_task(description, total=total, note="")
        self._offset = 0
        self._began = self._shown = time.monotonic()

    def start_at(self, done: int) -> None:
        """Say that so much was done before; it does not count for the estimate."""
        self.done = self._offset = done
        self._began = self._shown = time.monotonic()
        if self._bar is not None:
            self._bar.reset(self._task, total=self.total, completed=done)

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count work done; `note` is shown beside it."""
        self.done += count
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, note=note)
            return
        now = time.monotonic()
        if now - self._shown >= _LINE_EVERY and self.done < self.total:
            self._shown = now
            left = (now - self._began) / max(1, self.done - self._offset) * (self.total - self.done)
            beside = f", {note}" if note else ""
            done = f"{self.done}/{self.total} {self.unit}{beside}"
            log.info("%s: %s, about %s left", self.description, done, _duration(left))


@contextmanager
def progress_of(description: str, total: int, unit: str = "rows") -> Iterator[Progress]:
    """Show the progress of a piece of work while the context is open.

    Parameters
    ----------
    description
        What is being done.
    total
        How much there is to do.
    unit
        What is counted.
    """
    console = get_console()
    if not console.is_terminal:
        yield Progress(description, total, unit)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console, transient=True) as bar:
        yield Progress(description, total, unit, bar)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
