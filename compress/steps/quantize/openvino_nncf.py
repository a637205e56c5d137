"""NNCF's post-training quantization, as one function of a model, of rows and of a config."""

from __future__ import annotations

import contextlib
import fnmatch
import io
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from compress.errors import ConfigError

if TYPE_CHECKING:
    import openvino

    from compress.config.quantization import OpenVINOQuantization

__all__ = ["activation_products", "lookups", "matching", "quantize_model", "quiet_nncf"]

Row = Mapping[str, Sequence[int]]
Metric = Callable[[Any, Iterable[int]], float]
"""From a compiled model and numbers of validation rows to a metric, of which more is better."""


def matching(patterns: Sequence[str], names: Sequence[str], step: str) -> list[str]:
    """Return the names that match one of the patterns (``*`` and ``?``), in their order.

    Raises
    ------
    ConfigError
        If a pattern matches none.
    """
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise ConfigError(
                f"{step}.ignored: {pattern!r} matches no product; there are {', '.join(names[:12])}"
                f"{', ...' if len(names) > 12 else ''}"
            )
    return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def activation_products(model: openvino.Model) -> list[str]:
    """Return the names of the products of two activations: queries by keys, and scores by values."""
    return [
        operation.get_friendly_name()
        for operation in model.get_ordered_ops()
        if operation.get_type_name() == "MatMul"
        and not any(value.get_node().get_type_name() == "Constant" for value in operation.input_values())
    ]


def lookups(model: openvino.Model) -> list[str]:
    """Return the names of the look-ups in stored tables.

    NNCF would store those as integers that OpenVINO turns into floats when it opens the file: less on disk, nothing
    less in memory.
    """
    return [
        operation.get_friendly_name()
        for operation in model.get_ordered_ops()
        if operation.get_type_name() == "Gather"
        and operation.input_value(0).get_node().get_type_name() == "Constant"
        and len(operation.input_value(0).get_shape()) == 2
    ]


def quantize_model(
    model: openvino.Model,
    rows: Sequence[Row],
    config: OpenVINOQuantization,
    *,
    ignored: Sequence[str],
    reduce_range: bool,
    validation: tuple[int, Metric, float] | None = None,
) -> openvino.Model:
    """Quantize the products of a model to 8 bits.

    Parameters
    ----------
    model
        With names of its own for every operation.
    rows
        Tokenized calibration rows; each is run alone, without padding, so that NNCF's statistics see tokens only
        and hold one figure per row or channel, whatever the lengths.
    config
        The step's.
    ignored
        Names of operations that stay as they are.
    reduce_range
        Whether weights are kept to 7 bits.
    validation
        For accuracy control: number of validation rows, the metric over some of them, and how much of it may be
        lost.

    Returns
    -------
    openvino.Model
        Weights as integers, the products' inputs behind ``FakeQuantize``.
    """
    names = [value.get_any_name() for value in model.inputs]
    with quiet_nncf() as nncf:
        calibration = nncf.Dataset(list(rows), lambda row: _alone(row, names))
        common: dict[str, Any] = {
            "preset": nncf.QuantizationPreset(config.preset),
            "target_device": nncf.TargetDevice.CPU,
            "subset_size": len(rows),
            "fast_bias_correction": config.bias_correction != "full",
            "model_type": nncf.ModelType.TRANSFORMER,
            "ignored_scope": nncf.IgnoredScope(names=sorted(ignored)) if ignored else None,
        }
        advanced = nncf.AdvancedQuantizationParameters(
            overflow_fix=nncf.OverflowFix.ENABLE if reduce_range else nncf.OverflowFix.DISABLE,
            disable_bias_correction=config.bias_correction == "off",
            batchwise_statistics=False,
            activations_range_estimator_params=_ranges(nncf, config.activation_range),
            smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(
                matmul=-1 if config.smooth_quant is None else config.smooth_quant
            ),
        )
        if validation is None:
            return nncf.quantize(model, calibration, advanced_parameters=advanced, **common)
        count, metric, allowed = validation
        return nncf.quantize_with_accuracy_control(
            model,
            calibration,
            nncf.Dataset(list(range(count))),
            lambda compiled, numbers: (metric(compiled, numbers), None),
            max_drop=allowed,
            advanced_quantization_parameters=advanced,
            **common,
        )


def _alone(row: Row, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return a row as a batch of its own, int64 ``[1, tokens]`` per input."""
    return {name: np.asarray([row[name]], dtype=np.int64) for name in names}


def _ranges(nncf: Any, kind: str) -> Any:
    """Return how a range is read from the rows: the mean of their extremes, the extremes of all, or quantiles."""
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet as Ranges

    return {"mean": Ranges.MEAN_MINMAX, "extremes": Ranges.MINMAX, "quantile": Ranges.MEAN_QUANTILE}[kind]


@contextlib.contextmanager
def quiet_nncf() -> Iterator[Any]:
    """Give NNCF with its usage statistics off, its reports held back, and Python's logging left as it was."""
    os.environ.setdefault("NNCF_CI", "1")  # no word to its makers; read once, when it is imported
    logger_class = logging.getLoggerClass()
    with contextlib.redirect_stdout(io.StringIO()):
        first = "nncf" not in sys.modules
        import nncf

        if first:
            logging.setLoggerClass(logger_class)
        nncf.set_log_level(logging.ERROR)
        yield nncf
