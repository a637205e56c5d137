"""Every method for ONNX graphs, dense or pruned, on both tasks: what it leaves answers the same in a new process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.config.quantization import (
    MixedQuantization,
    QuantizationAwareTraining,
    StaticQuantization,
    TrainedQuantization,
    WeightOnlyQuantization,
)
from compress.config.schemas import DynamicQuantization, Export, Simplify
from compress.steps.registry import step_for

AWARE = QuantizationAwareTraining(epochs=1, batch_size=8, learning_rate=1e-4)
GATE: dict[str, Any] = {"max_metric_drop": None}
FEW: dict[str, Any] = {**GATE, "calibration_rows": 8}
METHODS: dict[str, Any] = {
    "dynamic": DynamicQuantization(**GATE),
    **{
        f"static_{way}": StaticQuantization(calibration=way, **FEW)
        for way in ("min_max", "percentile", "mse", "entropy")
    },
    "static_adaround": StaticQuantization(rounding="adaround", **FEW),
    "smoothquant": StaticQuantization(smooth=True, **FEW),
    "int4": WeightOnlyQuantization(**FEW),
    "weight8": WeightOnlyQuantization(bits=8, rounding="nearest", **FEW),
    "mixed": MixedQuantization(max_metric_drop=1.0, calibration_rows=8),
    "mixed_4_8": MixedQuantization(bits="4/8", max_metric_drop=1.0, calibration_rows=8),
}

_READ = """
import json, sys
import numpy as np
import compress
for path in sys.argv[1:]:
    ids = np.arange(5, 23).reshape(2, 9)
    with compress.load(path, threads=1, device="cpu") as model:
        print(json.dumps([type(model).__name__, model.logits({"input_ids": ids}).tobytes().hex()]))
print(json.dumps([name for name in ("torch", "transformers", "onnx") if name in sys.modules]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("pruned", [False, True], ids=["dense", "pruned"])
@pytest.mark.parametrize("name", ["text_classification", "token_classification"])
def test_it_answers_the_same_in_a_new_process_without_torch(
    name: str, pruned: bool, both_tasks: Callable[[str, bool], tuple[Any, Any, Any]], run_step: Any, tmp_path: Path
) -> None:
    from compress.runtime import open_predictor

    torch_source, exported, context = both_tasks(name, pruned)
    checkpoints = {
        way: run_step(step_for(type(config)), exported, config, context, tmp_path / way)
        for way, config in METHODS.items()
    }
    for bits in ("8", "4", "2"):
        source = torch_source
        for way, config in (
            ("aware", replace(AWARE, bits=bits)),
            ("onnx", Export(check_rows=4)),
            ("simple", Simplify(check_rows=4)),
            ("trained", TrainedQuantization(bits=bits, **GATE)),
        ):
            own = replace(context, scratch=tmp_path / "scratch" / bits)
            source = run_step(step_for(type(config)), source, config, own, tmp_path / f"{way}{bits}")
        checkpoints[f"trained{bits}"] = source

    ids = np.arange(5, 23).reshape(2, 9)
    with open_predictor(exported, threads=1) as predictor:
        expected = predictor.logits({"input_ids": ids})
    answers = {}
    for way, checkpoint in checkpoints.items():
        with open_predictor(checkpoint, threads=1) as predictor:
            answers[way] = predictor.logits({"input_ids": ids})
        assert answers[way].shape == expected.shape, way
        if not way.startswith("trained"):
            assert 0 < np.abs(answers[way] - expected).max() < 0.5 * np.abs(expected).max(), way
    line = [sys.executable, "-c", _READ, *(str(checkpoint.path) for checkpoint in checkpoints.values())]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    *found, modules = (json.loads(text) for text in done.stdout.splitlines())
    assert found == [["OnnxPredictor", answer.tobytes().hex()] for answer in answers.values()]
    assert modules == []
