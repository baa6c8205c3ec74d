"""How fast an avatar trains: the real training loop, timed in windows."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import pytorch_lightning as pl
import torch

from r3avatar.benchmarks.clock import synchronize
from r3avatar.benchmarks.machine import DeviceMemory, host_memory_mib, seconds_since_start
from r3avatar.training.module import AvatarModule


class Windows(pl.Callback):
    """Counts images in windows of time or of steps after a warm-up, and ends the training after the last one.

    The device is waited for at the windows' ends alone. Put it last, behind what belongs to the training.
    """

    def __init__(
        self, warm_up: int, seconds: float, windows: int = 5, ready: Callable[[], None] | None = None,
        steps: int | None = None,
    ):  # fmt: skip
        """warm_up: steps before the first window. seconds: of all windows, if not so many `steps` are given.
        ready: called before the first one."""
        self.warm_up, self.length, self.windows, self.ready = warm_up, seconds / windows, windows, ready
        self.ends = None if steps is None else [warm_up + steps * n // windows for n in range(1, windows + 1)]
        self.steps = 0
        self.first_step: float | None = None  # seconds from the start of the process
        self.rates: list[tuple[float, float]] = []  # (images a second, milliseconds a step)
        self.gaussians: list[int] = []  # at the windows' ends, the first one's beginning included
        self.seconds, self.images = 0.0, 0  # of all windows
        self._begin = (0.0, 0, 0)  # time, steps, images

    def on_train_batch_end(self, trainer, module: AvatarModule, outputs, batch, batch_idx) -> None:
        self.steps += 1
        if self.steps == 1:
            synchronize(module.device)
            self.first_step = seconds_since_start()
        if self.steps == self.warm_up:
            synchronize(module.device)
            if self.ready is not None:
                self.ready()
            self._start(module)
        elif self.steps > self.warm_up and self._is_over():
            synchronize(module.device)
            seconds, steps = time.perf_counter() - self._begin[0], self.steps - self._begin[1]
            images = module.images - self._begin[2]
            self.rates.append((images / seconds, 1e3 * seconds / steps))
            self.seconds, self.images = self.seconds + seconds, self.images + images
            self._start(module)
            trainer.should_stop = len(self.rates) == self.windows

    def _is_over(self) -> bool:
        if self.ends is not None:
            return self.steps >= self.ends[len(self.rates)]
        return time.perf_counter() - self._begin[0] >= self.length

    def _start(self, module: AvatarModule) -> None:
        self.gaussians.append(len(module.avatar.gaussians))
        self._begin = (time.perf_counter(), self.steps, module.images)


def train_rate(
    module: AvatarModule,
    data: pl.LightningDataModule,
    make_trainer: Callable[[list[pl.Callback]], pl.Trainer],
    callbacks: list[pl.Callback],
    warm_up: int,
    seconds: float,
    ready: Callable[[], None] | None = None,
    steps: int | None = None,
) -> dict:
    """Train for some seconds, or so many steps, and say how fast that went: medians over five windows, and overall.

    make_trainer: of callbacks, which are those of the training and the clock.
    """
    if warm_up < 1:
        raise ValueError(f"warm_up is {warm_up}; at least one step comes before the first window")
    windows = Windows(warm_up, seconds, ready=ready, steps=steps)
    make_trainer([*callbacks, windows]).fit(module, data)
    if len(windows.rates) < windows.windows:
        raise RuntimeError(f"the training ended after {len(windows.rates)} of {windows.windows} measured windows")
    rates, steps = zip(*windows.rates)
    return {
        "images_per_second": statistics.median(rates),
        "ms": statistics.median(steps),
        "slowest_window": min(rates),
        "fastest_window": max(rates),
        "overall": windows.images / windows.seconds,
        "steps": windows.steps - warm_up,
        "gaussians_first": windows.gaussians[0],
        "gaussians_last": windows.gaussians[-1],
        "first_step_s": windows.first_step,
    }


def memory(device_memory: DeviceMemory) -> dict:
    """MiB that the process has taken: on the device (peak of tensors, of the allocator, the whole), on the host."""
    values = host_memory_mib()
    if torch.cuda.is_available():
        values["device_tensors_peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
        values["device_reserved_peak_mib"] = torch.cuda.max_memory_reserved() / 2**20
        whole = device_memory.whole_mib()
        if whole is not None:
            values["device_whole_mib"] = whole
    return values
