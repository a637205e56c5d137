"""A hand-made encoder in the form that an export has, to change piece by piece."""

from __future__ import annotations

from typing import Any

import numpy as np

HIDDEN, HEADS, SIZE = 12, 3, 4


class Encoder:
    """Layers of attention and feed-forward part, a mask by index arithmetic, and a head on one token.

    Parameters
    ----------
    layers : int
        How many.
    scale : str
        How scores are scaled: ``Mul`` or ``Div``.
    read : int
        The token that the head reads.
    mask : str
        ``plain``; ``causal``, which hides later tokens too; ``spread``, the plain one repeated for each query.
    pooled : bool
        Whether the mean over tokens is added to what the head reads.
    bias : bool
        Whether query, key and value have one.
    """

    def __init__(
        self,
        layers: int = 2,
        *,
        scale: str = "Mul",
        read: int = 0,
        mask: str = "plain",
        pooled: bool = False,
        bias: bool = True,
    ) -> None:
        self.nodes: list[Any] = []
        self.weights: dict[str, np.ndarray] = {}
        self._generator = np.random.default_rng(0)
        self._bias = bias
        for name, axis in (("batch", 0), ("tokens", 1)):
            self.add("Shape", ["input_ids"], name, start=axis, end=axis + 1)
        x = self._embeddings()
        added = self._mask(mask)
        for layer in range(layers):
            x = self._layer(f"layer.{layer}", x, added, scale)
        chosen = self.add("Gather", [x, self.constant("read", np.array(read))], "chosen", axis=1)
        if pooled:
            mean = self.add("ReduceMean", [x, self.constant("one", np.array([1]))], "mean", keepdims=0)
            chosen = self.add("Add", [chosen, mean], "both")
        head = [self.random("head.weight", 5, HIDDEN), self.random("head.bias", 5)]
        self.add("Gemm", [chosen, *head], "logits", transB=1)

    def model(self) -> Any:
        """Return the model."""
        from onnx import TensorProto, checker, helper, numpy_helper

        values = [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
            for name in ("input_ids", "attention_mask")
        ]
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 5])
        tensors = [numpy_helper.from_array(array, name) for name, array in self.weights.items()]
        graph = helper.make_graph(self.nodes, "main", values, [logits], tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        checker.check_model(model)
        return model

    def add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add a node of one output."""
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [output], output, **attributes))
        return output

    def constant(self, name: str, array: np.ndarray) -> str:
        """Add an initialiser."""
        self.weights[name] = array
        return name

    def random(self, name: str, *shape: int) -> str:
        """Add a random initialiser."""
        return self.constant(name, self._generator.normal(0, 0.3, shape).astype(np.float32))

    def _embeddings(self) -> str:
        words = self.add("Gather", [self.random("words.weight", 30, HIDDEN), "input_ids"], "word", axis=0)
        zero, one = self.constant("zero", np.array([0])), self.constant("one", np.array([1]))
        numbers = self.constant("numbers", np.arange(16)[None])
        ids = self.add("Slice", [numbers, zero, "tokens", one, one], "position_ids")
        types = self.constant("types", np.zeros((1, 16), dtype=np.int64))
        type_ids = self.add("GatherElements", [types, ids], "type_ids", axis=1)
        both = self.add("Concat", ["batch", "tokens"], "batch_and_tokens", axis=0)
        spread = self.add("Expand", [type_ids, both], "types_of_all")
        kind = self.add("Gather", [self.random("types.weight", 2, HIDDEN), spread], "type", axis=0)
        position = self.add("Gather", [self.random("positions.weight", 16, HIDDEN), ids], "position", axis=0)
        return self.add("Add", [self.add("Add", [words, kind], "typed"), position], "embedded")

    def _mask(self, kind: str) -> str:
        mask = self.add("Cast", ["attention_mask"], "mask", to=9)
        wide = self.add("Unsqueeze", [mask, self.constant("axes", np.array([1, 2]))], "mask_wide")
        count = self.add("Squeeze", ["tokens"], "count")
        zero, one = self.constant("first", np.array(0)), self.constant("step", np.array(1))
        numbers = self.add("Range", [zero, count, one], "columns")
        rows = self.add("Unsqueeze", [numbers, self.constant("row_axis", np.array([1]))], "rows")
        if kind == "causal":
            seen = self.add("GreaterOrEqual", [rows, numbers], "seen")
        else:
            seen = self.add("GreaterOrEqual", [rows if kind == "spread" else numbers, zero], "seen")
        both = self.add("And", [wide, seen], "condition")
        lowest = self.constant("lowest", np.array(-3e38, dtype=np.float32))
        return self.add("Where", [both, self.constant("nothing", np.array(0, dtype=np.float32)), lowest], "added")

    def _linear(self, name: str, x: str, inner: int, outer: int, bias: bool = True) -> str:
        product = self.add("MatMul", [x, self.random(f"{name}.weight", inner, outer)], name)
        return self.add("Add", [product, self.random(f"{name}.bias", outer)], f"{name}.sum") if bias else product

    def _layer(self, name: str, x: str, added: str, scale: str) -> str:
        width = HEADS * SIZE
        sizes = [self.constant("rest", np.array([-1])), self.constant("size", np.array([SIZE]))]
        shape = self.add("Concat", ["batch", "tokens", *sizes], f"{name}.shape", axis=0)
        heads = []
        for part, perm in (("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3])):
            flat = self._linear(f"{name}.{part}", x, HIDDEN, width, self._bias)
            cut = self.add("Reshape", [flat, shape], f"{name}.{part}.cut", allowzero=1)
            heads.append(self.add("Transpose", [cut], f"{name}.{part}.heads", perm=perm))
        scores = self.add("MatMul", heads[:2], f"{name}.scores")
        factor = SIZE**-0.5 if scale == "Mul" else SIZE**0.5
        scaled = self.add(
            scale, [scores, self.constant("factor", np.array(factor, dtype=np.float32))], f"{name}.scaled"
        )
        weights = self.add("Softmax", [self.add("Add", [scaled, added], f"{name}.masked")], f"{name}.weights", axis=-1)
        context = self.add("MatMul", [weights, heads[2]], f"{name}.context")
        back = self.add("Transpose", [context], f"{name}.back", perm=[0, 2, 1, 3])
        joined = self.add("Concat", ["batch", "tokens", "rest"], f"{name}.joined_shape", axis=0)
        flat = self.add("Reshape", [back, joined], f"{name}.joined", allowzero=1)
        x = self._norm(
            f"{name}.norm", self.add("Add", [self._linear(f"{name}.out", flat, width, HIDDEN), x], f"{name}.r")
        )
        inner = self.add("Gelu", [self._linear(f"{name}.up", x, HIDDEN, 20)], f"{name}.gelu")
        return self._norm(
            f"{name}.end", self.add("Add", [self._linear(f"{name}.down", inner, 20, HIDDEN), x], f"{name}.s")
        )

    def _norm(self, name: str, x: str) -> str:
        pair = [self.random(f"{name}.weight", HIDDEN), self.random(f"{name}.bias", HIDDEN)]
        return self.add("LayerNormalization", [x, *pair], name, axis=-1, epsilon=1e-5)


def answers(model: Any, vocabulary: int = 30, longest: int = 16) -> list[np.ndarray]:
    """Return the logits of texts of several lengths, alone and padded together."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    generator, found = np.random.default_rng(1), []
    for batch, tokens in ((1, 2), (1, 7), (3, 5), (4, longest)):
        lengths = generator.integers(1, tokens + 1, size=(batch, 1))
        mask = (np.arange(tokens)[None] < lengths).astype(np.int64)
        ids = np.where(mask, generator.integers(4, vocabulary, size=(batch, tokens)), 1)
        found.append(session.run(["logits"], {"input_ids": ids, "attention_mask": mask})[0])
    return found


def difference(one: Any, other: Any, **sizes: int) -> float:
    """Return the largest difference of a logit between two models."""
    pairs = list(zip(answers(one, **sizes), answers(other, **sizes), strict=True))
    assert all(first.shape == second.shape for first, second in pairs)
    return max(float(np.abs(first - second).max()) for first, second in pairs)
