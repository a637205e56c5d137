"""The end of a sweep: the variants of all its jobs, measured side by side in one interleaved run per group."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.errors import CheckpointError, CompressError, StepError
from compress.pipeline.batches import Batch, batches_of, room_for
from compress.pipeline.built import Built, group_key
from compress.pipeline.finish import Outcome, finish, write_status
from compress.pipeline.quiet import measuring
from compress.pipeline.steps import Setting, run_steps, set_up

if TYPE_CHECKING:
    from compress.config.job import JobConfig

__all__ = ["Member", "measure_together"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Member:
    """A job of a sweep whose steps have run.

    Attributes
    ----------
    name : str
        Of its directory below the sweep's.
    job, built : JobConfig, Built
        The job and what its steps left.
    run_dir : pathlib.Path
        Its directory.
    baseline_run : str or None
        For a job that was measured before: the job whose baseline it was compared with.
    """

    name: str
    job: JobConfig
    built: Built
    run_dir: Path
    baseline_run: str | None = None


def measure_together(
    pending: Sequence[Member],
    measured: Sequence[Member] = (),
    *,
    report: Callable[[Member, Outcome | CompressError], None] = lambda member, outcome: None,
) -> None:
    """Measure jobs by group, each checkpoint once and one baseline per group, and finish each.

    A job that cannot be measured fails with its reason, in its ``status.json``, and stops no other.

    Parameters
    ----------
    pending
        The jobs to measure.
    measured
        Jobs of the same sweep that were measured before: their groups keep their baseline.
    report
        Called with each job that has ended, and how.
    """

    def ended(member: Member, outcome: Outcome | CompressError) -> None:
        if isinstance(outcome, CompressError):
            write_status(member.run_dir, "failed", outcome.exit_status, reason=str(outcome), digest=member.job.digest)
        report(member, outcome)

    groups: dict[str, list[Member]] = {}
    for member in pending:
        try:
            groups.setdefault(group_key(member.job, member.built), []).append(member)
        except CompressError as error:  # a device that is not there
            ended(member, error)
    known = {key: [member for member in measured if _is_in(key, member)] for key in groups}
    for number, (key, members) in enumerate(groups.items(), 1):
        log.info("measuring group %d/%d: %s", number, len(groups), _jobs(members))
        _measure_group(key, members, _leader(members, known[key]), ended)


def _is_in(key: str, member: Member) -> bool:
    try:
        return group_key(member.job, member.built) == key
    except CompressError:
        return False


def _jobs(members: Sequence[Member]) -> str:
    return f"{len(members)} job{'s' * (len(members) != 1)} ({', '.join(member.name for member in members)})"


def _leader(members: Sequence[Member], measured: Sequence[Member]) -> Member:
    """Return the job whose baseline the group has: that of an earlier measurement, else the first job's."""
    names = [member.baseline_run for member in measured if member.baseline_run]
    return next((member for member in (*measured, *members) if member.name in names[:1]), members[0])


def _measure_group(
    key: str, members: Sequence[Member], leader: Member, ended: Callable[[Member, Outcome | CompressError], None]
) -> None:
    sound: list[Member] = []
    verified: set[str] = set()
    try:
        with _told():
            setting = set_up(leader.job)
            _make_sure(leader, setting, verified)
    except CompressError as error:
        for member in members:
            ended(member, error)
        return
    for member in members:
        try:
            with _told():
                _make_sure(member, None, verified)
            sound.append(member)
        except CompressError as error:
            ended(member, error)
    waiting = batches_of(sound, leader, setting.store.path, room_for(setting.plan.measured_on))
    while waiting:
        batch = waiting.pop(0)
        try:
            with _told():
                measurement = _measure(batch, setting, leader.job)
        except CompressError as error:
            failed, again = _divided(batch, str(error))
            waiting[:0] = again
            for member in failed:
                ended(member, error)
            continue
        for member in batch.members:
            try:
                with _told():
                    own, baseline = batch.own(member, measurement)
                    group = {"key": key, "baseline_run": leader.name}
                    outcome = finish(
                        member.job, member.built, own, member.run_dir, setting, baseline=baseline, group=group
                    )
            except CompressError as error:
                ended(member, error)
            else:
                ended(member, outcome)


def _divided(batch: Batch, reason: str) -> tuple[list[Member], list[Batch]]:
    """Return the jobs that a failed measurement is the fault of, and the batches to measure again without them.

    Where nobody is to blame each job is measured alone, beside the baseline.
    """
    blamed = batch.blamed(reason)
    if len(batch.members) == 1 or len(blamed) == len(batch.members):
        return list(batch.members), []
    return blamed, [batch.without(blamed)] if blamed else [batch.only(member) for member in batch.members]


@contextmanager
def _told() -> Iterator[None]:
    """Turn a fault of ours into an error of one job or group, with its traceback in the log: the others go on."""
    try:
        yield
    except CompressError:
        raise
    except Exception as error:
        log.exception("measuring together failed")
        raise StepError(" ".join(f"{type(error).__name__}: {error}".split())) from error


def _make_sure(member: Member, setting: Setting | None, verified: set[str]) -> None:
    """Make checkpoints again that have left the store since the job ran, and an artifact that was damaged."""
    from compress.checkpoint import copy_checkpoint, open_checkpoint

    setting = setting or set_up(member.job)
    store, built = setting.store, member.built
    keys = set(built.keys.values())
    if any(store.get(key) is None for key in keys - verified):
        log.info("job %s: a checkpoint has left the store and is made again", member.name)
        done, _ = run_steps(member.job, setting)
        changed = [name for name, checkpoint in done.items() if checkpoint.digest != built.digests.get(name)]
        if changed:
            raise StepError(
                f"{', '.join(changed)}: the checkpoint made again differs from the one that left the store "
                f"(the data, the code or the machine has changed); run the job again in a new directory"
            )
    verified |= keys
    artifact = built.paths(store.path, member.run_dir)[built.candidate]
    try:
        intact = open_checkpoint(artifact).digest == built.digests[built.candidate]
    except CheckpointError:
        intact = False
    if not intact:
        last = store.get(built.keys[built.candidate])
        if last is None:
            raise StepError(f"{artifact} is damaged, and the store does not hold it; run the job again")
        copy_checkpoint(last, artifact)


def _measure(batch: Batch, setting: Setting, job: JobConfig) -> Mapping[str, Any]:
    from compress.benchmark.measure import measure

    log.info("%d variants of %s side by side", len(batch.variants), _jobs(batch.members))
    scratch = Path(tempfile.mkdtemp(prefix="compress-benchmark-"))
    try:
        with measuring(setting.store.path):
            return measure(
                [(variant.label, variant.step, variant.path) for variant in batch.variants],
                task=setting.task,
                data=setting.data,
                config=job.benchmark,
                device=setting.plan.measured_on,
                baseline=batch.baseline.label,
                candidate=batch.candidate,
                scratch=scratch,
                log=log,
                cache=setting.store.cache,
            )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
