"""The step: remove heads, neurons, layers and hidden width to a target, repair or train what stays, check, save."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from compress.config.schemas import Prune, PruneGates
from compress.errors import ConfigError, StepError
from compress.models.activation import check_activation, with_activation
from compress.models.families import family
from compress.steps.base import Context, Link, SourceFacts, Step
from compress.steps.prune.cutting import Cutter
from compress.steps.prune.judging import judge
from compress.steps.prune.keep import links_of
from compress.steps.prune.recovery import check_recovery, recover, refuse_teacher
from compress.steps.prune.stages import Stage, Stages
from compress.steps.prune.targets import MEASURED, asked, check_target, layers_left
from compress.steps.validation import validation_metric

if TYPE_CHECKING:
    from pathlib import Path

    from compress.checkpoint import Checkpoint, Writer
    from compress.models.source import SourceModel

__all__ = ["PruneStep"]

log = logging.getLogger(__name__)


class PruneStep(Step[Prune]):
    """A smaller model with the weights of its source, repaired on calibration rows and, if asked for, trained.

    With `rounds` above 1 it gets there in as many cuts, each of the same ratio and judged anew, with a training after
    each where `recover` has epochs.
    """

    kind: ClassVar[str] = "prune"
    config: ClassVar[type] = Prune
    accepts: ClassVar[frozenset[str]] = frozenset({"torch"})
    leaves: ClassVar[str] = "torch"
    precision: ClassVar[str | None] = "fp32"
    packages: ClassVar[tuple[str, ...]] = (
        "accelerate",
        "evaluate",
        "numpy",
        "onnxruntime",
        "safetensors",
        "seqeval",
        "tokenizers",
        "torch",
        "torch-pruning",
        "transformers",
    )
    modules: ClassVar[tuple[str, ...]] = (
        "compress.steps.drawing",
        "compress.steps.importance",
        "compress.steps.prune",
        "compress.steps.validation",
        "compress.training",
        "compress.models",
        "compress.tasks",
    )
    trains: ClassVar[bool] = True

    def inputs(self, config: Prune) -> tuple[str, ...]:
        """Return the reference, if one is named."""
        return () if config.reference is None else (config.reference,)

    def chain(self, name: str, config: Prune, before: str) -> Sequence[Link[Prune]]:
        """Return a step for each model that is kept on the way, and the step itself."""
        return links_of(name, config, before)

    def check(self, config: Prune, source: SourceFacts) -> None:
        """Refuse a source that is not fp32, anything but exactly one target, and options that do not go together."""
        if source.precision != "fp32":
            raise ConfigError(f"prune reads an fp32 model, this one is {source.precision}; put prune before it")
        check_target(config.target, source.layers, source.positions)
        if config.keep is not None:
            raise ConfigError("prune: keep names steps of their own; run what chain() returns, one after the other")
        if config.reference is not None and asked(config.target) is None:
            raise ConfigError(
                f"prune: target.ratio is of the step's own source, and reference={config.reference} is set; "
                f"set target.macs, params, size, speedup or latency_ms, or reference=null"
            )
        if config.importance != "hard_concrete" and config.gates != PruneGates():
            raise ConfigError(
                f"prune: gates are trained by importance=hard_concrete, this is {config.importance}; "
                f"leave gates as they are, or set importance=hard_concrete"
            )
        if config.importance == "ziplm" and config.compensate != "auto":
            raise ConfigError(
                f"prune: compensate={config.compensate} is for importance that repairs nothing itself, ziplm updates "
                f"what stays; leave compensate as it is, or set another importance"
            )
        check_recovery(config)
        if config.activation is not None:
            check_activation(family(source.architecture), config.activation)

    def after(self, config: Prune, source: SourceFacts) -> SourceFacts:
        """Return the source's facts with the layers that stay; how wide they are is not known yet."""
        return replace(super().after(config, source), layers=layers_left(config.target, source.layers), widths=None)

    def resolve(self, config: Prune) -> Mapping[str, Any]:
        """Return the source of what counts a target's unit, the machine where it is time, and unlabelled texts."""
        from compress.keys import source_digest
        from compress.training.distillation import unlabelled_key

        texts = unlabelled_key(config.recover, "prune.recover")
        if config.target.macs is not None:
            return {"counted by": source_digest("compress.benchmark.size"), **texts}
        if not self.measures(config):
            return texts
        from compress.machine import cpu_model, usable_cores

        timed = {name: source_digest(name) for name in ("compress.onnx_graph", "compress.steps.export")}
        return {"cpu": cpu_model(), "cores": usable_cores(), "timed by": timed, **texts}

    def measures(self, config: Prune) -> bool:
        """Return whether the target is a time."""
        target = asked(config.target)
        return target is not None and target[0] in MEASURED

    def run(self, source: Checkpoint | SourceModel, config: Prune, context: Context, out: Writer) -> None:
        """Cut and train in rounds, judge, save."""
        from compress.checkpoint import Checkpoint
        from compress.models.torch_io import load_model, load_tokenizer, save_model
        from compress.training import reproducible

        if not isinstance(source, Checkpoint):
            raise StepError(f"step {context.name}: prune reads a checkpoint; {source.name} was never loaded into one")
        reference = source if config.reference is None else context.inputs[config.reference]
        refuse_teacher(reference, source, layers_left(config.target, source.layers), config, context)
        tokenizer, metric = load_tokenizer(source.path), context.task.metric
        with reproducible(context.seed, context.threads):
            model = load_model(source)
            whole = model if config.reference is None else load_model(reference)
            before = validation_metric(whole, load_tokenizer(reference.path), context)
        if config.activation is not None:
            model = with_activation(model, config.activation)
        keep = _keeping(tokenizer, config, context)
        stage = Stage(lambda: model, list(range(source.layers)))
        rounds: list[dict[str, Any]] = []
        history: list[dict[str, Any]] = []
        with Cutter(model, whole, tokenizer, config, context) as cutter:
            for number in range(1, config.rounds + 1):
                stage = keep(f"cut-{number}", _cut(cutter, stage, number / config.rounds, tokenizer, context))
                facts = dict(stage.facts)
                after = facts.pop("validation")
                rounds.append({**facts, "validation": {"cut": after}})
                log.info(
                    "%s: heads %s, feed-forward %s; validation %s %.4f -> %.4f",
                    *(context.name, facts["heads"], facts["neurons"], metric, before, after),
                )
                if config.recover.epochs:
                    scratch = context.scratch / f"training-{number}"
                    train = _recovery(stage, tokenizer, source, reference, config, context, scratch)
                    stage = keep(f"round-{number}", train)
                    shutil.rmtree(scratch, ignore_errors=True)
                    after = stage.facts["validation"]
                    rounds[-1]["validation"]["recovered"] = after
                    rounds[-1]["best_epoch"] = stage.facts["best_epoch"]
                    history += [{**entry, "epoch": entry["epoch"] + len(history)} for entry in stage.facts["history"]]
                    out.facts["truncated"] = stage.facts["truncated"]
        judge(before, after, config, context)
        out.facts["prune"] = {
            "importance": config.importance,
            **({} if config.activation is None else {"activation": config.activation}),
            "calibration_rows": len(cutter.features),
            **facts,
            "validation": {"before": before, "after": after},
        }
        if config.rounds > 1 or config.recover.epochs:
            out.facts["prune"]["rounds"] = rounds
        if history:
            out.facts["history"] = history
        out.facts["validation"] = {metric: after}
        save_model(out, stage.model(), tokenizer, context.max_length)


def _keeping(tokenizer: Any, config: Prune, context: Context) -> Callable[[str, Callable[[], Stage]], Stage]:
    """Return what makes a stage, and keeps it where there is so much work that a killed run should go on after it."""
    if config.rounds > 1 or config.recover.epochs:
        return Stages(context.scratch / "rounds", tokenizer, context).get
    return lambda _, make: make()


def _cut(cutter: Cutter, stage: Stage, progress: float, tokenizer: Any, context: Context) -> Callable[[], Stage]:
    from compress.training import reproducible

    def make() -> Stage:
        with reproducible(context.seed, context.threads):
            model, layers, facts = cutter.cut(stage.model(), stage.layers, progress)
            facts["validation"] = validation_metric(model, tokenizer, context)
        return Stage(lambda: model, layers, facts)

    return make


def _recovery(
    cut: Stage,
    tokenizer: Any,
    source: Checkpoint,
    reference: Checkpoint,
    config: Prune,
    context: Context,
    scratch: Path,
) -> Callable[[], Stage]:
    def make() -> Stage:
        model = cut.model()
        facts = recover(model, tokenizer, source, reference, config, context, scratch)
        return Stage(lambda: model, cut.layers, facts)

    return make
