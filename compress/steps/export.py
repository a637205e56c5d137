"""Write a torch checkpoint as ONNX and prove that it still answers the same."""

from __future__ import annotations

import inspect
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from compress.config.schemas import Export
from compress.errors import ConfigError, StepError
from compress.steps.base import Context, SourceFacts, Step

if TYPE_CHECKING:
    import numpy as np
    import onnx

    from compress.checkpoint import Checkpoint, Writer
    from compress.models.source import SourceModel
    from compress.tasks.base import Features

__all__ = ["ExportStep", "export_graph", "input_names"]

_LOUD = ("torch.onnx", "torch.export", "torch._dynamo", "onnxscript", "onnx_ir")


class ExportStep(Step[Export]):
    """Torch to ONNX with dynamic batch and sequence.

    The exported model is run by ONNX Runtime on real validation rows and compared with torch; the largest
    difference of a logit and the share of equal decisions are kept in the checkpoint's facts.
    """

    kind: ClassVar[str] = "export"
    config: ClassVar[type] = Export
    accepts: ClassVar[frozenset[str]] = frozenset({"torch"})
    leaves: ClassVar[str] = "onnx"
    precision: ClassVar[str | None] = "fp32"
    packages: ClassVar[tuple[str, ...]] = (
        "torch",
        "transformers",
        "tokenizers",
        "onnx",
        "onnxscript",
        "onnx-ir",
        "onnxruntime",
    )
    modules: ClassVar[tuple[str, ...]] = (
        "compress.steps.export",
        "compress.steps.companions",
        "compress.onnx_graph",
        "compress.models",
        "compress.runtime",
        "compress.tasks",
    )

    def check(self, config: Export, source: SourceFacts) -> None:
        """Refuse a source that is not fp32."""
        if source.precision != "fp32":
            raise ConfigError(
                f"export reads an fp32 checkpoint, this one is {source.precision}: the weights of bitsandbytes have no "
                f"form in ONNX; leave export out, or quantize what it leaves (quantize=dynamic)"
            )

    def run(self, source: Checkpoint | SourceModel, config: Export, context: Context, out: Writer) -> None:
        """Export, save, compare."""
        import torch

        from compress.checkpoint import Checkpoint
        from compress.models.torch_io import load_model, load_tokenizer
        from compress.onnx_graph import save_graph
        from compress.runtime import open_onnx
        from compress.steps.companions import copy_companions

        if not isinstance(source, Checkpoint):
            raise StepError(f"step {context.name}: export reads a checkpoint; {source.name} was never loaded into one")
        tokenizer = load_tokenizer(source.path)
        rows = context.data.validation.head(config.check_rows)
        features = context.task.encode(rows, tokenizer, context.max_length)
        model = load_model(source)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # one thread sums in one order, so the recorded difference is reproducible
        try:
            expected = _torch_logits(model, context, features, tokenizer)
            names = input_names(model, features)
            graph = export_graph(model, names, config.opset, context.scratch)
        finally:
            torch.set_num_threads(threads)
        save_graph(graph, out.path)
        copy_companions(source, out)
        predictor = open_onnx(out.path, task=context.task, threads=1)
        try:
            read = context.task.encode(rows, predictor.tokenizer, context.max_length)
            if read.inputs != features.inputs:
                raise StepError(
                    f"step {context.name}: tokenizer.json alone tokenizes otherwise than {type(tokenizer).__name__} "
                    f"does on the validation rows; save the tokenizer of model.path again with save_pretrained"
                )
            found = predictor.logits_of(read)
        finally:
            predictor.close()
        out.facts["export"] = {
            "opset": config.opset,
            "inputs": list(names),
            **compare(expected, found, context, features, config.tolerance),
        }


def export_graph(model: Any, names: tuple[str, ...], opset: int, scratch: Path) -> onnx.ModelProto:
    """Export a transformers model with a task head.

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place: attention is switched to its eager form, which traces to fewer operations
        (8 x 128 tokens, three layers of width 384, INT8: 126 against 140 ms for the decomposed sdpa).
    names : tuple of str
        Inputs to keep, each int64 ``[batch, sequence]``; others take the model's defaults.
    opset : int
        ONNX operator set.
    scratch : pathlib.Path
        Directory for temporary files.

    Returns
    -------
    onnx.ModelProto
        Output ``logits``; canonical (see `compress.onnx_graph.canonicalise`).
    """
    import onnx
    import torch

    from compress.onnx_graph import canonicalise, name_weights

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *inputs: torch.Tensor) -> Any:
            return self.model(**dict(zip(names, inputs, strict=True))).logits

    if hasattr(model, "set_attn_implementation"):
        model.set_attn_implementation("eager")
    wrapper = Logits().eval()  # the exporter puts a wrapper back into its own mode: the wrapper's must be eval
    # Sizes of 0 and 1 would be taken for constants; two rows of several tokens are not.
    example = tuple(torch.ones((2, 8), dtype=torch.int64) for _ in names)
    dynamic = torch.export.Dim.DYNAMIC
    bytes_of_weights = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch) as folder, _quiet():
        path = Path(folder) / "exported.onnx"
        try:
            torch.onnx.export(
                wrapper,
                example,
                str(path),
                input_names=list(names),
                output_names=["logits"],
                dynamic_shapes=(tuple({0: dynamic, 1: dynamic} for _ in names),),
                opset_version=opset,
                dynamo=True,
                external_data=bytes_of_weights > 1_500_000_000,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise StepError(f"{type(model).__name__} could not be exported to ONNX opset {opset}: {error}") from error
        graph = onnx.load(str(path))
    _name_axes(graph)
    name_weights(graph, {name: value.numpy() for name, value in model.state_dict().items()}, prefix="model.")
    canonicalise(graph)
    return graph


def compare(
    expected: list[np.ndarray], found: list[np.ndarray], context: Context, features: Features, tolerance: float
) -> dict[str, Any]:
    """Compare the logits of rows run twice.

    Returns
    -------
    dict
        ``rows``, ``largest_logit_difference`` (two significant digits), ``label_agreement`` (0 to 1).

    Raises
    ------
    StepError
        Beyond `tolerance`, or where a logit is not a number.
    """
    import numpy as np

    largest = max(float(np.abs(one - two).max()) for one, two in zip(expected, found, strict=True))
    first, second = (context.task.decisions(logits, features) for logits in (expected, found))
    agreement = float(np.mean(first == second)) if len(first) else 1.0
    if not largest <= tolerance:  # also true of nan
        raise StepError(
            f"step {context.name}: the exported model disagrees with torch by {largest:.3g} in a logit over "
            f"{len(features)} validation rows (accepted: {tolerance:g}; equal labels: {agreement:.1%}); "
            f"another {context.name}.opset may export faithfully, a larger {context.name}.tolerance accepts it"
        )
    return {
        "rows": len(features),
        "largest_logit_difference": float(f"{largest:.1e}"),
        "label_agreement": round(agreement, 6),
    }


def input_names(model: Any, features: Features) -> tuple[str, ...]:
    """Return the inputs that the model takes and the rows give; token types only where they tell two texts apart."""
    accepted = inspect.signature(model.forward).parameters
    given = features.inputs[0]
    names = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in accepted and name in given]
    if "token_type_ids" in names and not any(any(row["token_type_ids"]) for row in features.inputs):
        names.remove("token_type_ids")
    return tuple(names)


def _torch_logits(model: Any, context: Context, features: Features, tokenizer: Any) -> list[np.ndarray]:
    from compress.runtime import TorchPredictor

    predictor = TorchPredictor(model, task=context.task, tokenizer=tokenizer, threads=1)
    return predictor.logits_of(features)


def _name_axes(graph: onnx.ModelProto) -> None:
    """Give axes their names; the exporter numbers its symbols."""
    for value in (*graph.graph.input, *graph.graph.output):
        for dimension, name in zip(value.type.tensor_type.shape.dim, ("batch", "sequence"), strict=False):
            if dimension.HasField("dim_param"):
                dimension.dim_param = name


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what the exporter prints, logs and warns of; what goes wrong comes as an exception."""
    levels = {name: logging.getLogger(name).level for name in _LOUD}
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            for name in _LOUD:
                logging.getLogger(name).setLevel(logging.ERROR)
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
