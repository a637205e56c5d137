"""How many milliseconds heads, neurons and layers take on this machine: measured once, kept, and added up.

Time is modelled as ``rest + Σ_layers (layer + attention(heads) + ffn(width))``, as in ZipLM (arXiv 2302.04089,
section 3.2). The terms are not timed by themselves, where they would find other caches and other fusions than in a
model, but fitted to whole models of many structures.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from compress.console import progress_of
from compress.errors import ConfigError
from compress.files import canonical_json, write_atomic
from compress.steps.prune.latency_runs import Launcher, launches_of, steadied

__all__ = [
    "Entry",
    "LatencyTable",
    "Setting",
    "Structures",
    "design",
    "fitted",
    "latency_table",
    "read_table",
    "table_file",
]

log = logging.getLogger(__name__)

VERSION = 1
"""Of the files; one of another version is measured anew."""

_RESAMPLES = 100
"""Of rounds, for the standard errors."""

_LEVELS = 16
"""Of heads, and of widths, that are measured; between them times are interpolated."""

_UNEVEN = 12
"""Uneven structures that are measured beside those of single levels."""

_TOO_MANY = 0.2
"""Share of disturbed launches that is warned of; medians do without fewer."""

_TURNS = 4
"""Of fitting, and of taking out the machine's drift."""

Structure = tuple[tuple[int, ...], tuple[int, ...]]
"""Heads, and feed-forward widths, of each layer."""


class Structures(Protocol):
    """Writes models of any structure for timing: `NarrowGraphs`, `NarrowCheckpoints`.

    Attributes
    ----------
    heads, widths : tuple of int
        The dense structure.
    like : pathlib.Path
        A path of the kind that is written, by which a process knows what to import; nothing need be there.
    """

    heads: tuple[int, ...]
    widths: tuple[int, ...]
    like: Path

    def write(self, heads: Sequence[int], widths: Sequence[int]) -> Path:
        """Write a model and return the path of what `compress.load` opens; it stays until the next one is written."""


@dataclass(frozen=True)
class Setting:
    """What a table holds for, beside the machine and the versions.

    Attributes
    ----------
    architecture : str
        What sizes do not tell: class, activation, embeddings.
    hidden, head_size : int
        Hidden width, and width of a head.
    heads, widths : tuple of int
        The dense structure.
    head_levels, width_levels : tuple of int
        What there is to choose from, rising up to the dense sizes; the smallest, the largest and some between are
        measured.
    batch, sequence : int
        Shape of the batch.
    threads : int
        Intra-op threads.
    runtime : str
        ``onnxruntime`` or ``torch``.
    precision : str
        ``fp32`` or ``int8``.
    """

    architecture: str
    hidden: int
    head_size: int
    heads: tuple[int, ...]
    widths: tuple[int, ...]
    head_levels: tuple[int, ...]
    width_levels: tuple[int, ...]
    batch: int
    sequence: int
    threads: int
    runtime: str = "onnxruntime"
    precision: str = "fp32"

    def __post_init__(self) -> None:
        for name in ("head", "width"):
            levels = getattr(self, f"{name}_levels")
            most = max(self.heads if name == "head" else self.widths)
            if list(levels) != sorted(set(levels)) or not levels or levels[0] < 1 or levels[-1] != most:
                raise ConfigError(
                    f"{name}_levels={list(levels)}: rising numbers from 1 on are needed, the last one {most} as in the "
                    f"dense model"
                )
        if min(self.batch, self.sequence, self.threads) < 1:
            raise ConfigError(f"shape {self.batch}x{self.sequence}, threads={self.threads}: each must be 1 or more")

    @property
    def measured_heads(self) -> tuple[int, ...]:
        """Numbers of heads that are measured."""
        return _spread(self.head_levels)

    @property
    def measured_widths(self) -> tuple[int, ...]:
        """Widths that are measured."""
        return _spread(self.width_levels)

    def key(self) -> dict[str, Any]:
        """Return all that a table depends on, as JSON has it."""
        from compress.machine import cpu_model, isa, package_version, usable_cores

        packages = {name: package_version(name) for name in ("onnxruntime", "torch", "transformers")}
        machine = {"cpu": cpu_model(), "isa": isa(), "cores": usable_cores()}
        key: dict[str, Any] = json.loads(canonical_json({**asdict(self), "machine": machine, "packages": packages}))
        return key


def _spread(levels: Sequence[int]) -> tuple[int, ...]:
    """Return some of the levels, the first and the last among them, closer to each other where they are small."""
    if len(levels) <= _LEVELS:
        return tuple(levels)
    places = (len(levels) - 1) * np.linspace(0, 1, _LEVELS) ** 1.5
    return tuple(levels[at] for at in sorted(set(np.rint(places).astype(int).tolist())))


@dataclass(frozen=True)
class Entry:
    """A measured term.

    Attributes
    ----------
    ms : float
        Milliseconds.
    error : float
        Standard error, by resampling rounds.
    """

    ms: float
    error: float


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds of the parts of a model; a `compress.steps.prune.cost.Cost`.

    Between measured levels it interpolates. More heads or a larger width never take less: where measuring
    says so, the smaller one is given the time of the larger, which no search then chooses before the larger.

    Attributes
    ----------
    key : dict
        What it holds for.
    heads, widths : dict of int to Entry
        What a block takes above one of the smallest level.
    layer_entry : Entry
        A layer of the smallest levels.
    rest_entry : Entry
        Embeddings, head and whatever else is not in the layers.
    dense_ms : float
        The dense model, measured.
    misfit : float
        Root mean square of the relative difference of measured and fitted times.
    rounds : int
        Launches of each structure.
    """

    key: Mapping[str, Any]
    heads: Mapping[int, Entry]
    widths: Mapping[int, Entry]
    layer_entry: Entry
    rest_entry: Entry
    dense_ms: float
    misfit: float
    rounds: int

    @property
    def rest(self) -> float:
        """Milliseconds outside of the layers."""
        return self.rest_entry.ms

    @property
    def layer(self) -> float:
        """Milliseconds of a layer of the smallest levels."""
        return self.layer_entry.ms

    def attention(self, heads: int) -> float:
        """Return milliseconds of an attention block above one of the smallest level."""
        return _between(self.heads, heads, "heads")

    def ffn(self, width: int) -> float:
        """Return milliseconds of a feed-forward block above one of the smallest level."""
        return _between(self.widths, width, "width")

    def total(self, heads: Sequence[int], widths: Sequence[int]) -> float:
        """Return milliseconds of a model: heads, and feed-forward width, of each layer that is kept."""
        blocks = sum(self.attention(count) for count in heads) + sum(self.ffn(width) for width in widths)
        return self.rest + self.layer * len(heads) + blocks

    def to_json(self) -> bytes:
        """Return the content of a file."""
        terms = {
            "heads": _listed(self.heads),
            "widths": _listed(self.widths),
            "layer": asdict(self.layer_entry),
            "rest": asdict(self.rest_entry),
        }
        facts = {"dense_ms": self.dense_ms, "misfit": self.misfit, "rounds": self.rounds}
        return canonical_json({"version": VERSION, "key": dict(self.key), **terms, **facts})

    @classmethod
    def from_json(cls, content: bytes) -> LatencyTable:
        """Return a table from the content of a file.

        Raises
        ------
        ValueError
            If it is damaged or of another version.
        """
        try:
            found = json.loads(content)
            if found["version"] != VERSION:
                raise ValueError(f"version {found['version']}")
            table = cls(
                found["key"],
                {int(size): Entry(**entry) for size, entry in found["heads"].items()},
                {int(size): Entry(**entry) for size, entry in found["widths"].items()},
                Entry(**found["layer"]),
                Entry(**found["rest"]),
                float(found["dense_ms"]),
                float(found["misfit"]),
                int(found["rounds"]),
            )
            entries = [*table.heads.values(), *table.widths.values(), table.layer_entry, table.rest_entry]
            if not all(np.isfinite([entry.ms, entry.error]).all() and entry.ms >= 0 for entry in entries):
                raise ValueError("a time that cannot be")
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error
        return table


def _listed(entries: Mapping[int, Entry]) -> dict[str, Any]:
    return {str(size): asdict(entry) for size, entry in entries.items()}


def _between(entries: Mapping[int, Entry], size: int, what: str) -> float:
    sizes = sorted(entries)
    if not sizes[0] <= size <= sizes[-1]:
        raise ConfigError(f"{what} {size}: the latency table was measured from {sizes[0]} to {sizes[-1]}")
    return float(np.interp(size, sizes, [entries[at].ms for at in sizes]))


# --- measuring ---------------------------------------------------------------------------------


def design(setting: Setting) -> list[Structure]:
    """Return the structures that are measured, the dense one first.

    Every level of a block is measured in all layers at once, among blocks of the other kind and of a quarter of their
    size: there models are as small as those that a target leads to, and what a level takes stands out. Some uneven
    structures of all sizes, and some of fewer layers, add what blocks do to each other and what is outside of them.
    """
    layers = len(setting.heads)
    heads, widths = setting.measured_heads, setting.measured_widths
    few, narrow = _nearest(heads, heads[-1] / 4), _nearest(widths, widths[-1] / 4)
    found: dict[Structure, None] = {(setting.heads, setting.widths): None}
    found |= {((count,) * layers, (narrow,) * layers): None for count in heads}
    found |= {((few,) * layers, (width,) * layers): None for width in widths}
    generator = np.random.default_rng(0)
    for number in range(_UNEVEN):
        share = (number + 1) / _UNEVEN
        found[_drawn(heads, layers, share, generator), _drawn(widths, layers, share, generator)] = None
    for fewer in sorted({1, layers // 3, 2 * layers // 3} & set(range(1, layers))):
        found[(few,) * fewer, (narrow,) * fewer] = None
        found[setting.heads[:fewer], setting.widths[:fewer]] = None
    return list(found)


def _nearest(levels: Sequence[int], size: float) -> int:
    return min(levels, key=lambda level: abs(level - size))


def _drawn(levels: Sequence[int], layers: int, share: float, generator: np.random.Generator) -> tuple[int, ...]:
    """Return a level for each layer, on the average about that share of the dense one."""
    sizes = levels[-1] * np.clip(share * generator.uniform(0.3, 1.7, layers), 0, 1)
    return tuple(_nearest(levels, float(size)) for size in sizes)


def fitted(setting: Setting, launches: Sequence[tuple[Structure, float]]) -> LatencyTable:
    """Return the table that explains launches best.

    Non-negative least squares of relative errors (Lawson and Hanson 1974), in the steps from each level to the next:
    so more never takes less. The medians that are fitted are those of times without the machine's drift
    (`compress.steps.prune.latency_runs.steadied`), which needs to know what launches should take: both are improved in
    turns.

    Parameters
    ----------
    setting
        Its levels are the terms.
    launches
        Structures and milliseconds, in the order in which they were measured, each structure equally often.
    """
    names = list(dict.fromkeys(structure for structure, _ in launches))
    places = {structure: at for at, structure in enumerate(names)}
    which = np.array([places[structure] for structure, _ in launches])
    raw = np.array([milliseconds for _, milliseconds in launches], dtype=np.float64)
    terms = np.array([_terms(setting, structure) for structure in names])
    by_structure = np.argsort(which, kind="stable").reshape(len(names), -1)
    steady = raw
    for _ in range(_TURNS):
        coefficients = _solved(terms, np.median(steady[by_structure], axis=1))
        steady = steadied(raw, (terms @ coefficients)[which])
    times = steady[by_structure]
    medians = np.median(times, axis=1)
    coefficients = _solved(terms, medians)
    generator = np.random.default_rng(0)
    rounds = times.shape[1]
    resampled = np.array(
        [_solved(terms, np.median(times[:, generator.integers(0, rounds, rounds)], axis=1)) for _ in range(_RESAMPLES)]
    )
    heads, widths = len(setting.measured_heads), len(setting.measured_widths)
    value, error = _sums(coefficients[None], heads)[0], _sums(resampled, heads).std(axis=0)
    entries = [Entry(float(ms), float(spread)) for ms, spread in zip(value, error, strict=True)]
    dense = (setting.heads, setting.widths)
    return LatencyTable(
        setting.key(),
        dict(zip(setting.measured_heads, entries[2 : 2 + heads], strict=True)),
        dict(zip(setting.measured_widths, entries[2 + heads : 2 + heads + widths], strict=True)),
        entries[1],
        entries[0],
        float(medians[places[dense]]) if dense in places else float(terms[0] @ coefficients),
        float(np.sqrt(np.mean((terms @ coefficients / medians - 1) ** 2))),
        rounds,
    )


def _terms(setting: Setting, structure: Structure) -> list[float]:
    """Return how often each term is in a structure: rest, layers, steps of heads, steps of width."""
    heads, widths = structure
    above = [sum(count >= level for count in heads) for level in setting.measured_heads[1:]]
    above += [sum(width >= level for width in widths) for level in setting.measured_widths[1:]]
    return [1.0, float(len(heads)), *map(float, above)]


def _solved(terms: np.ndarray, milliseconds: np.ndarray) -> np.ndarray:
    from scipy.optimize import nnls

    solved: np.ndarray = nnls(terms / milliseconds[:, None], np.ones(len(terms)), maxiter=100 * terms.shape[1])[0]
    return solved


def _sums(coefficients: np.ndarray, heads: int) -> np.ndarray:
    """Return rest, layer, and each level above the smallest, from steps ``[..., terms]``."""
    zero = np.zeros((len(coefficients), 1))
    steps = coefficients[:, 2 : 1 + heads], coefficients[:, 1 + heads :]
    levels = [np.hstack([zero, np.cumsum(step, axis=1)]) for step in steps]
    return np.hstack([coefficients[:, :2], *levels])


# --- cache -------------------------------------------------------------------------------------


def table_file(cache: Path, setting: Setting) -> Path:
    """Return where a table is kept: named by all that it depends on."""
    digest = hashlib.sha256(canonical_json({"version": VERSION, **setting.key()})).hexdigest()
    return cache / f"latency-{digest[:16]}.json"


def read_table(cache: Path, setting: Setting) -> LatencyTable | None:
    """Return a table that was kept; None where there is none, or one that cannot be read."""
    file = table_file(cache, setting)
    try:
        table = LatencyTable.from_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("%s cannot be read (%s); latency is measured anew", file, error)
        return None
    return table if table.key == setting.key() else None


def latency_table(
    setting: Setting,
    structures: Callable[[Path], Structures],
    cache: Path,
    *,
    seconds: float = 150.0,
    launch: Callable[[Path], float] | None = None,
) -> LatencyTable:
    """Return the latency table of a setting: the one that was kept, or a new one.

    Parameters
    ----------
    setting
        What it is to hold for.
    structures
        From an empty folder to what writes models there; called only if something is measured.
    cache
        Folder of tables.
    seconds
        How long to measure, about.
    launch
        From a model's path to milliseconds; by default a new process that runs the setting's shape (`Launcher`).

    Raises
    ------
    ConfigError
        If what `structures` writes is another dense model than the setting's.
    """
    kept = read_table(cache, setting)
    if kept is not None:
        return kept
    with tempfile.TemporaryDirectory(prefix="latency") as folder, contextlib.ExitStack() as stack:
        writer = structures(Path(folder))
        if (writer.heads, writer.widths) != (setting.heads, setting.widths):
            raise ConfigError(
                f"the model to measure has heads {list(writer.heads)} and widths {list(writer.widths)}, the setting of "
                f"the latency table {list(setting.heads)} and {list(setting.widths)}"
            )
        asked = design(setting)
        launcher = None
        if launch is None:
            shape = setting.batch, setting.sequence
            launch = launcher = stack.enter_context(Launcher(writer.like, *shape, setting.threads))
        launched, began = launch, time.monotonic()
        with progress_of("measuring latency", round(seconds), "s") as progress:
            launches = launches_of(
                asked,
                lambda structure: launched(writer.write(*structure)),
                seconds=seconds,
                report=lambda _: progress.advance(round(time.monotonic() - began) - progress.done),
            )
        if launcher is not None and launcher.disturbed > _TOO_MANY * launcher.launches:
            log.warning(
                "latency table: other processes disturbed %d of %d launches; its times are too high. End them, remove "
                "%s and run again",
                launcher.disturbed,
                launcher.launches,
                table_file(cache, setting),
            )
    table = fitted(setting, launches)
    write_atomic(table_file(cache, setting), table.to_json())
    return table
