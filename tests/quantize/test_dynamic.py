"""Dynamic INT8 quantizes what it says, keeps what it says, and refuses what lost too much."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from compress.config.schemas import DynamicQuantization
from compress.errors import ConfigError, StepError
from compress.onnx_graph.tables import quantize_rows
from compress.steps.base import SourceFacts
from compress.steps.quantize import DynamicStep
from compress.steps.quantize.gate import judge


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.floats(-1e4, 1e4, width=32)),
    st.booleans(),
)
def test_a_quantized_table_is_within_half_a_step(table: np.ndarray, per_row: bool) -> None:
    quantized, scales = quantize_rows(table, per_row)
    assert quantized.dtype == np.int8
    assert scales.shape == ((len(table), 1) if per_row else (1, 1))
    assert np.all(np.abs(quantized * scales - table) <= scales * 0.501 + 1e-30)


@pytest.mark.slow
def test_products_and_embeddings_become_integers_and_the_head_stays(
    exported: Any, context: Any, run_step: Any, tmp_path: Path
) -> None:
    config = DynamicQuantization(max_metric_drop=None)
    checkpoint = run_step(DynamicStep(), exported, config, context, tmp_path / "int8")
    facts = checkpoint.manifest.facts["quantize"]
    assert facts["integer_products"] == 2 * 6 + 1  # per layer q, k, v, output, up, down; and the pooler
    assert facts["integer_tables"] == 1
    assert facts["float_products"] == ["classifier_MatMul"]
    assert (checkpoint.path / "model.onnx").stat().st_size < (exported.path / "model.onnx").stat().st_size


@pytest.mark.slow
def test_the_config_decides_what_stays_float(exported: Any, context: Any, run_step: Any, tmp_path: Path) -> None:
    config = DynamicQuantization(
        max_metric_drop=None, head=True, embeddings=False, per_channel=False, weight_type="uint8"
    )
    facts = run_step(DynamicStep(), exported, config, context, tmp_path / "int8").manifest.facts["quantize"]
    assert facts["integer_products"] == 14
    assert facts["integer_tables"] == 0
    assert facts["float_products"] == []


@pytest.mark.slow
@pytest.mark.parametrize("config", [DynamicQuantization(), DynamicQuantization(per_channel=False, weight_type="uint8")])
def test_quantized_logits_stay_close(
    exported: Any, context: Any, run_step: Any, tmp_path: Path, config: DynamicQuantization
) -> None:
    from compress.runtime import open_predictor

    config.max_metric_drop = None
    checkpoint = run_step(DynamicStep(), exported, config, context, tmp_path / "int8")
    inputs = {"input_ids": np.random.default_rng(0).integers(5, 24, (4, 11))}
    with open_predictor(exported, threads=1) as before, open_predictor(checkpoint, threads=1) as after:
        one, two = before.logits(inputs), after.logits(inputs)
        assert after.logits({"input_ids": inputs["input_ids"][:1, :1]}).shape == (1, 3)
    assert np.abs(one - two).max() < 0.1 * np.abs(one).max()


@pytest.mark.slow
def test_the_gate_measures_both_on_validation_and_once(
    exported: Any, context: Any, run_step: Any, tmp_path: Path
) -> None:
    facts = run_step(
        DynamicStep(), exported, DynamicQuantization(max_metric_drop=1.0), context, tmp_path / "int8"
    ).manifest.facts
    assert facts["quantize"]["validation"].keys() == {"metric", "source", "quantized"}
    (kept,) = (context.cache / "validation_metrics").iterdir()
    written = kept.stat().st_mtime_ns
    run_step(DynamicStep(), exported, DynamicQuantization(max_metric_drop=0.9), context, tmp_path / "again")
    assert kept.stat().st_mtime_ns == written


def test_a_lost_metric_fails_the_step_and_names_both_figures(context: Any) -> None:
    judge(0.91, 0.90, 0.01, context)
    judge(0.90, 0.95, 0.0, context)
    for after in (0.85, float("nan")):
        with pytest.raises(StepError, match=rf"0\.9100 to {'nan' if after != after else '0.8500'}") as caught:
            judge(0.91, after, 0.05, context)
        assert caught.value.exit_status == 1


def test_quantizing_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="this one is int8"):
        DynamicStep().check(DynamicQuantization(), SourceFacts("onnx", "int8", "bert", 2))


@pytest.mark.parametrize(
    ("vnni", "machine", "config", "expected"),
    [
        (False, "x86_64", DynamicQuantization(), True),
        (True, "x86_64", DynamicQuantization(), False),
        (False, "aarch64", DynamicQuantization(), False),
        (False, "x86_64", DynamicQuantization(weight_type="uint8"), False),
        (True, "x86_64", DynamicQuantization(reduce_range="true"), True),
        (False, "x86_64", DynamicQuantization(reduce_range="false"), False),
    ],
)
def test_seven_bits_only_where_eight_saturate(
    monkeypatch: pytest.MonkeyPatch, vnni: bool, machine: str, config: DynamicQuantization, expected: bool
) -> None:
    monkeypatch.setattr("compress.machine.has_vnni", lambda: vnni)
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert DynamicStep().resolve(config) == {"reduce_range": expected}


@pytest.mark.slow
def test_a_graph_without_weights_is_refused(exported: Any, context: Any, run_step: Any, tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    from compress.checkpoint import Checkpoint

    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "sequence"])
    node = helper.make_node("Cast", ["input_ids"], ["logits"], "cast", to=TensorProto.FLOAT)
    model = helper.make_model(
        helper.make_graph([node], "g", [ids], [logits]), opset_imports=[helper.make_opsetid("", 20)]
    )
    folder = tmp_path / "bare"
    folder.mkdir()
    onnx.save(model, str(folder / "model.onnx"))
    with pytest.raises(StepError, match="nothing in bert could be quantized"):
        run_step(
            DynamicStep(), Checkpoint(folder, exported.manifest), DynamicQuantization(), context, tmp_path / "int8"
        )
