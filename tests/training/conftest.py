from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """Return the module tiny_training beside this file."""
    return _module(Path(__file__).with_name("tiny_training.py"))


@pytest.fixture(scope="session")
def kinds() -> ModuleType:
    """Return the module kinds of the tests of models."""
    return _module(Path(__file__).parents[1] / "models" / "kinds.py")


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
