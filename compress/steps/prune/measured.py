"""Speed on this machine: a latency table to search with, and what a structure takes in the end, against the source."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.steps.prune.choose import Counts, levels_of
from compress.steps.prune.targets import shape_of

if TYPE_CHECKING:
    from types import TracebackType

    from compress.config.schemas import Prune
    from compress.steps.base import Context
    from compress.steps.prune.latency_table import LatencyTable
    from compress.steps.prune.narrow_graph import NarrowGraphs
    from compress.tasks.base import Features

__all__ = ["Stopwatch", "kind_of"]

log = logging.getLogger(__name__)

_SECONDS = 40.0
"""How long a found structure and its source are timed side by side."""


class Stopwatch:
    """Times structures in ONNX Runtime, without pruning and exporting a model each time.

    Where the source is the reference with narrower layers, or the reference itself, it is the reference's graph that is
    narrowed: then one table serves every round and every member of a family.

    Parameters
    ----------
    source
        The model whose heads and neurons go; not changed.
    reference
        The model that a speedup is relative to; not changed.
    features
        Rows, by which exports get their inputs.
    config
        Shape, threads, levels.
    context
        Where tables are kept.
    """

    def __init__(self, source: Any, reference: Any, features: Features, config: Prune, context: Context) -> None:
        from compress.machine import usable_cores
        from compress.models.structure import structure_of

        self._batch, self._sequence = shape_of(config.target)
        self._threads = config.target.threads or usable_cores()
        self._config = config
        self._cache = context.cache / "latency"
        self._folder = tempfile.TemporaryDirectory(prefix="structures")
        narrowed = reference if _is_narrower(source, reference) else source
        self._structure = structure_of(narrowed)
        self._architecture = kind_of(narrowed)
        self._graphs = self._exported(narrowed, features, context, "narrowed")
        self._reference = self._graphs.write(self._structure.heads, self._structure.intermediate_size)
        self._apart = narrowed is not reference
        if self._apart:
            sizes = structure_of(reference)
            graphs = self._exported(reference, features, context, "reference")
            self._reference = graphs.write(sizes.heads, sizes.intermediate_size)

    def _exported(self, model: Any, features: Features, context: Context, folder: str) -> NarrowGraphs:
        from compress.models.families import family
        from compress.models.structure import head_size_of
        from compress.steps.export import export_graph, input_names
        from compress.steps.prune.choose import copy_of
        from compress.steps.prune.narrow_graph import NarrowGraphs

        place = Path(self._folder.name) / folder
        place.mkdir()
        graph = export_graph(copy_of(model), input_names(model, features), 20, context.scratch)
        return NarrowGraphs(graph, family(model.config.model_type), head_size_of(model), place)

    def table(self) -> LatencyTable:
        """Return the latency table: the one that is kept for this machine, or a new one."""
        from compress.steps.prune.latency_table import Setting, latency_table

        assert self._structure.head_size is not None
        heads = levels_of(max(self._structure.heads), 1, self._config.least_heads)
        widths = levels_of(max(self._structure.intermediate_size), self._config.multiple)
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

    def reference_ms(self) -> float:
        """Return the milliseconds of the reference, in the table's measure."""
        dense = self.table().dense_ms
        if not self._apart:
            return dense
        counts = list(zip(self._structure.heads, self._structure.intermediate_size, strict=True))
        return dense / self.ratio(counts)

    def ratio(self, counts: Counts) -> float:
        """Return a structure's time over the reference's, both timed in turns."""
        from compress.steps.prune.latency_runs import Launcher, rounds_of, typical

        heads, widths = ([pair[place] for pair in counts] for place in (0, 1))
        files = {"reference": self._reference, "pruned": self._graphs.write(heads, widths)}
        with Launcher(self._reference, self._batch, self._sequence, self._threads) as launch:
            times = typical(rounds_of(files, launch, seconds=_SECONDS))
        return times["pruned"] / times["reference"]

    def __enter__(self) -> Stopwatch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()


def kind_of(model: Any) -> str:
    """Return what the time outside of heads and neurons depends on, beside widths: a head for each token, a rank."""
    from compress.models.activation import activation_of
    from compress.models.structure import structure_of

    structure = structure_of(model)
    widths = f"embedding {structure.embedding_size or 'plain'} {structure.embedding_rank or 'whole'}"
    return f"{type(model).__name__} {activation_of(model)} {widths}"


def _is_narrower(source: Any, reference: Any) -> bool:
    """Whether a model is another with at most its heads and neurons in each layer, and the rest of it alike."""
    from compress.models.activation import activation_of
    from compress.models.structure import structure_of

    if source.config.model_type != reference.config.model_type or activation_of(source) != activation_of(reference):
        return False
    ours, theirs = structure_of(source), structure_of(reference)
    alike = all(getattr(ours, name) == getattr(theirs, name) for name in ("layers", "hidden_size", "head_size"))
    return alike and all(
        one <= two
        for name in ("heads", "intermediate_size")
        for one, two in zip(getattr(ours, name), getattr(theirs, name), strict=True)
    )
