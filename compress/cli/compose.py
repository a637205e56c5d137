"""Hydra composes; whatever it, OmegaConf or the YAML reader raise becomes one line that says what to change."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.cli.folders import refuse_shadowing, search_path
from compress.cli.keys import expected, known_keys, suggest, unknown_key
from compress.cli.targets import keep_given_targets
from compress.config.registry import groups, register
from compress.config.shipped import GROUPS_WITHOUT_SCHEMA, options
from compress.errors import ConfigError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from hydra.types import RunMode
    from omegaconf import DictConfig

__all__ = ["Composer", "Given", "choices_of", "given", "lines_of"]

CONFIG = "config"
"""Name of the primary config."""


class Composer:
    """Composes configs; keeps no state in Hydra's globals but its resolvers.

    Parameters
    ----------
    config_dir
        A user's own folder of configs.

    Raises
    ------
    ConfigError
        If that folder does not exist.
    """

    def __init__(self, config_dir: str | Path | None = None) -> None:
        from hydra import version
        from hydra._internal.config_loader_impl import ConfigLoaderImpl
        from hydra._internal.hydra import Hydra

        version.setbase("1.3")
        register()
        self.config_dir = None if config_dir is None else Path(config_dir).expanduser().resolve()
        if self.config_dir is not None and not self.config_dir.is_dir():
            raise ConfigError(f"--config-dir {config_dir}: no such directory")
        self.loader = ConfigLoaderImpl(config_search_path=search_path(self.config_dir))
        self.hydra = Hydra(task_name="compress", config_loader=self.loader)

    def compose(self, overrides: Sequence[str], mode: RunMode | None = None) -> DictConfig:
        """Return the composed config, Hydra's own node included.

        Parameters
        ----------
        overrides
            As on the command line.
        mode
            Whether for a single run (default) or as the common part of a sweep.

        Raises
        ------
        ConfigError
            For whatever cannot be composed.
        """
        from hydra.types import RunMode

        def load() -> DictConfig:
            loaded: DictConfig = self.loader.load_configuration(CONFIG, list(overrides), mode or RunMode.RUN)
            return loaded

        self._check_overrides(overrides)
        return self.guarded(load)

    def compose_job(self, sweep: DictConfig, overrides: Sequence[str]) -> DictConfig:
        """Return the config of one job of a sweep."""
        return self.guarded(lambda: self.loader.load_sweep_config(sweep, list(overrides)))

    def guarded(self, compose: Any) -> DictConfig:
        """Compose, check the folders that were read, and turn what is raised into ConfigError."""
        try:
            config: DictConfig = compose()
            keep_given_targets(config, [item.key for item in given(lines_of(config))])
            for source in config.hydra.runtime.config_sources:
                if source.schema == "file" and source.provider not in ("hydra", "main"):
                    refuse_shadowing(Path(source.path))
        except Exception as error:  # no code of ours runs in there: the input is at fault, whatever is raised
            raise ConfigError(self._explained(error)) from error
        return config

    def _check_overrides(self, overrides: Sequence[str]) -> None:
        """Refuse what Hydra refuses without naming it: a line that is no override, a group set to no option."""
        from hydra.core.override_parser.overrides_parser import OverridesParser
        from hydra.errors import HydraException

        parser = OverridesParser.create()
        for line in overrides:
            try:
                parsed = parser.parse_override(line)
            except HydraException as error:
                raise ConfigError(
                    f"{line!r} is no override; write key=value, and a value with blanks, commas or brackets in quotes: "
                    f"'key=\"a, b\"'"
                ) from error
            group = parsed.key_or_group
            if not group:
                raise ConfigError(f"{line!r} is no override: it names no key; write key=value")
            if (
                not isinstance(group, str)
                or group not in (*groups(), *GROUPS_WITHOUT_SCHEMA)
                or parsed.is_sweep_override()
            ):
                continue
            if parsed.is_add() and group == "debug":
                raise ConfigError(f"{line}: debug is there already; leave the + out")
            if not parsed.is_add() and group == "experiment":
                raise ConfigError(f"{line}: an experiment is added; write +{line}")
            if not parsed.is_delete() and not isinstance(parsed.value(), str | list | dict):
                allowed = ", ".join(self._options(group)) or "none"
                raise ConfigError(f"{line}: an option of {group} is needed; allowed: {allowed}")

    def _options(self, group: str) -> list[str]:
        if group in (*groups(), *GROUPS_WITHOUT_SCHEMA):
            return options(group, self.config_dir)
        return list(self.loader.get_group_options(group))

    def _explained(self, error: Exception) -> str:
        text = " ".join(str(error).split())
        chain = [error]
        while chain[-1].__cause__ is not None and isinstance(chain[-1].__cause__, Exception):
            chain.append(chain[-1].__cause__)
        for link in chain:
            if type(link).__module__.startswith("yaml"):
                return f"a config file is no valid YAML: {' '.join(str(link).split())}"
            if isinstance(link, UnicodeDecodeError):
                return f"a config file is not UTF-8: {link}"
        return (
            self._no_option(text)
            or self._bad_key(text, chain)
            or self._bad_override(text)
            or self._bad_value(text, chain)
            or text
            or type(error).__name__
        )

    def _no_option(self, text: str) -> str | None:
        found = re.search(r"Could not find '([^']+)'", text) or re.search(
            r"could not load '([^']+)'", text, re.IGNORECASE
        )
        if found is None:
            return None
        from compress.sweeping.launchers import EXTRAS, missing

        group, _, name = found.group(1).rpartition("/")
        if not group:
            return f"{name}: unknown key{suggest(name, known_keys())}"
        allowed = self._options(group)
        if group == "hydra/launcher" and name in EXTRAS:
            return str(missing(group, name, EXTRAS[name]))
        return f"{group}={name}: no such option{suggest(name, allowed)}; allowed: {', '.join(allowed) or 'none'}"

    def _bad_key(self, text: str, chain: Sequence[Exception]) -> str | None:
        key = _search(
            text,
            r"Could not override '([^']+)'",
            r"Could not delete(?: from config)?\.? ?'?([^\s']+)'? does not exist",
            r"Could not delete\. The value of '([^']+)'",
            r"Could not append to config\. An item is already at '([^']+)'",
        )
        if key is None:
            return None
        if "already at" in text:
            return f"+{key}: exists already; leave the + out"
        if "The value of" in text:
            return f"~{key}: its value is another; a key cannot be removed, set a value or null"
        if "delete" in text:
            return f"~{key}: no such key{suggest(key, known_keys())}"
        if "No match in the defaults list" in text:
            return f"{key}: no such group{suggest(key, known_keys())}"
        full = _search(str(chain[-1]), r"full_key: (\S+)") or key
        return unknown_key(full if full.startswith(key) else key)

    def _bad_override(self, text: str) -> str | None:
        line = _search(text, r"Ambiguous value for argument '([^']*)'")
        if line is not None:
            name, _, value = line.partition("=")
            return f"{line}: several values; a list is {name}=[{value}], a sweep needs -m"
        line = _search(text, r"Sweep parameters '([^']*)' requires --multirun")
        if line is not None:
            return f"{line}: a sweep; add -m"
        return None

    def _bad_value(self, text: str, chain: Sequence[Exception]) -> str | None:
        from omegaconf.errors import OmegaConfBaseException

        cause = chain[-1]
        if not isinstance(cause, OmegaConfBaseException):
            return None
        detail = str(cause).splitlines()[0]
        where = _search(str(cause), r"full_key: (\S+)")
        line = _search(text, r"Error merging override (\S+)")
        place = _search(text, r"In '([^']+)':")
        named = where or (line or "").lstrip("+~").partition("=")[0] or "config"
        suffix = f" (in {line})" if line and line.lstrip("+~").partition("=")[0] != where else ""
        suffix += f" (in {place})" if place else ""
        value = line.partition("=")[2] if line and not suffix else None
        shown = named if value is None else f"{named}={value}"
        if "not in" in detail:
            return unknown_key(named) + suffix
        if "does not support deletion" in detail:
            return f"~{named}: a key cannot be removed; set a value or null"
        if "is not a subclass of" in detail:
            return f"{shown}: {named} is a group of keys; set them one by one, as {named}.KEY=VALUE{suffix}"
        return f"{shown}: {detail}{expected(named)}{suffix}"


@dataclass(frozen=True)
class Given:
    """An override as the user wrote it.

    Attributes
    ----------
    line : str
        The override.
    key : str
        Dotted key, or name of a group.
    """

    line: str
    key: str

    @property
    def node(self) -> str:
        """The top-level config node that it touches."""
        return self.key.partition(".")[0]


def given(overrides: Sequence[str]) -> list[Given]:
    """Parse overrides that Hydra has accepted."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed: list[Override] = OverridesParser.create().parse_overrides(list(overrides))
    return [Given(str(item.input_line), str(item.package or item.key_or_group).replace("/", ".")) for item in parsed]


def lines_of(config: DictConfig) -> list[str]:
    """Return the overrides as they were given, interpolations unresolved."""
    from omegaconf import OmegaConf

    lines: Any = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    return [str(line) for line in lines]


def choices_of(config: DictConfig) -> Mapping[str, str | None]:
    """Return the option chosen of each group."""
    chosen = config.hydra.runtime.choices
    return {str(name): None if chosen[name] is None else str(chosen[name]) for name in chosen}


def _search(text: str, *patterns: str) -> str | None:
    for pattern in patterns:
        found = re.search(pattern, text)
        if found:
            return found.group(1)
    return None
