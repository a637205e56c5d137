"""A pruned model is saved and opened like any other, to the bit; files that contradict each other are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kinds
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import compress
from compress.checkpoint import Checkpoint, Writer, open_checkpoint
from compress.errors import CheckpointError, ConfigError, UnsupportedError
from compress.models.checking import check
from compress.models.factorized import factorize_embeddings
from compress.models.pruned import load_pruned, save_pruned
from compress.models.structure import Structure, structure_of
from compress.models.surgery import Cut, cut, keep_layers
from compress.models.torch_io import load_model, save_model

LABELS = ("bad", "good", "plain")
MIX = Cut(
    heads={0: [0], 1: [0, 1, 2]},
    neurons={0: [1, 2, 3], 2: list(range(1, 24))},
    hidden=[0, 6, 7, 21, 29],
    vocabulary=range(50),
    positions=20,
)


def save(path: Path, model: Any, tokenizer: Any) -> Checkpoint:
    path.mkdir()
    out = Writer(path)
    save_model(out, model, tokenizer, 16)
    out.finish(
        format="torch",
        precision="fp32",
        task="text_classification",
        metric="accuracy",
        labels=LABELS,
        max_length=16,
        architecture=model.config.model_type,
        layers=structure_of(model).layers,
    )
    return open_checkpoint(path)


def pruned(kind: str) -> Any:
    model = kinds.make(kind)
    model.config.id2label = dict(enumerate(LABELS))
    return cut(model, MIX)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "roberta", "electra", "mpnet", "distilbert"])
def test_a_step_reads_and_predicts_with_what_a_step_wrote(
    kind: str, tmp_path: Path, small_bert: tuple[Any, Any]
) -> None:
    model = pruned(kind)
    checkpoint = save(tmp_path / "pruned", model, small_bert[1])
    reloaded = load_model(checkpoint)

    assert structure_of(reloaded) == structure_of(model) == check(reloaded)
    assert torch.equal(kinds.answer(model)[0], kinds.answer(reloaded)[0])
    again = save(tmp_path / "again", reloaded, small_bert[1])
    for name in ("config.json", "structure.json", "model.safetensors"):
        assert (again.path / name).read_bytes() == (checkpoint.path / name).read_bytes()

    predictor = compress.load(checkpoint.path)
    ids = np.arange(4, 14).reshape(2, 5)
    found = predictor.logits({"input_ids": ids, "attention_mask": np.ones_like(ids)})
    expected = kinds.answer(model, input_ids=torch.from_numpy(ids), attention_mask=torch.ones(2, 5, dtype=torch.long))
    assert np.array_equal(found, expected[0].numpy())
    plain = predictor.to_transformers()
    assert type(plain) is type(model)
    assert not plain.training


def test_config_json_says_what_transformers_can_build(tmp_path: Path) -> None:
    save_pruned(pruned("bert"), tmp_path / "pruned")
    config = json.loads((tmp_path / "pruned/config.json").read_text())
    assert (config["num_hidden_layers"], config["vocab_size"], config["hidden_size"]) == (3, 50, 27)
    assert (config["intermediate_size"], config["max_position_embeddings"]) == (24, 20)
    assert 27 % config["num_attention_heads"] == 0
    structure = json.loads((tmp_path / "pruned/structure.json").read_text())
    assert (structure["heads"], structure["intermediate_size"]) == ([3, 1, 4], [21, 24, 1])
    assert (structure["layers"], structure["hidden_size"], structure["vocabulary"]) == (3, 27, 50)


def test_checkpoints_written_before_there_were_more_keys_still_open(
    tmp_path: Path, small_bert: tuple[Any, Any]
) -> None:
    model = kinds.make("bert")
    checkpoint = save(tmp_path / "old", model, small_bert[1])
    file = checkpoint.path / "structure.json"
    known = ("layers", "heads", "intermediate_size", "hidden_size", "vocabulary")
    content = json.loads(file.read_text())
    file.write_text(json.dumps({name: content[name] for name in known}))
    assert torch.equal(kinds.answer(load_model(checkpoint))[0], kinds.answer(model)[0])
    file.unlink()
    assert torch.equal(kinds.answer(load_model(checkpoint))[0], kinds.answer(model)[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": [2, 1, 4]}, "another shape of bert.encoder.layer.0.attention"),
        ({"intermediate_size": [24, 24, 24]}, "another shape of bert.encoder.layer.0.intermediate"),
        ({"layers": 2, "heads": [3, 1], "intermediate_size": [21, 24]}, "config.json says 3 layers, structure.json 2"),
        ({"hidden_size": 32}, "hidden_size is 27 by config.json and 32 by structure.json"),
        ({"vocabulary": 60}, "vocabulary is 50 by config.json and 60 by structure.json"),
        ({"positions": 24}, "positions is 20 by config.json and 24 by structure.json"),
        ({"head_size": 7}, "another shape of"),
        ({"pooler": False, "shapes": {}}, "unknown bert.pooler"),
        ({"shapes": {"bert.nothing": [2, 2]}}, "names bert.nothing, which BertForSequenceClassification lacks"),
        ({"heads": [10**12, 1, 4]}, "another shape of"),
    ],
)
def test_a_structure_that_is_not_that_of_the_tensors_is_refused(
    change: dict[str, Any], message: str, tmp_path: Path, small_bert: tuple[Any, Any]
) -> None:
    checkpoint = save(tmp_path / "pruned", pruned("bert"), small_bert[1])
    file = checkpoint.path / "structure.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(CheckpointError, match=message):
        load_model(checkpoint)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": 0}, "layers is 0, not a whole number above 0"),
        ({"heads": [1]}, "heads has 1 entries for 2 layers"),
        ({"heads": [1, 0]}, r"heads is \[1, 0\], not a list"),
        ({"heads": None}, "heads is None"),
        ({"intermediate_size": "wide"}, "intermediate_size is 'wide'"),
        ({"hidden_size": 2.5}, "hidden_size is 2.5"),
        ({"pooler": 1.5}, "pooler is 1.5"),
        ({"key_value_heads": [2, 1]}, "layer 0 has 3 heads over 2 key-value heads"),
        ({"head_numbers": [[0, 1, 1], [0]]}, "head_numbers of layer 0"),
        ({"shapes": {"pooler": [1, 2, 3]}}, "shapes is not an object"),
        ({"rotations": 3}, "unknown rotations; a later release wrote it"),
    ],
)
def test_a_structure_of_another_form_is_refused(change: dict[str, Any], message: str) -> None:
    sound = {"layers": 2, "heads": [3, 1], "intermediate_size": [4, 5], "hidden_size": 8}
    assert Structure.from_json(sound).to_json() == sound
    with pytest.raises(CheckpointError, match=message):
        Structure.from_json({**sound, **change})
    for name in sound:
        with pytest.raises(CheckpointError, match=f"it lacks {name}"):
            Structure.from_json({key: value for key, value in sound.items() if key != name})


@pytest.mark.parametrize("kind", sorted(kinds.KINDS))
def test_an_unpruned_model_of_any_kind_reloads_bit_equal(kind: str, tmp_path: Path) -> None:
    model = kinds.make(kind)
    save_pruned(model, tmp_path / "whole")
    reloaded = load_pruned(tmp_path / "whole")
    assert type(reloaded) is type(model)
    assert all(torch.equal(*pair) for pair in zip(kinds.answer(model), kinds.answer(reloaded), strict=True))
    assert structure_of(reloaded) == structure_of(model)


@pytest.mark.parametrize("kind", ["bert", "electra", "mpnet", "llama tied", "vit"])
def test_structure_json_says_all_there_is_to_say(kind: str) -> None:
    structure = structure_of(cut(kinds.make(kind), Cut(heads={1: [2, 3]}, hidden=[1, 2])))
    assert Structure.from_json(json.loads(json.dumps(structure.to_json()))) == structure
    assert not structure.uniform


def test_a_factorized_embedding_reloads(tmp_path: Path) -> None:
    model = cut(kinds.make("bert"), Cut(heads={0: [1]}, vocabulary=range(40)))
    factorize_embeddings(model, 5)
    save_pruned(model, tmp_path / "factorized")
    reloaded = load_pruned(tmp_path / "factorized")
    assert structure_of(reloaded).embedding_rank == 5
    assert torch.equal(kinds.answer(model)[0], kinds.answer(reloaded)[0])
    smaller = cut(reloaded, Cut(vocabulary=range(20), hidden=[3, 4]))
    assert check(smaller).vocabulary == 20
    save_pruned(smaller, tmp_path / "factorized")
    assert torch.equal(kinds.answer(smaller)[0], kinds.answer(load_pruned(tmp_path / "factorized"))[0])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "qwen2 tied"])
def test_a_pruned_language_model_generates_the_same_tokens_after_a_reload(kind: str, tmp_path: Path) -> None:
    model = kinds.make(kind, num_hidden_layers=4, max_position_embeddings=64)
    smaller = cut(
        model,
        Cut(
            heads={0: [0, 1], 3: [2, 3]},
            neurons={0: [0, 1], 1: [5]},
            hidden=[1, 2, 3, 4, 5],
            layers=[0, 1, 3],
        ),
    )
    save_pruned(smaller, tmp_path / "pruned")
    reloaded = load_pruned(tmp_path / "pruned")
    prompt = {"input_ids": torch.tensor([[4, 5, 6, 7]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    plan = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    cached = smaller.generate(**prompt, **plan)
    assert cached.shape == (1, 10)
    assert torch.equal(cached, reloaded.generate(**prompt, **plan))
    assert torch.equal(cached, smaller.generate(**prompt, **plan, use_cache=False)), "the cache changes nothing"
    assert structure_of(reloaded).key_value_heads == (1, 2, 1)


def test_half_precision_stays_what_it_is(tmp_path: Path) -> None:
    model = cut(kinds.make("llama"), Cut(heads={0: [0, 1]}))
    for parameter in model.parameters():  # model.bfloat16() would round the rotary frequencies too
        parameter.data = parameter.data.bfloat16()
    checkpoint = save_pruned(model, tmp_path / "half")
    assert checkpoint.precision == "bf16"
    reloaded = load_pruned(checkpoint.path)
    assert {parameter.dtype for parameter in reloaded.parameters()} == {torch.bfloat16}
    assert torch.equal(kinds.answer(model)[0], kinds.answer(reloaded)[0])


def test_a_classifier_with_its_tokenizer_is_a_checkpoint_like_any_other(
    tmp_path: Path, small_bert: tuple[Any, Any]
) -> None:
    save_pruned(keep_layers(small_bert[0], [1]), tmp_path / "pruned", small_bert[1])
    predictor = compress.load(tmp_path / "pruned")
    assert [answer["label"] in LABELS for answer in predictor.predict(["the good day"])]
    assert type(load_pruned(tmp_path / "pruned")) is type(small_bert[0])


def test_saving_replaces_a_checkpoint_and_nothing_else(tmp_path: Path) -> None:
    model = kinds.make("vit")
    first = save_pruned(model, tmp_path / "model")
    second = save_pruned(cut(model, Cut(hidden=[0])), tmp_path / "model")
    assert first.digest != second.digest
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").write_text("keep me")
    with pytest.raises(ConfigError, match="holds something else than a checkpoint"):
        save_pruned(model, tmp_path / "other")


def test_what_is_no_torch_checkpoint_or_not_as_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx/model.onnx").write_bytes(b"\x08\x07")
    manifest = {"task": "text_classification", "metric": "accuracy", "labels": LABELS, "architecture": "bert"}
    Writer(tmp_path / "onnx").finish(format="onnx", precision="fp32", max_length=16, layers=1, **manifest)
    with pytest.raises(CheckpointError, match="format onnx; a torch one is needed"):
        load_pruned(tmp_path / "onnx")
    checkpoint = save_pruned(kinds.make("vit"), tmp_path / "model")
    weights = checkpoint.path / "model.safetensors"
    tensors = load_file(weights)
    save_file({**tensors, "classifier.bias": tensors["classifier.bias"] + 1}, weights)
    with pytest.raises(CheckpointError, match="model.safetensors"):
        load_pruned(checkpoint.path)


def test_a_class_that_transformers_does_not_have_is_refused(tmp_path: Path) -> None:
    class Own(type(kinds.make("vit"))):  # type: ignore[misc]
        pass

    model = kinds.make("vit")
    model.__class__ = Own
    save_pruned(model, tmp_path / "own")
    with pytest.raises(UnsupportedError, match="names the class 'Own'"):
        load_pruned(tmp_path / "own")


def run_onnx(graph: Any, inputs: dict[str, torch.Tensor]) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(["logits"], {name: value.numpy() for name, value in inputs.items()})[0]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "roberta", "electra", "mpnet", "distilbert"])
def test_every_structure_exports_and_quantizes(kind: str, tmp_path: Path) -> None:
    from compress.config.schemas import DynamicQuantization
    from compress.steps.export import export_graph
    from compress.steps.quantize.dynamic import quantize_graph

    model = pruned(kind)
    if kind in kinds.TYPED:
        model = cut(model, Cut(fold_token_types=True))
    inputs = {
        "input_ids": torch.arange(4, 20).reshape(2, 8),
        "attention_mask": torch.tensor([[1] * 8, [1] * 5 + [0] * 3]),
    }
    longer = {name: torch.cat([value, value], 1) for name, value in inputs.items()}
    expected = [kinds.answer(model, **given)[0].numpy() for given in (inputs, longer)]
    graph = export_graph(model, ("input_ids", "attention_mask"), 20, tmp_path)
    for given, wanted in zip((inputs, longer), expected, strict=True):
        assert np.abs(run_onnx(graph, given) - wanted).max() < 1e-4
    quantized, _ = quantize_graph(graph, DynamicQuantization(), reduce_range=False)
    assert np.abs(run_onnx(quantized, inputs) - expected[0]).max() < 0.5 * np.abs(expected[0]).max()
