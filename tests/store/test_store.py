"""The store: whole or absent, one builder at a time, pruned without harm."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compress.checkpoint import Checkpoint, Writer, copy_checkpoint, open_checkpoint
from compress.errors import CheckpointError, MachineError
from compress.files import disk_errors, write_atomic
from compress.store import Store, main

Fill = Callable[..., Checkpoint]
FORK = multiprocessing.get_context("fork")


def put(store: Store, key: str, fill: Fill, content: bytes = b"\x00" * 64) -> None:
    """Build a checkpoint under a key."""
    with store.building(key) as out:
        fill(out, content)


def test_what_was_built_is_found_by_another_store_object(store: Store, fill: Fill) -> None:
    assert store.get("aa") is None
    assert not store.contains("aa")
    put(store, "aa", fill)
    found = Store(store.path).get("aa")
    assert found is not None
    assert found.path == store.path / "objects" / "aa"
    assert list((store.path / "tmp").iterdir()) == []


def test_failed_or_unfinished_building_leaves_nothing(store: Store, fill: Fill) -> None:
    with pytest.raises(ZeroDivisionError), store.building("aa") as out:
        fill(out)
        raise ZeroDivisionError
    with pytest.raises(CheckpointError), store.building("aa") as out:
        (out.path / "model.safetensors").write_bytes(b"half")
    assert store.get("aa") is None
    assert list((store.path / "tmp").iterdir()) == []
    assert list((store.path / "objects").iterdir()) == []


def test_building_again_replaces(store: Store, fill: Fill) -> None:
    put(store, "aa", fill, b"\x01" * 8)
    first = store.get("aa")
    put(store, "aa", fill, b"\x02" * 8)
    second = store.get("aa")
    assert first is not None
    assert second is not None
    assert first.digest != second.digest
    assert list((store.path / "tmp").iterdir()) == []


def test_damaged_checkpoint_counts_as_absent_and_says_so(
    store: Store, fill: Fill, caplog: pytest.LogCaptureFixture
) -> None:
    put(store, "aa", fill)
    weights = store.path / "objects" / "aa" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert set(store.verify()) == {"aa"}
    assert Store(store.path, readonly=True).get("aa") is None
    assert weights.exists()  # a reader changes nothing
    with caplog.at_level(logging.WARNING, "compress"):
        assert store.get("aa") is None
    assert "is damaged and will be made again" in caplog.text
    assert not weights.parent.exists()
    assert store.verify() == {}


# --- several processes ------------------------------------------------------------------------


def _race(root: Path, fill: Fill, built: Any, start: Any, digests: Any) -> None:
    store = Store(root)
    start.wait()
    with store.lock("aa"):
        checkpoint = store.get("aa")
        if checkpoint is None:
            with built.get_lock():
                built.value += 1
            with store.building("aa") as out:
                time.sleep(0.3)
                fill(out)
            checkpoint = store.get("aa")
    assert checkpoint is not None
    digests.put(checkpoint.digest)


def test_processes_at_one_key_build_it_once(store: Store, fill: Fill) -> None:
    built, start, digests = FORK.Value("i", 0), FORK.Event(), FORK.Queue()
    workers = [FORK.Process(target=_race, args=(store.path, fill, built, start, digests)) for _ in range(4)]
    for worker in workers:
        worker.start()
    start.set()
    found = {digests.get(timeout=30) for _ in workers}
    for worker in workers:
        worker.join(30)
        assert worker.exitcode == 0
    assert built.value == 1
    assert len(found) == 1


def _hold(root: Path, held: Any) -> None:
    with Store(root).lock("aa"):
        held.set()
        time.sleep(0.5)


def test_who_waits_says_so_once(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    held = FORK.Event()
    holder = FORK.Process(target=_hold, args=(store.path, held))
    holder.start()
    assert held.wait(30)
    with caplog.at_level(logging.INFO, "compress"), store.lock("aa"):
        pass
    holder.join(30)
    assert caplog.text.count("another process is at the same step") == 1


def _build_slowly(root: Path, fill: Fill, stage: str, reached: Any) -> None:
    store = Store(root)
    with store.building("aa") as out:
        (out.path / "model.safetensors").write_bytes(b"half")
        if stage == "finished":
            fill(out)
        reached.set()
        time.sleep(60)


@pytest.mark.parametrize("stage", ["begun", "finished"])
def test_sigkill_while_building_leaves_nothing_that_counts(store: Store, fill: Fill, stage: str) -> None:
    reached = FORK.Event()
    builder = FORK.Process(target=_build_slowly, args=(store.path, fill, stage, reached))
    builder.start()
    assert reached.wait(30)
    assert builder.pid is not None
    assert list((store.path / "tmp").iterdir()) != []
    Store(store.path)  # opening the store spares what a living process builds
    assert list((store.path / "tmp").iterdir()) != []
    os.kill(builder.pid, signal.SIGKILL)
    builder.join(30)
    assert store.get("aa") is None
    assert store.entries() == []
    again = Store(store.path)  # what the dead left is swept when the store is next opened
    assert list((again.path / "tmp").iterdir()) == []
    put(again, "aa", fill)  # and its lock went with it
    assert again.get("aa") is not None


# --- pruning ----------------------------------------------------------------------------------


def use_at(store: Store, key: str, when: float) -> None:
    """Pretend that a key was used at a time."""
    os.utime(store.path / "used" / key, (when, when))


def test_prune_removes_the_least_recently_used_and_keeps_what_is_protected(store: Store, fill: Fill) -> None:
    for age, key in enumerate(["aa", "bb", "cc", "dd"]):
        put(store, key, fill)
        use_at(store, key, 1_000_000 + age)
    each = store.entries()[0].bytes
    assert [entry.key for entry in store.entries()] == ["aa", "bb", "cc", "dd"]
    store.get("aa")  # used now, so the last to go
    assert store.prune(None) == []
    assert store.prune(2 * each, keep={"bb"}) == ["cc", "dd"]
    assert store.prune(0, keep={"bb"}) == ["aa"]
    assert store.get("bb") is not None
    assert list((store.path / "tmp").iterdir()) == []


def test_prune_counts_and_removes_shared_caches(store: Store, fill: Fill) -> None:
    put(store, "aa", fill)
    cache = store.cache / "teacher" / "x.npy"
    write_atomic(cache, b"\x00" * 10_000)
    assert store.prune(5_000) == ["aa"]
    assert not cache.exists()


def test_prune_spares_what_a_process_works_on(store: Store, fill: Fill) -> None:
    put(store, "aa", fill)
    with store.lock("aa"):
        assert store.prune(0) == []
        assert Store(store.path).prune(0) == []
        with store.lock("aa"):  # the holder may take it again
            assert store.get("aa") is not None
    assert store.prune(0) == ["aa"]


def test_resume_state_stays_until_it_is_dropped_or_a_week_old(store: Store) -> None:
    for key in ("aa", "bb", "cc"):
        (store.scratch(key) / "state").write_text("x")
    os.utime(store.scratch("bb"), (0, 0))
    os.utime(store.scratch("cc"), (0, 0))
    store.prune(None, keep={"cc"})
    assert sorted(path.name for path in (store.path / "scratch").iterdir()) == ["aa", "cc"]
    store.drop_scratch("aa")
    assert sorted(path.name for path in (store.path / "scratch").iterdir()) == ["cc"]


def test_emptied_store_does_not_break_a_copy(store: Store, fill: Fill, tmp_path: Path) -> None:
    put(store, "aa", fill)
    checkpoint = store.get("aa")
    assert checkpoint is not None
    copy_checkpoint(checkpoint, tmp_path / "artifact")
    store.prune(0)
    assert open_checkpoint(tmp_path / "artifact").digest == checkpoint.digest


# --- the disk ---------------------------------------------------------------------------------


def test_full_disk_is_a_machine_error_with_status_1(store: Store) -> None:
    full = Path("/dev/full")
    with pytest.raises(MachineError, match="no space left") as caught, store.building("aa"):
        full.write_bytes(b"x")
    assert caught.value.exit_status == 1
    assert store.get("aa") is None
    assert list((store.path / "tmp").iterdir()) == []


def test_full_disk_is_seen_through_a_library_that_hides_the_errno(store: Store) -> None:
    with pytest.raises(MachineError, match="no space left") as caught, store.building("aa"):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert caught.value.exit_status == 1


@pytest.mark.parametrize("where", ["file/below", "file"])
def test_store_under_a_file_is_refused(where: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(MachineError, match=r"cannot write to .*store\.path") as caught:
        Store(tmp_path / where)
    assert caught.value.exit_status == 2


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_store_where_nothing_can_be_made_is_refused() -> None:
    with pytest.raises(MachineError, match=r"cannot .* the store at /proc/nowhere.*store\.path"):
        Store(Path("/proc/nowhere/store"))


def test_unwritable_store_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        if os.access(tmp_path, os.W_OK):
            pytest.skip("this user may write anywhere")
        with pytest.raises(MachineError, match="cannot write to"):
            Store(tmp_path / "store")
    finally:
        tmp_path.chmod(0o700)


def test_a_refusal_elsewhere_is_not_blamed_on_the_store(store: Store) -> None:
    with pytest.raises(PermissionError), store.building("aa"):
        raise PermissionError(13, "Permission denied", "/data/train.csv")
    with pytest.raises(MachineError, match="cannot write to"), disk_errors(store.path):
        raise PermissionError(13, "Permission denied", str(store.path / "objects"))


def test_interrupted_atomic_write_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    write_atomic(file, b"old")
    with contextlib.suppress(TypeError):
        write_atomic(file, "not bytes")  # type: ignore[arg-type]
    assert file.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


# --- the command ------------------------------------------------------------------------------


def test_command_lists_verifies_and_prunes(
    store: Store, fill: Fill, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(store, "aa", fill)
    at = ["--path", str(store.path)]
    assert main(["list", *at]) == 0
    assert "finetune" in capsys.readouterr().out
    assert main(["verify", *at]) == 0
    (store.path / "objects" / "aa" / "model.safetensors").write_bytes(b"")
    assert main(["list", *at]) == 0
    assert "damaged" in capsys.readouterr().out
    assert main(["verify", *at]) == 1
    assert "aa: " in capsys.readouterr().out
    assert main(["prune", *at, "--max-bytes", "0"]) == 0
    assert "removed 1 checkpoints" in capsys.readouterr().out
    assert main(["list", "--path", str(tmp_path / "nothing")]) == 2
    assert "is no store" in capsys.readouterr().err
    for wrong in (["shrink"], ["prune", "--max-bytes", "-1"]):
        with pytest.raises(SystemExit) as caught:
            main(wrong)
        assert caught.value.code == 2


def test_writer_in_a_store_gives_the_same_bytes_as_one_elsewhere(store: Store, fill: Fill, tmp_path: Path) -> None:
    put(store, "aa", fill)
    (tmp_path / "elsewhere").mkdir()
    stored = store.get("aa")
    assert stored is not None
    assert stored.digest == fill(Writer(tmp_path / "elsewhere")).digest
