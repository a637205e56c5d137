"""The loop: it learns, keeps the best epoch, and gives the same bytes whatever interrupts it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from compress.config.training import Training
from compress.errors import ConfigError, StepError, UnsupportedError
from compress.training.loop import long_enough, task_loss
from compress.training.state import TrainingState

WORKER = Path(__file__).with_name("tiny_training.py")


def weights(model: torch.nn.Module) -> bytes:
    return b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())


@pytest.fixture(scope="module")
def undisturbed(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, SimpleNamespace]:
    model = tiny.tiny_model()
    result = tiny.tiny_training(tmp_path_factory.mktemp("scratch"), model)
    return weights(model), result


def test_it_learns_and_judges_every_epoch(undisturbed: tuple[bytes, SimpleNamespace], tiny: ModuleType) -> None:
    _, result = undisturbed
    assert [entry["epoch"] for entry in result.history] == [1, 2, 3]
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    assert result.metric == max(entry["accuracy"] for entry in result.history)
    assert result.epoch == [entry["accuracy"] for entry in result.history].index(result.metric) + 1


class Killed(BaseException):
    """Stands for a SIGKILL within one process: nothing catches it."""


def killed_after(update: int, patched: pytest.MonkeyPatch) -> None:
    """Have trainings die after so many updates."""
    from compress.training.trainer import _EpochEnd

    original = _EpochEnd.on_step_end

    def dying(self: _EpochEnd, args: object, state: SimpleNamespace, control: object, **kwargs: object) -> object:
        if state.global_step == update:
            raise Killed
        return original(self, args, state, control, **kwargs)

    patched.setattr(_EpochEnd, "on_step_end", dying)


@pytest.mark.parametrize("update", [1, 5, 11, 12, 13, 24, 30, 35, 36])
def test_stopped_after_any_update_it_ends_with_the_same_bytes(
    undisturbed: tuple[bytes, SimpleNamespace],
    tiny: ModuleType,
    tmp_path: Path,
    update: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patched:
        killed_after(update, patched)
        with pytest.raises(Killed):
            tiny.tiny_training(tmp_path, tiny.tiny_model(), checkpoint_seconds=0.0)
    torch.manual_seed(99)
    model = tiny.tiny_model(seed=7 if update > 1 else 0)  # weights come from the state, not from the model given
    result = tiny.tiny_training(tmp_path, model)
    assert weights(model) == undisturbed[0]
    assert result == undisturbed[1]


def test_gradient_accumulation_resumes_with_the_same_bytes(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"gradient_accumulation": 5, "schedule": "cosine", "patience": 1}
    whole = tiny.tiny_model()
    expected = tiny.tiny_training(tmp_path / "whole", whole, **options)
    with monkeypatch.context() as patched:
        killed_after(5, patched)
        with pytest.raises(Killed):
            tiny.tiny_training(tmp_path / "killed", tiny.tiny_model(), checkpoint_seconds=0.0, **options)
    model = tiny.tiny_model()
    assert tiny.tiny_training(tmp_path / "killed", model, **options) == expected
    assert weights(model) == weights(whole)


def test_a_finished_training_is_not_repeated(
    undisturbed: tuple[bytes, SimpleNamespace], tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.tiny_training(tmp_path, tiny.tiny_model())
    monkeypatch.setattr("compress.training.trainer.run_trainer", None)
    model = tiny.tiny_model(seed=5)
    assert tiny.tiny_training(tmp_path, model) == undisturbed[1]
    assert weights(model) == undisturbed[0]


def test_the_loss_is_told_the_share_of_updates_done(tiny: ModuleType, tmp_path: Path) -> None:
    """With 12 batches an epoch and 5 summed up per update there are 3 updates an epoch, the last of 2 batches."""
    seen: list[float] = []

    def loss(model: torch.nn.Module, batch: dict[str, torch.Tensor], progress: float) -> torch.Tensor:
        seen.append(progress)
        return task_loss(tiny.tiny_task())(model, batch)

    tiny.tiny_training(tmp_path, tiny.tiny_model(), epochs=2, gradient_accumulation=5, loss_fn=loss)
    assert seen == pytest.approx([update / 6 for update in (*[0] * 5, *[1] * 5, 2, 2, *[3] * 5, *[4] * 5, 5, 5)])


def test_patience_stops_and_ties_keep_the_earlier_epoch(tiny: ModuleType, tmp_path: Path) -> None:
    result = tiny.tiny_training(tmp_path, tiny.tiny_model(), epochs=20, patience=2, learning_rate=1e-9)
    assert result.epoch == 1
    assert len(result.history) == 3


@pytest.mark.parametrize("update", [None, 5, 13])
def test_a_model_that_training_only_harms_stays_as_it_came(
    tiny: ModuleType, tmp_path: Path, update: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the first epoch or in the second, too: the state holds the model as it came."""
    model = tiny.tiny_model()
    tiny.tiny_training(tmp_path / "first", model, epochs=8)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    harm = {"learning_rate": 10.0, "start_counts": True, "checkpoint_seconds": 0.0}
    if update is not None:
        with monkeypatch.context() as patched, pytest.raises(Killed):
            killed_after(update, patched)
            tiny.tiny_training(tmp_path / "again", model, **harm)
        model = tiny.tiny_model(seed=7)
    result = tiny.tiny_training(tmp_path / "again", model, **harm)
    assert result.epoch == 0
    assert len(result.history) == 3
    assert all(entry["accuracy"] < result.metric for entry in result.history)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert tiny.tiny_training(tmp_path / "again", tiny.tiny_model(), **harm) == result, "resumed"


def test_a_start_no_better_than_an_epoch_does_not_count(tiny: ModuleType, tmp_path: Path) -> None:
    result = tiny.tiny_training(tmp_path / "still", tiny.tiny_model(), learning_rate=1e-12, start_counts=True)
    assert result.epoch == 1


def test_a_loss_that_is_no_number_fails_the_step(tiny: ModuleType, tmp_path: Path) -> None:
    model = tiny.tiny_model()
    with torch.no_grad():
        model.classifier.weight.fill_(float("nan"))
    with pytest.raises(StepError, match=r"loss became nan at step 1.*lower learning_rate"):
        tiny.tiny_training(tmp_path, model)


def test_what_cannot_be_trained_is_refused(tiny: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="precision=fp16"):
        tiny.tiny_training(tmp_path, tiny.tiny_model(), precision="fp16")
    empty = tiny.Features([], [])
    config = tiny.Training()
    arguments = {"seed": 0, "device": "cpu", "threads": 1, "scratch": tmp_path}
    with pytest.raises(ConfigError, match="validation split has no rows"):
        tiny.train(
            *(tiny.tiny_model(), tiny.TOKENIZER, tiny.tiny_task(), tiny.tiny_features(9, 0), empty, config), **arguments
        )


def test_settings_of_torch_and_the_config_are_left_as_they_were(tiny: ModuleType, tmp_path: Path) -> None:
    threads, model = torch.get_num_threads(), tiny.tiny_model()
    config = model.config.to_dict()
    tiny.tiny_training(tmp_path, model, epochs=1)
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
    assert model.config.to_dict() == config


def test_only_whole_states_count(tmp_path: Path) -> None:
    state = TrainingState(tmp_path, {"seed": 1})
    progress = {"best": None, "history": [], "loss_sum": 0.1, "batches": 1}
    for update in (3, 6):
        path = state.begin(update)
        (path / "model.pt").write_bytes(b"weights")
        state.complete(path, progress)
    (state.begin(9) / "model.pt").write_bytes(b"half wri")
    found = state.latest()
    assert found == (tmp_path / "state-6", progress)
    assert [path.name for path in tmp_path.iterdir()] == ["state-6"]
    assert TrainingState(tmp_path, {"seed": 2}).latest() is None, "a state of another training is no help"


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "add"])
def test_a_damaged_state_is_discarded(tmp_path: Path, damage: str) -> None:
    state = TrainingState(tmp_path, {})
    path = state.begin(4)
    (path / "model.pt").write_bytes(b"weights")
    state.complete(path, {"best": None})
    file = path / "model.pt"
    if damage == "flip":
        file.write_bytes(b"weighus")
    elif damage == "truncate":
        file.write_bytes(b"weight")
    elif damage == "remove":
        file.unlink()
    else:
        (path / "more.pt").write_bytes(b"")
    assert state.latest() is None
    assert not path.exists()


@pytest.mark.slow
def test_sigkilled_again_and_again_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    def command(name: str, *options: str) -> list[str]:
        return [sys.executable, str(WORKER), str(tmp_path / name), str(tmp_path / f"{name}-output"), *options]

    environment = {**os.environ, "PYTHONPATH": str(WORKER.parents[2])}
    size = ("epochs=12",)
    subprocess.run(command("whole", *size), check=True, env=environment, capture_output=True)
    killed = 0
    for round_ in range(40):
        job = subprocess.Popen(command("killed", *size, "checkpoint_seconds=0.05"), env=environment)
        states = tmp_path / "killed" / "training"
        before = {path.name for path in states.glob("state-*")}
        while job.poll() is None and {path.name for path in states.glob("state-*")} <= before:
            time.sleep(0.002)
        time.sleep(0.07 * (round_ % 4))  # mid-epoch, while saving, while evaluating
        if job.poll() is not None:
            break
        job.send_signal(signal.SIGKILL)
        job.wait()
        killed += 1
        if killed == 4:
            subprocess.run(command("killed", *size), check=True, env=environment, capture_output=True)
            break
    assert killed >= 2
    for name in ("model.safetensors", "history.json", "config.json"):
        assert (tmp_path / "killed-output" / name).read_bytes() == (tmp_path / "whole-output" / name).read_bytes()
    assert len(json.loads((tmp_path / "whole-output" / "history.json").read_text())[2]) == 12


@pytest.mark.parametrize(
    ("rows", "least", "accumulation", "epochs"),
    [(100, None, 1, 3), (100, 10, 1, 3), (100, 50, 1, 8), (97, 50, 1, 8), (100, 50, 4, 25), (3, 12, 1, 12)],
)
def test_few_rows_are_trained_for_more_epochs(rows: int, least: int | None, accumulation: int, epochs: int) -> None:
    config = Training(epochs=3, batch_size=16, gradient_accumulation=accumulation, min_updates=least)
    assert long_enough(config, rows).epochs == epochs
