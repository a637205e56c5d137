"""Speed on this machine: a latency table to search with, and what a structure takes in the end, against the source."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.config.shapes import expand
from compress.errors import ConfigError
from compress.steps.prune.choose import Counts

if TYPE_CHECKING:
    from types import TracebackType

    from compress.config.schemas import PruneTarget
    from compress.steps.base import Context
    from compress.steps.prune.latency_table import LatencyTable

__all__ = ["Stopwatch", "shape_of"]

log = logging.getLogger(__name__)

_SECONDS = 40.0
"""How long a found structure and its source are timed side by side."""


def shape_of(target: PruneTarget) -> tuple[int, int]:
    """Return the one batch and number of tokens of a target.

    Raises
    ------
    ConfigError
        If it is no single shape of stated lengths.
    """
    shapes = expand([target.shape])
    if len(shapes) != 1 or shapes[0].sequence is None:
        raise ConfigError(f"target.shape={target.shape}: one shape BATCHxTOKENS is needed, e.g. 1x32")
    return shapes[0].batch, shapes[0].sequence


class Stopwatch:
    """Times structures of one model in ONNX Runtime, without pruning and exporting it each time.

    Parameters
    ----------
    model
        The dense model; not changed.
    names
        Inputs that its export has.
    target
        Shape and threads.
    context
        Where tables are kept, the threads.
    """

    def __init__(self, model: Any, names: tuple[str, ...], target: PruneTarget, context: Context) -> None:
        from compress.machine import usable_cores
        from compress.models.families import family
        from compress.models.structure import structure_of
        from compress.steps.export import export_graph
        from compress.steps.prune.choose import copy_of
        from compress.steps.prune.narrow_graph import NarrowGraphs

        self._batch, self._sequence = shape_of(target)
        self._threads = target.threads or usable_cores()
        self._cache = context.cache / "latency"
        self._structure = structure_of(model)
        self._architecture = model.config.model_type
        self._folder = tempfile.TemporaryDirectory(prefix="structures")
        assert self._structure.head_size is not None
        dense = export_graph(copy_of(model), names, 20, context.scratch)
        self._graphs = NarrowGraphs(
            dense, family(self._architecture), self._structure.head_size, Path(self._folder.name)
        )

    def table(self, heads: Sequence[int], widths: Sequence[int]) -> LatencyTable:
        """Return the latency table of these levels: the one that is kept for this machine, or a new one."""
        from compress.steps.prune.latency_table import Setting, latency_table

        assert self._structure.head_size is not None
        setting = Setting(
            self._architecture,
            self._structure.hidden_size,
            self._structure.head_size,
            self._structure.heads,
            self._structure.intermediate_size,
            tuple(heads),
            tuple(widths),
            self._batch,
            self._sequence,
            self._threads,
        )
        return latency_table(setting, lambda folder: self._graphs, self._cache)

    def ratio(self, counts: Counts) -> float:
        """Return a structure's time over the dense model's, both timed in turns."""
        from compress.steps.prune.latency_runs import Launcher, rounds_of, typical

        heads, widths = ([pair[place] for pair in counts] for place in (0, 1))
        dense = self._graphs.write(self._structure.heads, self._structure.intermediate_size)
        files = {"dense": dense, "pruned": self._graphs.write(heads, widths)}
        with Launcher(dense, self._batch, self._sequence, self._threads) as launch:
            times = typical(rounds_of(files, launch, seconds=_SECONDS))
        return times["pruned"] / times["dense"]

    def __enter__(self) -> Stopwatch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()
