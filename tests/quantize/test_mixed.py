"""Mixed precision: the sensitive parts are spared, no more of them than needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.config.quantization import MixedQuantization
from compress.errors import ConfigError
from compress.steps.base import SourceFacts
from compress.steps.quantize.mixed import MixedStep, _most


@pytest.mark.parametrize("fitting", range(8))
def test_bisection_finds_the_most_that_fits(fitting: int) -> None:
    asked: list[int] = []

    def fits(count: int) -> bool:
        asked.append(count)
        return count <= fitting

    assert _most(7, fits) == fitting
    assert len(asked) <= 5


def config(**changes: Any) -> MixedQuantization:
    return MixedQuantization(**{"calibration_rows": 12, "batch_size": 5, "block_size": 16, **changes})


@pytest.mark.slow
@pytest.mark.parametrize("bits", ["8/32", "4/8"])
def test_with_room_nothing_is_spared(exported: Any, context: Any, run_step: Any, tmp_path: Path, bits: str) -> None:
    left = run_step(MixedStep(), exported, config(bits=bits, max_metric_drop=1.0), context, tmp_path / "mixed")
    facts = left.manifest.facts["quantize"]
    assert facts["spared"] == []
    assert len(facts["sensitivity"]) == 2 * 6 + 1 + 1
    assert list(facts["sensitivity"].values()) == sorted(facts["sensitivity"].values())
    assert left.precision == ("int8" if bits == "8/32" else "int4")


@pytest.mark.slow
def test_what_does_harm_is_spared(
    exported: Any, context: Any, run_step: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One product is made to be ruined by quantization: it alone stays fp32, and the budget holds."""
    from dataclasses import replace

    from compress.runtime import open_predictor
    from compress.steps.quantize import static
    from compress.steps.quantize.weights import IntegerWeight

    victim = "bert.encoder.layer.1.output.dense"
    real = static.prepare

    def ruined(*arguments: Any, **named: Any) -> Any:
        prepared = real(*arguments, **named)
        parts = dict(prepared.parts)
        code, weight, bias = parts[victim]
        parts[victim] = code, IntegerWeight(np.ascontiguousarray(-weight.values[::-1]), weight.scales), bias
        return replace(prepared, parts=parts)

    monkeypatch.setattr("compress.steps.quantize.mixed.prepare", ruined)
    # The model's own answers are the labels, so that anything that changes them costs.
    with open_predictor(exported, threads=1) as predictor:
        answers = [answer["label"] for answer in predictor.predict(list(context.data.validation["text"]))]
    validation = context.data.validation.assign(label=answers)
    judged = replace(context, data=replace(context.data, validation=validation))
    left = run_step(MixedStep(), exported, config(max_metric_drop=0.0), judged, tmp_path / "mixed")
    facts = left.manifest.facts["quantize"]
    assert victim in facts["spared"]
    assert max(facts["sensitivity"], key=facts["sensitivity"].get) == victim
    assert victim in facts["float_products"]
    assert facts["validation"]["quantized"] >= facts["validation"]["source"]


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="this one is int8"):
        MixedStep().check(config(), SourceFacts("onnx", "int8", "bert", 2))
    for changes in (
        {"bits": "8/32", "block_size": 32},
        {"bits": "4/8", "calibration": "mse"},
        {"bits": "4/8", "kernels": "qdq"},
    ):
        with pytest.raises(ConfigError, match="nothing reads it"):
            MixedStep().check(MixedQuantization(**changes), SourceFacts("onnx", "fp32", "bert", 2))
    with pytest.raises(ConfigError, match="power of two"):
        MixedStep().check(config(block_size=24), SourceFacts("onnx", "fp32", "bert", 2))
