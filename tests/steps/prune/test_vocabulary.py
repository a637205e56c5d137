"""A pruned vocabulary splits what it kept as before, and everything else into pieces that it has."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.checkpoint import Writer
from compress.errors import ConfigError, DataError, UnsupportedError
from compress.models.tokenizers import added_tokens, keep_tokens, needed_tokens, tokenizer_json, vocabulary_of
from compress.models.torch_io import load_tokenizer, save_model
from compress.runtime.encoder import TextEncoder
from compress.steps.prune.vocabulary import coverage, kept_tokens, prune_tokenizer, texts_of, token_counts

TRAIN = [
    "we liked the soup and the bread, they said",
    "the train was late again; nobody knew why",
    "rain, storm and snow all day near the river",
    "we liked the hotel near the station",
]
OTHER = [
    "they liked the storm",
    "unliked stormy breadsoup (again!)",
    "naïve café 日本 🙂",
    "",
    "zzz qqq 0123456789 #tag @name",
    "[SEP] <s> [UNK] the",
]
MORE = ["station master", "soups and breads", "the river was late", "raining all day", "naïve cafés and hôtels"] * 3
WORDS = [["We", "liked", "storms,"], ["naïve", "日本"], ["the"], ["soup", "", "bread"]]

Tokenizer = Any


def wordpiece() -> Tokenizer:
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertTokenizerFast

    trained = BertWordPieceTokenizer()
    trained.train_from_iterator([*TRAIN, *MORE], vocab_size=230, show_progress=False, min_frequency=1)
    return BertTokenizerFast(vocab=trained.get_vocab())


def byte_level_bpe() -> Tokenizer:
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaTokenizerFast

    trained = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator(
        [*TRAIN, *MORE], vocab_size=400, special_tokens=special, show_progress=False, min_frequency=1
    )
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    return RobertaTokenizerFast(vocab=model["vocab"], merges=merges, add_prefix_space=True)


def unigram() -> Tokenizer:
    from tokenizers import SentencePieceUnigramTokenizer
    from transformers import XLMRobertaTokenizerFast

    trained = SentencePieceUnigramTokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator(
        [*TRAIN, *MORE], vocab_size=160, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    vocab = [(token, score) for token, score in json.loads(trained.to_str())["model"]["vocab"]]
    return XLMRobertaTokenizerFast(vocab=vocab)


KINDS: dict[str, Callable[[], Tokenizer]] = {"wordpiece": wordpiece, "bpe": byte_level_bpe, "unigram": unigram}


@functools.cache
def made(kind: str) -> Tokenizer:
    return KINDS[kind]()


@pytest.fixture(params=list(KINDS))
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return made(request.param)


def assert_same_where_kept(old: Tokenizer, new: Tokenizer, kept: Any, texts: list[Any], **arguments: Any) -> int:
    """Return how many texts had all their tokens kept; those are checked to be tokenized as before."""
    whole = 0
    for text in texts:
        before, after = old(text, **arguments), new(text, **arguments)
        mapped = kept.remapping.apply(before["input_ids"])
        if -1 not in mapped:
            whole += 1
            assert after["input_ids"] == mapped
            assert {name: after[name] for name in after if name != "input_ids"} == {
                name: before[name] for name in before if name != "input_ids"
            }
    return whole


# --- what stays ---------------------------------------------------------------------------------


def test_training_texts_are_tokenized_as_before(tokenizer: Tokenizer) -> None:
    kept = kept_tokens(tokenizer, TRAIN)
    pruned = prune_tokenizer(tokenizer, kept)
    assert len(kept) == len(pruned) < len(tokenizer)
    assert type(pruned) is type(tokenizer)
    assert assert_same_where_kept(tokenizer, pruned, kept, TRAIN) == len(TRAIN)
    assert_same_where_kept(tokenizer, pruned, kept, OTHER)


def test_tokens_keep_their_names_and_order(tokenizer: Tokenizer) -> None:
    kept = kept_tokens(tokenizer, TRAIN)
    pruned = prune_tokenizer(tokenizer, kept)
    rows = kept.remapping.rows
    assert (np.diff(rows) > 0).all()
    assert pruned.convert_ids_to_tokens(list(range(len(rows)))) == tokenizer.convert_ids_to_tokens(rows.tolist())
    assert kept.size == len(tokenizer)
    assert sum(kept.reasons.values()) == len(kept)


def test_the_rows_of_an_embedding_follow_the_ids(tokenizer: Tokenizer) -> None:
    kept = kept_tokens(tokenizer, TRAIN)
    pruned = prune_tokenizer(tokenizer, kept)
    table = np.random.default_rng(0).normal(size=(len(tokenizer), 4))
    smaller = table[kept.remapping.rows]
    for text in TRAIN:
        assert (smaller[pruned(text)["input_ids"]] == table[tokenizer(text)["input_ids"]]).all()


def test_special_tokens_stay_special(tokenizer: Tokenizer) -> None:
    pruned = prune_tokenizer(tokenizer, kept_tokens(tokenizer, TRAIN))
    assert pruned.special_tokens_map == tokenizer.special_tokens_map
    assert pruned.all_special_tokens == tokenizer.all_special_tokens
    assert None not in pruned.all_special_ids
    assert len(set(pruned.all_special_ids)) == len(set(tokenizer.all_special_ids))
    ids = pruned(TRAIN[0])["input_ids"]
    assert pruned.decode(ids, skip_special_tokens=True) == tokenizer.decode(
        tokenizer(TRAIN[0])["input_ids"], skip_special_tokens=True
    )
    padded = pruned([TRAIN[0], TRAIN[3]], padding=True)["input_ids"]
    assert len({len(row) for row in padded}) == 1
    assert padded[1][-1] == pruned.pad_token_id
    masked = pruned(f"the {pruned.mask_token} soup")["input_ids"]
    assert pruned.mask_token_id in masked


def test_tokens_that_were_added_stay_and_work(tokenizer: Tokenizer) -> None:
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_tokens(["@user"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<url>"]})
    kept = kept_tokens(tokenizer, TRAIN)
    pruned = prune_tokenizer(tokenizer, kept)
    texts = ["the @user liked <url> the soup"]
    assert {"@user", "<url>"} < set(pruned.convert_ids_to_tokens(pruned(texts[0])["input_ids"]))
    assert assert_same_where_kept(tokenizer, pruned, kept, texts) == 1
    assert "<url>" not in pruned.decode(pruned(texts[0])["input_ids"], skip_special_tokens=True)


def test_pairs_of_texts_are_seen_and_tokenized_as_before(tokenizer: Tokenizer) -> None:
    pairs = [(TRAIN[0], TRAIN[1]), (TRAIN[2], "")]
    kept = kept_tokens(tokenizer, pairs)
    pruned = prune_tokenizer(tokenizer, kept)
    for first, second in pairs:
        before, after = tokenizer(first, second), pruned(first, second)
        assert after["input_ids"] == kept.remapping.apply(before["input_ids"])
        assert after.get("token_type_ids") == before.get("token_type_ids")
    assert kept.ids.tolist() == kept_tokens(tokenizer, TRAIN[:3]).ids.tolist()


def test_lists_of_words_are_seen_and_tokenized_as_before(tokenizer: Tokenizer) -> None:
    kept = kept_tokens(tokenizer, WORDS)
    pruned = prune_tokenizer(tokenizer, kept)
    assert assert_same_where_kept(tokenizer, pruned, kept, WORDS, is_split_into_words=True) == len(WORDS)
    for words in WORDS:
        before, after = (one(words, is_split_into_words=True) for one in (tokenizer, pruned))
        assert after.word_ids() == before.word_ids()
    frame = pd.DataFrame({"tokens": WORDS, "tags": [["O"] * len(words) for words in WORDS]})
    assert kept_tokens(tokenizer, texts_of(frame)).ids.tolist() == kept.ids.tolist()


def test_prepared_data_yields_its_texts_or_pairs() -> None:
    frame = pd.DataFrame({"text": TRAIN[:2], "label": ["a", "b"]})
    assert list(texts_of(frame)) == TRAIN[:2]
    assert list(texts_of(frame.assign(text_pair=TRAIN[2:]))) == list(zip(TRAIN[:2], TRAIN[2:], strict=True))


def test_the_most_frequent_tokens_stay_and_all_characters(tokenizer: Tokenizer) -> None:
    counts = token_counts(tokenizer, TRAIN)
    special = set(tokenizer.all_special_ids)
    ranked = sorted(set(np.flatnonzero(counts).tolist()) - special, key=lambda number: (-counts[number], number))
    everything = kept_tokens(tokenizer, TRAIN)
    few = kept_tokens(tokenizer, TRAIN, 5)
    assert set(ranked[:5]) < set(few.ids.tolist()) < set(everything.ids.tolist())
    assert few.reasons["characters"] == everything.reasons["characters"]
    assert (few.counts == counts[few.ids]).all()
    pruned = prune_tokenizer(tokenizer, few)
    for text in [*TRAIN, *MORE[:4]]:
        assert pruned.unk_token_id not in pruned(text)["input_ids"]
        assert len(pruned(text)["input_ids"]) >= len(tokenizer(text)["input_ids"])


def test_only_characters_without_a_token_become_unknown() -> None:
    tokenizer = made("wordpiece")
    pruned = prune_tokenizer(tokenizer, kept_tokens(tokenizer, TRAIN))
    assert pruned.tokenize("naive") != ["[UNK]"]
    assert tokenizer.tokenize("日") == pruned.tokenize("日") == ["[UNK]"]
    seen = prune_tokenizer(tokenizer, kept_tokens(tokenizer, [*TRAIN, MORE[4]]))
    assert tokenizer.tokenize("hôtel") == seen.tokenize("hôtel") != ["[UNK]"]


def test_a_byte_level_tokenizer_keeps_its_alphabet() -> None:
    tokenizer = made("bpe")
    pruned = prune_tokenizer(tokenizer, kept_tokens(tokenizer, TRAIN[:1]))
    for text in OTHER:
        assert pruned.decode(pruned(text)["input_ids"][1:-1]) == tokenizer.decode(tokenizer(text)["input_ids"][1:-1])


def test_characters_that_nobody_wrote_go() -> None:
    tokenizer = made("unigram")
    assert "ï" in vocabulary_of(tokenizer_json(tokenizer))
    assert "ï" not in prune_tokenizer(tokenizer, kept_tokens(tokenizer, TRAIN)).get_vocab()
    assert "ï" in prune_tokenizer(tokenizer, kept_tokens(tokenizer, [*TRAIN, "ï"])).get_vocab()


def test_the_given_tokenizer_is_unchanged_and_its_last_call_does_not_matter(tokenizer: Tokenizer) -> None:
    expected = kept_tokens(tokenizer, TRAIN)
    tokenizer(TRAIN, truncation=True, padding="max_length", max_length=6)
    before = tokenizer.backend_tokenizer.to_str()
    kept = kept_tokens(tokenizer, TRAIN)
    pruned = prune_tokenizer(tokenizer, kept)
    assert tokenizer.backend_tokenizer.to_str() == before
    assert kept.ids.tolist() == expected.ids.tolist()
    assert (kept.counts == expected.counts).all()
    assert len(pruned(TRAIN[0])["input_ids"]) > 6


# --- any tokenizer, any subset ------------------------------------------------------------------


def fast(model: Any) -> Tokenizer:
    from tokenizers import Tokenizer as Backend
    from tokenizers import pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Backend(model)
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>")


pieces = st.text(alphabet="abγ", min_size=2, max_size=4)
texts = st.lists(st.text(alphabet="abγ xz", max_size=12), max_size=8)


@st.composite
def any_wordpiece(draw: st.DrawFn) -> Tokenizer:
    from tokenizers.models import WordPiece

    words = draw(st.lists(st.tuples(st.booleans(), pieces), max_size=12))
    signs = [prefix + sign for sign in "abγ" for prefix in ("", "##")]
    tokens = dict.fromkeys(["<pad>", "<unk>", *signs, *(("##" if inside else "") + piece for inside, piece in words)])
    return fast(WordPiece({token: number for number, token in enumerate(tokens)}, unk_token="<unk>"))


@st.composite
def any_bpe(draw: st.DrawFn) -> Tokenizer:
    """Draw a BPE model: now and then a token can be merged in two ways."""
    from tokenizers.models import BPE

    prefix, suffix = draw(st.sampled_from([("", ""), ("##", ""), ("", "</w>")]))
    tokens = list(dict.fromkeys(s for c in "abγ" for s in (c, prefix + c, c + suffix)))
    merges: list[tuple[str, str]] = []
    for _ in range(draw(st.integers(0, 14))):
        left = draw(st.sampled_from([token for token in tokens if not (suffix and token.endswith(suffix))]))
        right = draw(st.sampled_from([token for token in tokens if token.startswith(prefix)]))
        if (left, right) not in merges:
            merges.append((left, right))
            tokens = list(dict.fromkeys([*tokens, left + right.removeprefix(prefix)]))
    vocabulary = {token: number for number, token in enumerate(["<pad>", "<unk>", *tokens])}
    given = {"continuing_subword_prefix": prefix, "end_of_word_suffix": suffix}
    marks: dict[str, Any] = {name: mark for name, mark in given.items() if mark}
    return fast(BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=draw(st.booleans()), **marks))


@st.composite
def any_unigram(draw: st.DrawFn) -> Tokenizer:
    """Draw a Unigram model: whole scores, so that paths are often equally good."""
    from tokenizers.models import Unigram

    tokens = draw(st.lists(st.one_of(pieces, st.sampled_from("abγ")), unique=True, max_size=14))
    scored = [(token, -float(draw(st.integers(1, 25)))) for token in tokens]
    return fast(Unigram([("<pad>", 0.0), ("<unk>", 0.0), *scored], unk_id=1, byte_fallback=False))


@pytest.mark.parametrize("kind", [any_wordpiece, any_bpe, any_unigram])
def test_whatever_is_removed_texts_of_kept_tokens_are_split_as_before(kind: Callable[[], Any]) -> None:
    @settings(max_examples=120, deadline=None)
    @given(tokenizer=kind(), chosen=st.sets(st.integers(0, 40)), texts=texts, data=st.data())
    def check(tokenizer: Tokenizer, chosen: set[int], texts: list[str], data: st.DataObject) -> None:
        content = tokenizer_json(tokenizer)
        used = data.draw(st.sampled_from([*texts, ""]))
        ids = {number for number in vocabulary_of(content).values() if number in chosen}
        ids |= set(tokenizer(used)["input_ids"]) | added_tokens(content)
        ids |= needed_tokens(content, ids)
        pruned = keep_tokens(tokenizer, ids)
        new = {old: number for number, old in enumerate(sorted(ids))}
        for text in [*texts, used]:
            before = tokenizer(text)["input_ids"]
            if set(before) <= ids:
                assert pruned(text)["input_ids"] == [new[old] for old in before]

    check()


@pytest.mark.parametrize("kind", list(KINDS))
def test_whatever_was_seen_texts_of_kept_tokens_are_split_as_before(kind: str) -> None:
    tokenizer = made(kind)
    source = [*TRAIN, *MORE[:5], *OTHER]

    @settings(max_examples=25, deadline=None)
    @given(
        seen=st.lists(st.sampled_from(source), min_size=1, max_size=4),
        keep=st.one_of(st.none(), st.integers(1, 60)),
        drawn=st.lists(st.text(alphabet="abcdehilnoprstuwy ,ïô日🙂", max_size=15), max_size=10),
    )
    def check(seen: list[str], keep: int | None, drawn: list[str]) -> None:
        kept = kept_tokens(tokenizer, seen, keep)
        pruned = prune_tokenizer(tokenizer, kept)
        assert_same_where_kept(tokenizer, pruned, kept, [*source, *drawn])
        assert keep is not None or assert_same_where_kept(tokenizer, pruned, kept, seen) == len(seen)

    check()


def test_a_merged_token_keeps_the_parts_that_it_is_made_of() -> None:
    from tokenizers.models import BPE

    names = ["<pad>", "<unk>", *"soup", "so", "up", "ou", "soup"]
    merges = [("s", "o"), ("u", "p"), ("o", "u"), ("so", "up")]
    tokenizer = fast(BPE({name: number for number, name in enumerate(names)}, merges, unk_token="<unk>"))
    assert tokenizer.tokenize("soup soup") == ["soup", "soup"]
    kept = kept_tokens(tokenizer, ["soup"])
    pruned = prune_tokenizer(tokenizer, kept)
    assert kept.reasons == {"special": 2, "characters": 4, "seen": 1, "needed": 2}
    assert set(pruned.get_vocab()) == {"<pad>", "<unk>", *"soup", "so", "up", "soup"}
    assert pruned.tokenize("soup upso") == ["soup", "up", "so"]


def test_an_unknown_character_does_not_become_cheaper_than_it_was() -> None:
    """The unknown token scores ten below the least score: without ``b`` that would be -19, and ``a ? cdef`` best."""
    from tokenizers.models import Unigram

    scores = {"<pad>": 0.0, "<unk>": 0.0, "a": -9.0, "bc": -9.0, "de": -9.0, "f": -9.0, "cdef": -1.0, "b": -50.0}
    tokenizer = fast(Unigram(list(scores.items()), unk_id=1, byte_fallback=False))
    ids = set(range(len(scores) - 1))
    assert tokenizer.tokenize("abcdef") == ["a", "bc", "de", "f"]
    assert keep_tokens(tokenizer, ids).tokenize("abcdef") != ["a", "bc", "de", "f"]
    needed = needed_tokens(tokenizer_json(tokenizer), ids)
    assert needed == {len(scores) - 1}
    assert keep_tokens(tokenizer, ids | needed).tokenize("abcdef") == ["a", "bc", "de", "f"]


# --- files --------------------------------------------------------------------------------------


def saved(folder: Path, tokenizer: Tokenizer, model: Any) -> Path:
    folder.mkdir()
    save_model(Writer(folder), model, tokenizer, 24)
    return folder


@pytest.mark.parametrize("kind", list(KINDS))
def test_saved_and_opened_again_by_either_reader_it_is_the_same(kind: str, tmp_path: Path, model: Any) -> None:
    pruned = prune_tokenizer(made(kind), kept_tokens(made(kind), TRAIN))
    expected = {words: pruned(rows, is_split_into_words=words) for words, rows in ((False, OTHER), (True, WORDS))}
    pairs = pruned(OTHER, OTHER[::-1], truncation=True, max_length=9)
    folder = saved(tmp_path / "out", pruned, model[0])
    for reader in (load_tokenizer(folder), TextEncoder(folder)):
        for words, rows in ((False, OTHER), (True, WORDS)):
            found = reader(rows, is_split_into_words=words)
            assert {name: found[name] for name in found} == {name: expected[words][name] for name in expected[words]}
        found = reader(OTHER, OTHER[::-1], truncation=True, max_length=9)
        assert {name: found[name] for name in found} == {name: pairs[name] for name in pairs}
        assert reader.pad_token_id == pruned.pad_token_id


@pytest.mark.parametrize("kind", list(KINDS))
def test_equal_work_gives_equal_bytes_without_any_path(kind: str, tmp_path: Path, model: Any) -> None:
    def once(name: str) -> dict[str, bytes]:
        tokenizer = copy.deepcopy(made(kind))  # trained anew it would number equally frequent tokens otherwise
        folder = saved(tmp_path / name, prune_tokenizer(tokenizer, kept_tokens(tokenizer, TRAIN)), model[0])
        return {file.name: file.read_bytes() for file in sorted(folder.glob("*.json"))}

    first, second = once("first"), once("second")
    assert first == second
    assert not any(b"/tmp" in content or b"first" in content for content in first.values())


def test_pruning_what_was_pruned_changes_nothing(tokenizer: Tokenizer) -> None:
    once = prune_tokenizer(tokenizer, kept_tokens(tokenizer, TRAIN))
    twice = prune_tokenizer(once, kept_tokens(once, TRAIN))
    assert tokenizer_json(twice) == tokenizer_json(once)


# --- coverage -----------------------------------------------------------------------------------


def test_coverage_of_training_texts_is_whole(tokenizer: Tokenizer) -> None:
    kept = kept_tokens(tokenizer, TRAIN)
    found = coverage(tokenizer, kept, TRAIN)
    assert (found["whole"], found["tokens"], found["texts"], found["rows"]) == (1.0, 1.0, len(TRAIN), len(kept))
    assert found["pieces_before"] == found["pieces_after"] > 5


def test_coverage_counts_texts_tokens_and_pieces() -> None:
    tokenizer = made("wordpiece")
    kept = kept_tokens(tokenizer, ["the soup"])
    texts = ["the soup", "the station"]
    before = [len(tokenizer.tokenize(text)) for text in texts]
    assert before == [2, 2]
    found = coverage(tokenizer, kept, texts, pruned=prune_tokenizer(tokenizer, kept))
    assert (found["whole"], found["tokens"]) == (0.5, 0.75)
    assert (found["pieces_before"], found["pieces_after"]) == (2.0, (2 + 1 + len("station")) / 2)
    assert found["unknown_before"] == found["unknown_after"] == 0.0
    assert coverage(tokenizer, kept, ["日"])["unknown_before"] == 1.0
    assert coverage(tokenizer, kept, [["the", "soup"], ["station"]])["whole"] == 0.5


# --- what cannot be -----------------------------------------------------------------------------


def test_a_tokenizer_of_whole_words_is_refused() -> None:
    from tokenizers.models import WordLevel

    with pytest.raises(UnsupportedError, match="WordLevel tokenizer cannot be pruned"):
        kept_tokens(fast(WordLevel({"<pad>": 0, "<unk>": 1, "the": 2}, unk_token="<unk>")), TRAIN)


def test_a_post_processor_that_is_not_known_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from compress.models import tokenizers

    tokenizer = made("wordpiece")
    kept = kept_tokens(tokenizer, TRAIN)
    content = tokenizer_json(tokenizer) | {"post_processor": {"type": "Unheard"}}
    monkeypatch.setattr(tokenizers, "tokenizer_json", lambda _: content)
    with pytest.raises(UnsupportedError, match="post-processor Unheard"):
        prune_tokenizer(tokenizer, kept)


def test_no_texts_and_no_tokens_are_refused() -> None:
    tokenizer = made("wordpiece")
    with pytest.raises(DataError, match="no training texts"):
        kept_tokens(tokenizer, [])
    with pytest.raises(ConfigError, match="cannot keep 0 tokens"):
        kept_tokens(tokenizer, TRAIN, 0)
    with pytest.raises(DataError, match="no texts to cover"):
        coverage(tokenizer, kept_tokens(tokenizer, TRAIN), [])
