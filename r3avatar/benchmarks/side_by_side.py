"""Several training runs at once on one device, beside one alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from r3avatar.benchmarks.machine import device_memory_used

BARRIER = "R3AVATAR_BENCH_BARRIER"  # FOLDER:COUNT, for the processes that this module starts
COMMAND = (sys.executable, "-m", "r3avatar.cli", "bench")
PATIENCE = 900.0  # seconds until all processes must be ready


def barrier() -> Callable[[], None] | None:
    """For a process among several: waits until all of them are ready to measure. None for one alone."""
    place = os.environ.get(BARRIER)
    if place is None:
        return None
    folder, _, count = place.rpartition(":")

    def wait() -> None:
        (Path(folder) / f"{os.getpid()}.ready").touch()
        deadline = time.monotonic() + PATIENCE
        while len(list(Path(folder).glob("*.ready"))) < int(count):
            if time.monotonic() > deadline:
                raise RuntimeError(f"not all of {count} processes were ready after {PATIENCE:.0f} s")
            time.sleep(0.02)

    return wait


def side_by_side(overrides: Sequence[str], runs: int) -> dict[str, dict]:
    """Rates of one training process alone, then of `runs` at once that begin to measure together.

    All of them train the same steps, as many as the one alone does in its time, and are compared by the whole of them:
    how fast a training is changes while it goes on, with what density control does.
    overrides: of `r3avatar bench`, for all of them. RuntimeError with the output of a process that fails.
    """
    result: dict[str, dict] = {}
    (alone,), taken = _measure(overrides, 1)
    result["alone"] = {**alone, **taken}
    together, taken = _measure([*overrides, f"steps={alone['steps']}"], runs)
    for number, values in enumerate(together, 1):
        ratio = values["images_per_second"] / alone["images_per_second"]
        result[f"run_{number}_of_{runs}"] = {**values, "ratio_to_alone": ratio}
    total = sum(values["images_per_second"] for values in together)
    result["together"] = {"images_per_second": total, "ratio_to_alone": total / alone["images_per_second"], **taken}
    return result


def _measure(overrides: Sequence[str], count: int) -> tuple[list[dict], dict]:
    """Each process's rates; and the device's memory that a process took, where it can be told."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*COMMAND, *overrides, "runs=1", "sections=[training]", "loops=[density]", "stages=false"]
        environment = {**os.environ, BARRIER: f"{folder}:{count}"}
        before, peak, processes = device_memory_used(), 0.0, []
        try:
            for number in range(count):
                with open(f"{folder}/{number}.log", "w") as file:
                    own = [*command, f"out='{folder}/{number}.json'"]
                    processes.append(subprocess.Popen(own, env=environment, stdout=file, stderr=subprocess.STDOUT))
            while any(process.poll() is None for process in processes):
                failed = [n for n, process in enumerate(processes) if process.poll() not in (None, 0)]
                if failed:
                    break
                peak = max(peak, device_memory_used() or 0.0)
                time.sleep(0.5)
        finally:
            for process in processes:
                if process.poll() is None:
                    process.terminate()
            codes = [process.wait() for process in processes]
        for number, code in enumerate(codes):
            if code > 0:  # of a negative one: it was ended because of another
                log = Path(f"{folder}/{number}.log").read_text()
                raise RuntimeError(f"a training process of the benchmark ended with {code}:\n{log[-3000:]}")
        if any(codes):
            raise RuntimeError(f"training processes of the benchmark were killed (exit codes {codes}): out of memory?")
        values = [_rates(json.loads(Path(f"{folder}/{number}.json").read_text())) for number in range(count)]
        taken = {"device_whole_mib_each": (peak - before) / count} if before is not None else {}
        return values, taken


def _rates(report: dict) -> dict:
    loop, memory = report["training"]["loop"], report["training"]["memory"]
    kept = ("steps", "slowest_window", "fastest_window", "gaussians_last", "first_step_s")
    rates = {"images_per_second": loop["overall"], "ms": loop["ms"], **{key: loop[key] for key in kept}}
    return {**rates, "private_mib": memory.get("private_mib")}
