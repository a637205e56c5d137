"""Which step serves which config: the type of a config node picks it.

Steps are imported when they are asked for; steps of other packages come from the entry point group
``compress.steps``, each a `Step` subclass.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from compress.errors import ConfigError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from compress.steps.base import Step

__all__ = ["GROUP", "step_for", "step_kinds"]

GROUP = "compress.steps"
"""Entry point group in which other packages offer steps."""

_BUILT_IN: Mapping[str, tuple[str, str, str]] = MappingProxyType(
    {
        # kind: (config type, module of the step, class); a method of a group is GROUP/METHOD
        "source": ("compress.steps.source:SourceConfig", "compress.steps.source", "SourceStep"),
        "finetune": ("compress.config.schemas:Finetune", "compress.steps.finetune", "FinetuneStep"),
        "prune": ("compress.config.schemas:Prune", "compress.steps.prune.step", "PruneStep"),
        "vocabulary": (
            "compress.config.schemas:Vocabulary",
            "compress.steps.prune.vocabulary_step",
            "VocabularyStep",
        ),
        "distill": ("compress.config.schemas:Distill", "compress.steps.distill", "DistillStep"),
        "elastic": ("compress.config.elastic:Elastic", "compress.steps.elastic", "ElasticStep"),
        "cut": ("compress.config.elastic:Subnetwork", "compress.steps.elastic", "CutStep"),
        "export": ("compress.config.schemas:Export", "compress.steps.export", "ExportStep"),
        "simplify": ("compress.config.schemas:Simplify", "compress.steps.simplify.step", "SimplifyStep"),
        "quantize": (
            "compress.config.quantization:DynamicQuantization",
            "compress.steps.quantize.dynamic",
            "DynamicStep",
        ),
        "quantize/aware": (
            "compress.config.quantization:QuantizationAwareTraining",
            "compress.steps.quantize.aware",
            "QuantizationAwareStep",
        ),
        "quantize/trained": (
            "compress.config.quantization:TrainedQuantization",
            "compress.steps.quantize.trained",
            "TrainedStep",
        ),
        "quantize/mixed": (
            "compress.config.quantization:MixedQuantization",
            "compress.steps.quantize.mixed",
            "MixedStep",
        ),
        "quantize/openvino": (
            "compress.config.quantization:OpenVINOQuantization",
            "compress.steps.quantize.openvino_step",
            "OpenVINOStep",
        ),
        "quantize/weight_only": (
            "compress.config.quantization:WeightOnlyQuantization",
            "compress.steps.quantize.weight_only",
            "WeightOnlyStep",
        ),
        "quantize/static": (
            "compress.config.quantization:StaticQuantization",
            "compress.steps.quantize.static",
            "StaticStep",
        ),
        "quantize/bitsandbytes": (
            "compress.config.quantization:BitsAndBytes",
            "compress.steps.quantize.bitsandbytes",
            "BitsAndBytesStep",
        ),
    }
)


def step_for(config_type: type) -> Step[Any]:
    """Return the step that a config of this type configures.

    A subclass of a known config is served by the same step as its base.

    Raises
    ------
    ConfigError
        No step takes such a config.
    """
    for base in config_type.__mro__:
        name = f"{base.__module__}:{base.__qualname__}"
        for kind, (config, _, _) in _BUILT_IN.items():
            if config == name:
                return _built_in(kind)
    for step in _offered().values():
        if issubclass(config_type, step.config):
            return step
    known = ", ".join(step_kinds())
    raise ConfigError(f"no step takes a config of type {config_type.__name__}; kinds of steps: {known}")


def step_kinds() -> dict[str, Step[Any]]:
    """Return every step there is by its kind, those of other packages included."""
    return {**{kind: _built_in(kind) for kind in _BUILT_IN}, **_offered()}


@cache
def _built_in(kind: str) -> Step[Any]:
    _, module, name = _BUILT_IN[kind]
    step: Step[Any] = getattr(import_module(module), name)()
    return step


@cache
def _offered() -> dict[str, Step[Any]]:
    from compress.steps.base import Step

    found: dict[str, Step[Any]] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value)):
        offered = point.load()
        if not (isinstance(offered, type) and issubclass(offered, Step)):
            raise UnsupportedError(f"entry point {GROUP}:{point.name} = {point.value} is no Step; remove that package")
        if offered.kind in _BUILT_IN or offered.kind in found:
            raise UnsupportedError(
                f"entry point {GROUP}:{point.name} = {point.value} offers the kind {offered.kind!r}, which is taken; "
                f"remove that package or rename the kind"
            )
        found[offered.kind] = offered()
    return found
