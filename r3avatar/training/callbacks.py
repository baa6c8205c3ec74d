"""What happens around the training step: progress, density control, pictures, logged scalars."""

from __future__ import annotations

import resource
import sys
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import Tensor
from tqdm import tqdm

from r3avatar.avatar import Attributes
from r3avatar.evaluation.media import error_map, strip, write_image
from r3avatar.evaluation.metrics import psnr_pooled
from r3avatar.training.density import DensityControl, NoDensityControl, apply_edit
from r3avatar.training.module import AvatarModule
from r3avatar.training.replicas import Replicas, replicas_of
from r3avatar.types import Batch, RenderOutput


def peak_memory_gib() -> float:
    """Peak memory of this process (or of the CUDA device), GiB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 2**30 if sys.platform == "darwin" else 2**20  # ru_maxrss is in bytes there, in KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


class DensityCallback(pl.Callback):
    """Feeds the density control with every step's gradients and applies what it decides.

    Replicas observe their shards alone. Before an edit they bring their statistics together, and then find the same
    edit; before a checkpoint too, whose statistics rank 0 goes on with.
    """

    def __init__(self, density: DensityControl | NoDensityControl, width: int, height: int):
        """width, height: pixels of the training cameras' whole frames; gradients are measured in their NDC units."""
        self.density, self.width, self.height = density, width, height
        self.replicas: Replicas | None = None

    def setup(self, trainer, module: AvatarModule, stage: str) -> None:
        self.replicas = replicas_of(trainer)

    def on_train_start(self, trainer, module: AvatarModule) -> None:
        module.observer = self

    def collecting(self, images: int) -> bool:
        """`Observer`: until the density control stops."""
        return self.density.collecting(images)

    def reserve(self, count: int, rows: int, device: torch.device) -> None:
        """`Observer`: see `DensityStatistics.reserve`."""
        self.density.reserve(count, rows, device)

    def accumulate(self, render: RenderOutput, attributes: Attributes) -> None:
        """`Observer`: for the statistics; see `DensityStatistics.accumulate`."""
        self.density.accumulate(render, attributes, self.width, self.height)

    def on_train_batch_end(self, trainer, module: AvatarModule, outputs, batch: Batch, batch_idx) -> None:
        if self.density.collecting(module.images):
            parts = 1 if self.replicas is None else self.replicas.shard.frame_parts
            self.density.advance(parts * batch.rgb.shape[0])
        if not self.density.due(module.images, module.images_of_step(batch)):
            return
        module.check_finite()  # an edit waits for the device anyway
        canonical, optimizer = module.avatar.gaussians, module.optimizers().optimizer
        self._bring_together()
        edit = self.density.step(canonical, module.images, module.extent)
        if edit is not None:
            apply_edit(optimizer, canonical, edit)
        if self.replicas is not None:
            self.replicas.check(optimizer, f"after the density edit at {module.images} images")
        module.rasterizer.check_capacity()

    def _bring_together(self) -> None:
        """Give all replicas the statistics of all of them; every one calls it."""
        if self.replicas is not None and isinstance(self.density, DensityControl) and self.density.statistics.frames:
            self.density.statistics.all_reduce(seen_elsewhere=not self.replicas.shard.first_view)

    def _leave_to_first(self) -> None:
        """Forget what rank 0 remembers for all."""
        if self.replicas is not None and self.replicas.rank and isinstance(self.density, DensityControl):
            self.density.statistics.forget_interval()

    def state_dict(self) -> dict:
        """The same for any number of replicas, every one of which calls it."""
        self._bring_together()
        state = self.density.state_dict()
        self._leave_to_first()
        return state

    def load_state_dict(self, state_dict: dict) -> None:
        self.density.load_state_dict(state_dict)
        self._leave_to_first()


@dataclass
class _Line:
    """What is known of a step at once, and its numbers, which may still be on their way from the device."""

    numbers: Tensor  # [n] float32, page-locked where they come from a device
    arrived: torch.cuda.Event | None
    losses: list[str]  # what the first numbers are; the rest: train/psnr, steps that were not finite, fullness
    known: dict[str, float]
    steps: int
    images: int
    progress: float
    generation: int  # of the rasterizer


class ProgressCallback(pl.Callback):
    """One line that tells how the run is doing: loss, PSNR, Gaussians, images/s, memory, time left by the budget.

    Every `every` steps the step's values are sent to the host, on a GPU without waiting for them: they are read, shown
    and logged at the next such step, validation, checkpoint or end. On a CPU that is at once.
    """

    def __init__(self, every: int = 20):
        self.every = every
        self._recent: deque[tuple[float, int, int]] = deque(maxlen=10)  # seconds, images, steps
        self._bar: tqdm | None = None
        self._line: _Line | None = None

    def on_train_start(self, trainer, module: AvatarModule) -> None:
        self._bar = tqdm(
            total=100, unit="%", desc="training", dynamic_ncols=True, bar_format="{l_bar}{bar}|{postfix}",
            disable=not trainer.is_global_zero,
        )  # fmt: skip
        self._recent.append((module.seconds, module.images, trainer.global_step))

    def on_train_batch_end(self, trainer, module: AvatarModule, outputs, batch, batch_idx) -> None:
        if trainer.global_step % self.every and module.progress < 1:
            return
        self._report(trainer, module)
        self._line = self._sent(trainer, module, outputs, batch)
        if self._line.arrived is None or module.progress >= 1:
            self._report(trainer, module)

    def on_validation_start(self, trainer, module: AvatarModule) -> None:
        self._report(trainer, module)

    def on_save_checkpoint(self, trainer, module: AvatarModule, checkpoint: dict) -> None:
        self._report(trainer, module)  # a run that goes on from there has no other chance to log it

    def _sent(self, trainer, module: AvatarModule, outputs: dict[str, Tensor], batch: Batch) -> _Line:
        """The line of the step that has just been given to the device."""
        self._recent.append((module.seconds, module.images, trainer.global_step))
        (t0, i0, s0), (t1, i1, s1) = self._recent[0], self._recent[-1]
        known = {
            "train/images": float(module.images),
            "train/progress": module.progress,
            "gaussians/number": float(len(module.avatar.gaussians)),
            "perf/images_per_second": (i1 - i0) / max(t1 - t0, 1e-9),
            "perf/step_ms": 1e3 * (t1 - t0) / max(s1 - s0, 1),
            "perf/memory_gib": peak_memory_gib(),
        }
        known |= {f"train/lr_{name}": rate for name, rate in module.learning_rates.current.items()}
        losses = [name for name in outputs if name != "loss"]
        psnr = psnr_pooled(module.render.rgb.flatten(0, 1), (batch.rgb.float() / 255).flatten(0, 1)).mean()
        fullness = module.rasterizer.fullness
        asides = psnr, module.lost_steps, torch.zeros_like(psnr) if fullness is None else fullness.reshape(())
        numbers = torch.stack([x.detach().float() for x in (*(outputs[name] for name in losses), *asides)])
        arrived = None
        if numbers.is_cuda:
            here = torch.empty(len(numbers), pin_memory=True)
            numbers, arrived = here.copy_(numbers, non_blocking=True), torch.cuda.Event()
            arrived.record()
        generation = module.rasterizer.generation
        return _Line(
            numbers, arrived, losses, known, trainer.global_step, module.images, module.progress, generation
        )  # fmt: skip

    def _report(self, trainer, module: AvatarModule) -> None:
        """Read, show and log the line that was sent last, if there is one."""
        line, self._line = self._line, None
        if line is None:
            return
        if line.arrived is not None:
            line.arrived.synchronize()
        *losses, psnr, lost, full = line.numbers.tolist()
        module.check_finite(int(lost), line.steps)
        if line.generation == module.rasterizer.generation:
            module.rasterizer.check_capacity(int(full))
        values = {f"loss/{name}": value for name, value in zip(line.losses, losses)} | {"train/psnr": psnr}
        if module.replicas is not None:  # each has its shard's
            values = module.replicas.mean(values)
        values |= line.known
        if trainer.logger is not None:
            trainer.logger.log_metrics(values, step=line.images)
        if self._bar is not None:
            held_out = trainer.callback_metrics.get("novel_view/psnr")
            self._bar.n = round(100 * line.progress, 1)
            self._bar.set_postfix_str(
                f"loss {values['loss/total']:.4f}, PSNR {values['train/psnr']:.1f} in training crops"
                + (f", {float(held_out):.2f} held out" if held_out is not None else "")
                + f", {values['gaussians/number']:.0f} Gaussians, {line.images} images, "
                f"{values['perf/images_per_second']:.1f} images/s, {values['perf/memory_gib']:.1f} GiB"
            )

    def on_train_end(self, trainer, module) -> None:
        self.close()

    def on_exception(self, trainer, module, exception) -> None:
        self.close()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class MediaCallback(pl.Callback):
    """media/training/<images>.png at every validation: truth | render | error | alpha of the first held-out view."""

    def __init__(self, folder: str):
        self.folder = Path(folder)

    def on_validation_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        if batch_idx or trainer.sanity_checking or not trainer.is_global_zero:
            return
        truth, rgb = batch.rgb[0, 0].float() / 255, outputs["rgb"][0, 0]
        picture = strip(
            [truth, rgb, error_map(rgb, truth), outputs["alpha"][0, 0]],
            ["truth", f"{module.images} images", "error", "alpha"],
        )
        write_image(self.folder / f"{module.images:07d}.png", picture)
