"""Small random models of every family and kind of head that surgery has a case for."""

from __future__ import annotations

from typing import Any

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "vocab_size": 60,
    "max_position_embeddings": 24,
    "pad_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "num_labels": 3,
}
_GROUPED = {"num_key_value_heads": 2}
_PATCHES = {"image_size": 12, "patch_size": 4, "num_channels": 3}

KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("bert", "BertForSequenceClassification", {}),
    "bert tagger": ("bert", "BertForTokenClassification", {}),
    "bert masked words": ("bert", "BertForMaskedLM", {}),
    "bert masked words untied": ("bert", "BertForMaskedLM", {"tie_word_embeddings": False}),
    "bert without head": ("bert", "BertModel", {}),
    "roberta": ("roberta", "RobertaForSequenceClassification", {}),
    "roberta masked words": ("roberta", "RobertaForMaskedLM", {}),
    "xlm-roberta tagger": ("xlm-roberta", "XLMRobertaForTokenClassification", {}),
    "electra": ("electra", "ElectraForSequenceClassification", {"embedding_size": 16}),
    "electra of one width": ("electra", "ElectraForTokenClassification", {"embedding_size": 32}),
    "electra masked words": ("electra", "ElectraForMaskedLM", {"embedding_size": 16}),
    "mpnet": ("mpnet", "MPNetForSequenceClassification", {}),
    "distilbert": ("distilbert", "DistilBertForSequenceClassification", {}),
    "distilbert masked words": ("distilbert", "DistilBertForMaskedLM", {}),
    "vit": ("vit", "ViTForImageClassification", _PATCHES),
    "vit without head": ("vit", "ViTModel", _PATCHES),
    "llama": ("llama", "LlamaForCausalLM", _GROUPED),
    "llama tied": ("llama", "LlamaForCausalLM", {**_GROUPED, "tie_word_embeddings": True}),
    "llama classifier": ("llama", "LlamaForSequenceClassification", _GROUPED),
    "qwen2 tied": ("qwen2", "Qwen2ForCausalLM", {**_GROUPED, "tie_word_embeddings": True}),
}
"""By name: family, class of transformers, sizes beside the common ones."""

TEXT = {name for name, (architecture, _, _) in KINDS.items() if architecture != "vit"}
POSITIONED = {name for name in TEXT if KINDS[name][0] not in ("llama", "qwen2")}
TYPED = {name for name in POSITIONED if KINDS[name][0] not in ("mpnet", "distilbert")}
GROUP = {name: 2 if KINDS[name][0] in ("llama", "qwen2") else 1 for name in KINDS}
"""Heads that share keys and values."""


def make(kind: str, **changes: Any) -> Any:
    """Return a random model of a kind in eval mode, no weight left at its initial constant."""
    import torch
    import transformers

    from compress.models.families import family

    architecture, name, more = KINDS[kind]
    known = family(architecture)
    renamed = {
        "num_hidden_layers": known.config_layers,
        "num_attention_heads": known.config_heads,
        "intermediate_size": known.config_intermediate,
        "hidden_size": known.config_hidden,
    }
    sizes = {renamed.get(key, key): value for key, value in {**SIZES, **more, **changes}.items()}
    torch.manual_seed(1)
    config = transformers.AutoConfig.for_model(architecture, **sizes)
    config._attn_implementation = known.attention
    model = getattr(transformers, name)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    return model


def answer(model: Any, **inputs: Any) -> Any:
    """Return the tensors that a model puts out."""
    import torch

    from compress.models.examples import example_inputs, tensors_of

    with torch.no_grad():
        return tensors_of(model(**(inputs or example_inputs(model, padded=True))))


def train_one_step(model: Any) -> None:
    """Take one step down the sum of the squared outputs, and check that every weight that it reads has moved."""
    import torch

    from compress.models.examples import example_inputs, tensors_of

    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    outputs = [tensor for tensor in tensors_of(model(**example_inputs(model))) if tensor.is_floating_point()]
    torch.stack([tensor.square().mean() for tensor in outputs]).sum().backward()
    assert all(parameter.grad is None or torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer.step()
    moved = [name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])]
    layers = [name for name in moved if ".layer" in name or "layers." in name]
    assert layers
    model.eval()
