"""What happens around the training step: progress, density control, pictures, logged scalars."""

from __future__ import annotations

import resource
import sys
from collections import deque
from pathlib import Path

import pytorch_lightning as pl
import torch
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


class ProgressCallback(pl.Callback):
    """One line that tells how the run is doing: loss, PSNR, Gaussians, images/s, memory, time left by the budget.

    The step's values are read (a device synchronisation) only every `every` steps. The same values go to the logger.
    """

    def __init__(self, every: int = 20):
        self.every = every
        self._recent: deque[tuple[float, int, int]] = deque(maxlen=10)  # seconds, images, steps
        self._bar: tqdm | None = None

    def on_train_start(self, trainer, module: AvatarModule) -> None:
        self._bar = tqdm(
            total=100, unit="%", desc="training", dynamic_ncols=True, bar_format="{l_bar}{bar}|{postfix}",
            disable=not trainer.is_global_zero,
        )  # fmt: skip
        self._recent.append((module.seconds, module.images, trainer.global_step))

    def on_train_batch_end(self, trainer, module: AvatarModule, outputs, batch, batch_idx) -> None:
        if trainer.global_step % self.every and module.progress < 1:
            return
        module.check_finite()
        module.rasterizer.check_capacity()
        self._recent.append((module.seconds, module.images, trainer.global_step))
        (t0, i0, s0), (t1, i1, s1) = self._recent[0], self._recent[-1]
        values = {f"loss/{k}": float(v.detach()) for k, v in outputs.items() if k != "loss"}
        truth = batch.rgb.float() / 255
        values["train/psnr"] = float(psnr_pooled(module.render.rgb.flatten(0, 1), truth.flatten(0, 1)).mean())
        if module.replicas is not None:  # each has its shard's
            values = module.replicas.mean(values)
        values |= {
            "train/images": float(module.images),
            "train/progress": module.progress,
            "gaussians/number": float(len(module.avatar.gaussians)),
            "perf/images_per_second": (i1 - i0) / max(t1 - t0, 1e-9),
            "perf/step_ms": 1e3 * (t1 - t0) / max(s1 - s0, 1),
            "perf/memory_gib": peak_memory_gib(),
        }
        values |= {f"train/lr_{name}": rate for name, rate in module.learning_rates.current.items()}
        if trainer.logger is not None:
            trainer.logger.log_metrics(values, step=module.images)
        if self._bar is not None:
            held_out = trainer.callback_metrics.get("novel_view/psnr")
            self._bar.n = round(100 * module.progress, 1)
            self._bar.set_postfix_str(
                f"loss {values['loss/total']:.4f}, PSNR {values['train/psnr']:.1f} in training crops"
                + (f", {float(held_out):.2f} held out" if held_out is not None else "")
                + f", {values['gaussians/number']:.0f} Gaussians, {module.images} images, "
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
