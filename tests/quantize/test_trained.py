"""Quantization-aware training: what it sees is what the runtime computes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.config.quantization import QuantizationAwareTraining, TrainedQuantization
from compress.config.schemas import Export, Simplify
from compress.errors import ConfigError, StepError
from compress.steps.base import SourceFacts
from compress.steps.export import ExportStep
from compress.steps.quantize.aware import ENCODINGS_FILE, QuantizationAwareStep
from compress.steps.quantize.trained import TrainedStep
from compress.steps.simplify.step import SimplifyStep

AWARE = QuantizationAwareTraining(epochs=1, batch_size=4, calibration_rows=12, learning_rate=1e-3)
TRAINED = TrainedQuantization(max_metric_drop=None)
BLOCKS = QuantizationAwareTraining(bits="4", block_size=16, epochs=1, batch_size=4, learning_rate=1e-3)
OF_BLOCKS = TrainedQuantization(bits="4", activations="float32", max_metric_drop=None)


def test_a_fake_weight_is_on_its_grid_and_passes_gradients() -> None:
    import torch

    from compress.steps.quantize.fake import FakeWeight

    weight = torch.linspace(-1.2, 1.2, 24).reshape(2, 12).requires_grad_()
    fake = FakeWeight(np.array([0.01, 0.1]), 8)
    found = fake(weight)
    levels = found / torch.tensor([[0.01], [0.1]])
    assert torch.allclose(levels, levels.round(), atol=1e-4)
    assert levels.abs().max() <= 127.001
    found.sum().backward()
    assert weight.grad is not None
    assert torch.all((weight.grad == 1) == ((weight / torch.tensor([[0.01], [0.1]])).abs() <= 127))
    assert fake.power.grad is not None
    assert fake.power.grad.abs().sum() > 0


@pytest.mark.parametrize("shape", [(), (6, 1), (6, 1, 1)], ids=str)
def test_gradients_are_those_of_the_straight_through_expression(shape: tuple[int, ...]) -> None:
    import torch

    from compress.steps.quantize.fake import _rounded

    torch.manual_seed(0)
    x = 2 * torch.randn((6, 4, 5)[: max(2, len(shape))], dtype=torch.float64)
    step = torch.rand(shape, dtype=torch.float64) / 2 + 0.1
    low, high = (torch.full_like(step, end) if len(shape) == 3 else end for end in (-5, 6))
    direction, found = torch.randn_like(x), []
    for rounded in (_rounded, _expression):
        one, two = x.clone().requires_grad_(), step.clone().requires_grad_()
        value = rounded(one, two, low, high)
        (value * direction).sum().backward()
        found.append((value.detach(), one.grad, two.grad))
    for mine, reference in zip(*found, strict=True):
        torch.testing.assert_close(mine, reference)
    assert (x / step < -5).any()
    assert (x / step > 6).any()


def _expression(x: Any, step: Any, low: Any, high: Any) -> Any:
    import torch

    scaled = torch.clamp(x / step, low, high)
    return (scaled + (torch.round(scaled) - scaled).detach()) * step


@pytest.fixture(scope="module")
def aware(source: Any, run_step: Any, context_in: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("aware")
    return run_step(QuantizationAwareStep(), source, AWARE, context_in(folder), folder / "torch")


@pytest.mark.slow
@pytest.mark.parametrize("simplify", [False, True])
def test_the_graph_computes_what_training_saw(
    aware: Any, source: Any, context: Any, run_step: Any, tmp_path: Path, simplify: bool
) -> None:
    """Wrap the trained model anew with what it left, and compare with ONNX Runtime on real rows."""
    import torch

    from compress.models.torch_io import load_model
    from compress.onnx_graph.tables import quantize_rows
    from compress.runtime import open_predictor
    from compress.steps.quantize.ranges import Encoding

    exported = run_step(ExportStep(), aware, Export(check_rows=4), context, tmp_path / "onnx")
    assert (exported.path / ENCODINGS_FILE).is_file()
    if simplify:
        exported = run_step(SimplifyStep(), exported, Simplify(check_rows=4), context, tmp_path / "simple")
    left = run_step(TrainedStep(), exported, TRAINED, context, tmp_path / "int8")
    facts = left.manifest.facts["quantize"]
    assert (
        facts["executed"]["integer"] == facts["trained"] == (2 * 4 + 2 if simplify else 2 * 6 + 1)
    )  # the last query is apart
    assert facts["executed"]["float"] == 1

    model = load_model(aware)
    codes, scales = quantize_rows(model.bert.embeddings.word_embeddings.weight.detach().numpy(), per_row=True)
    model.bert.embeddings.word_embeddings.weight.data = torch.from_numpy(codes * scales)
    products = json.loads((aware.path / ENCODINGS_FILE).read_text())["products"]
    assert len(products) == 2 * 6 + 1

    def rounding(code: Encoding) -> Any:
        return lambda _, inputs: (torch.from_numpy(code.apply(inputs[0].numpy()).astype(np.float32)), *inputs[1:])

    for name, entry in products.items():
        linear = model.get_submodule(name)
        steps = linear.weight.abs().amax(dim=1) / torch.tensor(entry["levels"]).clamp_min(1)
        levels = linear.weight / steps[:, None]
        assert torch.allclose(levels, levels.round(), atol=1e-3)
        linear.register_forward_pre_hook(rounding(Encoding(entry["scale"], entry["zero"])))
    ids = np.random.default_rng(0).integers(5, 24, (4, 11))
    inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.ones(4, 11, dtype=torch.int64)}
    with torch.no_grad():
        expected = model(**inputs).logits.numpy()
    with open_predictor(left, threads=1) as predictor:
        found = predictor.logits({"input_ids": ids})
    # A value that falls between two levels may go to either; one level of one value moves a logit by little.
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("width", [32, 40])
def test_fake_blocks_begin_at_round_to_nearest_and_are_left_on_their_grid(width: int, bits: int) -> None:
    import torch

    from compress.steps.quantize.blocks import nearest
    from compress.steps.quantize.fake import unwrap_blocks, wrap_blocks

    torch.manual_seed(0)
    linear = torch.nn.Linear(width, 5)
    before = linear.weight.detach().numpy().copy()
    wrap_blocks([linear], bits, 16)
    expected = nearest(before, bits, 16, symmetric=False)
    assert np.abs(linear.weight.detach().numpy() - expected.floats()).max() < 1e-6
    linear(torch.ones(1, width)).sum().backward()
    fake: Any = linear.parametrizations["weight"]
    clipped = 0.2 if bits == 4 else 0.4
    assert (fake.original.grad != 0).float().mean() > 1 - clipped, "all but what is clipped at an edge"
    assert fake[0].power.grad.shape == (5, -(-width // 16))
    ((levels, zeros),) = unwrap_blocks([linear])
    assert levels.max() < 2**bits
    assert np.array_equal(zeros, expected.zeros)
    assert np.abs(linear.weight.detach().numpy() - expected.floats()).max() < 1e-6


@pytest.mark.parametrize(("bits", "width"), [(2, 32), (2, 34), (4, 32), (4, 33), (8, 32)])
def test_rows_of_tables_are_rounded_as_they_will_be_stored(bits: int, width: int) -> None:
    """Few bits in blocks, more where a row would not fill its bytes; 8 bits with a scale per row.

    Gradients reach the rows themselves.
    """
    import torch

    from compress.onnx_graph.tables import quantize_rows
    from compress.steps.quantize.blocks import nearest
    from compress.steps.quantize.fake import wrap_tables

    torch.manual_seed(0)
    table = torch.nn.Embedding(20, width)
    before, ids = table.weight.detach().numpy().copy(), torch.tensor([[3, 3, 7], [0, 19, 4]])
    handles = wrap_tables([table], bits, 16)
    if bits < 8:
        stored = nearest(before, {32: bits, 34: 4, 33: 8}[width], 16, symmetric=False).floats()
    else:
        codes, scales = quantize_rows(before, per_row=True)
        stored = codes * scales
    rows = table(ids)
    assert np.abs(stored - before).max() > 1e-3
    assert np.abs(rows.detach().numpy() - stored[ids]).max() < 1e-6
    rows.sum().backward()
    assert table.weight.grad is not None
    assert table.weight.grad[:, 0].tolist() == [ids.flatten().tolist().count(row) for row in range(20)]
    for handle in handles:
        handle.remove()
    assert np.array_equal(table(ids).detach().numpy(), before[ids])


@pytest.mark.slow
@pytest.mark.parametrize("simplify", [False, True])
def test_a_table_that_training_did_not_see_keeps_8_bits(
    with_positions: Any, context: Any, run_step: Any, tmp_path: Path, simplify: bool
) -> None:
    """Positions, to which simplify adds token types: 4 bits would move a logit by a tenth."""
    import torch

    from compress.models.torch_io import load_model
    from compress.onnx_graph import load_graph
    from compress.runtime import open_predictor
    from compress.steps.quantize.blocks import nearest

    aware = run_step(QuantizationAwareStep(), with_positions, BLOCKS, context, tmp_path / "torch")
    exported = run_step(ExportStep(), aware, Export(check_rows=4), context, tmp_path / "onnx")
    if simplify:
        exported = run_step(SimplifyStep(), exported, Simplify(check_rows=4), context, tmp_path / "simple")
    left = run_step(TrainedStep(), exported, OF_BLOCKS, context, tmp_path / "int4")
    assert left.manifest.facts["quantize"]["integer_tables"] == 2
    lookups = [node for node in load_graph(left.path).graph.node if node.op_type == "GatherBlockQuantized"]
    bits = {node.input[0]: entry.i for node in lookups for entry in node.attribute if entry.name == "bits"}
    assert sorted(bits.values()) == [4, 8]
    model = load_model(aware)
    table = model.bert.embeddings.word_embeddings.weight
    table.data = torch.from_numpy(nearest(table.detach().numpy(), 4, 16, symmetric=False).floats())
    ids = np.random.default_rng(0).integers(5, 24, (4, 11))
    with torch.no_grad():
        expected = model(torch.from_numpy(ids), torch.ones(4, 11, dtype=torch.int64)).logits.numpy()
    with open_predictor(left, threads=1) as predictor:
        found = predictor.logits({"input_ids": ids})
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()


def test_embeddings_that_training_did_not_see_rounded_are_told_of(
    source: Any, context: Any, run_step: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    aware = run_step(QuantizationAwareStep(), source, replace(BLOCKS, embeddings=False), context, tmp_path / "torch")
    exported = run_step(ExportStep(), aware, Export(check_rows=4), context, tmp_path / "onnx")
    run_step(TrainedStep(), exported, OF_BLOCKS, context, tmp_path / "int4")
    assert "training saw token embeddings as floats and embeddings=true" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("bits", ["2", "4"])
@pytest.mark.parametrize("simplify", [False, True])
def test_few_bits_of_the_graph_are_those_that_training_saw(
    source: Any, context: Any, run_step: Any, tmp_path: Path, simplify: bool, bits: str
) -> None:
    import torch

    from compress.models.torch_io import load_model
    from compress.runtime import open_predictor
    from compress.steps.quantize.blocks import nearest

    aware = run_step(QuantizationAwareStep(), source, replace(BLOCKS, bits=bits), context, tmp_path / "torch")
    assert json.loads((aware.path / ENCODINGS_FILE).read_text())["tables"] == ["bert.embeddings.word_embeddings"]
    exported = run_step(ExportStep(), aware, Export(check_rows=4), context, tmp_path / "onnx")
    if simplify:
        exported = run_step(SimplifyStep(), exported, Simplify(check_rows=4), context, tmp_path / "simple")
    left = run_step(TrainedStep(), exported, replace(OF_BLOCKS, bits=bits), context, tmp_path / "few")
    assert left.precision == f"int{bits}"
    facts = left.manifest.facts["quantize"]
    assert facts["executed"]["kernels"]["MatMulNBits"] == facts["trained"]
    ids = np.random.default_rng(0).integers(5, 24, (4, 11))
    inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.ones(4, 11, dtype=torch.int64)}
    model = load_model(aware)
    table = model.bert.embeddings.word_embeddings.weight
    table.data = torch.from_numpy(nearest(table.detach().numpy(), int(bits), 16, symmetric=False).floats())
    with torch.no_grad():
        expected = model(**inputs).logits.numpy()
    with open_predictor(left, threads=1) as predictor:
        found = predictor.logits({"input_ids": ids})
    assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()
    with pytest.raises(StepError, match=f"training sees weights of {bits} bits and bits=8; set bits={bits}"):
        run_step(TrainedStep(), exported, TRAINED, context, tmp_path / "other")


@pytest.mark.slow
def test_a_model_that_was_not_trained_so_is_refused(
    exported: Any, aware: Any, context: Any, run_step: Any, tmp_path: Path
) -> None:
    with pytest.raises(StepError, match="recipe=qat_int8"):
        run_step(TrainedStep(), exported, TRAINED, context, tmp_path / "one")
    left = run_step(ExportStep(), aware, Export(check_rows=4), context, tmp_path / "onnx")
    content = json.loads((left.path / ENCODINGS_FILE).read_text())
    first = next(iter(content["products"].values()))
    first["levels"] = [level - 1 for level in first["levels"]]
    (left.path / ENCODINGS_FILE).write_text(json.dumps(content))
    with pytest.raises(StepError, match="has left its grid"):
        run_step(TrainedStep(), left, TRAINED, context, tmp_path / "two")


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="trains an fp32 model"):
        QuantizationAwareStep().check(AWARE, SourceFacts("torch", "int8", "bert", 2))
    with pytest.raises(ConfigError, match="calibration_rows"):
        QuantizationAwareStep().check(replace(BLOCKS, calibration_rows=3), SourceFacts("torch", "fp32", "bert", 2))
    with pytest.raises(ConfigError, match="block_size"):
        QuantizationAwareStep().check(replace(AWARE, block_size=32), SourceFacts("torch", "fp32", "bert", 2))
    with pytest.raises(ConfigError, match="activations"):
        TrainedStep().check(replace(TRAINED, activations="float32"), SourceFacts("onnx", "fp32", "bert", 2))
    with pytest.raises(ConfigError, match="kernels"):
        TrainedStep().check(TrainedQuantization(bits="4", kernels="qdq"), SourceFacts("onnx", "fp32", "bert", 2))
    before = SourceFacts("onnx", "fp32", "bert", 2)
    two = replace(BLOCKS, bits="2")
    for aware, trained in (
        (BLOCKS, TRAINED),
        (two, TRAINED),
        (two, OF_BLOCKS),
        (replace(AWARE, bits="7"), OF_BLOCKS),
        (AWARE, OF_BLOCKS),
    ):
        seen = QuantizationAwareStep().after(aware, before)
        left = SimplifyStep().after(Simplify(), ExportStep().after(Export(), seen))
        with pytest.raises(ConfigError, match="training sees weights of"):
            TrainedStep().check(trained, left)
        fitting = {"4": OF_BLOCKS, "2": replace(OF_BLOCKS, bits="2")}.get(aware.bits, TRAINED)
        TrainedStep().check(fitting, left)
        TrainedStep().check(trained, before)  # of a checkpoint on disk it is seen when it is opened
