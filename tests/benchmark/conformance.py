"""How often verdicts are right on this machine.

``python tests/benchmark/conformance.py ARTIFACT aa|slow|busy [REPETITIONS]``: aa measures an .onnx artifact against
itself, slow against itself made a tenth slower, busy against itself while a neighbour takes a core; as
``python -m compress.benchmark`` does by default, at batch 1 of 32 tokens, 12 to 25 seconds each.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from compress.benchmark.latency import Texts, time_variants
from compress.benchmark.noise import NoiseMonitor
from compress.benchmark.process import Launches, WorkerProcess
from compress.benchmark.statistics import half_width, ratio_interval, verdict
from compress.cli.bench import LONGER
from compress.config.schemas import Benchmark
from compress.config.shapes import Shape
from compress.machine import usable_cores

SLOWER = (str(Path(__file__).with_name("slower_worker.py")),)


@contextlib.contextmanager
def neighbour(busy: bool) -> Iterator[None]:
    if not busy:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def once(path: Path, slow: bool) -> tuple[tuple[float, float, float], int, list[str]]:
    """Return the interval of one comparison, its launches and warnings."""
    noise, cores = NoiseMonitor.look(), usable_cores()
    noise.start()
    one = Launches("one", cores, path, "cpu", "auto", energy=False)
    WorkerProcess.program, usual = SLOWER if slow else WorkerProcess.program, WorkerProcess.program
    two = Launches("two", cores, path, "cpu", "auto", energy=False)
    WorkerProcess.program = usual
    config, same = Benchmark(**LONGER), {"one": "artifact", "two": "artifact"}
    with one, two:
        (timings,) = time_variants(
            {"one": one, "two": two}, "one", Texts(None, 1000), [Shape(1, 32)], config, cores, same
        )
    noise.stop()
    launches = timings["one"].launches
    return ratio_interval(launches, timings["two"].launches), len(launches), noise.warnings()


def main(artifact: str, mode: str, repetitions: int = 20) -> None:
    calls, widths, held, warned = [], [], 0, 0
    with neighbour(mode == "busy"):
        for number in range(repetitions):
            start = time.monotonic()
            interval, launches, warnings = once(Path(artifact), mode == "slow")
            value, low, high = interval
            calls.append(verdict(low, high))
            widths.append(half_width(interval))
            held += low <= 1 <= high
            warned += bool(warnings)
            print(
                f"{mode} {number}: {value:.4f} [{low:.4f}, {high:.4f}], half-width {widths[-1]:.2%}, {calls[-1]}, "
                f"{launches} launches, {time.monotonic() - start:.0f} s, warnings {len(warnings)}",
                flush=True,
            )
    counts = {call: calls.count(call) for call in ("faster", "slower", "inconclusive")}
    print(
        f"{mode}: of {repetitions} the interval held 1 in {held}; {counts}; half-width at most 3 % in "
        f"{sum(width <= 0.03 for width in widths)}, median {sorted(widths)[len(widths) // 2]:.2%}; warned in {warned}"
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *(int(number) for number in sys.argv[3:]))
