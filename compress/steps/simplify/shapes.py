"""What a graph computes of shapes and masks although it is known beforehand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from compress.steps.simplify.editing import Graph, constant_of, evaluate, inputs_of, is_weight, only_use, producer_of

if TYPE_CHECKING:
    import onnx_ir as ir

    from compress.steps.simplify.attention import Attention

__all__ = ["drop_expanded_bias", "fix_reshapes", "fold_token_types", "plain_masks"]

_TRIED = ((1, 1), (1, 7), (3, 5), (4, 2), (6, 9))
"""Batch and tokens of the masks that a plain mask is compared on."""

_SAME_ANYWHERE = ("Cast", "Expand", "Gather", "GatherElements", "Identity", "Reshape", "Slice", "Squeeze", "Unsqueeze")
"""Operators that move numbers and make none: of equal numbers they leave equal ones."""


def fix_reshapes(graph: Graph) -> int:
    """Let a ``Reshape`` to ``[batch, sequence, ...]`` copy these two sizes (0) instead of computing them.

    The shape is a constant then, from which a runtime infers all shapes that follow. Returns how many were fixed.
    """
    fixed: dict[str, ir.Value] = {}
    count = 0
    for node in graph.nodes("Reshape"):
        concat = producer_of(node.inputs[1], "Concat")
        sizes = None if concat is None else [_size(entry) for entry in concat.inputs]
        if sizes is None or sizes[:2] != ["batch", "sequence"]:
            continue
        rest = [size for size in sizes[2:] if isinstance(size, int) and size != 0]
        if len(rest) != len(sizes) - 2:
            continue
        numbers = np.array([0, 0, *rest], dtype=np.int64)
        key = "_".join(str(number) for number in numbers.tolist()).replace("-1", "rest")
        if key not in fixed:
            fixed[key] = graph.weight(f"shape_{key}", numbers)
        node.replace_input_with(1, fixed[key])
        node.attributes.pop("allowzero", None)
        count += 1
    return count


def plain_masks(graph: Graph, blocks: list[Attention]) -> int:
    """Make what is added to the scores of the mask alone: ``where(mask[:, None, None, :] != 0, 0, lowest)``.

    Exporters trace the condition through index arithmetic over batch and sequence, which a runtime repeats in each
    call. A condition that depends on nothing but the mask and shapes is replaced where the two agree on masks of
    several shapes. Where it was ``[batch, 1, sequence, sequence]``, what is added to the scores is again: ONNX Runtime
    adds that in 25 us where it takes 29 for ``[batch, 1, 1, sequence]`` (12 heads, 1 x 32 tokens, one thread), in each
    layer. Returns how many were replaced.
    """
    import onnx_ir

    added = {node for block in blocks for node in _above_scores(block) if node.op_type == "Add"}
    given = {value.name: value for value in graph.graph.inputs}
    mask = given.get("attention_mask")
    count = 0
    for node in graph.nodes("Where") if mask is not None else []:
        condition = node.inputs[0]
        if mask is None or condition is None or condition.producer() is None:
            continue
        if not {use.node for use in node.outputs[0].uses()} <= added or inputs_of(condition) != {"attention_mask"}:
            continue
        spread = _spread_of(graph, condition)
        if spread is None:
            continue
        name = str(condition.name)
        axes = graph.weight("mask_axes", np.array([1, 2], dtype=np.int64))
        wide = graph.add("Unsqueeze", [mask, axes], f"{name}_unsqueeze", [f"{name}_unsqueezed"])[0]
        plain = graph.add("Cast", [wide], f"{name}_cast", [f"{name}_plain"], to=int(onnx_ir.DataType.BOOL))[0]
        node.replace_input_with(0, plain)
        if spread:
            _spread_out(graph, mask, node.outputs[0])
        count += 1
    return count


def fold_token_types(graph: Graph) -> int:
    """Add the row of a table that every token gets into the table of positions, where texts come alone.

    Returns how many tables went.
    """
    count = 0
    for lookup in graph.nodes("Gather"):
        table, ids = lookup.inputs[0], lookup.inputs[1]
        number = None if ids is None or ids.is_initializer() else _only_value(ids)
        total = only_use(lookup.outputs[0])
        if number is None or table is None or not is_weight(table, 2) or total is None or total.op_type != "Add":
            continue
        row = np.asarray(constant_of(table))[number]
        other = next(entry for entry in total.inputs if entry is not lookup.outputs[0])
        partner = _positions(total, other)
        if partner is None or other is None:
            continue
        positions = partner.inputs[0]
        assert positions is not None
        rows = np.asarray(constant_of(positions))
        folded = (rows.astype(np.float64) + row).astype(rows.dtype)
        partner.replace_input_with(0, graph.weight(f"{positions.name}_and_token_type", folded))
        total.outputs[0].replace_all_uses_with(other)
        count += 1
    return count


def drop_expanded_bias(blocks: list[Attention]) -> int:
    """Let a bias that all texts share be added to the scores without a copy of it per text; return how many were."""
    count = 0
    for block in blocks:
        for node in _above_scores(block):
            for slot, entry in enumerate(node.inputs):
                expand = producer_of(entry, "Expand") if node.op_type == "Add" else None
                if expand is not None and _starts_with_one(expand.inputs[0]) and _keeps_the_rest(expand):
                    node.replace_input_with(slot, expand.inputs[0])
                    count += 1
    return count


def _above_scores(block: Attention) -> list[ir.Node]:
    """Return the nodes between the product of queries and keys and the softmax."""
    found: list[ir.Node] = []
    node = only_use(block.scores.outputs[0])
    while node is not None and node is not block.softmax:
        found.append(node)
        node = only_use(node.outputs[0])
    return found


def _size(value: ir.Value | None) -> str | int | None:
    """Return which axis of an input, or which number, an element of a shape is."""
    number = constant_of(value)
    if number is not None:
        return int(number.reshape(())) if number.size == 1 else None
    node = producer_of(value, "Shape")
    if node is None or node.inputs[0] is None or not node.inputs[0].is_graph_input():
        return None
    start = node.attributes["start"].as_int() if "start" in node.attributes else 0
    end = node.attributes["end"].as_int() if "end" in node.attributes else None
    return {0: "batch", 1: "sequence"}.get(start) if end == start + 1 else None


def _spread_of(graph: Graph, condition: ir.Value) -> bool | None:
    """Return whether a condition is the mask repeated for each query; None where it is another than the mask's."""
    spread = False
    for shape in _TRIED:
        mask = np.random.default_rng(0).integers(0, 2, size=shape)
        feeds = {str(value.name): mask if value.name == "attention_mask" else mask * 0 for value in graph.graph.inputs}
        found = evaluate(graph, condition, feeds)
        batch, tokens = shape
        if found.shape not in ((batch, 1, 1, tokens), (batch, 1, tokens, tokens)):
            return None
        if not np.array_equal(found, np.broadcast_to(mask.astype(bool)[:, None, None, :], found.shape)):
            return None
        spread |= found.shape[2] > 1
    return spread


def _spread_out(graph: Graph, mask: ir.Value, added: ir.Value) -> None:
    """Repeat what is added to the scores, ``[batch, 1, 1, sequence]``, for each query."""
    readers = list(added.uses())
    one = graph.weight("one_of_shape", np.array([1], dtype=np.int64))
    tokens = graph.add("Shape", [mask], "mask_tokens", ["mask_tokens"], start=1, end=2)[0]
    shape = graph.add("Concat", [one, one, tokens, one], "mask_shape", ["mask_shape"], axis=0)[0]
    expanded = graph.add("Expand", [added, shape], f"{added.name}_expand", [f"{added.name}_for_each_query"])[0]
    for reader in readers:
        reader.node.replace_input_with(reader.idx, expanded)


def _only_value(value: ir.Value | None) -> int | None:
    """Return the one number that a tensor of integers is full of, whatever the inputs; None if that is not sure."""
    array = constant_of(value)
    if array is not None:
        whole = array.size > 0 and array.dtype.kind in "iu" and bool((array == array.flat[0]).all())
        return int(array.flat[0]) if whole else None
    node = producer_of(value, *_SAME_ANYWHERE)
    return None if node is None else _only_value(node.inputs[0])


def _positions(total: ir.Node, other: ir.Value | None) -> ir.Node | None:
    """Return a lookup in another table, read nowhere else, that `total` or the sum after it adds."""
    following = only_use(total.outputs[0])
    late = [] if following is None or following.op_type != "Add" else list(following.inputs)
    for entry in (*late, other):
        lookup = producer_of(entry, "Gather")
        if lookup is None or entry is None or only_use(entry) is None:
            continue
        table = lookup.inputs[0]
        if table is not None and is_weight(table, 2) and only_use(table) is lookup and not _reads_tokens(lookup):
            return lookup
    return None


def _reads_tokens(lookup: ir.Node) -> bool:
    ids = lookup.inputs[1]
    return ids is not None and ids.is_graph_input()


def _starts_with_one(value: ir.Value | None) -> bool:
    return value is not None and value.shape is not None and len(value.shape) == 4 and value.shape[0] == 1


def _keeps_the_rest(expand: ir.Node) -> bool:
    """Whether an ``Expand`` of a bias ``[1, heads, sequence, sequence]`` repeats it along the batch alone."""
    concat = producer_of(expand.inputs[1], "Concat")
    sizes = [] if concat is None else [_size(entry) for entry in concat.inputs]
    return len(sizes) == 4 and sizes[0] == "batch" and sizes[2:] == ["sequence", "sequence"]
