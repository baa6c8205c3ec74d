"""Measuring time on the CPU and, by events, on CUDA."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch


def synchronize(device: torch.device) -> None:
    """Wait for all work on a CUDA device; nothing on the CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Stages:
    """Times of the named stages of repeated work: between CUDA events, or on the host's clock."""

    def __init__(self, device: torch.device):
        self.device = device
        self.times: dict[str, list[float]] = {}  # milliseconds, one a repetition
        self._marks: list[tuple[str, torch.cuda.Event | float]] = []

    def begin(self) -> None:
        """The first stage begins."""
        synchronize(self.device)
        self._marks = [("", self._now())]

    def end_of(self, stage: str) -> None:
        """A stage ends here, and the next one begins."""
        self._marks.append((stage, self._now()))

    def finish(self) -> None:
        """The repetition ends: its stages are counted."""
        synchronize(self.device)
        for (_, before), (stage, after) in zip(self._marks, self._marks[1:]):
            ms = 1e3 * (after - before) if isinstance(after, float) else before.elapsed_time(after)
            self.times.setdefault(stage, []).append(ms)

    def medians(self) -> dict[str, float]:
        """Median milliseconds of each stage, over the repetitions that had it."""
        return {stage: statistics.median(times) for stage, times in self.times.items()}

    def _now(self) -> torch.cuda.Event | float:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def rate(call: Callable[[], object], device: torch.device, seconds: float, warm_up: int = 3) -> float:
    """Milliseconds a call, of calls in succession without waiting between them."""
    for _ in range(warm_up):
        call()
    synchronize(device)
    count, start = 0, time.perf_counter()
    while count == 0 or time.perf_counter() - start < seconds:
        for _ in range(10 if device.type == "cuda" else 1):
            call()
            count += 1
        synchronize(device)
    return 1e3 * (time.perf_counter() - start) / count


def latencies(call: Callable[[int], object], device: torch.device, seconds: float, warm_up: int = 3) -> list[float]:
    """Milliseconds of each `call(i)`, i = 0, 1, ..: the next one begins when the device has finished the last."""
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < warm_up + 2 or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        call(len(times))
        synchronize(device)
        times.append(1e3 * (time.perf_counter() - start))
        if len(times) == warm_up:
            begin = time.perf_counter()
    return times[warm_up:]
