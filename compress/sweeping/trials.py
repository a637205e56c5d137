"""The trials of a study as Optuna's storage keeps them: what was asked, what came of it, what repeats what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.errors import ConfigError
from compress.sweeping.objectives import Objective
from compress.sweeping.space import Space

if TYPE_CHECKING:
    import optuna

    from compress.sweeping.config import OptunaSweeper
    from compress.sweeping.jobs import SweepJob

__all__ = ["Trial", "Trials"]

_MAY_CHANGE = ("store.", "force=", "dry_run=")
"""Fixed overrides that a continued study need not share with its beginning."""


@dataclass(frozen=True)
class Trial:
    """A trial that has its figures.

    Attributes
    ----------
    number : int
        In the study.
    params : dict
        Value of each parameter.
    values : tuple of float
        One per objective.
    directory : pathlib.Path
        Of its run.
    """

    number: int
    params: dict[str, Any]
    values: tuple[float, ...]
    directory: Path


class Trials:
    """The trials of a study, begun or continued.

    Parameters
    ----------
    settings
        Storage, name, sampler and seed.
    space, objectives
        What the study is about; a continued one must agree.
    directory
        The sweep's.

    Raises
    ------
    ConfigError
        If the storage cannot be opened, or holds another study under this name.
    """

    def __init__(self, settings: OptunaSweeper, space: Space, objectives: Sequence[Objective], directory: Path) -> None:
        import optuna
        from sqlalchemy.exc import SQLAlchemyError

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space, self._directory = space, directory.absolute()
        self._own_storage = settings.storage is None
        storage = settings.storage or f"sqlite:///{self._directory / 'study.db'}"
        try:
            self.study: optuna.Study = optuna.create_study(
                storage=storage,
                study_name=settings.study_name,
                directions=[objective.direction for objective in objectives],  # type: ignore[misc]
                load_if_exists=True,
            )
        except (SQLAlchemyError, ImportError, ValueError, RuntimeError) as error:
            raise ConfigError(f"hydra.sweeper.storage={storage}: {' '.join(str(error).split())[:300]}") from error
        self._agree(settings, objectives)
        self.study.sampler = _sampler(settings, len(self.study.get_trials(deepcopy=False)))
        self._distributions = {parameter.key: parameter.distribution() for parameter in space.parameters}
        self._live: dict[int, optuna.Trial] = {}
        self._echoes: dict[str, list[int]] = {}

    def _agree(self, settings: OptunaSweeper, objectives: Sequence[Objective]) -> None:
        """Refuse to continue a study of other parameters, objectives or fixed overrides."""
        about = {
            "objectives": [f"{'+' if objective.up else '-'}{objective.name}" for objective in objectives],
            "search space": sorted(map(str, self._space.parameters)),
            "fixed overrides": sorted(line for line in self._space.fixed if not line.startswith(_MAY_CHANGE)),
        }
        known = self.study.user_attrs
        for name, value in about.items():
            if name in known and known[name] != value:
                raise ConfigError(
                    f"hydra.sweeper.study_name={settings.study_name}: the study in this storage has other {name}: "
                    f"{', '.join(known[name]) or 'none'}; now asked: {', '.join(value) or 'none'}; continue it as it "
                    f"was, or give another study_name or hydra.sweep.dir"
                )
            self.study.set_user_attr(name, value)

    # --- counting ------------------------------------------------------------------------------

    def _ended(self) -> list[optuna.trial.FrozenTrial]:
        """Return the trials that have ended, less those that repeat another."""
        from optuna.trial import TrialState

        ended = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL))
        return [trial for trial in ended if "equal_to" not in trial.user_attrs]

    @property
    def asked(self) -> int:
        """How many trials there are, whatever came of them."""
        return len(self.study.get_trials(deepcopy=False))

    @property
    def finished(self) -> int:
        """How many distinct trials have ended, failed ones included."""
        return len(self._ended())

    @property
    def failed(self) -> int:
        """How many of them failed."""
        return sum(trial.values is None for trial in self._ended())

    def tried(self) -> set[tuple[str, ...]]:
        """Return every point that was asked."""
        keys = {parameter.key for parameter in self._space.parameters}
        trials = self.study.get_trials(deepcopy=False)
        return {self._space.point(trial.params) for trial in trials if trial.params.keys() >= keys}

    def lines(self, params: dict[str, Any]) -> list[str]:
        """Return the overrides of a trial."""
        return self._space.lines(params)

    def directories(self) -> list[Path]:
        """Return the directory of every distinct trial that has ended below this sweep's."""
        found = [self._directory_of(trial) for trial in self._ended()]
        return [directory for directory in found if directory.is_relative_to(self._directory)]

    def front(self) -> list[Trial]:
        """Return the trials that none beats in every objective, as the study saw them."""
        return [
            Trial(trial.number, dict(trial.params), tuple(trial.values), self._directory_of(trial))
            for trial in self.study.best_trials
            if "equal_to" not in trial.user_attrs
        ]

    def _directory_of(self, trial: optuna.trial.FrozenTrial) -> Path:
        return Path(trial.user_attrs.get("directory", self._directory / str(trial.number)))

    # --- asking and telling --------------------------------------------------------------------

    def ask(self) -> tuple[int, dict[str, Any]]:
        """Return the number and the values of a new trial."""
        trial = self.study.ask(self._distributions)
        self._live[trial.number] = trial
        return trial.number, dict(trial.params)

    def enqueue(self, values: dict[str, Any]) -> None:
        """Let the next trial be this one."""
        self.study.enqueue_trial(values)

    def under_way(self) -> list[tuple[int, dict[str, Any]]]:
        """Return the trials of this directory that an earlier start asked and did not tell."""
        import optuna

        found = []
        for trial in self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            if self._is_ours(trial):
                self._live[trial.number] = optuna.Trial(self.study, trial._trial_id)  # noqa: SLF001 - no public way
                found.append((trial.number, dict(trial.params)))
        return found

    def _is_ours(self, trial: optuna.trial.FrozenTrial) -> bool:
        """Return whether a trial runs, or would have run, in this directory: a storage may serve several."""
        noted = trial.user_attrs.get("directory")
        return self._own_storage if noted is None else Path(noted).is_relative_to(self._directory)

    def note(self, number: int, job: SweepJob) -> None:
        """Note which job a trial is, before it runs."""
        facts = {"digest": job.config.digest, "directory": str(job.run_dir), "overrides": list(job.config.overrides)}
        for name, value in facts.items():
            self._live[number].set_user_attr(name, value)

    def repeats(self, number: int, digest: str) -> bool:
        """Return whether a trial's job equals that of another, which then speaks for it."""
        from optuna.trial import TrialState

        for other in self.study.get_trials(deepcopy=False):
            if other.number == number or other.user_attrs.get("digest") != digest or "equal_to" in other.user_attrs:
                continue
            self._live[number].set_user_attr("equal_to", other.number)
            if other.state == TrialState.RUNNING:
                self._echoes.setdefault(digest, []).append(number)
            else:
                self._end(number, other.values)
            return True
        return False

    def tell(self, number: int, values: Sequence[float]) -> None:
        """Say what came of a trial."""
        self._finish(number, values)

    def tell_failure(self, number: int, run_dir: Path, reason: str) -> None:
        """Say that a trial failed, and why."""
        self._live[number].set_user_attr("reason", reason)
        self._live[number].set_user_attr("directory", str(run_dir))
        self._finish(number, None)

    def _finish(self, number: int, values: Sequence[float] | None) -> None:
        self._end(number, values)
        digest = self._live[number].user_attrs.get("digest", "")
        for echo in self._echoes.pop(digest, ()):
            self._end(echo, values)

    def _end(self, number: int, values: Sequence[float] | None) -> None:
        from optuna.trial import TrialState

        if values is None:
            self.study.tell(number, state=TrialState.FAIL)
        else:
            self.study.tell(number, list(values))


def _sampler(settings: OptunaSweeper, trials: int) -> optuna.samplers.BaseSampler:
    """Return the sampler; a continued study goes on with other random numbers, else it would repeat its beginning."""
    from optuna.samplers import NSGAIISampler, RandomSampler, TPESampler

    seed = settings.seed + trials
    if settings.sampler == "nsga2":
        return NSGAIISampler(seed=seed)
    return RandomSampler(seed=seed) if settings.sampler == "random" else TPESampler(seed=seed)
