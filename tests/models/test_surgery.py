"""A model after surgery computes what the masked model did, with smaller tensors and attributes that are true."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import kinds
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kinds import GROUP, KINDS, POSITIONED, TEXT, TYPED

from compress.errors import ConfigError, UnsupportedError
from compress.models import surgery
from compress.models.checking import TOLERANCE, check, difference
from compress.models.families import family
from compress.models.masks import masked
from compress.models.pruned import load_pruned, save_pruned
from compress.models.structure import structure_of
from compress.models.surgery import Cut, cut

HEADS = {0: [0, 1], 2: [2, 3]}
"""Uneven over the layers, and whole groups where two heads share keys and values."""

CUTS = {
    "heads": Cut(heads=HEADS),
    "neurons": Cut(neurons={0: [0, 5, 23], 1: list(range(23))}),
    "hidden": Cut(hidden=[0, 3, 4, 17, 31]),
    "nearly all hidden": Cut(hidden=[unit for unit in range(32) if unit not in (5, 12, 30)]),
    "layers": Cut(layers=[0, 2]),
    "vocabulary": Cut(vocabulary=[0, 1, 2, 3, 7, 9, 40, 59, 12]),
    "positions": Cut(positions=9),
    "token types": Cut(fold_token_types=True),
    "all": Cut(
        heads={1: [0, 1]},
        neurons={1: [1, 2], 2: [0]},
        hidden=[2, 30],
        layers=[1, 2],
        vocabulary=[0, 1, 2, 3, 50, 20],
    ),
}
_HAVE = {"vocabulary": TEXT, "all": TEXT, "positions": POSITIONED, "token types": TYPED}
_MODELS: dict[str, Any] = {}


def model_of(kind: str) -> Any:
    """Return the random model of a kind; surgery leaves it alone, which each test checks."""
    if kind not in _MODELS:
        _MODELS[kind] = kinds.make(kind)
    return _MODELS[kind]


@pytest.mark.parametrize(
    ("kind", "what"), [(kind, what) for kind in KINDS for what in CUTS if kind in _HAVE.get(what, KINDS)]
)
def test_pruned_equals_masked(kind: str, what: str) -> None:
    model = model_of(kind)
    before = copy.deepcopy(model.state_dict())
    config = model.config.to_dict()

    smaller = cut(model, CUTS[what])

    structure = check(smaller)
    assert difference(smaller, model, CUTS[what]) < TOLERANCE
    assert smaller.num_parameters() < model.num_parameters()
    assert type(smaller) is type(model)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before), "the original is left alone"
    assert model.config.to_dict() == config
    if what == "heads":
        assert structure.heads == (2, 4, 2)
        assert structure.head_size == 8
        if GROUP[kind] == 2:
            assert structure.key_value_heads == (1, 2, 1)
    if what == "neurons":
        assert structure.intermediate_size == (21, 1, 24)
    if what == "hidden":
        assert structure.hidden_size == 27 == getattr(smaller.config, family(model.config.model_type).config_hidden)


@st.composite
def mixes(draw: st.DrawFn) -> tuple[str, Cut]:
    """Draw a kind of model and a mix of cuts that it can have."""
    kind = draw(st.sampled_from(sorted(KINDS)))
    layers = draw(st.lists(st.integers(0, 2), min_size=1, max_size=3, unique=True).map(sorted))
    heads = {}
    for layer in draw(st.sets(st.integers(0, 2))):
        groups = draw(st.sets(st.integers(0, 4 // GROUP[kind] - 1), max_size=4 // GROUP[kind] - 1))
        heads[layer] = [group * GROUP[kind] + one for group in groups for one in range(GROUP[kind])]
    neurons = draw(st.dictionaries(st.integers(0, 2), st.sets(st.integers(0, 23), max_size=23).map(sorted)))
    hidden = draw(st.sets(st.integers(0, 31), max_size=30).map(sorted))
    vocabulary = positions = None
    if kind in TEXT and draw(st.booleans()):
        vocabulary = [0, 1, 2, 3, *draw(st.lists(st.integers(4, 59), max_size=30, unique=True))]
    if kind in POSITIONED:
        positions = draw(st.none() | st.integers(3, 22))
    fold = kind in TYPED and draw(st.booleans())
    return kind, Cut(heads, neurons, hidden, layers, vocabulary, positions, fold)


@pytest.mark.slow
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(mix=mixes())
def test_any_mix_prunes_trains_saves_and_reloads_bit_equal(mix: tuple[str, Cut], tmp_path_factory: Any) -> None:
    prune_train_save_reload(*mix, tmp_path_factory.mktemp("mix") / "checkpoint")


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(mix=mixes())
def test_many_mixes_prune_train_save_and_reload_bit_equal(mix: tuple[str, Cut], tmp_path_factory: Any) -> None:
    prune_train_save_reload(*mix, tmp_path_factory.mktemp("mix") / "checkpoint")


def prune_train_save_reload(kind: str, what: Cut, path: Path) -> None:
    smaller = cut(model_of(kind), what)

    check(smaller)
    assert difference(smaller, model_of(kind), what) < 3 * TOLERANCE
    kinds.train_one_step(smaller)
    save_pruned(smaller, path)
    reloaded = load_pruned(path)

    assert structure_of(reloaded) == structure_of(smaller) == check(reloaded)
    assert reloaded.config.to_dict().keys() == smaller.config.to_dict().keys()
    first, second = kinds.answer(smaller), kinds.answer(reloaded)
    assert len(first) == len(second)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("kind", ["bert", "electra", "mpnet", "llama tied"])
def test_cuts_can_follow_each_other(kind: str) -> None:
    once = cut(model_of(kind), Cut(heads={0: [2, 3], 1: [0, 1]}, neurons={0: [3]}, hidden=[4, 9]))
    then = Cut(heads={2: [0, 1]}, neurons={0: [3]}, hidden=[0], layers=[0, 2])
    twice = cut(once, then)
    structure = check(twice)
    assert (structure.heads, structure.intermediate_size, structure.hidden_size) == ((2, 2), (22, 24), 29)
    assert difference(twice, once, then) < TOLERANCE


def test_training_state_and_settings_survive() -> None:
    model = copy.deepcopy(model_of("llama"))
    model.train()
    model.model.embed_tokens.requires_grad_(False)
    smaller = cut(model, Cut(heads=HEADS, hidden=[3]))
    assert smaller.training
    assert smaller.model.layers[0].training
    assert smaller.config.use_cache is True
    assert smaller.config._attn_implementation == "sdpa"
    frozen = {name for name, parameter in smaller.named_parameters() if not parameter.requires_grad}
    assert frozen == {"model.embed_tokens.weight"}


@pytest.mark.parametrize("kind", ["bert masked words", "llama tied", "distilbert masked words"])
def test_tied_weights_stay_one_tensor(kind: str) -> None:
    smaller = cut(model_of(kind), CUTS["all"])
    assert smaller.get_output_embeddings().weight is smaller.get_input_embeddings().weight
    assert smaller.get_output_embeddings().in_features == 30
    assert smaller.get_output_embeddings().out_features == 6


def test_channels_that_stay_keep_their_order_where_few_stay_of_many() -> None:
    # A Python set of 5 and 40 lists 40 first; Torch-Pruning 1.6.1 takes LayerNorm's channels in that order.
    model = kinds.make("bert", hidden_size=64)
    smaller = surgery.remove_hidden(model, sorted(set(range(64)) - {5, 40}))
    norm = smaller.bert.encoder.layer[0].output.LayerNorm
    assert torch.equal(norm.weight, model.bert.encoder.layer[0].output.LayerNorm.weight[[5, 40]])
    assert norm.normalized_shape == (2,)


def test_a_layer_that_is_kept_twice_is_two_layers_and_order_is_as_asked() -> None:
    model = model_of("llama")
    smaller = surgery.keep_layers(model, [2, 0, 0])
    layers = smaller.model.layers
    assert [layer.self_attn.layer_idx for layer in layers] == [0, 1, 2]
    assert layers[1].mlp.up_proj.weight is not layers[2].mlp.up_proj.weight
    assert torch.equal(layers[0].mlp.up_proj.weight, model.model.layers[2].mlp.up_proj.weight)


def test_special_tokens_follow_their_rows() -> None:
    smaller = surgery.keep_vocabulary_rows(model_of("llama"), [9, 3, 2, 1, 4, 59])
    config = smaller.config
    assert (config.vocab_size, config.pad_token_id, config.bos_token_id, config.eos_token_id) == (6, 3, 2, 1)
    assert smaller.model.embed_tokens.padding_idx == smaller.model.padding_idx == 3
    assert smaller.generation_config.eos_token_id == 1
    assert smaller.model.vocab_size == smaller.vocab_size == 6


def test_token_types_add_nothing_once_folded_and_count_no_bytes() -> None:
    model = model_of("bert")
    smaller = surgery.fold_token_types(model)
    inputs = {"input_ids": torch.arange(4, 12)[None], "token_type_ids": torch.ones(1, 8, dtype=torch.long)}
    without = {"input_ids": inputs["input_ids"]}
    assert torch.equal(kinds.answer(smaller, **inputs)[0], kinds.answer(smaller, **without)[0])
    assert smaller.config.type_vocab_size == 0
    assert not [name for name in smaller.state_dict() if "token_type" in name]
    assert check(surgery.fold_token_types(smaller)).token_types == 0


@pytest.mark.parametrize("kind", ["bert without head", "vit without head"])
def test_a_pooler_that_nothing_reads_goes(kind: str) -> None:
    smaller = surgery.drop_pooler(model_of(kind))
    assert check(smaller).pooler is False
    assert torch.equal(kinds.answer(smaller)[0], kinds.answer(model_of(kind))[0])


def test_a_pooler_that_the_head_reads_stays() -> None:
    with pytest.raises(UnsupportedError, match="the head of BertForSequenceClassification reads the pooler"):
        surgery.drop_pooler(model_of("bert"))


@pytest.mark.parametrize(
    ("kind", "what", "message"),
    [
        ("bert", Cut(heads={0: [0, 1, 2, 3]}), "heads of layer 0: all 4 would go; at least one head must stay"),
        ("bert", Cut(neurons={2: range(24)}), "neurons of layer 2: all 24 would go"),
        ("bert", Cut(hidden=range(32)), "hidden units: all 32 would go"),
        ("bert", Cut(layers=[]), "at least one layer must stay"),
        ("bert", Cut(layers=[0, 3]), "there are layers 0 to 2"),
        ("bert", Cut(heads={3: [0]}), "heads of layer 3: there are layers 0 to 2"),
        ("bert", Cut(heads={0: [4]}), r"heads of layer 0 \[4\]: there are 0 to 3"),
        ("bert", Cut(neurons={0: [-1]}), r"neurons of layer 0 \[-1\]: there are 0 to 23"),
        ("llama", Cut(heads={1: [1, 2, 3]}), "heads 0 to 1 share keys and values and can only go together"),
        ("bert", Cut(vocabulary=[]), "no id is kept"),
        ("bert", Cut(vocabulary=[1, 2, 3, 1]), "the id 1 is kept twice"),
        ("bert", Cut(vocabulary=[1, 2, 3, 60]), "there is no id 60; the model has 0 to 59"),
        ("bert", Cut(vocabulary=[2, 3]), "pad_token_id=1 is not among the ids that stay"),
        ("roberta", Cut(vocabulary=[1, 2, 3]), "the padding token 1 of Roberta.* must stay at its place"),
        ("roberta", Cut(positions=23), "has room for 1 to 22 tokens"),
        ("bert", Cut(positions=0), "has room for 1 to 24 tokens"),
    ],
)
def test_a_cut_that_cannot_be_is_refused_before_anything_is_changed(kind: str, what: Cut, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        cut(model_of(kind), what)


@pytest.mark.parametrize(
    ("kind", "what", "message"),
    [
        ("vit", Cut(vocabulary=[0, 1]), "reads no tokens"),
        ("llama", Cut(positions=4), "no table of positions"),
        ("mpnet", Cut(fold_token_types=True), "no token types"),
        ("roberta", Cut(drop_pooler=True), "has no pooler"),
    ],
)
def test_a_part_that_the_model_lacks_is_refused(kind: str, what: Cut, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        cut(model_of(kind), what)


def test_an_unknown_architecture_is_refused() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=20))
    with pytest.raises(UnsupportedError, match="models of type 'gpt2' are not known"):
        surgery.remove_heads(model, {0: [0]})


def test_a_model_that_is_not_as_its_family_declares_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    from compress.models import coupling

    wrong = dataclasses.replace(family("bert"), value="attention.output.dense")
    monkeypatch.setattr(coupling, "family", lambda name: wrong)
    with pytest.raises(UnsupportedError, match="differs from what the family bert declares at .*nothing was changed"):
        surgery.remove_heads(model_of("bert"), {0: [0]})


def test_an_error_on_the_way_leaves_the_model_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    from compress.models import tables

    def fail(*arguments: Any) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(tables, "keep_word_rows", fail)
    model = model_of("bert")
    before = kinds.answer(model)
    with pytest.raises(RuntimeError, match="no memory"):
        cut(model, CUTS["all"])
    check(model)
    assert torch.equal(before[0], kinds.answer(model)[0])
    assert structure_of(model).heads == (4, 4, 4)


def test_masks_let_gradients_through_to_every_head_and_neuron() -> None:
    model = model_of("mpnet")
    heads = torch.ones(3, 4, requires_grad=True)
    neurons = [torch.ones(24, requires_grad=True) for _ in range(3)]
    plain = kinds.answer(model)[0]
    with masked(model, heads, neurons):
        from compress.models.examples import example_inputs

        logits = model(**example_inputs(model, padded=True)).logits
        assert torch.equal(logits, plain), "ones change nothing"
        logits.square().sum().backward()
    for gradient in (heads.grad, *(neuron.grad for neuron in neurons)):
        assert gradient is not None
        assert (gradient != 0).all()
    assert torch.equal(kinds.answer(model)[0], plain), "nothing stays behind"


def test_masks_of_another_shape_are_refused() -> None:
    model = model_of("bert")
    with pytest.raises(ConfigError, match=r"mask of heads of layer 0: it has the shape \[3\], the layer has 4"):
        masked(model, heads=torch.ones(3, 3)).__enter__()
    with pytest.raises(ConfigError, match="masks of neurons for 2 layers: the model has 3"):
        masked(model, neurons=[torch.ones(24)] * 2).__enter__()
    with pytest.raises(ConfigError, match="mask of heads of layer 7"):
        masked(model, heads={7: torch.ones(4)}).__enter__()
