"""Building, saving and loading torch models: nothing is re-initialised in silence, equal work gives equal bytes."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.errors import CheckpointError, ConfigError, UnsupportedError
from compress.models.families import family
from compress.models.pruned import load_weights, write_model
from compress.models.structure import structure_of

if TYPE_CHECKING:
    from compress.checkpoint import Checkpoint, Writer
    from compress.config.schemas import RandomModel
    from compress.data.base import Data
    from compress.models.source import SourceModel
    from compress.tasks.base import Task

__all__ = [
    "build_model",
    "build_under_fresh_head",
    "load_model",
    "load_source",
    "load_tokenizer",
    "quiet",
    "save_model",
    "save_tokenizer",
    "structure_of",
    "student_of",
]

log = logging.getLogger(__name__)

_LOADING = ("name_or_path", "tokenizer_file", "special_tokens_map_file", "is_local", "local_files_only")
"""What tokenizer_config.json would say of how the tokenizer was loaded."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold back the load reports and progress bars of transformers."""
    from transformers.utils import logging

    transformers_logging: Any = logging

    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


def load_tokenizer(path: Path, *, words: bool = False) -> Any:
    """Return the fast tokenizer of a directory; no network, no code of its own.

    Parameters
    ----------
    path
        The directory.
    words
        Whether it will be given lists of words: byte-level tokenizers then put a blank before each, as in the text
        they were trained on. Saved with the tokenizer, so only asked of a base model's.

    Raises
    ------
    UnsupportedError
        If there is no fast tokenizer.
    """
    from transformers import AutoTokenizer

    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
            if words and tokenizer.is_fast and _glues_words(tokenizer):
                tokenizer = AutoTokenizer.from_pretrained(
                    str(path), local_files_only=True, trust_remote_code=False, add_prefix_space=True
                )
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: its tokenizer cannot be loaded: {str(error).splitlines()[0]}") from error
    if not tokenizer.is_fast:
        raise UnsupportedError(f"{path}: no fast tokenizer (tokenizer.json), which aligning words needs")
    return tokenizer


def _glues_words(tokenizer: Any) -> bool:
    return getattr(tokenizer.backend_tokenizer.pre_tokenizer, "add_prefix_space", None) is False


def build_model(source: SourceModel, task: Task, data: Data, seed: int) -> tuple[Any, Any]:
    """Return a model with a fresh head for the task, and its tokenizer.

    Parameters
    ----------
    source
        The model a run starts from.
    task
        Says which head, and its labels.
    data
        The training texts make the vocabulary of a random model.
    seed
        Seed of whatever is freshly initialised.
    """
    import torch

    torch.manual_seed(seed)
    if source.random is not None:
        return _random_model(source, source.random, task, data)
    assert source.path is not None
    tokenizer = load_tokenizer(source.path, words=task.reads_words)
    model, fresh = _whole_body(source, task)
    log.info("%s: freshly initialised: %s", source.name, ", ".join(sorted(fresh)) or "nothing")
    return model.float().eval(), tokenizer


def _whole_body(source: SourceModel, task: Task) -> tuple[Any, set[str]]:
    """Return the model, and what was not in its files: parts of the head and a pooler, nothing of the body."""
    model, fresh = _from_pretrained(source, task)
    base = f"{family(source.architecture).base}."
    lost = sorted(name for name in fresh if name.startswith(base) and ".pooler." not in f".{name}.")
    if lost:
        raise CheckpointError(f"{source.named} lacks weights of its body: {', '.join(lost[:4])}; it is not whole")
    return model, fresh


def build_under_fresh_head(source: SourceModel, task: Task, seed: int) -> Any:
    """Return a model with the body of a checkpoint and a head that nothing was trained of, whatever head it came with.

    Parameters
    ----------
    source
        The checkpoint; not one of random weights.
    task
        Says which head, and its labels.
    seed
        Seed of the head, and of a pooler that the checkpoint lacks.
    """
    import torch

    torch.manual_seed(seed)
    places = family(source.architecture)
    loaded, _ = _whole_body(source, task)
    torch.manual_seed(seed)
    with quiet():
        model = task.model_class().from_config(loaded.config, attn_implementation=places.attention).float().eval()
    places.base_model(model).load_state_dict(places.base_model(loaded).state_dict())
    return model


def load_source(source: SourceModel, task: Task) -> tuple[Any, Any]:
    """Return an already fine-tuned model and its tokenizer; every weight must be in its files."""
    if source.path is None or source.labels is None:
        raise ConfigError(f"{source.named} has no fine-tuned head; put finetune first in steps")
    if source.head not in (None, task.name):
        raise ConfigError(f"{source.named} is fine-tuned for {source.head}, not for task={task.name}")
    model, fresh = _from_pretrained(source, task)
    if fresh:
        raise CheckpointError(f"{source.named} lacks the weights {', '.join(sorted(fresh)[:4])}; it is not whole")
    return model.float().eval(), load_tokenizer(source.path)


def _from_pretrained(source: SourceModel, task: Task) -> tuple[Any, set[str]]:
    """Return the model with the task's head, and the names of its parameters that were not in the files."""
    from transformers import AutoConfig

    with quiet():
        config = AutoConfig.from_pretrained(str(source.path), local_files_only=True, trust_remote_code=False)
        config.id2label = dict(enumerate(task.labels))
        config.label2id = {label: number for number, label in enumerate(task.labels)}
        config.num_labels = len(task.labels)
        if task.name == "text_classification":
            config.problem_type = "single_label_classification"
        try:
            model, report = task.model_class().from_pretrained(
                str(source.path),
                config=config,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                attn_implementation=family(source.architecture).attention,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{source.named} cannot be loaded: {str(error).splitlines()[0]}") from error
    base = f"{family(source.architecture).base}."
    mismatched = {str(entry[0] if isinstance(entry, tuple | list) else entry) for entry in report["mismatched_keys"]}
    body = sorted(name for name in mismatched if name.startswith(base))
    if body:
        raise CheckpointError(f"{source.named}: the shape of {', '.join(body[:4])} is not that of its config")
    return model, set(report["missing_keys"]) | mismatched


def _random_model(source: SourceModel, config: RandomModel, task: Task, data: Data) -> tuple[Any, Any]:
    from transformers import BertConfig

    assert source.positions is not None
    tokenizer = _character_tokenizer(config, data)
    with quiet():
        bert = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            intermediate_size=config.intermediate_size,
            max_position_embeddings=source.positions,
            pad_token_id=tokenizer.pad_token_id,
            id2label=dict(enumerate(task.labels)),
            label2id={label: number for number, label in enumerate(task.labels)},
        )
        model = task.model_class().from_config(bert, attn_implementation=family("bert").attention)
    return model.float().eval(), tokenizer


def _character_tokenizer(config: RandomModel, data: Data) -> Any:
    """Return a WordPiece tokenizer of ASCII characters, their continuations and the most frequent training words."""
    import string
    from collections import Counter

    from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
    from tokenizers.models import WordPiece
    from transformers import PreTrainedTokenizerFast

    if "text" in data.train.columns:
        words = [word for text in data.train["text"] for word in str(text).lower().split()]
    else:
        words = [word.lower() for row in data.train["tokens"] for word in row]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    signs = sorted(set(string.ascii_lowercase + string.digits + string.punctuation))
    entries = dict.fromkeys([*special, *signs, *(f"##{sign}" for sign in signs)])
    frequent = sorted(Counter(word for word in words if word.isalnum()).items(), key=lambda item: (-item[1], item[0]))
    for word, _ in frequent:
        if len(entries) >= config.vocabulary:
            break
        entries.setdefault(word)
    vocabulary = {entry: number for number, entry in enumerate(entries)}
    raw = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    raw.normalizer = normalizers.BertNormalizer(lowercase=True)
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.decoder = decoders.WordPiece()
    raw.post_processor = processors.BertProcessing(("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    fast: Any = PreTrainedTokenizerFast
    return fast(
        tokenizer_object=raw,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def save_model(out: Writer, model: Any, tokenizer: Any, max_length: int) -> None:
    """Write config.json, the tokenizer and model.safetensors; equal models give equal bytes, and no path is kept."""
    save_tokenizer(out, tokenizer, max_length)
    write_model(out, model)


def save_tokenizer(out: Writer, tokenizer: Any, max_length: int) -> None:
    """Write a fast tokenizer as it is before any text, without the place it was loaded from."""
    tokenizer.model_max_length = max_length
    # Whatever was tokenized before leaves its truncation and padding behind, which would be written too.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.save_pretrained(str(out.path))
    # Named, so that what reads tokenizer.json without transformers knows which inputs the class gives.
    names = {"model_input_names": list(tokenizer.model_input_names)}
    _rewrite_json(out.path / "tokenizer_config.json", drop=_LOADING, add=names)


def _rewrite_json(file: Path, drop: Sequence[str], add: Mapping[str, Any]) -> None:
    content = json.loads(file.read_text(encoding="utf-8")) | dict(add)
    for name in drop:
        content.pop(name, None)
    file.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def load_model(checkpoint: Checkpoint) -> Any:
    """Return the model of a torch checkpoint in eval mode, with the weights that were written and no others.

    Whatever was pruned or quantized: config.json, structure.json and quantization.json say how the model is built
    (`compress.models.skeleton`, `compress.quantized.model`). What is not quantized is fp32.

    Raises
    ------
    CheckpointError
        If it is no torch checkpoint, or a weight is missing, unexpected or of another shape.
    UnsupportedError
        If it is quantized and bitsandbytes is not installed.
    """
    from transformers import AutoConfig

    from compress import tasks

    if checkpoint.format != "torch":
        raise CheckpointError(f"{checkpoint.path} is a checkpoint of format {checkpoint.format}; a torch one is needed")
    manifest = checkpoint.manifest
    task = tasks.create(manifest.task, manifest.labels, metric=manifest.metric)
    with quiet():
        config = AutoConfig.from_pretrained(str(checkpoint.path), local_files_only=True, trust_remote_code=False)
        attention = family(config.model_type).attention
        model = load_weights(
            lambda: task.model_class().from_config(config, attn_implementation=attention), checkpoint.path
        )
    return model.float().eval()


def student_of(teacher: Any, layers: Sequence[int]) -> Any:
    """Return a copy of a model that keeps the given layers, in that order.

    Parameters
    ----------
    teacher : torch.nn.Module
        A transformers model of a known family; unchanged.
    layers : sequence of int
        Indices of its layers; each is copied.
    """
    from compress.models.surgery import keep_layers

    known = len(family(teacher.config.model_type).layer_list(teacher))
    if any(not 0 <= layer < known for layer in layers):
        raise ConfigError(f"student layers {list(layers)}: the teacher has layers 0 to {known - 1}")
    return keep_layers(teacher, layers)
