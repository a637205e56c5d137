"""Fast tokenizers with fewer tokens: texts whose tokens all stayed are split as before, others into smaller pieces.

Edits the JSON of the library tokenizers (https://huggingface.co/docs/tokenizers). Why what stays is split as before:

- WordPiece takes the longest token at each place. Where that one stayed, the longer ones were not there before either.
- BPE applies, again and again, the first merge of its list that fits. A merge that made a token of the result stays
  with the token (`needed_tokens`), so at each turn it is still there, and none has come before it.
- Unigram takes the path of the best sum of scores. It is the best of fewer paths too, the earlier of two equal ones
  as before. One thing could be new: a character that is no token of its own any more can be covered by the unknown
  token, at ten below the least of all scores. Below that of the character's own token it remains only if the token of
  the least score stays, which `needed_tokens` sees to.
"""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from compress.errors import UnsupportedError

__all__ = [
    "added_tokens",
    "backend_of",
    "character_tokens",
    "keep_tokens",
    "needed_tokens",
    "tokenizer_json",
    "unknown_token",
    "vocabulary_of",
]

_MODELS = ("WordPiece", "BPE", "Unigram")


def tokenizer_json(tokenizer: Any) -> dict[str, Any]:
    """Return what tokenizer.json would hold of a fast tokenizer, without the truncation and padding of its last call.

    Raises
    ------
    UnsupportedError
        If it is neither WordPiece, BPE nor Unigram.
    """
    content: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    kind = content["model"].get("type")
    if kind not in _MODELS:
        raise UnsupportedError(
            f"the vocabulary of a {kind} tokenizer cannot be pruned: without a token its text would be lost; "
            f"{', '.join(_MODELS)} can. Leave the vocabulary as it is"
        )
    return content | {"truncation": None, "padding": None}


def backend_of(content: Mapping[str, Any]) -> Any:
    """Return the ``tokenizers.Tokenizer`` of such a JSON."""
    from tokenizers import Tokenizer

    return Tokenizer.from_str(json.dumps(content))


def vocabulary_of(content: Mapping[str, Any]) -> dict[str, int]:
    """Return the id of every token, added ones included."""
    tokens = {token["content"]: int(token["id"]) for token in content["added_tokens"]}
    return _model_tokens(content["model"]) | tokens


def added_tokens(content: Mapping[str, Any]) -> set[int]:
    """Return the ids of special and added tokens, of the unknown one, and of bytes that unknown characters become."""
    tokens = _model_tokens(content["model"])
    kept = {int(token["id"]) for token in content["added_tokens"]}
    if content["model"].get("byte_fallback"):
        kept |= {tokens[name] for byte in range(256) if (name := f"<0x{byte:02X}>") in tokens}
    unknown = unknown_token(content)
    return kept if unknown is None else kept | {unknown}


def unknown_token(content: Mapping[str, Any]) -> int | None:
    """Return the id that stands for unknown characters, if there is one."""
    model = content["model"]
    if model["type"] == "Unigram":
        return None if model.get("unk_id") is None else int(model["unk_id"])
    return vocabulary_of(content).get(model.get("unk_token"))


def character_tokens(content: Mapping[str, Any], characters: Collection[str]) -> set[int]:
    """Return the ids of tokens that are one of these characters, at the start of a word or inside it (``##a``).

    A byte-level tokenizer keeps its whole alphabet: 256 characters, of which every text is made.
    """
    from tokenizers import pre_tokenizers

    wanted = set(characters)
    if _mentions(content["pre_tokenizer"], "ByteLevel") or _mentions(content["normalizer"], "ByteLevel"):
        wanted |= set(pre_tokenizers.ByteLevel.alphabet())
    model = content["model"]
    return {number for token, number in _model_tokens(model).items() if _bare(token, model) in wanted}


def needed_tokens(content: Mapping[str, Any], ids: Collection[int]) -> set[int]:
    """Return further ids, without which texts of these tokens would be split otherwise than before.

    Parameters
    ----------
    content
        As of `tokenizer_json`.
    ids
        The tokens that are to stay.
    """
    model = content["model"]
    if model["type"] == "BPE":
        return _merged_tokens(model, ids) - set(ids)
    if model["type"] == "Unigram":
        scores = [score for _, score in model["vocab"]]
        least = min(scores)
        return (
            set() if any(scores[number] == least for number in ids if number < len(scores)) else {scores.index(least)}
        )
    return set()


def keep_tokens(tokenizer: Any, ids: Collection[int]) -> Any:
    """Return a tokenizer of the same class that has only these tokens, numbered anew in the order of their old ids.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerFast
        Unchanged.
    ids
        Among them those of `added_tokens` and `needed_tokens`.

    Raises
    ------
    UnsupportedError
        A kind of tokenizer, or of post-processor, that is not known here.
    """
    content = _pruned(tokenizer_json(tokenizer), ids)
    # Through files, as every later step opens it: some classes build their tokenizer anew from what they read.
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        text = json.dumps(content, ensure_ascii=False)
        (Path(folder) / "tokenizer.json").write_text(text, encoding="utf-8")
        kept = type(tokenizer).from_pretrained(folder, local_files_only=True)
    kept.name_or_path = tokenizer.name_or_path
    kept.init_kwargs["name_or_path"] = tokenizer.name_or_path
    found = tokenizer_json(kept)
    changed = sorted(part for part in content if content[part] != found[part])
    if changed:
        raise UnsupportedError(
            f"{type(tokenizer).__name__} does not open a pruned tokenizer.json as it was written: its "
            f"{', '.join(changed)} would differ. Leave the vocabulary as it is"
        )
    return kept


def _pruned(content: dict[str, Any], ids: Collection[int]) -> dict[str, Any]:
    new = {old: number for number, old in enumerate(sorted(ids))}
    content = copy.deepcopy(content)
    model = content["model"]
    if model["type"] == "Unigram":
        model["vocab"] = [entry for old, entry in enumerate(model["vocab"]) if old in new]
        if model.get("unk_id") is not None:
            model["unk_id"] = new[model["unk_id"]]
    else:
        ordered = sorted(model["vocab"].items(), key=lambda item: item[1])
        model["vocab"] = {token: new[old] for token, old in ordered if old in new}
    if model["type"] == "BPE":
        parts = zip(model["merges"], _merges(model), strict=True)
        model["merges"] = [merge for merge, tokens in parts if all(token in model["vocab"] for token in tokens)]
    for token in content["added_tokens"]:
        token["id"] = new[token["id"]]
    _renumber(content["post_processor"], new)
    return content


def _renumber(processor: dict[str, Any] | None, new: Mapping[int, int]) -> None:
    """Put the new ids into a post-processor, which adds the special tokens."""
    kind = None if processor is None else processor["type"]
    if processor is None or kind == "ByteLevel":
        return
    if kind == "Sequence":
        for part in processor["processors"]:
            _renumber(part, new)
    elif kind == "TemplateProcessing":
        for token in processor["special_tokens"].values():
            token["ids"] = [new[old] for old in token["ids"]]
    elif kind in ("BertProcessing", "RobertaProcessing"):
        for name in ("sep", "cls"):
            token, old = processor[name]
            processor[name] = [token, new[old]]
    else:
        raise UnsupportedError(
            f"a tokenizer with the post-processor {kind} cannot be pruned: where it keeps ids is not known. "
            f"Leave the vocabulary as it is"
        )


def _model_tokens(model: Mapping[str, Any]) -> dict[str, int]:
    if model["type"] == "Unigram":
        return {token: number for number, (token, _) in enumerate(model["vocab"])}
    return dict(model["vocab"])


def _bare(token: str, model: Mapping[str, Any]) -> str:
    """Return a token without what marks it as inside, or at the end of, a word."""
    prefix, suffix = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
    if prefix and token != prefix:
        token = token.removeprefix(prefix)
    return token.removesuffix(suffix) if suffix and token != suffix else token


def _merges(model: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return left part, right part and result of each merge."""
    prefix = len(model.get("continuing_subword_prefix") or "")
    parts = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    return [(left, right, left + right[prefix:]) for left, right in parts]


def _merged_tokens(model: Mapping[str, Any], ids: Collection[int]) -> set[int]:
    """Return the ids of all tokens that some merge on the way to one of `ids` starts from."""
    parts: dict[str, set[str]] = {}
    for left, right, result in _merges(model):
        parts.setdefault(result, set()).update((left, right))
    wanted = set(ids)
    waiting = [token for token, number in model["vocab"].items() if number in wanted]
    reached = set(waiting)
    while waiting:
        fresh = parts.get(waiting.pop(), set()) - reached
        reached |= fresh
        waiting.extend(fresh)
    return {model["vocab"][token] for token in reached}


def _mentions(part: Any, kind: str) -> bool:
    """Whether a normalizer or pre-tokenizer, or one inside it, is of this kind."""
    if isinstance(part, Mapping):
        return part.get("type") == kind or any(_mentions(inner, kind) for inner in part.values())
    return isinstance(part, list) and any(_mentions(inner, kind) for inner in part)
