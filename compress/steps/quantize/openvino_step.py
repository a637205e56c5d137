"""OpenVINO INT8: quantized by NNCF, saved in OpenVINO's own format, run by its runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from compress.config.quantization import OpenVINOQuantization
from compress.errors import ConfigError, StepError
from compress.machine import need_extra, usable_cores
from compress.steps.base import Context, SourceFacts, Step
from compress.steps.quantize.capability import cautions
from compress.steps.quantize.saturation import seven_bits
from compress.steps.quantize.unread import refuse_unread

if TYPE_CHECKING:
    import openvino
    import pandas as pd

    from compress.checkpoint import Checkpoint, Writer
    from compress.models.source import SourceModel
    from compress.runtime.encoder import TextEncoder

__all__ = ["OpenVINOStep"]

_ADVICE = ("accuracy_control=0.005", "activation_range=extremes", "embeddings=false")
_OF_INTEGERS = (
    *("calibration_rows", "preset", "activation_range", "smooth_quant", "bias_correction", "reduce_range", "attention"),
    *("embeddings", "head", "accuracy_control"),
)
_BATCH = 32
"""Validation rows per batch."""


class OpenVINOStep(Step[OpenVINOQuantization]):
    """An fp32 ONNX checkpoint becomes a model of OpenVINO, one file for every batch and every length.

    Products take 8-bit weights, a scale per output channel, and 8-bit activations, a range each; ranges come from
    training rows, given one by one and so without padding. Rows of the token embeddings have a scale each and become
    floats after they are looked up, so that they stay integers in memory. The head stays fp32 unless the config says
    otherwise.
    """

    kind: ClassVar[str] = "quantize/openvino"
    config: ClassVar[type] = OpenVINOQuantization
    accepts: ClassVar[frozenset[str]] = frozenset({"onnx"})
    leaves: ClassVar[str] = "openvino"
    precision: ClassVar[str | None] = "int8"
    packages: ClassVar[tuple[str, ...]] = (
        "numpy",
        "nncf",
        "onnx",
        "onnxruntime",
        "openvino",
        "tokenizers",
        "transformers",
    )
    modules: ClassVar[tuple[str, ...]] = (
        "compress.steps.quantize",
        "compress.steps.companions",
        "compress.onnx_graph",
        "compress.openvino_ir",
        "compress.runtime",
        "compress.tasks",
    )

    def check(self, config: OpenVINOQuantization, source: SourceFacts) -> None:
        """Refuse a source that is quantized already, and a machine without the extra."""
        if source.precision != "fp32":
            raise ConfigError(
                f"quantize reads an fp32 checkpoint, this one is {source.precision}: quantizing twice loses twice; "
                f"let the step follow export"
            )
        if config.weights == "fp32":
            refuse_unread(config, _OF_INTEGERS, "with weights=fp32")
        need_extra("openvino", ["openvino", "nncf"], "quantize=openvino")

    def after(self, config: OpenVINOQuantization, source: SourceFacts) -> SourceFacts:
        """Return what will be known of the checkpoint: int8, or fp32 where the config asks for the format alone."""
        return replace(source, format=self.leaves, precision=config.weights)

    def cautions(self, config: OpenVINOQuantization, device: str) -> Sequence[str]:
        """Return whether this machine multiplies integers faster than floats; OpenVINO runs on its CPU."""
        return cautions("onnx_int8", "cpu") if config.weights == "int8" else ()

    def resolve(self, config: OpenVINOQuantization) -> Mapping[str, Any]:
        """Return whether weights are kept to 7 bits, and the cores that calibration sums on."""
        return {"reduce_range": seven_bits(config.reduce_range), "cores": usable_cores()}

    def run(
        self, source: Checkpoint | SourceModel, config: OpenVINOQuantization, context: Context, out: Writer
    ) -> None:
        """Quantize, save, count what the runtime makes of it, and judge."""
        from compress.checkpoint import Checkpoint
        from compress.openvino_ir import save_model
        from compress.runtime import open_openvino
        from compress.runtime.encoder import TextEncoder
        from compress.steps.companions import copy_companions
        from compress.steps.quantize.gate import judge, metric_of, source_metric

        if not isinstance(source, Checkpoint):
            raise StepError(f"step {context.name}: quantize reads an exported checkpoint; {source.name} is not one")
        copy_companions(source, out)
        model, facts = self._convert(source, config, context, TextEncoder(out.path))
        save_model(model, out.path)
        out.facts["inference_precision"] = config.inference_precision
        predictor = open_openvino(
            out.path, task=context.task, threads=context.threads, inference_precision=config.inference_precision
        )
        try:
            facts["executed"] = predictor.executed()
            if config.max_metric_drop is not None:
                before = source_metric(source, context)
                after = metric_of(predictor, context)
                judge(before, after, config.max_metric_drop, context, _ADVICE)
                facts["validation"] = {"metric": context.task.metric, "source": before, "quantized": after}
        finally:
            predictor.close()
        out.facts["quantize"] = facts

    def _convert(
        self, source: Checkpoint, config: OpenVINOQuantization, context: Context, encoder: TextEncoder
    ) -> tuple[openvino.Model, dict[str, Any]]:
        """Return the model, quantized unless the config says otherwise, and its facts."""
        from compress.onnx_graph import find_head, float_products, load_graph, quantize_tables
        from compress.openvino_ir import convert_graph
        from compress.steps.quantize.openvino_nncf import activation_products, lookups, matching, quantize_model

        graph = load_graph(source.path)
        if config.weights == "fp32":
            return convert_graph(graph), {"method": "openvino", "weights": "fp32"}
        products = [node.name for node in float_products(graph)]
        head = find_head(graph)
        ignored = matching(config.ignored, products, context.name)
        if head is not None and not config.head and head not in ignored:
            ignored.append(head)
        if len(ignored) == len(products):
            raise StepError(
                f"step {context.name}: nothing in {source.architecture} could be quantized: "
                f"{len(products)} products by a stored weight were found in its graph, {len(ignored)} stay fp32"
            )
        tables = quantize_tables(graph, per_row=True) if config.embeddings else []
        model = convert_graph(graph)
        excluded = [*ignored, *lookups(model), *([] if config.attention else activation_products(model))]
        rows = context.task.encode(spread(context.data.train, config.calibration_rows), encoder, context.max_length)
        reduce_range = bool(self.resolve(config)["reduce_range"])
        validation = None
        if config.accuracy_control is not None:
            validation = _validation(model, source, config.accuracy_control, context, encoder)
        quantized = quantize_model(
            model, rows.inputs, config, ignored=excluded, reduce_range=reduce_range, validation=validation
        )
        return quantized, {
            "method": "openvino",
            "calibration_rows": len(rows),
            "reduce_range": reduce_range,
            "integer_tables": len(tables),
            "ignored": ignored,
        }


def spread(frame: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return so many rows of a frame, evenly spread over it; all where there are no more."""
    import numpy as np

    return frame.iloc[np.unique(np.linspace(0, len(frame) - 1, min(count, len(frame))).round().astype(int))]


def _validation(
    model: openvino.Model, source: Checkpoint, allowed: float, context: Context, encoder: TextEncoder
) -> tuple[int, Callable[[Any, Iterable[int]], float], float]:
    """Return what accuracy control asks: how many rows there are, the metric over some, what may be lost of it.

    NNCF compares with the model that it is given, whose embeddings are integers already: what those have cost is
    taken from what may be lost against the source.
    """
    import openvino

    from compress.runtime.openvino_predictor import cpu_properties
    from compress.steps.quantize.gate import source_metric
    from compress.tasks.base import Features
    from compress.tasks.padding import padding_of

    features = context.task.encode(context.data.validation, encoder, context.max_length)
    task, padding = context.task, padding_of(encoder)

    def metric(compiled: Any, numbers: Iterable[int]) -> float:
        chosen = sorted(numbers, key=lambda row: features.lengths[row])
        names = [value.get_any_name() for value in compiled.inputs]
        logits = []
        for start in range(0, len(chosen), _BATCH):
            part = [features.inputs[row] for row in chosen[start : start + _BATCH]]
            batch = task.collate(part, None, padding)
            found = compiled([batch[name] for name in names])[0]
            logits.extend(task.unbatch(found, batch))
        references = features.references
        some = Features(
            [features.inputs[row] for row in chosen],
            [features.labels[row] for row in chosen],
            references=None if references is None else [references[row] for row in chosen],
        )
        value = float(task.metrics(logits, some)[task.metric])
        return value if task.higher_is_better else -value

    begun = metric(openvino.compile_model(model, "CPU", cpu_properties(context.threads)), range(len(features)))
    before = source_metric(source, context)
    lost = (before if task.higher_is_better else -before) - begun
    return len(features), metric, max(0.0, allowed - lost)
