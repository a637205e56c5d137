"""What is built, saved and opened again is the same model, to the bit, for every family."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from compress.checkpoint import Checkpoint, Writer, open_checkpoint
from compress.config.schemas import Model, RandomModel
from compress.data.base import Data
from compress.errors import CheckpointError, ConfigError
from compress.models.families import families, family
from compress.models.source import resolve
from compress.models.torch_io import (
    build_model,
    load_model,
    load_source,
    load_tokenizer,
    save_model,
    structure_of,
    student_of,
)
from compress.tasks import create

LABELS = {"text_classification": ("bad", "good", "plain"), "token_classification": ("O", "B-X", "I-X")}
ARCHITECTURES = sorted(name for name, known in families().items() if known.tasks)


def save(path: Path, model: Any, tokenizer: Any, task: str = "text_classification") -> Checkpoint:
    path.mkdir()
    out = Writer(path)
    save_model(out, model, tokenizer, 32)
    known = family(model.config.model_type)
    out.finish(
        format="torch",
        precision="fp32",
        task=task,
        metric=create(task, LABELS[task]).metric,
        labels=LABELS[task],
        max_length=32,
        architecture=known.architecture,
        layers=len(known.layer_list(model)),
    )
    return open_checkpoint(path)


def logits(model: Any) -> torch.Tensor:
    ids = torch.arange(4, 24).reshape(2, 10)
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    with torch.no_grad():
        answer: torch.Tensor = model(input_ids=ids, attention_mask=mask).logits
    return answer


def content(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(path.iterdir())}


@pytest.mark.parametrize("task", sorted(LABELS))
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_saved_student_reloads_bit_equal(
    architecture: str, task: str, tmp_path: Path, small_bert: tuple[Any, Any], random_model: Callable[..., Any]
) -> None:
    teacher = random_model(architecture, task)
    before = logits(teacher)
    student = student_of(teacher, [0, 2])
    reloaded = load_model(save(tmp_path / "student", student, small_bert[1], task))

    assert torch.equal(logits(student), logits(reloaded))
    assert not reloaded.training
    assert torch.equal(before, logits(teacher)), "the teacher is left alone"
    known = family(architecture)
    assert len(known.layer_list(reloaded)) == 2 == getattr(reloaded.config, known.config_layers)
    for kept, original in zip(known.layer_list(reloaded), (0, 2), strict=True):
        there = known.layer_list(teacher)[original].state_dict()
        assert all(torch.equal(tensor, there[name]) for name, tensor in kept.state_dict().items())
    structure = structure_of(reloaded)
    assert (structure.layers, structure.heads, structure.intermediate_size) == (2, (2, 2), (24, 24))
    assert (structure.hidden_size, structure.head_size, structure.vocabulary) == (16, 8, 160)
    assert structure_of(teacher).heads == (2, 2, 2)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_fresh_head_is_a_function_of_the_seed_and_the_body_is_the_checkpoints(
    architecture: str, tmp_path: Path, small_bert: tuple[Any, Any], data: Data, random_model: Callable[..., Any]
) -> None:
    model = random_model(architecture, "text_classification")
    body = getattr(model, family(architecture).base)
    body.save_pretrained(tmp_path / "base")
    small_bert[1].save_pretrained(tmp_path / "base")
    source = resolve(Model(path=str(tmp_path / "base")))
    assert (source.architecture, source.layers, source.labels) == (architecture, 3, None)
    task = create("text_classification", LABELS["text_classification"])

    first, again, other = (build_model(source, task, data, seed)[0].state_dict() for seed in (0, 0, 1))

    assert all(torch.equal(first[name], again[name]) for name in first)
    prefix = family(architecture).base + "."
    changed = [name for name in first if not torch.equal(first[name], other[name])]
    assert changed
    assert not [name for name in changed if name.startswith(prefix) and ".pooler." not in name]
    kept = body.state_dict()
    for name in first:
        if name.startswith(prefix) and ".pooler." not in name:
            assert torch.equal(first[name], kept[name.removeprefix(prefix)]), name


def test_bytes_do_not_depend_on_what_was_tokenized_or_loaded_before(
    tmp_path: Path, small_bert: tuple[Any, Any]
) -> None:
    model, tokenizer = small_bert
    first = save(tmp_path / "first", model, tokenizer)
    tokenizer(["the good day", "a"], truncation=True, max_length=4, padding=True)
    save(tmp_path / "second", model, tokenizer)
    save(tmp_path / "third", load_model(first), load_tokenizer(first.path))

    assert content(tmp_path / "first") == content(tmp_path / "second") == content(tmp_path / "third")
    everything = b"".join(content(tmp_path / "third").values())
    assert str(tmp_path).encode() not in everything
    for name in (b"_name_or_path", b"local_files_only"):
        assert name not in everything


def test_random_model_is_a_function_of_config_data_and_seed(tmp_path: Path, data: Data) -> None:
    task = create("text_classification", LABELS["text_classification"])
    source = resolve(RandomModel(max_length=32))
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        save(tmp_path / name, *build_model(source, task, data, seed))
    assert content(tmp_path / "a") == content(tmp_path / "b")
    weights = "model.safetensors"
    assert content(tmp_path / "a")[weights] != content(tmp_path / "c")[weights]
    tokenizer = load_tokenizer(tmp_path / "a")
    ids = tokenizer("The good zebra~!")["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.convert_ids_to_tokens(ids)[:3] == ["[CLS]", "the", "good"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda tensors: tensors.pop("classifier.weight"), "lacks classifier.weight"),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), "unknown extra"),
        (lambda tensors: tensors.update({"classifier.bias": torch.zeros(7)}), "another shape of classifier.bias"),
    ],
    ids=["missing", "unexpected", "shape"],
)
def test_weights_that_do_not_fit_are_refused(
    damage: Any, message: str, tmp_path: Path, small_bert: tuple[Any, Any]
) -> None:
    checkpoint = save(tmp_path / "saved", *small_bert)
    file = checkpoint.path / "model.safetensors"
    tensors = load_file(file)
    damage(tensors)
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=message):
        load_model(checkpoint)


def test_a_body_weight_that_is_missing_or_misshapen_is_never_initialised_afresh(folder: Path, data: Data) -> None:
    task = create("text_classification", LABELS["text_classification"])
    file = folder / "model.safetensors"
    whole = load_file(file)
    name = "encoder.layer.1.output.dense.weight"
    save_file({key: tensor for key, tensor in whole.items() if key != name}, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=f"lacks weights of its body: bert.{name}"):
        build_model(resolve(Model(path=str(folder))), task, data, 0)
    save_file({**whole, name: torch.zeros(3, 3)}, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=f"shape of bert.{name}"):
        build_model(resolve(Model(path=str(folder))), task, data, 0)


def test_a_pooler_that_the_checkpoint_lacks_is_made_and_reported(
    folder: Path, data: Data, caplog: pytest.LogCaptureFixture
) -> None:
    file = folder / "model.safetensors"
    kept = {name: tensor for name, tensor in load_file(file).items() if not name.startswith("pooler.")}
    save_file(kept, file, metadata={"format": "pt"})
    task = create("text_classification", LABELS["text_classification"])
    with caplog.at_level(logging.INFO, logger="compress"):
        build_model(resolve(Model(path=str(folder))), task, data, 0)
    assert "bert.pooler.dense.weight" in caplog.text
    assert "classifier.weight" in caplog.text


def test_a_fine_tuned_model_is_taken_whole_and_for_its_own_task_only(
    tmp_path: Path, small_bert: tuple[Any, Any], random_model: Callable[..., Any]
) -> None:
    model = random_model("roberta", "token_classification")
    model.save_pretrained(tmp_path / "tuned")
    small_bert[1].save_pretrained(tmp_path / "tuned")
    source = resolve(Model(path=str(tmp_path / "tuned")))
    assert (source.head, source.labels) == ("token_classification", LABELS["token_classification"])
    loaded, _ = load_source(source, create("token_classification", LABELS["token_classification"]))
    assert torch.equal(logits(loaded), logits(model))
    with pytest.raises(ConfigError, match="fine-tuned for token_classification"):
        load_source(source, create("text_classification", LABELS["token_classification"]))


def test_half_precision_weights_become_fp32(folder: Path, data: Data) -> None:
    file = folder / "model.safetensors"
    save_file({name: t.bfloat16() for name, t in load_file(file).items()}, file, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    task = create("text_classification", LABELS["text_classification"])
    model, _ = build_model(resolve(Model(path=str(folder))), task, data, 0)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_a_byte_level_tokenizer_sees_words_with_their_blank(tmp_path: Path) -> None:
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaTokenizerFast

    trained = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator(["a world of worlds"] * 4, vocab_size=290, special_tokens=special, show_progress=False)
    trained.save_model(str(tmp_path))
    RobertaTokenizerFast.from_pretrained(tmp_path).save_pretrained(tmp_path)
    words = [["of", "world"]]
    for asked, piece in ((False, "world"), (True, "Ġworld")):
        tokenizer = load_tokenizer(tmp_path, words=asked)
        ids = tokenizer(words, is_split_into_words=True)["input_ids"][0]
        joined = "|".join(tokenizer.convert_ids_to_tokens(ids))
        assert (f"|{piece}" in joined) is asked, joined


@pytest.mark.parametrize("layers", [[3], [-1]])
def test_a_student_of_layers_that_are_not_there_is_refused(layers: list[int], random_model: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="layers 0 to 2"):
        student_of(random_model("bert", "text_classification"), layers)
