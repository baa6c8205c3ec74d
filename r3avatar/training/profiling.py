"""Where the time of training steps goes: torch's profiler over some steps, as a table of stages and a trace."""

from __future__ import annotations

import logging
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch.profiler import ProfilerActivity, profile, record_function

log = logging.getLogger(__name__)

# As the step names them (`AvatarModule`), in its order; batches are made before it.
STAGES = (
    "step: codebook and decoder",
    "step: pose and skin",
    "step: rasterize",
    "step: loss",
    "step: backward",
    "step: statistics",
    "step: finite",
    "step: Adam",
)
_WHOLE = "steps"  # all that happens in the profiled steps, callbacks and batches included


class ProfileCallback(pl.Callback):
    """<folder>/stages.md and <folder>/trace.json (chrome://tracing, ui.perfetto.dev) of `steps` steps after `skip`.

    CPU time is the time in which the host was in a stage; device time that of the kernels it launched. The step's
    stages appear only where it is not replayed as a CUDA graph (cuda_graph=false).
    """

    def __init__(self, folder: Path, skip: int, steps: int):
        if skip < 0 or steps < 1:
            raise ValueError(f"profile.skip = {skip} must be at least 0, profile.steps = {steps} at least 1")
        self.folder, self.skip, self.steps = Path(folder), skip, steps
        self._profile: profile | None = None
        self._whole: record_function | None = None
        self._done = 0

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, outputs, batch, batch_idx) -> None:
        self._done += 1
        if self._done == self.skip + self.steps + 1:
            self._finish(module.device)
        elif self._done == self.skip + 1:  # from the end of one step to that of another
            cuda = [ProfilerActivity.CUDA] if module.device.type == "cuda" else []
            self._profile = profile(activities=[ProfilerActivity.CPU, *cuda])
            self._profile.start()
            self._whole = record_function(_WHOLE)
            self._whole.__enter__()

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self._profile is not None:  # fewer steps than asked for
            self.steps = self._done - self.skip - 1
            self._finish(module.device)
        elif self._done <= self.skip + 1:
            log.warning("the run ended before step %d, where its profile would have begun", self.skip + 1)

    def _finish(self, device: torch.device) -> None:
        assert self._profile is not None and self._whole is not None
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        self._whole.__exit__(None, None, None)
        self._profile.stop()
        self.folder.mkdir(parents=True, exist_ok=True)
        trace, table = self.folder / "trace.json", self.folder / "stages.md"
        self._profile.export_chrome_trace(str(trace))
        text = self._table()
        table.write_text(text)
        self._profile = self._whole = None
        print(f"\n{text}\n{self.steps} steps; table: {table}, trace: {trace} (open in chrome://tracing)")

    def _table(self) -> str:
        """Markdown: a stage a line, the rest of the step, and the ten operations that take longest."""
        assert self._profile is not None
        steps = max(1, self.steps)
        events = {e.key: e for e in self._profile.key_averages()}
        whole = events[_WHOLE].cpu_time_total / 1e3 / steps
        lines = ["| stage | CPU ms a step | share | device ms a step |", "|---|---|---|---|"]
        known = device = 0.0
        for name in STAGES:
            if name in events:
                cpu, there = (t / 1e3 / steps for t in (events[name].cpu_time_total, events[name].device_time_total))
                known, device = known + cpu, device + there
                lines.append(_line(name.removeprefix("step: "), cpu, whole, there))
        lines.append(_line("batch, callbacks, the trainer", max(0.0, whole - known), whole, 0.0))
        lines.append(_line("whole step", whole, whole, device))
        lines += ["", "| operation | calls a step | CPU ms a step | device ms a step |", "|---|---|---|---|"]
        leaves = [e for name, e in events.items() if name not in (*STAGES, _WHOLE)]
        leaves.sort(key=lambda e: e.self_cpu_time_total + e.self_device_time_total, reverse=True)
        for e in leaves[:10]:
            cpu, there = e.self_cpu_time_total / 1e3 / steps, e.self_device_time_total / 1e3 / steps
            lines.append(f"| `{e.key[:60]}` | {e.count / steps:.1f} | {cpu:.3f} | {there:.3f} |")
        return "\n".join([*lines, ""])


def _line(name: str, cpu: float, whole: float, device: float) -> str:
    return f"| {name} | {cpu:.3f} | {100 * cpu / max(whole, 1e-9):.1f} % | {device:.3f} |"
