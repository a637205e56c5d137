"""bitsandbytes: what it quantizes, that a checkpoint reopens to the same bits, and what it refuses."""

from __future__ import annotations

import copy
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compress.benchmark.size import macs_of_torch, size_of
from compress.checkpoint import Checkpoint, Writer, open_checkpoint
from compress.config.quantization import BitsAndBytes
from compress.errors import CheckpointError, ConfigError, StepError, UnsupportedError
from compress.models.factorized import factorize_embeddings
from compress.models.structure import structure_of
from compress.models.surgery import Cut, cut
from compress.models.torch_io import load_model, save_model
from compress.quantized import Quantization
from compress.quantized.layers import Embedding4bit, Embedding8bit, Linear4bit, Linear8bit, bitsandbytes
from compress.runtime import open_predictor
from compress.steps.base import SourceFacts
from compress.steps.quantize.bitsandbytes import BitsAndBytesStep

pytestmark = pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs the extra bitsandbytes")
METHODS = ("nf4", "fp4", "int8")
LABELS = {"text_classification": ("food", "travel", "weather"), "token_classification": ("O", "B-X", "I-X")}
METRICS = {"text_classification": "accuracy", "token_classification": "f1"}
IDS = {"input_ids": np.arange(5, 35).reshape(3, 10)}
UNEVEN = Cut(
    heads={0: [1]},
    neurons={0: range(27), 1: range(40, 61)},
    hidden=[0, 7, 9, 30],
    vocabulary=range(390),
    positions=40,
)


def config(method: str = "nf4", **changes: Any) -> BitsAndBytes:
    return BitsAndBytes(method=method, max_metric_drop=None, **changes)


def made(architecture: str = "bert", task: str = "text_classification", *, pruned: bool = False) -> Any:
    """Return a small random model, whole or with a width of its own in every layer."""
    from transformers import AutoConfig

    from compress.models.families import family
    from compress.tasks import create

    places, labels = family(architecture), LABELS[task]
    sizes = {
        places.config_layers: 2,
        places.config_heads: 2,
        places.config_intermediate: 64,
        places.config_hidden: 32,
        **({"embedding_size": 24} if architecture == "electra" else {}),
    }
    torch.manual_seed(0)
    described = AutoConfig.for_model(
        architecture,
        vocab_size=400,
        max_position_embeddings=128,
        pad_token_id=1,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
        **sizes,
    )
    model = create(task, labels).model_class().from_config(described, attn_implementation=places.attention).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    return cut(model, UNEVEN) if pruned else model


@pytest.fixture
def save(source: Checkpoint, tmp_path: Path) -> Callable[..., Checkpoint]:
    """Return a function that makes a checkpoint of a model, with the tokenizer of `source`."""
    from compress.models.torch_io import load_tokenizer

    def write(model: Any, task: str = "text_classification") -> Checkpoint:
        folder = tmp_path / f"source-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        out = Writer(folder)
        save_model(out, model, load_tokenizer(source.path), 32)
        return out.finish(
            format="torch",
            precision="fp32",
            task=task,
            metric=METRICS[task],
            labels=LABELS[task],
            max_length=32,
            architecture=model.config.model_type,
            layers=structure_of(model).layers,
        )

    return write


@pytest.fixture
def quantize(context: Any, tmp_path: Path) -> Callable[..., Checkpoint]:
    """Return a function that quantizes a checkpoint as the pipeline does."""

    def run(source: Checkpoint, how: BitsAndBytes, **changes: Any) -> Checkpoint:
        step = BitsAndBytesStep()
        manifest = source.manifest
        facts = SourceFacts(source.format, source.precision, source.architecture, source.layers)
        step.check(how, facts)
        folder = tmp_path / f"quantized-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        out = Writer(folder)
        step.run(source, how, replace(context, **changes), out)
        out.finish(
            format="torch",
            precision=step.after(how, facts).precision,
            task=manifest.task,
            metric=manifest.metric,
            labels=manifest.labels,
            max_length=manifest.max_length,
            architecture=manifest.architecture,
            layers=manifest.layers,
        )
        return open_checkpoint(folder)

    return run


def logits(checkpoint: Checkpoint, device: str = "cpu") -> np.ndarray:
    with open_predictor(checkpoint, threads=1, device=device) as predictor:
        return predictor.logits(IDS)


# --- layers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["nf4", "fp4"])
@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize(("rows", "columns"), [(48, 128), (7, 100), (300, 65)])
def test_four_bits_are_those_of_the_library(method: str, double_quant: bool, rows: int, columns: int) -> None:
    from compress.quantized.layers import scale_values

    functional = bitsandbytes().functional
    how = Quantization(method, double_quant=double_quant, scale_values=scale_values() if double_quant else ())
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))
    bias = torch.nn.Parameter(torch.ones(rows))
    linear, table = Linear4bit(rows, columns, how, bias), Embedding4bit(rows, columns, how, None)
    linear.quantize(weight)
    table.quantize(weight)

    whole = torch.nn.functional.pad(weight, (0, -columns % 64))
    packed, state = functional.quantize_4bit(whole, blocksize=64, quant_type=method, compress_statistics=double_quant)
    expected = functional.dequantize_4bit(packed, state)[:, :columns]
    assert linear.weight.numel() == whole.numel() // 2
    ids = torch.tensor([[3, 0], [rows - 1, 3]])
    assert torch.allclose(table(ids), expected[ids], atol=1e-6)
    inputs = torch.randn(2, 5, columns)
    with torch.inference_mode():
        assert torch.allclose(linear(inputs), inputs @ expected.T + 1, atol=1e-4)
    error = (expected - weight).abs()
    widest = {"nf4": 0.16, "fp4": 0.17}[method]  # half of the widest gap between two values
    assert bool((error <= (widest + 0.02 * double_quant) * weight.abs().max()).all())


@pytest.mark.parametrize("threshold", [0.0, 2.0])
def test_eight_bits_are_near_and_outliers_nearer(threshold: float) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, inputs = (torch.randn(size, generator=generator) for size in ((40, 90), (2, 5, 90)))
    inputs[..., 3] *= 50
    how = Quantization("int8", threshold=threshold)
    linear, table = Linear8bit(40, 90, how, None), Embedding8bit(40, 90, how, None)
    linear.quantize(weight)
    table.quantize(weight)
    ids = torch.tensor([[0, 39]])
    assert float((table(ids) - weight[ids]).abs().max()) <= float(weight.abs().max()) / 254 + 2e-3
    rounded = table(torch.arange(40))
    with torch.inference_mode():
        error = float((linear(inputs) - inputs @ rounded.T).abs().max())
    assert error < (0.2 if threshold else 10)


def test_kernels_use_the_threads_of_torch() -> None:
    from compress.quantized import layers

    openmp, before = layers._openmp(), torch.get_num_threads()
    if openmp is None:
        pytest.skip("the kernels' OpenMP library cannot be told here")
    linear = Linear4bit(32, 64, Quantization("nf4"), None)
    linear.quantize(torch.randn(32, 64))
    try:
        torch.set_num_threads(1)
        openmp.omp_set_num_threads(2)
        linear(torch.randn(3, 64))
        assert openmp.omp_get_max_threads() == torch.get_num_threads()  # of one library, where torch brings none
    finally:
        torch.set_num_threads(before)


def test_layers_are_copied_moved_and_cast_like_any_other() -> None:
    how = Quantization("nf4")
    linear = Linear4bit(32, 64, how, torch.nn.Parameter(torch.zeros(32)))
    linear.quantize(torch.randn(32, 64))
    inputs = torch.randn(3, 64)
    with torch.inference_mode():
        for other in (copy.deepcopy(linear), copy.deepcopy(linear).float(), copy.deepcopy(linear).to("cpu")):
            assert torch.equal(other(inputs), linear(inputs))
    assert set(linear.state_dict()) == {"weight", "absmax", "bias"}


# --- checkpoints ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("architecture", ["bert", "roberta", "electra", "mpnet", "distilbert"])
@pytest.mark.parametrize("pruned", [False, True])
def test_every_family_and_width_reopens_bit_equal(
    method: str, architecture: str, pruned: bool, save: Any, quantize: Any
) -> None:
    source = save(made(architecture, pruned=pruned))
    checkpoint = quantize(source, config(method))
    assert checkpoint.precision == method
    first = logits(checkpoint)
    assert first.tobytes() == logits(checkpoint).tobytes()
    expected = logits(source)
    assert 0 < np.abs(first - expected).max() < 0.7 * np.abs(expected).max()


_READ = """
import json, sys
import numpy as np
import compress
for path in sys.argv[1:]:
    ids = np.arange(5, 35).reshape(3, 10)
    with compress.load(path, threads=1, device="cpu") as model:
        print(json.dumps([type(model).__name__, model.logits({"input_ids": ids}).tobytes().hex()]))
"""


@pytest.mark.slow
def test_every_task_dense_or_pruned_answers_the_same_in_a_new_process(save: Any, quantize: Any) -> None:
    checkpoints = [
        quantize(save(made(task=task, pruned=pruned), task), config(method, **changes))
        for task in LABELS
        for pruned in (False, True)
        for method, changes in (("nf4", {}), ("fp4", {"double_quant": False, "head": True}), ("int8", {}))
    ]
    line = [sys.executable, "-c", _READ, *(str(checkpoint.path) for checkpoint in checkpoints)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    answers = [json.loads(answer) for answer in done.stdout.splitlines()]
    assert answers == [["TorchPredictor", logits(checkpoint).tobytes().hex()] for checkpoint in checkpoints]


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("pruned", [False, True])
def test_a_gpu_opens_what_was_quantized_on_the_cpu(method: str, pruned: bool, save: Any, quantize: Any) -> None:
    source = save(made(pruned=pruned))
    checkpoint = quantize(source, config(method))
    first = logits(checkpoint, "cuda")
    assert first.tobytes() == logits(checkpoint, "cuda").tobytes()
    np.testing.assert_allclose(first, logits(checkpoint), atol=2e-2 if method == "int8" else 1e-3)
    assert quantize(source, config(method), device="cuda").digest == checkpoint.digest


def test_a_factorized_embedding_is_quantized_in_both_parts(save: Any, quantize: Any) -> None:
    model = made()
    factorize_embeddings(model, 16)
    checkpoint = quantize(save(model), config())
    names = set(json.loads((checkpoint.path / "quantization.json").read_text())["layers"])
    assert {f"bert.embeddings.word_embeddings.{part}" for part in ("factors", "projection")} <= names
    assert logits(checkpoint).tobytes() == logits(checkpoint).tobytes()


def test_the_config_decides_what_is_quantized(source: Checkpoint, quantize: Any) -> None:
    facts = {
        name: quantize(source, how).manifest.facts["quantize"]
        for name, how in {
            "default": config(),
            "all": config(head=True),
            "products": config(embeddings=False),
        }.items()
    }
    assert facts["default"]["linears"] == 2 * 6 + 1  # per layer q, k, v, output, up, down; and the pooler
    assert facts["default"]["tables"] == 1
    assert facts["default"]["left_out"] == {
        "bert.embeddings.position_embeddings": "fewer than 4096 entries",
        "bert.embeddings.token_type_embeddings": "fewer than 4096 entries",
        "classifier": "the head",
    }
    assert facts["default"]["padding"] == (400 + 2 * (4 * 32 + 64) + 32) * 32  # rows of 32 in blocks of 64
    assert facts["all"]["linears"] == 14
    assert facts["products"]["tables"] == 0
    assert facts["products"]["left_out"]["bert.embeddings.word_embeddings"] == "embeddings=false"


@pytest.mark.parametrize("method", METHODS)
def test_equal_work_gives_equal_bytes_whatever_the_threads(method: str, save: Any, quantize: Any) -> None:
    source, before = save(made(pruned=True)), torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(quantize(source, config(method)).digest)
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1]


def test_the_gate_judges_what_was_saved(source: Checkpoint, quantize: Any, context: Any) -> None:
    how = BitsAndBytes(max_metric_drop=1.0)
    facts = quantize(source, how).manifest.facts["quantize"]
    assert facts["validation"].keys() == {"metric", "source", "quantized"}
    (kept,) = (context.cache / "validation_metrics").iterdir()
    kept.write_text('{"value": 1.9}')
    with pytest.raises(StepError, match=r"quantize.embeddings=false or quantize.block_size=32 or quantize.method=int8"):
        quantize(source, BitsAndBytes(max_metric_drop=0.1), name="quantize")


# --- size -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_size_counts_the_weights_that_there_were_and_the_bytes_that_there_are(
    method: str, save: Any, quantize: Any
) -> None:
    source = save(made(pruned=True))
    checkpoint = quantize(source, config(method, embeddings=True))
    before, after = size_of(source.path, "torch"), size_of(checkpoint.path, "torch")
    assert after["parameters"] == before["parameters"]
    assert (before["precision"], after["precision"]) == ("fp32", method)
    assert after["weights_bytes"] == (checkpoint.path / "model.safetensors").stat().st_size
    one, other = load_model(source), load_model(checkpoint)
    words = other.get_input_embeddings()
    held = sum(tensor.numel() * tensor.element_size() for tensor in words.state_dict().values())
    rest = sum(
        table.weight.numel() * 4
        for table in (other.bert.embeddings.position_embeddings, other.bert.embeddings.token_type_embeddings)
    )
    assert after["embedding_bytes"] == held + rest
    names = ("input_ids", "attention_mask")
    if method == "int8":
        assert macs_of_torch(other, 2, 8, names) == macs_of_torch(one, 2, 8, names)
    else:  # rows are filled up to whole blocks, and multiplied so
        assert macs_of_torch(other, 2, 8, names) >= macs_of_torch(one, 2, 8, names)


# --- wrong use --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "source", "message"),
    [
        (config(), SourceFacts("onnx", "fp32", "bert", 2), "let it stand before export"),
        (config(), SourceFacts("torch", "nf4", "bert", 2), "this one is nf4: quantizing twice"),
        (config(block_size=96), SourceFacts("torch", "fp32", "bert", 2), "allowed are 32, 64, 128"),
    ],
)
def test_wrong_use_is_refused_before_work(how: BitsAndBytes, source: SourceFacts, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        BitsAndBytesStep().check(how, source)
    assert caught.value.exit_status == 2


def test_an_absent_package_is_named_with_what_brings_it(
    source: Checkpoint, quantize: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, real = quantize(source, config()), importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "bitsandbytes" else real(name))
    with pytest.raises(UnsupportedError, match=r"pip install 'compress-transformers\[bitsandbytes\]'") as caught:
        BitsAndBytesStep().check(config(), SourceFacts("torch", "fp32", "bert", 2))
    assert caught.value.exit_status == 2
    with pytest.raises(UnsupportedError, match="not installed here"):
        load_model(checkpoint)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "has version 2"),
        ({"method": "int3"}, "is damaged"),
        ({"block_size": 0}, "is damaged"),
        ({"scale_values": []}, "is damaged"),
        ({"block_size": 32}, "another shape of"),
        ({"double_quant": False, "scale_values": []}, "has the unknown"),
        ({"layers": {"bert.nothing": {"kind": "linear", "rows": 2, "columns": 2}}}, "names bert.nothing"),
        ({"more": 1}, "is damaged"),
    ],
)
def test_a_description_that_is_not_that_of_the_tensors_is_refused(
    change: dict[str, Any], message: str, source: Checkpoint, quantize: Any
) -> None:
    checkpoint = quantize(source, config())
    file = checkpoint.path / "quantization.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(CheckpointError, match=message):
        load_model(checkpoint)


_IMPORT = """
import sys
import compress.quantized.layers as layers
library = layers.bitsandbytes()
import torch
assert "kernels" not in sys.modules, "a package that asks a hub was imported"
assert "compiled" not in repr(torch.compile), torch.compile
import kernels
"""


@pytest.mark.slow
def test_the_import_asks_no_hub_for_a_kernel(tmp_path: Path, checkout: Path) -> None:
    (tmp_path / "kernels.py").write_text("print('asked')\n")
    environment = {"PYTHONPATH": f"{checkout}:{tmp_path}", "PATH": "/usr/bin:/bin"}
    line = [sys.executable, "-c", _IMPORT]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout == "asked\n"  # by the last line alone
    assert done.stderr == ""
