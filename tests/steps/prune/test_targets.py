"""Costs are those of real models, choices are optimal, tables are kept and honest, budgets are met."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.errors import ConfigError, UnsupportedError
from compress.models.families import family
from compress.models.torch_io import load_model
from compress.steps.prune.cost import (
    LinearCost,
    budget_of,
    byte_cost,
    mac_cost,
    parameter_cost,
    rest_macs,
    rest_parameters,
    with_rest,
)
from compress.steps.prune.latency_runs import Launcher, launches_of, rounds_of, typical
from compress.steps.prune.latency_table import Setting, design, latency_table, read_table, table_file
from compress.steps.prune.measured import kind_of
from compress.steps.prune.narrow_checkpoint import NarrowCheckpoints
from compress.steps.prune.narrow_graph import NarrowGraphs
from compress.steps.prune.search import (
    ALLOCATIONS,
    Level,
    allocate,
    exact,
    lagrangian,
    least_cost,
    meet,
    reweighted,
    threshold,
    total_cost,
    total_error,
    uniform,
    useful,
)

# --- costs -------------------------------------------------------------------------------------

VOCABULARY, POSITIONS, HIDDEN, HEAD_SIZE, LABELS = 50, 40, 32, 8, 3


def bert(layers: int, heads: int, width: int, tokens: bool = False) -> Any:
    from transformers import BertConfig, BertForSequenceClassification, BertForTokenClassification

    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=width,
        max_position_embeddings=POSITIONS,
        num_labels=LABELS,
    )
    kind: Any = BertForTokenClassification if tokens else BertForSequenceClassification
    return kind(config).eval()


@pytest.mark.parametrize(("layers", "width", "tokens"), [(2, 64, False), (3, 16, False), (2, 64, True)])
def test_parameters_and_macs_are_those_that_torch_counts(layers: int, width: int, tokens: bool) -> None:
    from compress.benchmark.size import macs_of_torch

    model, heads = bert(layers, HIDDEN // HEAD_SIZE, width, tokens), HIDDEN // HEAD_SIZE
    structure = [heads] * layers, [width] * layers
    rest = rest_parameters(HIDDEN, VOCABULARY, POSITIONS, 2, LABELS, pooler=not tokens)
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert parameter_cost(HIDDEN, HEAD_SIZE, rest=rest).total(*structure) == counted
    for batch, sequence in ((1, 7), (3, 16)):
        rest = rest_macs(HIDDEN, LABELS, batch, sequence, pooler=not tokens)
        found = mac_cost(HIDDEN, HEAD_SIZE, batch, sequence, rest=rest).total(*structure)
        assert found == macs_of_torch(model, batch, sequence, ("input_ids", "attention_mask"))


def test_a_pruned_model_has_the_parameters_and_macs_that_are_predicted() -> None:
    from compress.benchmark.size import macs_of_torch
    from compress.models.surgery import Cut, cut

    model = bert(3, 4, 64)
    smaller = cut(model, Cut(heads={0: [1], 2: [0, 2, 3]}, neurons={1: range(48)}, layers=[0, 2]))
    heads, widths = [3, 1], [64, 64]
    dense = sum(parameter.numel() for parameter in model.parameters())
    cost = with_rest(parameter_cost(HIDDEN, HEAD_SIZE), dense, [4] * 3, [64] * 3)
    assert cost.total(heads, widths) == sum(parameter.numel() for parameter in smaller.parameters())
    names = ("input_ids", "attention_mask")
    macs = with_rest(mac_cost(HIDDEN, HEAD_SIZE, 2, 9), macs_of_torch(model, 2, 9, names), [4] * 3, [64] * 3)
    assert macs.total(heads, widths) == macs_of_torch(smaller, 2, 9, names)


def test_fp32_bytes_are_four_for_each_parameter_and_int8_takes_less() -> None:
    heads, widths = [4, 2], [64, 16]
    parameters = parameter_cost(HIDDEN, HEAD_SIZE).total(heads, widths)
    assert byte_cost(HIDDEN, HEAD_SIZE).total(heads, widths) == 4 * parameters
    assert parameters < byte_cost(HIDDEN, HEAD_SIZE, "int8").total(heads, widths) < 2 * parameters
    with pytest.raises(ConfigError, match="precision='fp4'"):
        byte_cost(HIDDEN, HEAD_SIZE, "fp4")


def test_a_gated_block_has_a_third_matrix() -> None:
    assert parameter_cost(10, 2, gated=True).neuron == 3 * 10 + 2
    assert mac_cost(10, 2, 1, 4, gated=True).neuron == 3 * 10 * 4


def test_a_dense_model_smaller_than_its_layers_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot hold 2 layers"):
        with_rest(LinearCost(0, 0, 10, 1), 30, [4, 4], [8, 8])


@pytest.mark.parametrize(
    ("target", "dense", "budget"),
    [
        ({"speedup": 4}, 8.0, 2.0),
        ({"speedup": 4, "params": None}, 8.0, 2.0),
        ({"latency_ms": 1.5}, 8.0, 1.5),
        ({"ratio": 0.25}, 12, 9),
        ({"params": 0.5}, 1000, 500),
        ({"params": 700}, 1000, 700),
        ({"size": 0.1}, 1000, 100),
        ({"macs": 10}, 1000, 10),
    ],
)
def test_a_target_leaves_a_budget(target: dict[str, float | None], dense: float, budget: float) -> None:
    assert budget_of(target, dense) == budget


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({}, "exactly one of ratio, params.*given: none"),
        ({"speedup": None}, "exactly one of"),
        ({"speedup": 2, "params": 0.5}, "given: speedup=2 and params=0.5"),
        ({"speed": 2}, "target.speed: no such target"),
        ({"speedup": 0.5}, "target.speedup=0.5: how many times faster"),
        ({"ratio": 1}, "target.ratio=1: the share to remove"),
        ({"latency_ms": 0}, "target.latency_ms=0: a finite number above 0"),
        ({"size": math.nan}, "target.size=nan"),
    ],
)
def test_a_target_that_cannot_be_is_refused(target: dict[str, float | None], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        budget_of(target, 10)


# --- choosing ----------------------------------------------------------------------------------

GRID = st.integers(0, 6).map(float)
REAL = st.floats(0, 10, allow_nan=False)


def levels(numbers: st.SearchStrategy[float]) -> st.SearchStrategy[list[list[Level]]]:
    level = st.tuples(numbers, numbers).map(lambda pair: Level(pair, pair[0], pair[1]))
    return st.lists(st.lists(level, min_size=1, max_size=5), min_size=1, max_size=5)


def brute_force(blocks: Sequence[Sequence[Level]], budget: float) -> float:
    choices = itertools.product(*(range(len(block)) for block in blocks))
    return min(total_error(blocks, c) for c in choices if total_cost(blocks, c) <= budget * (1 + 1e-9))


def between(blocks: Sequence[Sequence[Level]], share: float) -> float:
    dearest = sum(max(level.cost for level in block) for block in blocks)
    return least_cost(blocks) + share * (dearest - least_cost(blocks))


@settings(max_examples=300, deadline=None)
@given(st.one_of(levels(GRID), levels(REAL)), st.floats(0, 1))
def test_the_exact_choice_is_the_best_of_all(blocks: list[list[Level]], share: float) -> None:
    budget = between(blocks, share)
    choice = exact(blocks, budget)
    assert total_cost(blocks, choice) <= budget * (1 + 1e-8) + 1e-12
    assert total_error(blocks, choice) == pytest.approx(brute_force(blocks, budget), abs=1e-7)


@settings(max_examples=100, deadline=None)
@given(st.one_of(levels(GRID), levels(REAL)), st.floats(0, 1))
def test_other_allocations_stay_within_the_budget_and_are_never_better(blocks: list[list[Level]], share: float) -> None:
    budget = between(blocks, share)
    best = total_error(blocks, exact(blocks, budget))
    for choose in (lagrangian, threshold):
        choice = choose(blocks, budget)
        assert total_cost(blocks, choice) <= budget * (1 + 1e-8) + 1e-12
        assert total_error(blocks, choice) >= best - 1e-7


def encoder(layers: int, seed: int = 0) -> list[list[Level]]:
    """Return heads and widths of layers of unequal worth."""
    draw = np.random.default_rng(seed)
    blocks = []
    for _ in range(layers):
        for count, cost in ((12, 0.3), (24, 0.7)):
            worth = draw.uniform(0.2, 3)
            blocks.append(
                [
                    Level(n, cost * n / count + 0.02 * draw.random(), worth * (1 - n / count) ** 2, n / count)
                    for n in range(1, count + 1)
                ]
            )
    return blocks


def test_the_relaxation_of_many_blocks_is_within_a_step_of_the_optimum() -> None:
    blocks = encoder(48)
    best, near = (total_error(blocks, choose(blocks, 20.0)) for choose in (exact, lagrangian))
    assert best <= near <= best + max(level.error for block in blocks for level in block) / 10


def test_search_beats_a_threshold_and_a_threshold_beats_equal_shares() -> None:
    blocks = encoder(6)
    errors = {name: total_error(blocks, allocate(blocks, 3.0, name)) for name in ALLOCATIONS}
    assert errors["search"] <= errors["lagrangian"] <= errors["uniform"]
    assert errors["search"] <= errors["global"] < errors["uniform"]


def test_uniform_leaves_the_same_share_of_every_block() -> None:
    blocks = encoder(6)
    choice = uniform(blocks, 3.0)
    shares = {block[level].size for block, level in zip(blocks, choice, strict=True)}
    assert len(shares) <= 2
    assert max(shares) - min(shares) < 1 / 12  # heads come in twelfths, widths in twenty-fourths


def test_costs_in_proportion_to_errors_end_in_time() -> None:
    blocks = [[Level(n, n * (1 + b * 0.0137), -n * (1 + b * 0.0137)) for n in range(13)] for b in range(24)]
    assert total_cost(blocks, exact(blocks, 150.123)) == pytest.approx(150.123, rel=1e-3)


def test_a_level_that_is_slower_and_worse_goes() -> None:
    block = [Level("large", 2.0, 0.0), Level("slow", 2.5, 1.0), Level("medium", 1.0, 1.5), Level("equal", 1.0, 2.0)]
    assert [level.name for level in useful(block)] == ["large", "medium"]
    choice = exact([block], 10.0)
    assert block[choice[0]].name == "large"


def test_what_is_out_of_reach_names_the_nearest_that_is_not() -> None:
    blocks = encoder(2)
    with pytest.raises(ConfigError, match=r"target.speedup=40 is out of reach.*is a speedup of 4\.\d.*smaller levels"):
        allocate(
            blocks,
            2.6 / 40,
            target="target.speedup=40",
            fixed=0.4,
            reach=lambda least: f"a speedup of {2.6 / least:.2g}",
        )
    with pytest.raises(ConfigError, match="allocation='best': choose one of search, lagrangian, global, uniform"):
        allocate(blocks, 1.0, "best")


def test_the_nearest_that_is_named_can_be_reached() -> None:
    blocks = encoder(2)
    for name in ALLOCATIONS:
        assert (
            total_cost(blocks, allocate(blocks, least_cost(blocks) + 0.4, name, fixed=0.4)) <= least_cost(blocks) + 1e-9
        )


def test_reweighting_finds_what_the_sum_of_errors_hides() -> None:
    """The first layers forgive less than their own error says: the judge knows, the levels do not."""
    blocks = encoder(4)
    truth = np.repeat([6.0, 2.0, 0.7, 0.3], 2)

    def judge(choice: tuple[int, ...]) -> float:
        asked.append(choice)
        return sum(w * block[level].error for w, block, level in zip(truth, blocks, choice, strict=True))

    asked: list[tuple[int, ...]] = []
    found = reweighted(blocks, 2.0, judge, calls=60, seed=1)
    assert len(asked) == len(set(asked)) == found.judged <= 60
    assert found.loss == judge(found.choice) < 0.9 * found.plain_loss
    assert total_cost(blocks, found.choice) <= 2.0 * (1 + 1e-8)
    assert reweighted(blocks, 2.0, judge, calls=60, seed=1) == found


def test_reweighting_keeps_the_plain_choice_where_nothing_is_better() -> None:
    blocks = encoder(3)
    found = reweighted(blocks, 2.0, lambda choice: total_error(blocks, choice), calls=20)
    assert found.choice == exact(blocks, 2.0)
    assert reweighted(blocks, 2.0, lambda choice: math.nan, calls=3).choice == found.choice
    with pytest.raises(ConfigError, match="calls=0"):
        reweighted(blocks, 2.0, lambda choice: 0.0, calls=0)


# --- meeting a target --------------------------------------------------------------------------


def test_a_budget_that_was_missed_is_corrected_once() -> None:
    """A table that is 20 % too hopeful."""
    found = meet(2.0, lambda budget: budget, lambda structure: structure, lambda structure: 1.2 * structure)
    assert found.met
    assert found.measured == pytest.approx(2.0)
    assert [attempt["budget"] for attempt in found.tried] == [2.0, pytest.approx(2.0 / 1.2)]


def test_a_second_correction_follows_the_secant() -> None:
    found = meet(
        2.0,
        lambda budget: budget,
        lambda structure: structure,
        lambda structure: 1 + structure,
        corrections=2,
        tolerance=1e-6,
    )
    assert found.met
    assert found.structure == pytest.approx(1.0)


def test_what_is_near_enough_is_measured_once() -> None:
    asked: list[float] = []
    found = meet(2.0, lambda budget: budget, lambda structure: structure, lambda s: asked.append(s) or 1.02 * s)
    assert (found.met, asked) == (True, [2.0])


def test_a_correction_out_of_reach_leaves_what_was_found() -> None:
    def find(budget: float) -> float:
        if budget < 1.9:
            raise ConfigError("out of reach")
        return budget

    found = meet(2.0, find, lambda structure: structure, lambda structure: 1.5 * structure)
    assert (found.structure, found.met) == (2.0, False)
    with pytest.raises(ConfigError, match="out of reach"):
        meet(1.0, find, lambda structure: structure, lambda structure: structure)


# --- the latency table -------------------------------------------------------------------------

HEADS, WIDTHS = (4,) * 3, (64,) * 3
HEAD_LEVELS, WIDTH_LEVELS = (1, 2, 3, 4), (16, 32, 48, 64)


def setting(**changes: Any) -> Setting:
    given: dict[str, Any] = {
        "architecture": "bert",
        "hidden": HIDDEN,
        "head_size": HEAD_SIZE,
        "heads": HEADS,
        "widths": WIDTHS,
        "head_levels": HEAD_LEVELS,
        "width_levels": WIDTH_LEVELS,
        "batch": 1,
        "sequence": 8,
        "threads": 1,
    }
    return Setting(**{**given, **changes})


class Written:
    """Structures whose path says what they are."""

    heads, widths = HEADS, WIDTHS

    def __init__(self, folder: Path) -> None:
        self.folder = self.like = folder

    def write(self, heads: Sequence[int], widths: Sequence[int]) -> Path:
        return self.folder / json.dumps([list(heads), list(widths)])


class Machine:
    """Takes as long as it is told, with noise, drift and now and then a disturbance."""

    def __init__(self, noise: float = 0.0, drift: float = 0.0) -> None:
        self.noise, self.drift = noise, drift
        self.draw = np.random.default_rng(0)
        self.launches = 0

    @staticmethod
    def attention(heads: int) -> float:
        return 0.1 + 0.1 * heads

    @staticmethod
    def ffn(width: int) -> float:
        return 0.05 + 0.01 * width

    def truth(self, heads: Sequence[int], widths: Sequence[int]) -> float:
        return 0.5 + sum(map(self.attention, heads)) + sum(map(self.ffn, widths))

    def __call__(self, path: Path) -> float:
        self.launches += 1
        slow = 1 + self.drift * math.sin(self.launches / 30)
        if self.noise and self.launches % 40 < 3:
            slow *= 3
        heads, widths = json.loads(path.name)
        return self.truth(heads, widths) * slow * math.exp(self.noise * self.draw.standard_normal())


def uneven(draw: np.random.Generator) -> tuple[list[int], list[int]]:
    layers = int(draw.integers(1, 4))
    return draw.integers(1, 5, layers).tolist(), (16 * draw.integers(1, 5, layers)).tolist()


def test_a_table_adds_up_to_what_whole_models_take(tmp_path: Path) -> None:
    machine, draw = Machine(), np.random.default_rng(1)
    table = latency_table(setting(), Written, tmp_path, seconds=0, launch=machine)
    for _ in range(20):
        structure = uneven(draw)
        assert table.total(*structure) == pytest.approx(machine.truth(*structure), rel=1e-6)
    assert table.attention(1) == table.ffn(16) == 0
    assert table.rest == pytest.approx(0.5)
    assert table.layer == pytest.approx(machine.attention(1) + machine.ffn(16))
    assert table.ffn(40) == pytest.approx(0.24)
    assert table.misfit < 1e-6
    assert table.dense_ms == pytest.approx(machine.truth(HEADS, WIDTHS))


def test_noise_drift_and_disturbances_of_the_machine_hardly_reach_the_table(tmp_path: Path) -> None:
    machine, draw = Machine(noise=0.03, drift=0.2), np.random.default_rng(1)
    table = latency_table(setting(), Written, tmp_path, seconds=1e9, launch=machine)
    assert table.rounds == 40
    for _ in range(20):
        structure = uneven(draw)
        assert table.total(*structure) == pytest.approx(machine.truth(*structure), rel=0.04)
    assert 0 < table.heads[4].error < 0.05 * table.dense_ms
    assert table.heads[1].error == 0


def test_a_width_that_the_kernel_dislikes_costs_as_much_as_the_next(tmp_path: Path) -> None:
    class Odd(Machine):
        @staticmethod
        def ffn(width: int) -> float:
            return 0.9 if width == 32 else 0.05 + 0.01 * width

    table = latency_table(setting(), Written, tmp_path, seconds=0, launch=Odd())
    assert list(table.widths) == list(WIDTH_LEVELS)
    times = [entry.ms for entry in table.widths.values()]
    assert times == sorted(times)
    block = [Level(width, table.ffn(width), -width) for width in WIDTH_LEVELS]
    assert 32 not in [level.name for level in useful(block)]


def test_a_table_is_kept_and_read_again_bit_for_bit(tmp_path: Path) -> None:
    machine = Machine(noise=0.01)
    table = latency_table(setting(), Written, tmp_path, seconds=0, launch=machine)
    measured = machine.launches
    assert latency_table(setting(), Written, tmp_path, seconds=0, launch=machine) == table
    assert machine.launches == measured
    assert [file.name for file in tmp_path.iterdir()] == [table_file(tmp_path, setting()).name]


@pytest.mark.parametrize("damage", ["", "{", "null", '{"version": 0}', '{"version": 1, "key": {}}', "nan"])
def test_a_damaged_table_is_measured_anew(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    table = latency_table(setting(), Written, tmp_path, seconds=0, launch=Machine())
    file = table_file(tmp_path, setting())
    content = json.loads(file.read_bytes())
    content["rest"]["ms"] = math.nan
    file.write_text(json.dumps(content) if damage == "nan" else damage)
    caplog.set_level("WARNING", logger="compress")
    assert latency_table(setting(), Written, tmp_path, seconds=0, launch=Machine()) == table
    assert "latency is measured anew" in caplog.text
    assert read_table(tmp_path, setting()) == table


@pytest.mark.parametrize(
    "changes",
    [
        {"batch": 2},
        {"sequence": 16},
        {"threads": 2},
        {"runtime": "torch"},
        {"precision": "int8"},
        {"hidden": 64},
        {"head_size": 16},
        {"width_levels": (32, 64)},
        {"architecture": "roberta"},
    ],
)
def test_another_setting_has_another_table(tmp_path: Path, changes: dict[str, Any]) -> None:
    latency_table(setting(), Written, tmp_path, seconds=0, launch=Machine())
    assert read_table(tmp_path, setting(**changes)) is None


def test_models_that_differ_outside_of_their_layers_have_tables_of_their_own() -> None:
    from transformers import BertConfig, BertForSequenceClassification, BertForTokenClassification

    from compress.models.activation import with_activation
    from compress.models.factorized import factorize_embeddings

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=64, **sizes)
    classifier, tagger, factorized = (
        kind(config) for kind in (BertForSequenceClassification, BertForTokenClassification, BertForTokenClassification)
    )
    factorize_embeddings(factorized, 4)
    models = [classifier, tagger, factorized, with_activation(tagger, "relu")]
    assert len({kind_of(model) for model in models}) == 4
    assert kind_of(tagger) == kind_of(BertForTokenClassification(config))


def test_another_machine_or_version_has_another_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from compress import machine

    latency_table(setting(), Written, tmp_path, seconds=0, launch=Machine())
    with monkeypatch.context() as patched:
        patched.setattr(machine, "cpu_model", lambda: "another")
        assert read_table(tmp_path, setting()) is None
    with monkeypatch.context() as patched:
        patched.setattr(machine, "package_version", lambda name: "0")
        assert read_table(tmp_path, setting()) is None
    assert read_table(tmp_path, setting()) is not None


def test_what_a_table_cannot_know_is_refused(tmp_path: Path) -> None:
    table = latency_table(setting(), Written, tmp_path, seconds=0, launch=Machine())
    with pytest.raises(ConfigError, match="width 8: the latency table was measured from 16 to 64"):
        table.ffn(8)
    with pytest.raises(ConfigError, match=r"head_levels=\[1, 2\]: .*the last one 4"):
        setting(head_levels=(1, 2))
    with pytest.raises(ConfigError, match="threads=0"):
        setting(threads=0)
    with pytest.raises(ConfigError, match=r"has heads \[4, 4, 4\]"):
        latency_table(setting(heads=(4, 4)), Written, tmp_path, seconds=0, launch=Machine())


def test_of_many_levels_some_are_measured_and_the_rest_interpolated(tmp_path: Path) -> None:
    machine = Machine()
    many = setting(widths=(1600,) * 3, width_levels=tuple(range(16, 1601, 16)))
    assert many.measured_widths[0] == 16
    assert many.measured_widths[-1] == 1600
    assert 12 <= len(many.measured_widths) <= 16
    assert len(design(many)) < 50

    class Wide(Written):
        widths = (1600,) * 3

    table = latency_table(many, Wide, tmp_path, seconds=0, launch=machine)
    for width in many.width_levels:
        assert table.total((2, 2), (width, 16)) == pytest.approx(machine.truth((2, 2), (width, 16)), rel=1e-6)


def test_rounds_end_in_time_and_go_there_and_back() -> None:
    now = 0.0

    def launch(name: str) -> float:
        nonlocal now
        now += 1.0
        return now

    launches = launches_of("abc", launch, seconds=20, clock=lambda: now)
    assert len(launches) == 3 * 6  # a fourth pair would end at 24 seconds
    names = [name for name, _ in launches]
    for at in range(0, 18, 6):
        assert names[at : at + 3] == names[at + 3 : at + 6][::-1]
        assert sorted(names[at : at + 3]) == list("abc")
    assert len(launches_of("abc", launch, seconds=0, clock=lambda: now)) == 3 * 4


def test_a_slow_round_does_not_reach_a_ratio(tmp_path: Path) -> None:
    draw, calls = np.random.default_rng(0), itertools.count()

    def launch(path: Path) -> float:
        slow = 3.0 if next(calls) // 2 % 5 == 0 else 1.0
        return slow * float(path.name) * math.exp(0.02 * draw.standard_normal())

    times = typical(rounds_of({"dense": Path("8.0"), "pruned": Path("2.0")}, launch, seconds=1e9))
    assert times["pruned"] / times["dense"] == pytest.approx(0.25, rel=0.02)


# --- narrower graphs ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, bytes]:
    from compress.steps.export import export_graph

    model = bert(3, 4, 64)
    folder = tmp_path_factory.mktemp("narrow")
    return model, export_graph(model, ("input_ids", "attention_mask"), 20, folder).SerializeToString()


def narrow(content: bytes, folder: Path) -> NarrowGraphs:
    import onnx

    return NarrowGraphs(onnx.load_from_string(content), family("bert"), HEAD_SIZE, folder)


@pytest.mark.slow
def test_a_narrowed_graph_is_what_the_pruned_model_exports_to(exported: tuple[Any, bytes], tmp_path: Path) -> None:
    import onnx

    from compress.models.surgery import Cut, cut
    from compress.steps.export import export_graph

    model, content = exported
    graphs = narrow(content, tmp_path)
    assert (graphs.heads, graphs.widths) == (HEADS, WIDTHS)
    path = graphs.write((3, 1), (64, 16))
    smaller = cut(model, Cut(heads={0: [1], 2: [0, 1, 2]}, neurons={2: range(48)}, layers=[0, 2]))
    expected = export_graph(smaller, ("input_ids", "attention_mask"), 20, tmp_path / "scratch")
    found = onnx.load(str(path))
    assert [node.op_type for node in found.graph.node] == [node.op_type for node in expected.graph.node]
    shapes = [  # sets: an export keeps equal tensors, as biases of 0 are, once
        {tuple(tensor.dims) for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
        for graph in (found.graph, expected.graph)
    ]
    assert shapes[0] == shapes[1]


@pytest.mark.slow
def test_every_narrowed_graph_runs(exported: tuple[Any, bytes], tmp_path: Path) -> None:
    from compress.runtime import open_predictor

    graphs = narrow(exported[1], tmp_path)
    for structure in design(setting()):
        with open_predictor(graphs.write(*structure), threads=1) as predictor:
            assert predictor.logits({"input_ids": np.ones((2, 7), dtype=np.int64)}).shape == (2, LABELS)
    with pytest.raises(ConfigError, match=r"heads \[5\] and widths \[16\] are no narrower structure"):
        graphs.write((5,), (16,))


@pytest.mark.slow
def test_an_int8_graph_narrows_too(exported: tuple[Any, bytes], tmp_path: Path) -> None:
    import onnx

    from compress.config.schemas import DynamicQuantization
    from compress.runtime import open_predictor
    from compress.steps.quantize.dynamic import quantize_graph

    quantized, _ = quantize_graph(onnx.load_from_string(exported[1]), DynamicQuantization(), False)
    graphs = NarrowGraphs(quantized, family("bert"), HEAD_SIZE, tmp_path)
    assert (graphs.heads, graphs.widths) == (HEADS, WIDTHS)
    for structure in (((2, 4, 1), (16, 48, 64)), ((1,), (32,))):
        with open_predictor(graphs.write(*structure), threads=1) as predictor:
            assert predictor.logits({"input_ids": np.ones((2, 7), dtype=np.int64)}).shape == (2, LABELS)


@pytest.mark.slow
def test_a_graph_of_another_architecture_is_refused(exported: tuple[Any, bytes], tmp_path: Path) -> None:
    import onnx

    with pytest.raises(
        UnsupportedError, match="there is no distilbert.transformer.layer.0.attention.q_lin.weight"
    ) as e:
        NarrowGraphs(onnx.load_from_string(exported[1]), family("distilbert"), HEAD_SIZE, tmp_path)
    assert str(e.value).endswith("Use a target that counts: params, macs, size"), "torch is no runtime of a target"


@pytest.mark.slow
def test_a_tiny_table_is_measured_for_real(exported: tuple[Any, bytes], tmp_path: Path) -> None:
    asked = setting(head_levels=(1, 4), width_levels=(16, 64))
    table = latency_table(asked, lambda folder: narrow(exported[1], folder), tmp_path / "cache", seconds=1)
    assert table.rounds == 4
    assert 0 < table.total((1,), (16,)) <= table.total(HEADS, WIDTHS)
    assert table.total(HEADS, WIDTHS) == pytest.approx(table.dense_ms, rel=0.3)
    assert read_table(tmp_path / "cache", asked) == table


# --- narrower checkpoints ----------------------------------------------------------------------


@pytest.mark.slow
def test_a_narrowed_checkpoint_opens_and_is_timed_as_torch(checkpoint: Any, tmp_path: Path) -> None:
    from compress.benchmark.size import macs_of_torch
    from compress.runtime import open_predictor

    writer = NarrowCheckpoints(checkpoint, tmp_path / "narrow")
    assert (writer.heads, writer.widths) == ((2, 2), (64, 64))
    names = ("input_ids", "attention_mask")
    cost = with_rest(mac_cost(32, 16, 1, 8), macs_of_torch(load_model(checkpoint), 1, 8, names), [2, 2], [64, 64])
    for structure in (((2, 2), (64, 64)), ((1, 2), (16, 48)), ((1,), (32,))):
        with open_predictor(writer.write(*structure), threads=1) as predictor:
            assert macs_of_torch(predictor.model, 1, 8, names) == cost.total(*structure)
    with Launcher(writer.like, 1, 8, 1) as launch:
        assert launch(writer.write((1, 1), (16, 16))) > 0
        assert launch(writer.write((2, 2), (64, 64))) > 0
