"""Which tokens stay: those that training texts are made of, and what any other text can be spelled with.

Abdaoui et al., Load What You Need: Smaller Versions of Multilingual BERT, SustaiNLP 2020 (arXiv 2010.05609), prune the
vocabulary by frequency in a corpus.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from compress.errors import ConfigError, DataError
from compress.models import tokenizers

if TYPE_CHECKING:
    import pandas as pd

    Text = str | list[str] | tuple[str, str]

__all__ = [
    "KeptVocabulary",
    "Remapping",
    "coverage",
    "coverage_between",
    "kept_tokens",
    "prune_tokenizer",
    "texts_of",
    "token_counts",
    "token_ids",
    "with_tokens",
]

_ASCII = frozenset(chr(code) for code in range(32, 127))
_CHUNK = 1024
"""Texts tokenized at a time."""


@dataclass(frozen=True)
class Remapping:
    """From the ids of a tokenizer to those of the pruned one.

    Attributes
    ----------
    rows : numpy.ndarray
        ``[kept]``: the old id of each new one, ascending; the rows of the embedding to keep, in order.
    new_ids : numpy.ndarray
        ``[old vocabulary]``: the new id of each old one; -1 where the token is gone.
    """

    rows: np.ndarray
    new_ids: np.ndarray

    def apply(self, ids: Sequence[int]) -> list[int]:
        """Return the new ids of old ones; -1 for tokens that are gone."""
        mapped: list[int] = self.new_ids[np.asarray(ids, dtype=np.int64)].tolist()
        return mapped


@dataclass(frozen=True)
class KeptVocabulary:
    """The tokens that stay.

    Attributes
    ----------
    ids : numpy.ndarray
        ``[kept]``: their old ids, ascending.
    counts : numpy.ndarray
        ``[kept]``: how often each occurs in the training texts, special tokens included.
    size : int
        Tokens of the vocabulary before.
    reasons : dict
        How many stay because they are ``special``, ``characters``, ``seen`` in training, ``likely`` to come elsewhere
        or ``needed`` to make others; each is counted once, by the first of these.
    """

    ids: np.ndarray
    counts: np.ndarray
    size: int
    reasons: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def remapping(self) -> Remapping:
        """Old ids to new ones."""
        new_ids = np.full(self.size, -1, dtype=np.int64)
        new_ids[self.ids] = np.arange(len(self.ids))
        return Remapping(self.ids, new_ids)


def texts_of(frame: pd.DataFrame) -> Iterator[Text]:
    """Yield the rows of prepared data as `kept_tokens` takes them: texts, pairs of texts, or lists of words."""
    if "tokens" in frame.columns:
        yield from (list(words) for words in frame["tokens"])
    elif "text_pair" in frame.columns:
        yield from zip(frame["text"], frame["text_pair"], strict=True)
    else:
        yield from frame["text"]


def kept_tokens(tokenizer: Any, texts: Iterable[Text], keep: int | None = None) -> KeptVocabulary:
    """Choose the tokens that stay.

    Special and added tokens, printable ASCII characters and every character of the training texts stay, at the start
    of a word and inside it; so do all tokens of the training texts, or the most frequent of them; so does what those
    cannot be made without (the parts of a BPE token). A text all of whose tokens stay is tokenized as before; any
    other into smaller pieces, unknown only where one of its characters is.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerFast
        WordPiece, BPE or Unigram.
    texts : iterable of str, (str, str) or list of str
        Training texts, pairs of them, or lists of words. Read once, and whole: nothing is cut off.
    keep : int, optional
        How many of the tokens that training texts have, special ones aside, stay: the most frequent, the lower id
        first where two are equal. By default all.

    Raises
    ------
    ConfigError
        If `keep` is less than 1.
    DataError
        If there are no texts.
    UnsupportedError
        A kind of tokenizer whose vocabulary cannot be pruned.
    """
    if keep is not None and keep < 1:
        raise ConfigError(f"vocabulary: cannot keep {keep} tokens; give 1 or more, or null to keep all that are seen")
    content = tokenizers.tokenizer_json(tokenizer)
    backend = tokenizers.backend_of(content)
    size = max(tokenizers.vocabulary_of(content).values()) + 1
    counts, characters = _seen(backend, texts, size)
    special = tokenizers.added_tokens(content) | set(tokenizer.all_special_ids)
    single = tokenizers.character_tokens(content, characters | _ASCII) - special
    ranked = sorted(set(np.flatnonzero(counts).tolist()) - special, key=lambda number: (-counts[number], number))
    seen = set(ranked[:keep]) - single
    needed = tokenizers.needed_tokens(content, special | single | seen)
    ids = np.asarray(sorted(special | single | seen | needed), dtype=np.int64)
    groups = {"special": special, "characters": single, "seen": seen, "needed": needed}
    return KeptVocabulary(ids, counts[ids], size, {name: len(group) for name, group in groups.items()})


def with_tokens(tokenizer: Any, kept: KeptVocabulary, ids: Collection[int]) -> KeptVocabulary:
    """Return the tokens that stay with some more, which training texts do not have, and what those need.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerFast
        The one that `kept` was chosen for.
    kept
        From `kept_tokens`.
    ids
        Tokens that are to stay too.
    """
    content = tokenizers.tokenizer_json(tokenizer)
    before = set(kept.ids.tolist())
    likely = set(ids) - before
    needed = tokenizers.needed_tokens(content, before | likely)
    counts = np.zeros(kept.size, dtype=np.int64)
    counts[kept.ids] = kept.counts
    new = np.asarray(sorted(before | likely | needed), dtype=np.int64)
    reasons = {**kept.reasons, "likely": len(likely), "needed": kept.reasons.get("needed", 0) + len(needed)}
    return KeptVocabulary(new, counts[new], kept.size, reasons)


def token_ids(tokenizer: Any, texts: Iterable[Text]) -> Iterator[list[int]]:
    """Yield the ids of each text, without the special tokens that begin, part and end it, nothing cut off."""
    yield from _encoded(tokenizers.backend_of(tokenizers.tokenizer_json(tokenizer)), texts, special=False)


def prune_tokenizer(tokenizer: Any, kept: KeptVocabulary) -> Any:
    """Return a tokenizer of the same class with the tokens that stay, numbered anew in their order.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerFast
        The one that `kept` was chosen for; unchanged.
    kept
        From `kept_tokens`.
    """
    return tokenizers.keep_tokens(tokenizer, kept.ids.tolist())


def token_counts(tokenizer: Any, texts: Iterable[Text]) -> np.ndarray:
    """Return how often each token occurs in texts, ``[vocabulary]``, special tokens included."""
    content = tokenizers.tokenizer_json(tokenizer)
    size = max(tokenizers.vocabulary_of(content).values()) + 1
    return _counts(_encoded(tokenizers.backend_of(content), texts, special=True), size)


def coverage(
    tokenizer: Any, kept: KeptVocabulary, texts: Iterable[Text], *, pruned: Any = None
) -> dict[str, float | int]:
    """Return how much of some texts the kept tokens cover.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerFast
        The one that `kept` was chosen for.
    kept
        From `kept_tokens`.
    texts : iterable of str, (str, str) or list of str
        As of `kept_tokens`; any source.
    pruned : transformers.PreTrainedTokenizerFast, optional
        What `prune_tokenizer` gave, if it was called before.

    Returns
    -------
    dict
        ``texts`` (how many), ``whole`` (share of them all of whose tokens stay: they are tokenized as before),
        ``tokens`` (share of tokens that stay), ``rows`` (tokens of the pruned vocabulary), ``pieces_before`` and
        ``pieces_after`` (mean tokens per text), ``unknown_before`` and ``unknown_after`` (share of tokens that are
        the unknown one). Special tokens that begin, part and end texts are not counted.

    Raises
    ------
    DataError
        If there are no texts.
    """
    old, new = (
        tokenizers.tokenizer_json(one)
        for one in (tokenizer, prune_tokenizer(tokenizer, kept) if pruned is None else pruned)
    )
    return coverage_between(old, new, texts)


def coverage_between(old: Mapping[str, Any], new: Mapping[str, Any], texts: Iterable[Text]) -> dict[str, float | int]:
    """Return the same of two tokenizers as tokenizer.json has them, the second with some of the tokens of the first.

    Truncation and padding are for the caller to take out (`compress.models.tokenizers.tokenizer_json`).
    """
    texts = list(texts)
    if not texts:
        raise DataError("vocabulary: no texts to cover; give some")
    tokens, left = tokenizers.vocabulary_of(old), tokenizers.vocabulary_of(new)
    stays = np.zeros(max(tokens.values()) + 1, dtype=bool)
    stays[[number for token, number in tokens.items() if token in left]] = True
    before = [np.asarray(ids, dtype=np.int64) for ids in _encoded(tokenizers.backend_of(old), texts, special=False)]
    after = [np.asarray(ids, dtype=np.int64) for ids in _encoded(tokenizers.backend_of(new), texts, special=False)]
    pieces, fresh = np.concatenate(before), np.concatenate(after)
    return {
        "texts": len(texts),
        "whole": float(np.mean([bool(stays[ids].all()) for ids in before])),
        "tokens": float(stays[pieces].mean()) if len(pieces) else 1.0,
        "rows": len(left),
        "pieces_before": len(pieces) / len(texts),
        "pieces_after": len(fresh) / len(texts),
        "unknown_before": _share(pieces, tokenizers.unknown_token(old)),
        "unknown_after": _share(fresh, tokenizers.unknown_token(new)),
    }


def _share(ids: np.ndarray, wanted: int | None) -> float:
    return float((ids == wanted).mean()) if wanted is not None and len(ids) else 0.0


def _seen(backend: Any, texts: Iterable[Text], size: int) -> tuple[np.ndarray, set[str]]:
    """Return how often each token occurs, and the characters that the model of the tokenizer is given."""
    counts, characters, empty = np.zeros(size, dtype=np.int64), set[str](), True
    for chunk in _chunks(texts):
        empty = False
        counts += _counts(_encoded(backend, chunk, special=True), size)
        characters.update(*(_characters(backend, part) for text in chunk for part in _parts(text)))
    if empty:
        raise DataError("vocabulary: there are no training texts to choose its tokens by; give some rows of train")
    return counts, characters


def _characters(backend: Any, text: str) -> set[str]:
    if backend.normalizer is not None:
        text = backend.normalizer.normalize_str(text)
    if backend.pre_tokenizer is None:
        return set(text)
    return {sign for piece, _ in backend.pre_tokenizer.pre_tokenize_str(text) for sign in piece}


def _parts(text: Text) -> Sequence[str]:
    return (text,) if isinstance(text, str) else text


def _counts(encoded: Iterable[Sequence[int]], size: int) -> np.ndarray:
    flat = [number for ids in encoded for number in ids]
    return np.bincount(np.asarray(flat, dtype=np.int64), minlength=size).astype(np.int64)


def _encoded(backend: Any, texts: Iterable[Text], *, special: bool) -> Iterator[list[int]]:
    """Yield the ids of each text."""
    for chunk in _chunks(texts):
        rows: list[list[int]] = [[]] * len(chunk)
        for words in (False, True):
            places = [place for place, text in enumerate(chunk) if isinstance(text, list) == words]
            given = [chunk[place] for place in places]
            encodings = backend.encode_batch(given, is_pretokenized=words, add_special_tokens=special)
            for place, encoding in zip(places, encodings, strict=True):
                rows[place] = encoding.ids
        yield from rows


def _chunks(texts: Iterable[Text]) -> Iterator[list[Text]]:
    iterator = iter(texts)
    while chunk := list(islice(iterator, _CHUNK)):
        yield chunk
