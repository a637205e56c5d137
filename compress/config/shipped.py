"""Which config files are shipped, and where they lie."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

__all__ = ["FOLDERS", "GROUPS_WITHOUT_SCHEMA", "defaults", "file_of", "options", "root", "title"]

FOLDERS = MappingProxyType({"recipe": "recipes", "experiment": "experiments"})
"""Groups whose options lie in a top-level folder of their own."""

GROUPS_WITHOUT_SCHEMA = ("recipe", "experiment", "debug")
"""Groups whose options set the nodes of other groups."""

_PACKAGE = Path(__file__).resolve().parent.parent


def root() -> Path:
    """Return the folder that holds conf/ and recipes/: inside an installed package, or the checkout."""
    carried = _PACKAGE / "_configs"
    return carried if carried.is_dir() else _PACKAGE.parent


def file_of(group: str, option: str) -> Path:
    """Return the file of a shipped option, whether or not it exists."""
    if group == "experiment":
        return root() / "experiments" / option / "experiment.yaml"
    return root() / FOLDERS.get(group, f"conf/{group}") / f"{option}.yaml"


def options(group: str, also: Path | None = None) -> list[str]:
    """Return the options of a group, sorted.

    Parameters
    ----------
    group
        Name of a config group.
    also
        A user's own folder of configs, whose options are added.
    """
    if group == "experiment":
        folders = [root() / "experiments", *([] if also is None else [also / "experiments"])]
        return sorted(file.parent.name for folder in folders for file in folder.glob("*/experiment.yaml"))
    places = [file_of(group, "any").parent]
    if also is not None:
        places += [also / group, also / FOLDERS.get(group, group)]
    return sorted({file.stem for place in places for file in place.glob("*.yaml")})


def defaults() -> dict[str, str | None]:
    """Return the option that the primary config chooses of each group; None for none."""
    import yaml

    content = yaml.safe_load((root() / "conf" / "config.yaml").read_text(encoding="utf-8"))
    entries = [entry for entry in content["defaults"] if isinstance(entry, dict)]
    return {group: option for entry in entries for group, option in entry.items() if " " not in group}


def title(file: Path) -> str:
    """Return the first comment of a config file that is no directive: what the option is."""
    with file.open(encoding="utf-8", errors="replace") as stream:
        for line in stream:
            text = line.strip()
            if text.startswith("#") and not text.startswith("# @"):
                return text.lstrip("# ").rstrip()
            if text and not text.startswith("#"):
                break
    return ""
