"""Which checkpoints are measured in one run: whole jobs, equal checkpoints once, the baseline in every batch."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compress.pipeline.together import Member

__all__ = ["Batch", "Variant", "batches_of", "room_for"]

_AT_ONCE = 24
"""Processes that wait side by side at most: each holds a model and a runtime."""

_RUNTIME_BYTES = 400e6
"""Memory to reckon with for a process: torch imported takes about 300 MB, then come weights and activations."""


@dataclass(frozen=True)
class Variant:
    """One checkpoint to measure.

    Attributes
    ----------
    label : str
        Unique in its batch: the job that it is first met in, and the step.
    step : str
        The step there.
    path : pathlib.Path
        Where it lies.
    digest : str
        Equal digests are equal bytes.
    """

    label: str
    step: str
    path: Path
    digest: str


@dataclass(frozen=True)
class Batch:
    """Jobs that are measured in one interleaved run.

    Attributes
    ----------
    members : tuple of Member
        The jobs.
    variants : tuple of Variant
        Their checkpoints, equal ones once, the baseline first.
    baseline : Variant
        What all are compared with.
    """

    members: tuple[Member, ...]
    variants: tuple[Variant, ...]
    baseline: Variant

    @property
    def candidate(self) -> str:
        """Label of the last job's artifact."""
        last = self.members[-1]
        return self._labels(last)[last.built.candidate]

    def _labels(self, member: Member) -> dict[str, str]:
        """Return the label of each of a job's steps."""
        by_digest = {variant.digest: variant.label for variant in self.variants}
        return {name: by_digest[digest] for name, digest in _measured(member).items()}

    def own(self, member: Member, measurement: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
        """Return a job's own part of what was measured, its variants named as in the job, and its baseline's name."""
        labels = self._labels(member)
        equal = [name for name, label in labels.items() if label == self.baseline.label]
        if member.built.baseline in equal:
            baseline = member.built.baseline
        elif equal:
            baseline = equal[0]
        else:  # another job's
            baseline = _free("baseline", labels)
            labels = {baseline: self.baseline.label, **labels}
        steps = {baseline: self.baseline.step, **{name: name for name in labels if name != baseline}}
        variants = {name: {**measurement["variants"][label], "step": steps[name]} for name, label in labels.items()}
        comparisons = {name: measurement["comparisons"][label] for name, label in labels.items()}
        shared = {key: value for key, value in measurement.items() if key not in ("variants", "comparisons")}
        comparison = comparisons[member.built.candidate]
        return {**shared, "variants": variants, "comparisons": comparisons, "comparison": comparison}, baseline

    def blamed(self, reason: str) -> list[Member]:
        """Return the jobs with a checkpoint that a message names; none if it names the baseline or nothing."""
        labels = [variant.label for variant in self.variants]
        named = {label for label in labels if re.search(rf"(?<![\w./-]){re.escape(label)}(?![\w./-])", reason)}
        if self.baseline.label in named:
            return []
        return [member for member in self.members if named & set(self._labels(member).values())]

    def without(self, members: Collection[Member]) -> Batch:
        """Return the batch less some jobs."""
        return _batch([member for member in self.members if member not in members], self.baseline, self.variants)

    def only(self, member: Member) -> Batch:
        """Return one job beside the baseline."""
        return _batch([member], self.baseline, self.variants)


def _measured(member: Member) -> dict[str, str]:
    return member.built.measured(member.job.benchmark.variants)


def _free(name: str, taken: Collection[str]) -> str:
    number, candidate = 2, name
    while candidate in taken:
        candidate, number = f"{name}_{number}", number + 1
    return candidate


def _batch(members: Sequence[Member], baseline: Variant, variants: Sequence[Variant]) -> Batch:
    needed = {baseline.digest, *(digest for member in members for digest in _measured(member).values())}
    return Batch(tuple(members), tuple(variant for variant in variants if variant.digest in needed), baseline)


def batches_of(members: Sequence[Member], leader: Member, store: Path, room: int) -> list[Batch]:
    """Divide jobs into batches of at most `room` variants, but whole jobs.

    Parameters
    ----------
    members
        Jobs of one group.
    leader
        The job whose baseline the group has.
    store
        Root of the store.
    room
        As `room_for` returns it.
    """
    step = leader.built.baseline
    path = leader.built.paths(store, leader.run_dir)[step]
    baseline = Variant(f"{leader.name}.{step}", step, path, leader.built.digests[step])
    found: dict[str, Variant] = {baseline.digest: baseline}
    for member in members:
        paths = member.built.paths(store, member.run_dir)
        for name, digest in _measured(member).items():
            found.setdefault(digest, Variant(f"{member.name}.{name}", name, paths[name], digest))
    batches: list[list[Member]] = []
    held: set[str] = set()
    for member in members:
        more = held | set(_measured(member).values())
        if not batches or len(more) > room:
            batches.append([])
            more = {baseline.digest, *_measured(member).values()}
        batches[-1].append(member)
        held = more
    return [_batch(batch, baseline, list(found.values())) for batch in batches]


def room_for(device: str) -> int:
    """Return how many variants can wait side by side in the memory that is free now."""
    import psutil

    free = psutil.virtual_memory().available
    return max(4, min(_AT_ONCE, int(0.8 * free / _RUNTIME_BYTES)))
