"""The store: whole or absent, one writer at a time, bounded."""

from __future__ import annotations

import multiprocessing
import os
import signal
import stat
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from compress.errors import MachineError
from compress.keys import config_facts, source_digest
from compress.store import Store, main


def build(store: Store, key: str, size: int = 10) -> None:
    with store.building(key) as out:
        save_file({"weight": np.zeros(size, dtype=np.float32)}, str(out.path / "model.safetensors"))
        out.finish(
            format="torch",
            precision="fp32",
            task="text_classification",
            metric="accuracy",
            labels=("a", "b"),
            max_length=8,
            architecture="bert",
            layers=1,
        )


def work(root: Path, log: Path) -> None:
    """Build a key slowly unless it is there, as the pipeline does."""
    store = Store(root)
    with store.lock("key"):
        if store.get("key") is None:
            time.sleep(0.5)
            build(store, "key")
            with log.open("a") as stream:
                stream.write("built\n")


def test_two_processes_at_one_key_build_it_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    jobs = [context.Process(target=work, args=(tmp_path / "store", tmp_path / "log")) for _ in range(2)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(60)
    assert [job.exitcode for job in jobs] == [0, 0]
    assert (tmp_path / "log").read_text() == "built\n"


def build_and_die(root: Path) -> None:
    with Store(root).lock("key"), Store(root).building("key") as out:
        (out.path / "model.safetensors").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_writer_leaves_nothing_that_counts_and_no_lock(tmp_path: Path) -> None:
    job = multiprocessing.get_context("spawn").Process(target=build_and_die, args=(tmp_path,))
    job.start()
    job.join(60)
    assert job.exitcode == -signal.SIGKILL
    store = Store(tmp_path)
    assert store.get("key") is None
    with store.lock("key"):
        build(store, "key")
    assert store.get("key") is not None
    assert not list((tmp_path / "tmp").iterdir())


def test_an_exception_while_building_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(RuntimeError), store.building("key") as out:
        (out.path / "model.safetensors").write_bytes(b"half")
        raise RuntimeError
    assert store.get("key") is None
    assert not list((tmp_path / "tmp").iterdir())


def test_a_damaged_entry_counts_as_absent_and_is_said_by_verify(tmp_path: Path, capsys: Any) -> None:
    store = Store(tmp_path)
    build(store, "key")
    file = tmp_path / "objects" / "key" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert main(["verify", "--path", str(tmp_path)]) == 1
    assert "key" in capsys.readouterr().out
    assert store.get("key") is None
    assert main(["verify", "--path", str(tmp_path)]) == 0


def test_prune_takes_the_least_recently_used_and_spares_what_is_kept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number, key in enumerate(("old", "kept", "new")):
        build(store, key, 5000)
        os.utime(tmp_path / "used" / key, (number, number))
    size = store.entries()[0].bytes
    assert store.prune(2 * size, keep={"old"}) == ["kept"]
    assert [entry.key for entry in store.entries()] == ["old", "new"]
    assert store.prune(None) == []


def test_list_and_prune_from_the_command_line(tmp_path: Path, capsys: Any) -> None:
    build(Store(tmp_path), "key")
    assert main(["list", "--path", str(tmp_path)]) == 0
    assert "key" in capsys.readouterr().out
    assert main(["prune", "--path", str(tmp_path), "--max-bytes", "0"]) == 0
    assert Store(tmp_path).entries() == []
    assert main(["list", "--path", str(tmp_path / "none")]) == 2


def test_a_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(MachineError, match=r"store\.path"):
        Store(tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_path_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(MachineError, match=r"store\.path"):
        Store(tmp_path / "store")


def test_a_full_disk_is_said_with_status_1(tmp_path: Path) -> None:
    import errno

    store = Store(tmp_path)
    with pytest.raises(MachineError, match="no space left") as caught, store.building("key"):
        raise OSError(errno.ENOSPC, "No space left on device", "model.safetensors")
    assert caught.value.exit_status == 1


def test_fields_that_cannot_change_an_output_stay_out_of_the_key() -> None:
    from compress.config.schemas import Finetune

    assert "checkpoint_seconds" not in config_facts(Finetune())
    assert config_facts(Finetune())["epochs"] == 3


def test_a_source_digest_follows_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made_for_digest.py").write_text("a = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = source_digest("made_for_digest")
    source_digest.cache_clear()
    (tmp_path / "made_for_digest.py").write_text("a = 2\n")
    assert source_digest("made_for_digest") != before
    with pytest.raises(ModuleNotFoundError):
        source_digest("there_is_no_such_module")
