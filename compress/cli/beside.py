"""What the commands beside ``python -m compress`` share that take overrides after ``--``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from compress.errors import CompressError

__all__ = ["exit_status_of", "parted"]


def parted(arguments: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Return a command's own arguments, by default those of the process, and the overrides after ``--``."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    place = given.index("--") if "--" in given else len(given)
    return given[:place], given[place + 1 :]


def exit_status_of(work: Callable[[], int]) -> int:
    """Return what `work` returns; errors and signals become one line on standard error and their exit status."""
    from compress.cli.signals import Stopped, stoppable

    try:
        with stoppable():
            return work()
    except CompressError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except Stopped as stop:
        print(str(stop), file=sys.stderr)
        return stop.exit_status
