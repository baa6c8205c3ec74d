"""The LightningModule: avatar, rasterizer and loss wired together, nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from r3avatar.avatar import Attributes, Avatar
from r3avatar.evaluation.metrics import psnr
from r3avatar.rasterizer import Rasterizer
from r3avatar.training.optimizer import LearningRates
from r3avatar.types import Batch, RenderOutput


class Budget:
    """How long a run may be: `images` seen or `minutes` of training, whichever comes first; None is no bound."""

    def __init__(self, images: int | None, minutes: float | None):
        if images is None and minutes is None:
            raise ValueError("a run needs an end: set budget.images=N or budget.minutes=M")
        for name, value in {"images": images, "minutes": minutes}.items():
            if value is not None and value <= 0:
                raise ValueError(f"budget.{name} must be positive, not {value}")
        self.images, self.minutes = images, minutes

    def progress(self, images: int, seconds: float) -> float:
        """Share of the budget that is spent, 0 to 1."""
        by_images = 0.0 if self.images is None else images / self.images
        by_time = 0.0 if self.minutes is None else seconds / (60 * self.minutes)
        return min(1.0, max(by_images, by_time))


class AvatarModule(pl.LightningModule):
    """Trains an `Avatar`. Images seen, not steps, drive every schedule."""

    def __init__(
        self,
        avatar: Avatar,
        rasterizer: Rasterizer,
        loss: nn.Module,
        optimizer: Callable[..., torch.optim.Optimizer],
        learning_rates: LearningRates,
        budget: Budget,
        extent: float,
        sh_degree_every: int = 1000,
    ):
        """extent: radius of the training cameras, metres. sh_degree_every: images between two growths of the degree."""
        super().__init__()
        self.avatar, self.rasterizer, self.loss = avatar, rasterizer, loss
        self.make_optimizer, self.learning_rates, self.budget = optimizer, learning_rates, budget
        self.extent, self.sh_degree_every = extent, sh_degree_every
        self.images, self.seconds = 0, 0.0  # seen, and spent in training so far, checkpoints included
        self.render: RenderOutput | None = None  # of the step under way, for the density control
        self.attributes: Attributes | None = None
        self._clock = time.monotonic()

    @property
    def progress(self) -> float:
        """Share of the budget that is spent."""
        return self.budget.progress(self.images, self.seconds)

    def on_train_start(self) -> None:
        self._clock = time.monotonic()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        images = batch.rgb.shape[0] * batch.rgb.shape[1]
        self.learning_rates.apply(self.optimizers().optimizer, self.progress, self.images, images)
        canonical = self.avatar.gaussians
        canonical.active_sh_degree = min(canonical.max_sh_degree, self.images // self.sh_degree_every)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        self.attributes = self.avatar.record(batch.time)
        self.render = self.rasterizer(self.avatar.reconstruct(self.attributes, batch.pose), batch.cameras)
        terms = self.loss(self.render, batch)
        self.images += batch.rgb.shape[0] * batch.rgb.shape[1]
        return {**terms, "loss": terms["total"]}

    def on_train_batch_end(self, outputs, batch: Batch, batch_idx: int) -> None:
        now = time.monotonic()
        self.seconds, self._clock = self.seconds + now - self._clock, now
        if self.progress >= 1:
            self.trainer.should_stop = True

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        render = self.rasterizer(self.avatar(batch.pose, batch.time), batch.cameras)
        truth = batch.rgb.float() / 255
        value = psnr(render.rgb.clamp(0, 1).flatten(0, 1), truth.flatten(0, 1)).mean()
        self.log("novel_view/psnr", value, batch_size=batch.rgb.shape[1], on_epoch=True, on_step=False)
        return {"rgb": render.rgb, "alpha": render.alpha}

    def on_validation_end(self) -> None:
        self._clock = time.monotonic()  # a validation is not training time

    def configure_optimizers(self):
        return self.make_optimizer(self.avatar, self.extent)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["progress"] = {"images": self.images, "seconds": self.seconds}

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.images, self.seconds = checkpoint["progress"]["images"], checkpoint["progress"]["seconds"]
