"""An export answers as torch does, at any shape, and is the same bytes every time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.config.schemas import Export
from compress.errors import ConfigError, StepError
from compress.steps.base import SourceFacts
from compress.steps.export import ExportStep

pytestmark = pytest.mark.slow


def batch(rows: int, tokens: int) -> dict[str, np.ndarray]:
    """Return random token ids with some padding."""
    random = np.random.default_rng(0)
    mask = np.ones((rows, tokens), dtype=np.int64)
    mask[-1, max(1, tokens // 2) :] = 0
    return {"input_ids": random.integers(5, 24, (rows, tokens)), "attention_mask": mask}


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (1, 17), (2, 1), (5, 33), (3, 64)])
def test_export_agrees_with_torch_at_any_shape(source: Any, exported: Any, shape: tuple[int, int]) -> None:
    from compress.runtime import open_predictor

    with open_predictor(source, threads=1) as torch, open_predictor(exported, threads=1) as onnx:
        inputs = batch(*shape)
        np.testing.assert_allclose(onnx.logits(inputs), torch.logits(inputs), atol=1e-4)


def test_export_records_how_far_it_is_from_torch(exported: Any) -> None:
    facts = exported.manifest.facts["export"]
    assert facts["rows"] == 12
    assert facts["largest_logit_difference"] < 1e-4
    assert facts["label_agreement"] == 1.0
    assert facts["inputs"] == ["input_ids", "attention_mask"]


def test_export_keeps_config_and_tokenizer_bytes(source: Any, exported: Any) -> None:
    kept = {name: digest for name, digest in source.manifest.files.items() if not name.endswith(".safetensors")}
    assert kept
    assert kept.items() <= exported.manifest.files.items()


def test_pairs_keep_their_token_types(source: Any, pair_context: Any, run_step: Any, tmp_path: Path) -> None:
    from compress.runtime import open_predictor

    checkpoint = run_step(ExportStep(), source, Export(), pair_context, tmp_path / "onnx")
    assert "token_type_ids" in checkpoint.manifest.facts["export"]["inputs"]
    pairs = [("soup bread", "rain"), ("train", "hotel ticket again")]
    with open_predictor(source, threads=1) as torch, open_predictor(checkpoint, threads=1) as onnx:
        for one, two in zip(torch.predict(pairs), onnx.predict(pairs), strict=True):
            assert one["label"] == two["label"]
            assert one["score"] == pytest.approx(two["score"], abs=1e-4)


def test_an_export_beyond_the_tolerance_is_refused(source: Any, context: Any, run_step: Any, tmp_path: Path) -> None:
    with pytest.raises(StepError, match=r"disagrees with torch by .* in a logit over 12 validation rows"):
        run_step(ExportStep(), source, Export(tolerance=1e-12), context, tmp_path / "onnx")


def test_a_quantized_source_is_refused() -> None:
    with pytest.raises(ConfigError, match="int8"):
        ExportStep().check(Export(), SourceFacts("torch", "int8", "bert", 2))


def test_weights_beyond_one_file_go_beside_it(exported: Any, tmp_path: Path) -> None:
    from compress.onnx_graph import load_graph, save_graph
    from compress.runtime import open_onnx

    save_graph(load_graph(exported.path), tmp_path, single_file_bytes=1)
    assert (tmp_path / "model.onnx.data").stat().st_size > 100_000
    split, whole = (open_onnx(path, task=None, threads=1) for path in (tmp_path, exported.path))
    np.testing.assert_array_equal(split.logits(batch(2, 9)), whole.logits(batch(2, 9)))


_TWICE = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from conftest import build_context, run
from compress.checkpoint import open_checkpoint
from compress.config.schemas import DynamicQuantization, Export
from compress.steps.export import ExportStep
from compress.steps.quantize import DynamicStep
source, root = open_checkpoint({source!r}), Path({root!r})
for step, config in (ExportStep(), Export()), (DynamicStep(), DynamicQuantization(max_metric_drop=None)):
    source = run(step, source, config, build_context(root), root / step.kind)
"""


def test_two_processes_write_equal_bytes_without_paths(source: Any, tmp_path: Path) -> None:
    for seed in ("1", "2"):
        code = _TWICE.format(tests=str(Path(__file__).parent), source=str(source.path), root=str(tmp_path / seed))
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == ""
        assert "torch.onnx" not in done.stderr
    for kind in ("export", "quantize"):
        first, second = (tmp_path / seed / kind for seed in ("1", "2"))
        assert (first / "checkpoint.json").read_bytes() == (second / "checkpoint.json").read_bytes()
        model = (first / "model.onnx").read_bytes()
        assert model == (second / "model.onnx").read_bytes()
        assert b".py" not in model
        assert str(tmp_path).encode() not in model
