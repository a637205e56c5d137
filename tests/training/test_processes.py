"""Several processes: the training of one, in less time; killed, resumed and refused as one is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from compress.errors import ConfigError, UnsupportedError
from compress.steps.quantize.fake import observe, wrap, wrap_tables
from compress.training import processes
from compress.training.batches import Collator
from compress.training.sharing import pack, seed_share

WORKER = Path(__file__).with_name("tiny_training.py")
TOGETHER = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]


def run(start: list[str], *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(WORKER.parents[2]), "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(
        [*start, *arguments], capture_output=True, text=True, timeout=300, check=False, env=environment
    )


def trained(start: list[str], root: Path, name: str, *options: str) -> tuple[dict[str, torch.Tensor], Any]:
    """Return the weights and the history that a training leaves."""
    done = run(start, str(WORKER), str(root / "scratch" / name), str(root / name), *options)
    assert done.returncode == 0, done.stderr[-3000:]
    return load_file(root / name / "model.safetensors"), json.loads((root / name / "history.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("options", [('loss="task"', "rows=90"), ('loss="wide"', "rows=89", "gradient_accumulation=5")])
def test_without_dropout_two_processes_leave_the_model_of_one(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Of 89 rows in batches of 8 the last batch has one: a process has no row of it."""
    alone, its = trained([sys.executable], tmp_path, "alone", "dropout=0", *options)
    both, theirs = trained(TOGETHER, tmp_path, "both", "dropout=0", *options)
    for name, weight in alone.items():
        torch.testing.assert_close(both[name], weight, atol=1e-4, rtol=0, msg=name)
    assert theirs[1] == its[1]
    losses = ([entry["loss"] for entry in history[2]] for history in (theirs, its))
    np.testing.assert_allclose(*losses, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["replace", "sandwich"])
def test_two_processes_draw_the_same_layers_and_sub_networks(tmp_path: Path, way: str) -> None:
    options = ("dropout=0", f'loss="{way}"', "epochs=2", "gradient_accumulation=2")
    alone, _ = trained([sys.executable], tmp_path, "alone", *options)
    both, _ = trained(TOGETHER, tmp_path, "both", *options)
    for name, weight in alone.items():
        torch.testing.assert_close(both[name], weight, atol=1e-4, rtol=0, msg=name)


@pytest.mark.slow
def test_killed_two_processes_go_on_and_end_with_the_same_bytes(tmp_path: Path) -> None:
    whole, history = trained(TOGETHER, tmp_path, "whole")
    arguments = [str(WORKER), str(tmp_path / "scratch" / "killed"), str(tmp_path / "killed"), "checkpoint_seconds=0"]
    assert run(TOGETHER, *arguments, 'loss="killing"').returncode != 0
    assert list((tmp_path / "scratch" / "killed" / "training").glob("state-*"))
    resumed, same = trained(TOGETHER, tmp_path, "killed", "checkpoint_seconds=0")
    assert same == history
    assert all(torch.equal(resumed[name], weight) for name, weight in whole.items())


@pytest.mark.slow
def test_a_loss_that_is_no_number_ends_all_processes_with_one_message(tmp_path: Path) -> None:
    failed = run(TOGETHER, str(WORKER), str(tmp_path / "scratch"), str(tmp_path / "output"), 'loss="failing"')
    assert failed.returncode == 1
    assert failed.stderr.count("StepError: the loss became nan at step 20") == 1
    assert "error: process 1" not in failed.stderr
    assert not (tmp_path / "output").exists()


@pytest.mark.slow
def test_a_command_runs_once_and_only_the_first_process_writes(tmp_path: Path) -> None:
    overrides = [f"store.path={tmp_path / 'store'}", f"hydra.run.dir={tmp_path / 'run'}"]
    terms = ["distill.weights.hidden=0.5", "distill.weights.relations=0.5", "distill.augment.share=0.5"]
    small = ["recipe=distill", "debug=tiny", *terms]
    done = run(TOGETHER, "-m", "compress", *small, *overrides)
    assert done.returncode == 0, done.stderr[-3000:]
    log = (tmp_path / "run" / "compress.log").read_text()
    assert log.count("distill: best accuracy") == 1
    assert log.count("step 2/") == 2, "running, done"
    assert log.count(": done in") == done.stderr.count(": done in")
    assert json.loads((tmp_path / "run" / "status.json").read_text())["status"] == "done"
    assert len(list((tmp_path / "store" / "cache" / "teacher").glob("*.bin"))) <= 1
    again = run(TOGETHER, "-m", "compress", *small, *overrides)
    assert again.returncode == 0
    assert "distill: reused" in again.stderr
    alone = run([sys.executable, "-m", "compress"], *small, *overrides, "dry_run=true")
    assert alone.returncode == 0


@pytest.mark.slow
def test_a_sweep_is_refused_once(tmp_path: Path) -> None:
    refused = run(TOGETHER, "-m", "compress", "-m", "recipe=int8", "seed=0,1", f"store.path={tmp_path / 'store'}")
    assert refused.returncode != 0
    assert refused.stderr.count("-m: a sweep runs each job in a process of its own") == 1
    assert not (tmp_path / "store").exists()


def test_a_sweep_of_several_processes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from compress.cli.sweep import run_sweep

    monkeypatch.setattr(processes, "_team", processes.Team(0, 2, 0, 2, None))
    with pytest.raises(ConfigError, match="torchrun"):
        run_sweep(None, [])  # type: ignore[arg-type]


def test_launchers_that_split_the_model_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "ACCELERATE_USE_FSDP": "true"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UnsupportedError, match="ACCELERATE_USE_FSDP"):
        processes.alone_or_together(lambda: 0)


def test_processes_share_the_threads_of_their_machine() -> None:
    assert [processes.Team(0, 4, 0, 2, None).threads(threads) for threads in (1, 2, 7)] == [1, 1, 3]


def test_dropout_is_drawn_anew_for_each_process_update_and_batch() -> None:
    drawn = set()
    for seed, rank, update, batch in [
        (1, 1, 0, 0),
        (1, 2, 0, 0),
        (1, 1, 1, 0),
        (1, 1, 0, 1),
        (2, 1, 0, 0),
        (1, 1, 0, 0),
    ]:
        seed_share(seed, rank, update, batch)
        drawn.add(torch.rand(1).item())
    assert len(drawn) == 5


def test_a_model_that_gave_hidden_states_arrives_and_gives_them(tiny: ModuleType) -> None:
    """As the student of a second stage of distillation did in the first."""
    model = tiny.tiny_model()
    inputs = {"input_ids": torch.arange(3, 9)[None], "output_hidden_states": True}
    expected = model(**inputs).hidden_states
    arrived = cloudpickle.loads(pack({"model": model}))["model"]
    found = arrived(**inputs).hidden_states
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=0)


def test_a_model_with_closures_hooks_and_parametrizations_arrives_whole(tiny: ModuleType, tmp_path: Path) -> None:
    model, features = tiny.tiny_model(), tiny.tiny_features(20, 0)
    collate = Collator(tiny.tiny_task(), features, {"input_ids": 0})
    batch = {name: tensor for name, tensor in collate(list(range(8))).items() if name != "labels"}
    linears = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    wrap([[linear] for linear in linears], observe(model, linears, [batch], "min_max", 99.9), 8)
    wrap_tables([model.get_input_embeddings()], 8, 8)
    values = np.memmap(tmp_path / "values", np.float32, "w+", shape=(20, 3))
    values[:] = np.arange(60).reshape(20, 3)
    values.flush()
    kept = np.memmap(tmp_path / "values", np.float32, "r", offset=12, shape=(19, 3))
    np.memmap(tmp_path / "large", np.float32, "w+", shape=(10**6,)).flush()
    large = np.memmap(tmp_path / "large", np.float32, "r")
    extras = {"extras": lambda rows: kept[rows], "part": kept[3:5], "large": large}
    packed = pack({"model": model, "again": model.classifier, **extras})
    assert len(packed) < 300_000
    arrived = cloudpickle.loads(packed)
    assert arrived["again"] is arrived["model"].classifier
    np.testing.assert_array_equal(arrived["part"], kept[3:5])
    np.testing.assert_array_equal(arrived["extras"]([0, 2]), kept[[0, 2]])
    torch.testing.assert_close(arrived["model"](**batch).logits, model(**batch).logits, atol=0, rtol=0)
    states = arrived["model"](**batch, output_hidden_states=True).hidden_states
    assert len(states) == 3
    arrived["model"](**batch).logits.sum().backward()
    gradients = [weight.grad is not None for weight in arrived["model"].parameters()]
    model(**batch).logits.sum().backward()
    assert gradients == [weight.grad is not None for weight in model.parameters()]


def test_a_run_from_python_in_each_of_several_processes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import compress

    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="would run the job 2 times; .*torchrun --nproc-per-node 2"):
        compress.run("int8", ["debug=tiny"])
