"""Energy counters and the watch on the processor, on made-up figures."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from compress.benchmark.energy import find_meter
from compress.benchmark.noise import NoiseMonitor


@pytest.fixture
def rapl(tmp_path: Path) -> Path:
    for name, used in (("intel-rapl:0", 1_000_000), ("intel-rapl:1", 5_000_000), ("intel-rapl:0:0", 7)):
        zone = tmp_path / name
        zone.mkdir()
        (zone / "energy_uj").write_text(f"{used}\n")
        (zone / "max_energy_range_uj").write_text("9999999\n")
    return tmp_path


def test_joules_are_summed_over_packages_and_not_over_their_parts(rapl: Path) -> None:
    meter, reason = find_meter("cpu", rapl)
    assert reason is None
    assert meter is not None
    assert meter.source == "rapl"
    before = meter.read()
    (rapl / "intel-rapl:0" / "energy_uj").write_text("1500000")
    (rapl / "intel-rapl:0:0" / "energy_uj").write_text("999")
    assert meter.since(before) == 0.5


def test_a_counter_that_wraps_round_is_read_on(rapl: Path) -> None:
    meter, _ = find_meter("cpu", rapl)
    assert meter is not None
    before = meter.read()
    (rapl / "intel-rapl:1" / "energy_uj").write_text("1000000")
    assert meter.since(before) == pytest.approx(6.0)


def test_a_machine_without_counters_says_so(tmp_path: Path) -> None:
    meter, reason = find_meter("cpu", tmp_path)
    assert meter is None
    assert "no RAPL counters" in str(reason)


def test_a_counter_that_cannot_be_read_says_so(rapl: Path) -> None:
    (rapl / "intel-rapl:0" / "energy_uj").write_text("")
    meter, reason = find_meter("cpu", rapl)
    assert meter is None
    assert "cannot be read" in str(reason)


def test_nvml_that_is_not_there_names_the_extra() -> None:
    pytest.importorskip("torch")
    if "pynvml" in sys.modules:
        pytest.skip("NVML is installed here")
    meter, reason = find_meter("cuda", Path("/nowhere"))
    assert meter is None
    assert "gpu" in str(reason)


def test_figures_above_the_limits_are_warned_of() -> None:
    quiet = NoiseMonitor(0.01, 0.1, others_share=0.01, steal_share=0.0)
    assert quiet.warnings() == []
    loud = NoiseMonitor(0.5, 0.1, others_share=0.4, steal_share=0.2)
    texts = loud.warnings()
    assert len(texts) == 3
    assert "50% of the processor when measuring began" in texts[0]
    assert "40% of the processor while latency was measured" in texts[1]
    assert "hypervisor kept 20%" in texts[2]


def spinning(seconds: float) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", f"import time\nwhile time.process_time() < {seconds}: pass"])


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="this system does not tell what ended processes used")
def test_a_neighbour_is_seen_and_our_own_work_is_not() -> None:
    """A process that goes on while we stop watching is a neighbour; one that has ended by then was ours."""
    seen, ours = NoiseMonitor(0, 0), NoiseMonitor(0, 0)
    neighbour = spinning(60)
    try:
        time.sleep(0.3)
        seen.start()
        time.sleep(2)
        seen.stop()
    finally:
        neighbour.kill()
        neighbour.wait()
    ours.start()
    spinning(1.5).wait()
    ours.stop()
    assert seen.others_share is not None
    assert ours.others_share is not None
    # However busy the machine is with other things, what the neighbour used tells the two apart.
    assert seen.others_share > 0.1 / (os.cpu_count() or 1)
    assert ours.others_share < seen.others_share - 0.1 / (os.cpu_count() or 1)
