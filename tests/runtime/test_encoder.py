"""The encoder gives what transformers gives, and imports neither it nor torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from compress.checkpoint import Writer
from compress.errors import CheckpointError
from compress.models.torch_io import load_tokenizer, save_model
from compress.runtime.encoder import TextEncoder

TEXTS = [
    "We liked the soup, they said.",
    "",
    "naïve café 日本 🙂 again",
    "word " * 80,
    "a-b_c  d\te",
    "[SEP] [UNK] <s>",
]
PAIRS = ["and the train?", "only this one", "", "long " * 50, "x", "[CLS]"]
WORDS = [["We", "liked", "soup,"], ["naïve", "日本"], ["word"] * 70, ["a"]]


class Model:
    """As much of a model as saving needs."""

    def __init__(self, kind: str) -> None:
        import torch
        from transformers import AutoConfig, AutoModelForSequenceClassification

        sizes = (
            {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16}
            if kind == "distilbert"
            else {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        )
        torch.manual_seed(0)
        self.model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(kind, vocab_size=400, **sizes))


def tokenizer_of(kind: str, folder: Path) -> Any:
    from tokenizers import ByteLevelBPETokenizer
    from transformers import BertTokenizerFast, DistilBertTokenizerFast, RobertaTokenizerFast

    if kind in ("bert", "distilbert"):
        vocab = folder / "vocab.txt"
        letters = [*"abcdefghijklmnopqrstuvwxyz.,-_?日", *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")]
        words = ["we", "liked", "the", "soup", "they", "said", "word", "long", "cafe", "again"]
        vocab.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *letters]))
        return (BertTokenizerFast if kind == "bert" else DistilBertTokenizerFast)(vocab=str(vocab))
    trained = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator(TEXTS, vocab_size=300, special_tokens=special, show_progress=False)
    trained.save_model(str(folder))
    return RobertaTokenizerFast.from_pretrained(folder, add_prefix_space=True)


@pytest.fixture(scope="module", params=["bert", "distilbert", "roberta"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "made").mkdir()
    (folder / "out").mkdir()
    tokenizer = tokenizer_of(request.param, folder / "made")
    save_model(Writer(folder / "out"), Model(request.param).model, tokenizer, 48)
    return folder / "out"


@pytest.mark.parametrize(
    ("texts", "pairs", "words"),
    [(TEXTS, None, False), (TEXTS, PAIRS, False), (WORDS, None, True)],
    ids=["texts", "pairs", "words"],
)
@pytest.mark.parametrize("longest", [48, 7])
def test_it_gives_what_transformers_gives(
    saved: Path, texts: list[Any], pairs: list[str] | None, words: bool, longest: int
) -> None:
    theirs, ours = load_tokenizer(saved), TextEncoder(saved)
    arguments: dict[str, Any] = {"is_split_into_words": words, "truncation": True, "max_length": longest}
    expected, found = theirs(texts, pairs, **arguments), ours(texts, pairs, **arguments)
    assert {name: expected[name] for name in expected} == {name: found[name] for name in found}
    assert [expected.word_ids(row) for row in range(len(texts))] == [found.word_ids(row) for row in range(len(texts))]
    assert [bool(e.overflowing) for e in expected.encodings] == [bool(e.overflowing) for e in found.encodings]
    assert (theirs.pad_token_id, theirs.pad_token_type_id) == (ours.pad_token_id, ours.pad_token_type_id)


@pytest.mark.parametrize("harm", ["missing", "no JSON", "no tokenizer"])
def test_a_damaged_tokenizer_is_refused(saved: Path, tmp_path: Path, harm: str) -> None:
    (tmp_path / "tokenizer_config.json").write_bytes((saved / "tokenizer_config.json").read_bytes())
    if harm != "missing":
        (tmp_path / "tokenizer.json").write_text("{" if harm == "no JSON" else json.dumps({"version": "1.0"}))
    with pytest.raises(CheckpointError, match="its tokenizer cannot be read"):
        TextEncoder(tmp_path)


@pytest.mark.slow
def test_an_onnx_artifact_answers_without_torch_and_transformers(onnx_checkpoint: Any) -> None:
    code = (
        "import sys, compress; model = compress.load(sys.argv[1], device='cpu');"
        "assert model.predict(['we liked the soup'])[0]['label'];"
        "assert not {'torch', 'transformers', 'sklearn', 'pandas'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(onnx_checkpoint.path)], check=True)
