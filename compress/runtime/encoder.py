"""A checkpoint's tokenizer without transformers: opening an ONNX artifact then imports neither it nor torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from compress.errors import CheckpointError

__all__ = ["Encoded", "TextEncoder"]

_ALL = ("input_ids", "token_type_ids", "attention_mask")


class Encoded(Mapping[str, list[list[int]]]):
    """Tokenized rows, by model input, as transformers' ``BatchEncoding`` gives them.

    Attributes
    ----------
    encodings : list of tokenizers.Encoding
        One per row.
    """

    def __init__(self, encodings: list[Any], names: Sequence[str]) -> None:
        self.encodings = encodings
        parts = {"input_ids": "ids", "token_type_ids": "type_ids", "attention_mask": "attention_mask"}
        self._inputs = {name: [getattr(row, parts[name]) for row in encodings] for name in names}

    def __getitem__(self, name: str) -> list[list[int]]:
        return self._inputs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._inputs)

    def __len__(self) -> int:
        return len(self._inputs)

    def word_ids(self, row: int) -> list[int | None]:
        """Return which word each token of a row belongs to; None for special tokens."""
        words: list[int | None] = self.encodings[row].word_ids
        return words


class TextEncoder:
    """The part of a fast tokenizer that inference needs, read from ``tokenizer.json`` by the library tokenizers.

    Gives the tokens that transformers gives for what this project saved: there, ``tokenizer.json`` says everything
    (https://huggingface.co/docs/tokenizers). The export step compares the two on real rows.

    Parameters
    ----------
    directory : pathlib.Path
        Holds tokenizer.json and tokenizer_config.json.

    Attributes
    ----------
    pad_token_id, pad_token_type_id : int
        What padding is made of.
    input_names : tuple of str
        Model inputs that it gives.

    Raises
    ------
    CheckpointError
        If one of the files is missing or damaged.
    """

    is_fast = True

    def __init__(self, directory: Path) -> None:
        from tokenizers import Tokenizer

        try:
            config = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
            self._tokenizer: Any = Tokenizer.from_str((directory / "tokenizer.json").read_text(encoding="utf-8"))
            pad = config.get("pad_token")
            self.input_names = tuple(config.get("model_input_names") or _ALL)
        except Exception as error:  # tokenizers raises bare Exception for content that it cannot read
            raise CheckpointError(f"{directory}: its tokenizer cannot be read: {error}") from error
        self._tokenizer.no_padding()
        self._side = config.get("truncation_side", "right")
        token = pad.get("content") if isinstance(pad, dict) else pad
        self.pad_token_id = self._tokenizer.token_to_id(token) if token else None
        self.pad_token_type_id = int(config.get("pad_token_type_id") or 0)

    def __call__(
        self,
        texts: Sequence[Any],
        pairs: Sequence[str] | None = None,
        *,
        is_split_into_words: bool = False,
        truncation: bool = True,
        max_length: int = 512,
    ) -> Encoded:
        """Tokenize texts, pairs of texts, or lists of words; the longer text of a pair is cut first."""
        if truncation:
            self._tokenizer.enable_truncation(max_length, strategy="longest_first", direction=self._side)
        else:
            self._tokenizer.no_truncation()
        rows = list(texts) if pairs is None else list(zip(texts, pairs, strict=True))
        return Encoded(self._tokenizer.encode_batch(rows, is_pretokenized=is_split_into_words), self.input_names)
