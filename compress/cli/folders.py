"""The top-level folders recipes/ and experiments/ as Hydra config groups, in a checkout and in an installed wheel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

__all__ = ["conf_path", "install", "options", "root"]

_PACKAGE = Path(__file__).resolve().parent.parent


def root() -> Path:
    """Return the folder that holds conf/ and recipes/: inside an installed package, or the checkout."""
    carried = _PACKAGE / "_configs"
    return carried if carried.is_dir() else _PACKAGE.parent


def conf_path() -> str:
    """Return the folder of the config groups."""
    return str(root() / "conf")


def options(group: str) -> list[str]:
    """Return the shipped options of a group, sorted."""
    if group == "recipe":
        return sorted(file.stem for file in (root() / "recipes").glob("*.yaml"))
    if group == "experiment":
        return sorted(file.parent.name for file in (root() / "experiments").glob("*/experiment.yaml"))
    return sorted(file.stem for file in (root() / "conf" / group).glob("*.yaml"))


class _GroupFolder(FileConfigSource):
    """``group://recipe=/path`` serves /path/NAME.yaml as recipe/NAME; for experiments /path/NAME/experiment.yaml."""

    def __init__(self, provider: str, path: str) -> None:
        group, _, folder = path.removeprefix("group://").partition("=")
        super().__init__(provider, f"group://{folder}")
        self.group = group

    @staticmethod
    def scheme() -> str:
        return "group"

    def _inside(self, path: str) -> str | None:
        """Return the path below the folder, or None if it is not of this group."""
        if path == self.group:
            return ""
        if not path.startswith(f"{self.group}/"):
            return None
        name = path.removeprefix(f"{self.group}/")
        if self.group == "experiment":
            return f"{name.removesuffix('.yaml')}/experiment.yaml"
        return name

    def available(self) -> bool:
        return Path(self.path).is_dir()

    def is_group(self, config_path: str) -> bool:
        return config_path == "" or self._inside(config_path) == ""

    def is_config(self, config_path: str) -> bool:
        inside = self._inside(config_path)
        return bool(inside) and super().is_config(str(inside))

    def load_config(self, config_path: str) -> Any:
        return super().load_config(str(self._inside(config_path)))

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        if config_path == "":
            return [self.group] if results_filter in (None, ObjectType.GROUP) else []
        if self._inside(config_path) != "" or results_filter == ObjectType.GROUP:
            return []
        return options(self.group)


class _Folders(SearchPathPlugin):
    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for group, folder in (("recipe", "recipes"), ("experiment", "experiments")):
            search_path.append("compress", f"group://{group}={root() / folder}")


def install() -> None:
    """Make Hydra serve both folders."""
    plugins = Plugins.instance()
    plugins.register(_GroupFolder)
    plugins.register(_Folders)
