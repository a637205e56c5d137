"""The one family of errors that a user meets; each knows the exit status it leads to."""

from __future__ import annotations

__all__ = [
    "CheckpointError",
    "CompressError",
    "ConfigError",
    "DataError",
    "MachineError",
    "StepError",
    "UnsupportedError",
]


class CompressError(Exception):
    """Base of every error raised on purpose.

    Attributes
    ----------
    exit_status : int
        What the command line returns: 2 for what the user can mend by changing the command or the
        input, 1 for a run that failed on the way.
    """

    exit_status: int = 2


class ConfigError(CompressError):
    """A key, a value or an order of steps that cannot be: names the key, the value, what is allowed."""


class DataError(CompressError):
    """Input data that cannot be used: names the file, the row or column, what to change."""


class CheckpointError(CompressError):
    """A checkpoint that is missing, truncated, tampered with or of the wrong kind."""


class UnsupportedError(CompressError):
    """Something this project, this machine or an absent extra cannot do: says which and what can."""


class MachineError(CompressError):
    """A missing package, device, permission or disk space."""


class StepError(CompressError):
    """A step that ran and failed: a gate not passed, an export that disagrees, a diverged training."""

    exit_status = 1
