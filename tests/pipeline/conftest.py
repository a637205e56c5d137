"""What tests of whole recipes share: one store, so that the tiny model is fine-tuned once for all of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recipes") / "store"


@pytest.fixture
def record_of(store: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Return a function that runs a recipe on the tiny model and reads its record."""
    from compress.cli.app import main

    def run(recipe: str, *overrides: str, name: str = "run", store: Path = store) -> dict[str, Any]:
        quick = ["debug=tiny", "benchmark.variants=ends", "benchmark.memory=false"]
        places = [f"store.path={store}", f"hydra.run.dir={tmp_path / name}"]
        assert main([f"recipe={recipe}", *quick, *places, *overrides]) == 0
        record: dict[str, Any] = json.loads((tmp_path / name / "record.json").read_text())
        return record

    return run
