"""From a job to an ordered, checked, keyed list of steps; imports no torch and does no work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from compress.benchmark.devices import measuring_device
from compress.config.shapes import expand
from compress.errors import ConfigError
from compress.keys import step_key
from compress.machine import isa, resolve_device, usable_cores
from compress.steps.base import SourceFacts, Step
from compress.steps.registry import step_for

if TYPE_CHECKING:
    from compress.config.job import JobConfig
    from compress.models.source import SourceModel

__all__ = ["Plan", "PlannedStep", "make_plan"]


@dataclass(frozen=True)
class PlannedStep:
    """One step of a plan.

    Attributes
    ----------
    name : str
        Name in the recipe, or of an implied step.
    step : Step
        What runs.
    config : object
        Its typed config.
    implied : bool
        Whether the recipe did not name it.
    facts : SourceFacts
        What will be known of the checkpoint it leaves.
    key : str
        The store key; empty while the data's fingerprint is not known.
    part_of : str
        Name of the recipe's step that it is, or is one of several of.
    folder : str or None
        Where in ``family/`` of the run's directory its checkpoint is copied to.
    """

    name: str
    step: Step[Any]
    config: Any
    implied: bool
    facts: SourceFacts
    key: str = ""
    part_of: str = ""
    folder: str | None = None


@dataclass(frozen=True)
class Plan:
    """What a job will do.

    Attributes
    ----------
    steps : tuple of PlannedStep
        In order, implied ones included.
    source : SourceModel
        The model it starts from.
    baseline : str
        Name of the step whose checkpoint everything is compared with.
    device : str
        Resolved device.
    threads : int
        Resolved training threads.
    notes : tuple of str
        For the record's warnings.
    measured_on : str
        Device on which every variant can be measured.
    """

    steps: tuple[PlannedStep, ...]
    source: SourceModel
    baseline: str
    device: str
    threads: int
    notes: tuple[str, ...] = field(default=())
    measured_on: str = "cpu"

    def on(self, device: str) -> Plan:
        """Return the plan for another device of the same kind."""
        measured_on = self.measured_on if self.measured_on == "cpu" else device
        return replace(self, device=device, measured_on=measured_on)

    def with_keys(self, job: JobConfig, fingerprint: str) -> Plan:
        """Return the plan with every step's store key, given the data's fingerprint."""
        from compress.training.processes import process_count

        keyed: list[PlannedStep] = []
        keys: dict[str, str] = {}
        source_key = self.source.fingerprint
        for planned in self.steps:
            step = planned.step
            resolved = {
                "task": job.task_name,
                "metric": job.task.metric,
                "max_length": job.model.max_length,
                "flags": isa(),
                **({"processes": process_count()} if step.trains and process_count() > 1 else {}),
                **step.resolve(planned.config),
            }
            key = step_key(
                source_key=source_key,
                kind=step.kind,
                config=planned.config,
                resolved=resolved,
                data_fingerprint=fingerprint,
                inputs={name: keys[name] for name in step.inputs(planned.config)},
                seed=job.seed if step.trains else None,
                device_kind=self.device.partition(":")[0] if step.trains else None,
                threads=self.threads if step.trains else None,
                packages=step.packages,
                modules=step.modules,
            )
            keys[planned.name] = source_key = key
            keyed.append(replace(planned, key=key))
        return replace(self, steps=tuple(keyed))


def make_plan(job: JobConfig, source: SourceModel, labels: Sequence[str] | None) -> Plan:
    """Order and check the steps of a job.

    Parameters
    ----------
    job
        The validated job.
    source
        The model it starts from.
    labels
        Labels of the data, or None while the data has not been read.

    Raises
    ------
    ConfigError
        For an order of steps that cannot be, a step that cannot work on its source, an input that is
        no earlier step, or a recipe that trains no head for a model that has none.
    """
    notes: list[str] = []
    _check_shapes(job.benchmark.shapes, source)
    facts = SourceFacts(
        *(source.format, source.precision, source.architecture, source.layers, source.positions), widths=source.widths
    )
    planned: list[PlannedStep] = []

    def add(name: str, config: Any, *, part_of: str | None = None, folder: str | None = None) -> None:
        nonlocal facts
        step = step_for(type(config))
        if facts.format not in step.accepts:
            raise ConfigError(_order_message(name, step, planned, facts))
        for wanted in step.inputs(config):
            earlier = [p.name for p in planned]
            if wanted not in earlier:
                raise ConfigError(
                    f"{name}: asks for the checkpoint of {wanted!r}, which is not an earlier step; "
                    f"earlier steps: {', '.join(earlier) or 'none'}"
                )
        step.check(config, facts)
        facts = step.after(config, facts)
        planned.append(PlannedStep(name, step, config, part_of is None, facts, part_of=part_of or name, folder=folder))

    for name, config in job.steps.items():
        step = step_for(type(config))
        if facts.format == "source" and "source" not in step.accepts:
            _check_head(name, source, labels, job.task_name)
            from compress.steps.source import SourceConfig

            add("source", SourceConfig())
        if facts.format == "torch" and step.accepts == frozenset({"onnx"}):
            add(_free_name("export", job, planned), job.export)
        for link in step.chain(name, config, planned[-1].name if planned else ""):
            if link.name != name and link.name in {*job.steps, *(p.name for p in planned)}:
                raise ConfigError(
                    f"steps: {name} leaves a model on the way under the name {link.name}, which is taken; "
                    f"rename that step"
                )
            add(link.name, link.config, part_of=name, folder=link.folder)
        if name == job.until:
            break
    baseline = next((p.name for p in planned if p.facts.format == "torch" and p.facts.precision == "fp32"), None)
    if baseline is None:
        raise ConfigError(
            f"steps: {list(job.steps)} leaves no fp32 torch checkpoint to compare with; start with finetune"
        )
    device = resolve_device(job.device)
    left = [(step.facts.format, step.facts.precision) for step in planned]
    measured_on, note = measuring_device(job.device, device, job.benchmark.provider, left)
    if note is not None:
        notes.append(note)
    for one in planned:
        notes += [f"{one.name}: {caution}" for caution in one.step.cautions(one.config, measured_on)]
    return Plan(
        tuple(planned),
        source,
        baseline,
        device,
        job.threads or usable_cores(),
        tuple(notes),
        measured_on,
    )


def _check_shapes(shapes: Sequence[str], source: SourceModel) -> None:
    """Refuse a benchmark of which no shape fits the model: there would be no latency to compare."""
    lengths = [shape.sequence for shape in expand(shapes)]
    if source.positions is not None and all(length is not None and length > source.positions for length in lengths):
        raise ConfigError(
            f"benchmark.shapes={list(shapes)}: model.path={source.name} takes at most {source.positions} tokens"
        )


def _free_name(name: str, job: JobConfig, planned: list[PlannedStep]) -> str:
    taken = set(job.steps) | {p.name for p in planned}
    number, candidate = 2, name
    while candidate in taken:
        candidate, number = f"{name}_{number}", number + 1
    return candidate


def _order_message(name: str, step: Step[Any], planned: list[PlannedStep], facts: SourceFacts) -> str:
    before = planned[-1].name if planned else "the model"
    early = facts.format == "onnx" and "torch" in step.accepts
    return (
        f"steps: {name} cannot follow {before}: it reads {' or '.join(sorted(step.accepts))}, "
        f"and {before} leaves {facts.format} ({facts.precision}); "
        f"{f'let {name} stand before export' if early else 'change the order of the steps'}"
    )


def _check_head(name: str, source: SourceModel, labels: Sequence[str] | None, task: str) -> None:
    """Refuse to start with `name` on a model that is not fine-tuned for these labels."""
    if source.labels is None:
        raise ConfigError(
            f"steps: {name} comes first, but model.path={source.name} has no fine-tuned head with named labels "
            f"for {task}; put finetune before it"
        )
    if source.head != task:
        raise ConfigError(
            f"steps: {name} comes first, but model.path={source.name} is fine-tuned for {source.head}, not for {task}; "
            f"put finetune before it, or set task={source.head}"
        )
    if labels is not None and set(labels) != set(source.labels):
        missing = sorted(set(labels) - set(source.labels))
        extra = sorted(set(source.labels) - set(labels))
        raise ConfigError(
            f"steps: {name} comes first, but the labels of model.path={source.name} are not those of the data: "
            f"only in the data: {missing[:8]}, only in the model: {extra[:8]}; put finetune before it, or rename labels"
        )
