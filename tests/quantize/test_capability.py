"""What a method saves on a machine is said before any work, and stands in the record."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from compress.cli.validate import compose_job
from compress.errors import ConfigError
from compress.models.source import resolve
from compress.pipeline import dry_run
from compress.pipeline.plan import Plan, make_plan
from compress.steps.quantize.capability import METHODS, cautions

needs_extra = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="needs the extra bitsandbytes"
)


def plan(*overrides: str, recipe: str = "nf4") -> Plan:
    job = compose_job(recipe, ["debug=tiny", "device=cpu", *overrides])
    return make_plan(job, resolve(job.model), None)


@pytest.mark.parametrize(
    ("method", "flags", "device", "said"),
    [
        ("onnx_int8", ["avx2"], "cpu", "without VNNI, AMX or Arm's dot product"),
        ("onnx_int8", ["avx2", "avx512f", "avx512_vnni"], "cpu", None),
        ("onnx_int8", ["asimd", "asimddp"], "cpu", None),
        ("onnx_int8", ["avx2", "avx512_vnni"], "cuda", "runs slower than fp32"),
        ("onnx_blocks", ["avx2", "avx512_vnni"], "cpu", "little or no time"),
        ("onnx_blocks", [], "cuda:1", "save bytes and memory"),
        ("bitsandbytes_4bit", ["avx2"], "cpu", "turns its weights into floats first"),
        ("bitsandbytes_4bit", ["avx512f", "avx512_bf16"], "cpu", "compute=bf16 makes up for it"),
        ("bitsandbytes_4bit_bf16", ["avx512f", "avx512_bf16"], "cpu", "time only in large batches"),
        ("bitsandbytes_4bit_bf16", ["avx512f"], "cpu", "no instruction of their own"),
        ("bitsandbytes_4bit", ["avx2"], "cuda", "save bytes and memory"),
        ("bitsandbytes_int8", ["avx2"], "cpu", "without AVX-512"),
        ("bitsandbytes_int8", ["avx2", "avx512f"], "cpu", "costs time"),
        ("bitsandbytes_int8", ["avx2"], "cuda:0", "no time"),
    ],
)
def test_what_a_method_does_not_save_is_said(
    method: str, flags: list[str], device: str, said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compress.machine.isa", lambda: flags)
    monkeypatch.setattr("compress.steps.quantize.capability.isa", lambda: flags)
    found = cautions(method, device)
    if said is None:
        assert found == []
    else:
        assert len(found) == 1
        assert said in found[0]


def test_every_method_is_known_everywhere() -> None:
    for method in METHODS:
        for device in ("cpu", "cuda", "cuda:1"):
            assert all(isinstance(caution, str) for caution in cautions(method, device))


@needs_extra
def test_the_plan_says_it_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    assert any("quantize: 4-bit weights of bitsandbytes" in note for note in plan().notes)
    assert any("quantize: LLM.int8" in note for note in plan("quantize=llm_int8").notes)
    assert "warning    quantize: 4-bit weights" in dry_run(compose_job("nf4", ["debug=tiny", "device=cpu"]))
    monkeypatch.setattr("compress.steps.quantize.capability.has_vnni", lambda: False)
    assert any("quantize: INT8 on this CPU" in note for note in plan(recipe="int8").notes)


@needs_extra
@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ("[finetune,export,quantize]", "let quantize stand before export"),
        ("[finetune,quantize,export]", "leave export out"),
        ("[finetune,quantize,distill]", "put distill before it"),
        ("[finetune,quantize,prune]", "put prune before it"),
        ("[finetune,quantize,finetune]", "stands there twice"),
    ],
)
def test_steps_that_it_cannot_stand_beside_are_named(steps: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(f"steps={steps}")


@needs_extra
@pytest.mark.slow
@pytest.mark.parametrize("option", ["nf4", "llm_int8"])
def test_the_recipe_runs_and_its_record_has_the_warning(option: str, tmp_path: Path) -> None:
    places = [f"store.path={tmp_path / 'store'}", f"hydra.run.dir={tmp_path / 'run'}"]
    line = [sys.executable, "-m", "compress", "recipe=nf4", "debug=tiny", "device=cpu", f"quantize={option}", *places]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert any(warning.startswith("quantize: ") for warning in record["warnings"])
    before, after = record["variants"]["finetune"], record["variants"]["quantize"]
    assert after["precision"] == {"nf4": "nf4", "llm_int8": "int8"}[option]
    assert (after["format"], after["runtime"]) == ("torch", "torch")
    assert after["size"]["parameters"] == before["size"]["parameters"]
    assert after["size"]["macs"] >= before["size"]["macs"]
    assert after["size"]["embedding_bytes"] < before["size"]["embedding_bytes"]
    card = (tmp_path / "run" / "artifact" / "README.md").read_text()
    assert "bitsandbytes" in card
    line = [sys.executable, "-m", "compress.inspect", str(tmp_path / "run" / "artifact")]
    shown = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)
    assert shown.returncode == 0
    assert "quantization.json" in shown.stdout
