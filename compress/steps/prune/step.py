"""The step: remove heads, neurons, layers and hidden width to a target, repair what stays, check, save."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from compress.config.schemas import Prune
from compress.errors import ConfigError, StepError
from compress.steps.base import Context, SourceFacts, Step
from compress.steps.prune.choose import Counts, copy_of, counts_within, counts_within_ratio, levels_of, losses_of
from compress.steps.prune.cost import budget_of, share_of
from compress.steps.prune.measured import Stopwatch, shape_of

if TYPE_CHECKING:
    from compress.checkpoint import Checkpoint, Writer
    from compress.models.source import SourceModel
    from compress.steps.prune.choose import Losses
    from compress.steps.prune.cost import LinearCost
    from compress.tasks.base import Features

__all__ = ["PruneStep"]

log = logging.getLogger(__name__)

_RATIOS = ("heads", "neurons", "layers", "hidden")
_MEASURED = ("speedup", "latency_ms")


class PruneStep(Step[Prune]):
    """A smaller model with the weights of its source, repaired on calibration rows; nothing is trained."""

    kind: ClassVar[str] = "prune"
    config: ClassVar[type] = Prune
    accepts: ClassVar[frozenset[str]] = frozenset({"torch"})
    leaves: ClassVar[str] = "torch"
    precision: ClassVar[str | None] = "fp32"
    packages: ClassVar[tuple[str, ...]] = (
        "numpy",
        "onnxruntime",
        "safetensors",
        "tokenizers",
        "torch",
        "torch-pruning",
        "transformers",
    )
    modules: ClassVar[tuple[str, ...]] = (
        "compress.steps.prune",
        "compress.training",
        "compress.models",
        "compress.tasks",
    )
    trains: ClassVar[bool] = True

    def check(self, config: Prune, source: SourceFacts) -> None:
        """Refuse a source that is not fp32, and anything but exactly one target."""
        if source.precision != "fp32":
            raise ConfigError(f"prune reads an fp32 model, this one is {source.precision}; put prune before it")
        ratios = {name: getattr(config.target.ratio, name) for name in _RATIOS}
        plain = _plain_targets(config)
        if any(value is not None for value in ratios.values()):
            given = [f"target.{name}={value:g}" for name, value in plain.items() if value is not None]
            if given:
                raise ConfigError(f"prune: target.ratio and {given[0]} are both set; exactly one target is needed")
        else:
            share_of(plain)
        if config.target.params is not None and config.target.params >= 1 and config.target.params < 1000:
            raise ConfigError(
                f"prune: target.params={config.target.params:g}: parameters that stay; below 1 a share, 0.5 for half"
            )
        shape_of(config.target)
        _layers_left(config, source.layers)

    def after(self, config: Prune, source: SourceFacts) -> SourceFacts:
        """Return the source's facts with the layers that stay."""
        return replace(super().after(config, source), layers=_layers_left(config, source.layers))

    def resolve(self, config: Prune) -> Mapping[str, Any]:
        """Return the machine where the result depends on how fast it is."""
        if all(getattr(config.target, name) is None for name in _MEASURED):
            return {}
        from compress.machine import cpu_model, usable_cores

        return {"cpu": cpu_model(), "cores": usable_cores()}

    def run(self, source: Checkpoint | SourceModel, config: Prune, context: Context, out: Writer) -> None:
        """Choose, repair, cut, check, save."""
        from compress.checkpoint import Checkpoint
        from compress.models.checking import check
        from compress.models.surgery import Cut, cut
        from compress.models.torch_io import load_model, load_tokenizer, save_model
        from compress.steps.prune.whole_parts import hidden_to_drop, layers_to_keep
        from compress.training import reproducible
        from compress.training.loop import task_loss

        if not isinstance(source, Checkpoint):
            raise StepError(f"step {context.name}: prune reads a checkpoint; {source.name} was never loaded into one")
        tokenizer, task, ratio = load_tokenizer(source.path), context.task, config.target.ratio
        features, batches = _calibration(tokenizer, config, context)
        loss = task_loss(task)
        facts: dict[str, Any] = {"importance": config.importance, "calibration_rows": len(features)}
        with reproducible(context.seed, context.threads):
            model = load_model(source)
            before = _validation(model, tokenizer, context)
            layers = _layers_left(config, source.layers)
            if layers < source.layers:
                facts["layers"] = layers_to_keep(model, layers, batches, loss)
                model = cut(model, Cut(layers=facts["layers"]))
            if ratio.hidden:
                width = check(model).hidden_size
                left = max(1, round((1 - ratio.hidden) * width / config.multiple)) * config.multiple
                if left < width:
                    model = cut(model, Cut(hidden=hidden_to_drop(model, width - left, batches, loss)))
            if ratio.heads or ratio.neurons or any(value is not None for value in _plain_targets(config).values()):
                losses = losses_of(model, config, batches, loss, context.seed)
                counts, met = self._counts(model, losses, config, context, features)
                facts.update(met)
                model = _with(model, losses, counts)
            structure = check(model)
            after = _validation(model, tokenizer, context)
        facts["heads"], facts["neurons"] = list(structure.heads), list(structure.intermediate_size)
        facts["validation"] = {"before": before, "after": after}
        log.info(
            "%s: heads %s, feed-forward %s; validation %s %.4f -> %.4f",
            *(context.name, facts["heads"], facts["neurons"], task.metric, before, after),
        )
        _judge(before, after, config, context)
        out.facts["prune"] = facts
        out.facts["validation"] = {task.metric: after}
        save_model(out, model, tokenizer, context.max_length)

    def _counts(
        self, model: Any, losses: Losses, config: Prune, context: Context, features: Features
    ) -> tuple[Counts, dict[str, Any]]:
        """Return the heads and neurons that stay per layer, and facts of how the target was met."""
        target = config.target
        if target.ratio.heads or target.ratio.neurons:
            return counts_within_ratio(losses, target.ratio.heads, target.ratio.neurons, config.allocation), {}
        name, value = share_of(_plain_targets(config))
        if name in _MEASURED:
            return _measured(model, losses, config, context, features)
        dense = [(max(one), max(two)) for one, two in zip(losses.heads, losses.neurons, strict=True)]
        cost = _linear_cost(model, name, config)
        whole = cost.total([pair[0] for pair in dense], [pair[1] for pair in dense])
        counts = counts_within(
            losses,
            cost,
            budget_of(_plain_targets(config), whole),
            config.allocation,
            target=f"target.{name}={value:g}",
            reach=lambda least: f"target.{name}={least / whole:.3f} (a share)",
        )
        kept = cost.total([pair[0] for pair in counts], [pair[1] for pair in counts])
        return counts, {"target": name, "share": round(kept / whole, 6)}


def _plain_targets(config: Prune) -> dict[str, float | None]:
    return {name: getattr(config.target, name) for name in ("params", "macs", "size", *_MEASURED)}


def _layers_left(config: Prune, layers: int) -> int:
    ratio = config.target.ratio.layers
    if not ratio:
        return layers
    left = round((1 - ratio) * layers)
    if left < 1:
        raise ConfigError(
            f"prune: target.ratio.layers={ratio:g} leaves none of {layers} layers; "
            f"at most {1 - 1 / layers:.2f} leaves one"
        )
    return left


def _calibration(tokenizer: Any, config: Prune, context: Context) -> tuple[Features, list[Any]]:
    """Return some training rows, tokenized, and batches of them of similar length."""
    import numpy as np

    from compress.tasks.padding import padding_of
    from compress.training.batches import Collator, sorted_batches

    train = context.data.train
    chosen = np.sort(np.random.default_rng(context.seed).permutation(len(train))[: config.calibration_rows])
    features = context.task.encode(train.iloc[chosen].reset_index(drop=True), tokenizer, context.max_length)
    collate = Collator(context.task, features, padding_of(tokenizer))
    lengths = [len(row["input_ids"]) for row in features.inputs]
    return features, [collate(rows) for rows in sorted_batches(lengths, config.batch_size)]


def _validation(model: Any, tokenizer: Any, context: Context) -> float:
    from compress.tasks.padding import padding_of
    from compress.training import logits_of

    features = context.task.encode(context.data.validation, tokenizer, context.max_length)
    logits = logits_of(model, context.task, features, padding_of(tokenizer))
    return round(float(context.task.metrics(logits, features)[context.task.metric]), 6)


def _linear_cost(model: Any, name: str, config: Prune) -> LinearCost:
    """Return what heads and neurons cost in parameters, multiply-accumulates or bytes; the rest is the model's own."""
    from compress.benchmark.size import macs_of_torch
    from compress.models.families import family
    from compress.models.structure import structure_of
    from compress.steps.prune.cost import byte_cost, mac_cost, parameter_cost, with_rest

    structure = structure_of(model)
    assert structure.head_size is not None
    gated = len(family(model.config.model_type).ffn_inputs) > 1
    sizes = (structure.hidden_size, structure.head_size)
    if name == "macs":
        batch, sequence = shape_of(config.target)
        cost = mac_cost(*sizes, batch, sequence, gated=gated)
        dense = float(macs_of_torch(model, batch, sequence, ("input_ids", "attention_mask")))
    else:
        numbers = sum(tensor.numel() for tensor in model.parameters())
        cost = parameter_cost(*sizes, gated=gated) if name == "params" else byte_cost(*sizes, "fp32", gated=gated)
        dense = float(numbers if name == "params" else 4 * numbers)
    return with_rest(cost, dense, structure.heads, structure.intermediate_size)


def _measured(
    model: Any, losses: Losses, config: Prune, context: Context, features: Features
) -> tuple[Counts, dict[str, Any]]:
    """Search with the machine's latency table, time what was found, correct once if it missed."""
    from compress.steps.export import input_names
    from compress.steps.prune.search import meet

    name, value = share_of(_plain_targets(config))
    heads = levels_of(max(max(one) for one in losses.heads), 1, config.least_heads)
    widths = levels_of(max(max(one) for one in losses.neurons), config.multiple)
    with Stopwatch(model, input_names(model, features), config.target, context) as watch:
        table = watch.table(heads, widths)
        dense = table.dense_ms
        wanted = dense / value if name == "speedup" else value

        def reach(least: float) -> str:
            return f"target.speedup={dense / least:.2f}" if name == "speedup" else f"target.latency_ms={least:.3g}"

        def find(budget: float) -> Counts:
            return counts_within(
                losses, table, budget, config.allocation, target=f"target.{name}={value:g}", reach=reach
            )

        met = meet(
            wanted,
            find,
            lambda counts: table.total([pair[0] for pair in counts], [pair[1] for pair in counts]),
            lambda counts: dense * watch.ratio(counts),
            tolerance=config.target.tolerance,
        )
    found = {
        "target": name,
        "asked": value,
        "source_ms": round(dense, 4),
        "predicted_ms": round(met.predicted, 4),
        "measured_ms": round(met.measured, 4),
        "speedup": round(dense / met.measured, 3),
        "attempts": len(met.tried),
    }
    log.info(
        "%s: %.3f ms, %.2fx, for %s=%g (the source takes %.3f ms)",
        *(context.name, met.measured, dense / met.measured, name, value, dense),
    )
    return met.structure, found


def _with(model: Any, losses: Losses, counts: Counts) -> Any:
    """Return the model with so many heads and neurons per layer, checked against the masked one."""
    from compress.models.checking import TOLERANCE, difference
    from compress.models.surgery import Cut, cut

    work = copy_of(model)
    kept = losses.apply(work, counts)
    gone = [
        {
            layer: sorted(set(range(most)) - set(stay[place].tolist()))
            for layer, (stay, most) in enumerate(zip(kept, dense, strict=True))
        }
        for place, dense in enumerate(([max(one) for one in losses.heads], [max(one) for one in losses.neurons]))
    ]
    what = Cut(heads=gone[0], neurons=gone[1])
    pruned = cut(work, what)
    distance = difference(pruned, work, what)
    if not distance <= TOLERANCE:
        raise StepError(
            f"the pruned {type(model).__name__} differs from the masked one by {distance:.2g} (accepted: "
            f"{TOLERANCE:g}): its family declaration may not fit this version of transformers"
        )
    return pruned


def _judge(before: float, after: float, config: Prune, context: Context) -> None:
    allowed = config.max_metric_drop
    lost = before - after if context.task.higher_is_better else after - before
    if allowed is not None and not lost <= allowed + 1e-9:
        raise StepError(
            f"step {context.name}: validation {context.task.metric} went from {before:.4f} to {after:.4f} on pruning, "
            f"a loss of {lost:.4f}; {context.name}.max_metric_drop allows {allowed:g}. Prune less, train afterwards "
            f"(recipe=prune_distill_int8), or raise the gate"
        )
