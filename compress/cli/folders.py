"""The top-level folders recipes/ and experiments/ as Hydra config groups, in a checkout and in an installed wheel."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.object_type import ObjectType
from hydra.errors import ConfigCompositionException

from compress.config.shipped import FOLDERS, GROUPS_WITHOUT_SCHEMA, options, root

if TYPE_CHECKING:
    from hydra.core.config_search_path import ConfigSearchPath

__all__ = ["GroupFolder", "refuse_shadowing", "search_path"]


class GroupFolder(FileConfigSource):  # type: ignore[misc, unused-ignore]
    """``group://recipe=DIR`` serves DIR/NAME.yaml as recipe/NAME, and for experiments DIR/NAME/experiment.yaml.

    A config source of its own, because a symbolic link needs a file system that has them, and filling the
    ConfigStore from YAML would let one broken recipe break every command.
    """

    def __init__(self, provider: str, path: str) -> None:
        group, _, folder = path.removeprefix("group://").partition("=")
        super().__init__(provider, f"group://{folder}")
        self.group = group

    @staticmethod
    def scheme() -> str:
        """Return the scheme that the search path names it by."""
        return "group"

    def available(self) -> bool:
        """Return whether the folder exists; an installed package has no experiments/."""
        return Path(self.path).is_dir()

    def is_group(self, config_path: str) -> bool:
        """Return whether a path is the group itself."""
        return config_path in ("", self.group)

    def is_config(self, config_path: str) -> bool:
        """Return whether a path is one of the options."""
        inside = self._inside(config_path)
        return inside is not None and super().is_config(inside)

    def load_config(self, config_path: str) -> Any:
        """Read an option."""
        return super().load_config(self._inside(config_path) or config_path)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Return the group, or its options."""
        if config_path == "":
            return [self.group] if results_filter in (None, ObjectType.GROUP) else []
        if config_path != self.group or results_filter == ObjectType.GROUP:
            return []
        pattern = "*/experiment.yaml" if self.group == "experiment" else "*.yaml"
        files = sorted(Path(self.path).glob(pattern))
        return [file.parent.name if self.group == "experiment" else file.stem for file in files]

    def _inside(self, config_path: str) -> str | None:
        """Return the path below the folder, or None if it is not of this group."""
        if not config_path.startswith(f"{self.group}/"):
            return None
        name = config_path.removeprefix(f"{self.group}/").removesuffix(".yaml")
        return f"{name}/experiment.yaml" if self.group == "experiment" else f"{name}.yaml"


def search_path(config_dir: Path | None = None) -> ConfigSearchPath:
    """Return where Hydra looks: conf/, recipes/, experiments/, then the user's folder, then the schemas."""
    from hydra._internal.sources_registry import SourcesRegistry
    from hydra._internal.utils import create_config_search_path
    from hydra.core.config_search_path import SearchPathQuery

    SourcesRegistry.instance().register(GroupFolder)
    path = create_config_search_path(str(root() / "conf"))
    before_schemas = SearchPathQuery(provider="schema")
    for group, folder in FOLDERS.items():
        path.prepend("compress", f"group://{group}={root() / folder}", before_schemas)
    if config_dir is not None:
        path.prepend("command-line", f"file://{config_dir}", before_schemas)
        for group, folder in FOLDERS.items():
            if (config_dir / folder).is_dir():
                path.prepend("command-line", f"group://{group}={config_dir / folder}", before_schemas)
    return path


def refuse_shadowing(folder: Path) -> None:
    """Refuse a user's folder with an option of a shipped name: which of the two runs would be a matter of luck."""
    from compress.config.registry import GROUPS

    for group in (*GROUPS, *GROUPS_WITHOUT_SCHEMA):
        shipped = options(group)
        places = [folder / group, *([folder / FOLDERS[group]] if group in FOLDERS else [])]
        for file in sorted(file for place in places for file in place.glob("*.yaml")):
            if file.stem in shipped:
                raise ConfigCompositionException(
                    f"{file}: {group}={file.stem} is the name of one that is shipped; give yours another name"
                )
    if (folder / "config.yaml").is_file():
        raise ConfigCompositionException(f"{folder / 'config.yaml'}: the primary config cannot be replaced; rename it")
