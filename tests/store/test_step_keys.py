"""A step's key changes with all that its output depends on, and with nothing else."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from compress import machine
from compress.config.options import option
from compress.config.schemas import Distill, Finetune
from compress.errors import ConfigError, MachineError
from compress.keys import config_facts, source_digest, step_key

BASE: dict[str, Any] = {
    "source_key": "aa",
    "kind": "finetune",
    "config": Finetune(),
    "resolved": {"task": "text_classification", "isa": ["avx2"]},
    "data_fingerprint": "ff",
    "inputs": {"teacher": "bb", "other": "cc"},
    "seed": 0,
    "device_kind": "cpu",
    "threads": 1,
    "packages": ("numpy",),
    "modules": ("compress.files",),
}

CHANGES: dict[str, Any] = {
    "source_key": "ab",
    "kind": "distill",
    "config": Finetune(epochs=4),
    "resolved": {"task": "text_classification", "isa": ["avx2", "avx512_vnni"]},
    "data_fingerprint": "fe",
    "inputs": {"teacher": "cc", "other": "bb"},
    "seed": 1,
    "device_kind": "cuda",
    "threads": 2,
    "packages": ("numpy", "rich"),
    "modules": ("compress.files", "compress.errors"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_key_changes_with(name: str) -> None:
    assert step_key(**{**BASE, name: CHANGES[name]}) != step_key(**BASE)


def test_key_does_not_change_with_order_or_with_what_cannot_change_the_output() -> None:
    turned = {
        **BASE,
        "resolved": dict(reversed(BASE["resolved"].items())),
        "inputs": dict(reversed(BASE["inputs"].items())),
        "config": Finetune(checkpoint_seconds=1.0),
    }
    assert step_key(**turned) == step_key(**BASE)


def test_fields_outside_the_key_are_left_out_at_any_depth() -> None:
    @dataclass
    class Inner:
        shown: int = 1
        hidden: int = option(2, "how often it is logged", in_key=False)

    @dataclass
    class Outer:
        inner: Inner = field(default_factory=Inner)
        many: tuple[Inner, ...] = (Inner(),)

    assert config_facts(Outer()) == {"inner": {"shown": 1}, "many": [{"shown": 1}]}
    assert "checkpoint_seconds" not in config_facts(Distill())
    assert config_facts(Distill())["student"]["layers"] == Distill().student.layers


def test_every_nested_option_of_a_step_is_in_its_key() -> None:
    weights = dataclasses.replace(Distill().weights, hidden=0.5)
    changed = dataclasses.replace(Distill(), weights=weights)
    assert step_key(**{**BASE, "config": changed}) != step_key(**{**BASE, "config": Distill()})


def test_key_is_the_same_in_any_process_and_imports_nothing_heavy(checkout: Path) -> None:
    code = (
        "import sys; from compress.keys import source_digest, step_key;"
        "from compress.config.schemas import Finetune;"
        "key = step_key(source_key='aa', kind='finetune', config=Finetune(), resolved={'a': 1, 'b': 2},"
        " data_fingerprint='ff', inputs={}, seed=0, device_kind='cpu', threads=1, packages=('torch', 'rich'),"
        " modules=('compress.training', 'compress.steps'));"
        "assert not {'torch', 'transformers', 'pandas', 'compress.training', 'compress.steps'} & set(sys.modules);"
        "print(key)"
    )
    keys = set()
    for seed in ("1", "2"):
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": str(checkout), "PATH": ""}
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=environment)
        keys.add(done.stdout)
    assert len(keys) == 1


def test_source_digest_follows_the_source_and_not_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = []
    for place, text in (("one", "x = 1\n"), ("two", "x = 1\n"), ("three", "x = 2\n")):
        package = tmp_path / place / "sample_package"
        (package / "deep").mkdir(parents=True)
        (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
        (package / "deep" / "part.py").write_text(text)
        with monkeypatch.context() as patched:
            patched.syspath_prepend(str(tmp_path / place))
            digests.append(source_digest.__wrapped__("sample_package"))
            source_digest.__wrapped__("sample_package.deep.part")
    assert digests[0] == digests[1] != digests[2]
    with pytest.raises(ModuleNotFoundError):
        source_digest.__wrapped__("no_such_package_anywhere.part")


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.resolve_device("cpu") == "cpu"
    for wrong in ("gpu", "cuda:", "cuda:x", "cuda:-1", "CPU", ""):
        with pytest.raises(ConfigError, match="allowed are"):
            machine.resolve_device(wrong)
    there = machine.gpus()
    with pytest.raises(MachineError, match="no such GPU") as caught:
        machine.resolve_device(f"cuda:{there}")
    assert caught.value.exit_status == 2
    assert machine.resolve_device("auto") == ("cuda" if there else "cpu")
    monkeypatch.setattr(machine, "gpus", lambda: 2)
    assert [machine.resolve_device(name) for name in ("auto", "cuda", "cuda:1")] == ["cuda", "cuda", "cuda:1"]


def test_environment_names_versions_and_processor() -> None:
    found = machine.environment()
    assert found["cpu"]["cores"] >= 1
    assert found["cpu"]["model"]
    assert found["packages"]["numpy"] == machine.package_version("numpy")
    assert machine.package_version("no-such-distribution-anywhere") is None
