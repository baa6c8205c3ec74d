"""The LightningModule: avatar, rasterizer and loss wired together, nothing else."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Protocol

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.profiler import record_function

from r3avatar.avatar import Attributes, Avatar
from r3avatar.cuda_graphs import RecordedFunction
from r3avatar.evaluation.metrics import psnr, ssim
from r3avatar.rasterizer import Rasterizer
from r3avatar.training.finite import FiniteWatch
from r3avatar.training.optimizer import LearningRates, place_rates
from r3avatar.training.replicas import Replicas, replicas_of
from r3avatar.training.room import Room
from r3avatar.training.stopping import NotFinite
from r3avatar.types import Batch, RenderOutput

_GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples' fractions are spread evenly


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


class Observer(Protocol):
    """Who looks at every step's gradients, before they are used."""

    def collecting(self, images: int) -> bool:
        """Whether it still looks after so many images."""
        ...

    def reserve(self, count: int, rows: int, device: torch.device) -> None:
        """Be ready for steps of so many rows, of which the first `count` are Gaussians; before one is recorded."""
        ...

    def accumulate(self, render: RenderOutput, attributes: Attributes) -> None:
        """Take in a step after its backward pass; on CUDA part of a graph: in place, without synchronisation."""
        ...


class AvatarModule(pl.LightningModule):
    """Trains an `Avatar`. Images seen, not steps, drive every schedule.

    A step is one function of its batch: forward, backward, statistics, update. On CUDA it is recorded as a graph. Of
    several `Replicas` each takes its shard of the step, whose gradients they average before the update.
    """

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
        cuda_graph: bool | None = None,
        general: float = 0.0,
    ):
        """
        Args:
            extent: radius of the training cameras, metres.
            sh_degree_every: images between two growths of the harmonics' degree.
            cuda_graph: record steps as CUDA graphs; None: on CUDA, if the rasterizer can be recorded.
            general: share of the frames trained at the codebook's general moment instead of their own, if it has one.
        """
        super().__init__()
        # Lightning's own order of a step would launch its kernels one by one.
        self.automatic_optimization = False
        self.avatar, self.rasterizer, self.loss = avatar, rasterizer, loss
        self.make_optimizer, self.learning_rates, self.budget = optimizer, learning_rates, budget
        if not 0 <= general < 1:
            raise ValueError(f"batch.general = {general} is a share of the frames: 0 or more, less than 1")
        self.extent, self.sh_degree_every, self.cuda_graph = extent, sh_degree_every, cuda_graph
        self.general = general if avatar.codebook.general_time is not None else 0.0
        self.images, self.seconds = 0, 0.0  # seen, and spent in training so far, over all of a run's starts
        self.curve: list[dict[str, float]] = []  # of every validation: images, seconds, Gaussians, novel-view metrics
        self.render: RenderOutput | None = None  # of the latest step
        self.observer: Observer | None = None  # the density control's callback
        self.replicas: Replicas | None = None  # where several processes train this avatar
        self._graph: RecordedFunction | None = None
        self._room: Room | None = None  # where steps are recorded
        self._finite: FiniteWatch | None = None
        self._clock = time.monotonic()

    @property
    def progress(self) -> float:
        """Share of the budget that is spent."""
        return self.budget.progress(self.images, self.seconds)

    def on_train_start(self) -> None:
        optimizer = self.optimizers().optimizer
        place_rates(optimizer, self.device)
        can = self.device.type == "cuda" and self.rasterizer.capturable
        if self.cuda_graph and not can:
            raise ValueError(
                f"cuda_graph=true needs CUDA and a rasterizer that can be recorded (rasterizer=triton), not "
                f"{self.rasterizer} on {self.device}; set cuda_graph=null"
            )
        self._graph = RecordedFunction() if can and self.cuda_graph is not False else None
        self._room = None if self._graph is None else Room(self.avatar.gaussians, optimizer)
        self._finite = FiniteWatch(self.device)
        optimizer.found_inf = self._finite.found  # no update from a step that is no numbers on
        self.replicas = replicas_of(self.trainer)
        if self.replicas is not None:
            self.replicas.start(self.avatar, optimizer, recording=self._graph is not None)
        if self.progress >= 1:  # resumed at its end
            self.trainer.should_stop = True
        self._clock = time.monotonic()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        images = self.images_of_step(batch)
        self.learning_rates.apply(self.optimizers().optimizer, self.progress, self.images, images)
        canonical = self.avatar.gaussians
        canonical.active_sh_degree = min(canonical.max_sh_degree, self.images // self.sh_degree_every)

    def images_of_step(self, batch: Batch) -> int:
        """Of all replicas' shards of the step together."""
        return batch.rgb.shape[0] * batch.rgb.shape[1] * (1 if self.replicas is None else self.replicas.count)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        self.images += self.images_of_step(batch)
        if self.general:
            batch = self._some_general(batch)
        wrapped = self.optimizers()
        observe = self.observer is not None and self.observer.collecting(self.images)
        terms: dict[str, Tensor] = {}
        buffer = self._reserve(wrapped.optimizer, observe)

        def step() -> None:
            def function(batch: Batch) -> dict[str, Tensor]:
                with self._all_rows():
                    return self._step(batch, wrapped.optimizer, observe)

            if self._graph is None:
                terms.update(function(batch))
            else:
                kind = self.avatar.gaussians.active_sh_degree, observe
                terms.update(self._graph(function, (batch,), kind, self._addresses(wrapped.optimizer, buffer)))
            if self.replicas is not None and not self.replicas.inside:
                with self._all_rows():
                    self.replicas.hand_out()
                    self._update(terms["total"], wrapped.optimizer)
            # The update is part of the step; without gradients Lightning's optimizer has only to count it.
            wrapped.optimizer.zero_grad(set_to_none=True)

        wrapped.step(closure=step)
        return {**terms, "loss": terms["total"]}

    def _all_rows(self) -> AbstractContextManager:
        """Where a recorded step is made or gone on with: the avatar with the room that it has for Gaussians."""
        return nullcontext() if self._room is None else self._room.open()

    def _reserve(self, optimizer: torch.optim.Optimizer, observe: bool) -> int | None:
        """Make ready what a recording may not allocate: room for Gaussians, their statistics, and of several replicas
        the buffer of gradients, whose address it returns."""
        if self._room is not None:
            self._room.settle()
            if observe:
                assert self.observer is not None
                self.observer.reserve(self._room.count, self._room.rows, self.device)
        if self.replicas is None:
            return None
        with self._all_rows():
            return self.replicas.reserve(optimizer)

    def _some_general(self, batch: Batch) -> Batch:
        """The batch with a share of its frames at the general moment.

        Which ones follows from the frames' ids and the images seen, so that it is the same on every replica, in every
        repetition and after a resume; without waiting for the device.
        """
        draw = torch.frac(batch.frame * _GOLDEN + (self.images * _GOLDEN**2) % 1)
        time = torch.where(draw < self.general, self.avatar.codebook.general_time, batch.time)
        return replace(batch, time=time.to(batch.time.dtype))

    def _step(self, batch: Batch, optimizer: torch.optim.Optimizer, observe: bool) -> dict[str, Tensor]:
        """Forward, backward, statistics, update; nothing in it waits for the device."""
        self.render = None  # with the graph of the step before
        terms, render, attributes = self.forward_backward(batch)
        if observe:
            assert self.observer is not None
            with record_function("step: statistics"):
                self.observer.accumulate(render, attributes)
        if self.replicas is not None:
            self.replicas.collect(optimizer)
        if self.replicas is None or self.replicas.inside:
            self._update(terms["total"], optimizer)
        self.render = RenderOutput(render.rgb.detach(), render.alpha.detach(), render.radii, render.means2d.detach())
        return {name: value.detach() for name, value in terms.items()}

    def _update(self, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """The end of a step: the replicas' average of the gradients, a look whether they are numbers, Adam."""
        if self.replicas is not None:
            with record_function("step: average of replicas"):
                self.replicas.average()
        if self._finite is not None:
            parameters = (p for group in optimizer.param_groups for p in group["params"])
            with record_function("step: finite"):
                self._finite.look(loss, [p.grad for p in parameters if p.grad is not None])
        with record_function("step: Adam"):
            optimizer.step()

    def forward_backward(self, batch: Batch) -> tuple[dict[str, Tensor], RenderOutput, Attributes]:
        """The loss's terms, the render and the decoder's attributes; parameters have their gradients."""
        with record_function("step: codebook and decoder"):
            attributes = self.avatar.record(batch.time)
        with record_function("step: pose and skin"):
            gaussians = self.avatar.reconstruct(attributes, self.avatar.dressed(batch.pose, batch.frame))
        with record_function("step: rasterize"):
            render = self.rasterizer(gaussians, batch.cameras)
        with record_function("step: loss"):
            terms = self.loss(render, batch, attributes.offset, self.avatar.codebook, self.avatar.gaussians.alive)
        with record_function("step: backward"):
            terms["total"].backward()
        return terms, render, attributes

    def _addresses(self, optimizer: torch.optim.Optimizer, buffer: int | None) -> tuple:
        """Where a recorded step would read and write: changes where a recording is void."""
        assert self._room is not None
        parameters = tuple(p.data_ptr() for group in optimizer.param_groups for p in group["params"])
        return (*parameters, self._room.rows, self.rasterizer.generation, buffer)

    def forget_recordings(self) -> None:
        """Let go of recorded steps; the next training records anew."""
        self._graph = self._room = None

    def on_train_batch_end(self, outputs, batch: Batch, batch_idx: int) -> None:
        if self.budget.progress(self.images, self.seconds) >= 1 and self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # what is still under way is training time
        self.count_time()
        if self.progress >= 1:
            self.trainer.should_stop = True

    def count_time(self) -> None:
        """Add the time since it was last counted to that of training."""
        now = time.monotonic()
        self.seconds, self._clock = self.seconds + now - self._clock, now
        if self.replicas is not None and self.budget.minutes is not None:  # rates and the end follow it
            self.seconds = self.replicas.of_first(self.seconds)

    def restart_clock(self) -> None:
        """What has passed since the last count was no training."""
        self._clock = time.monotonic()

    def check_finite(self, lost: int | None = None, steps: int | None = None) -> None:
        """Raise NotFinite if a step was no numbers. The avatar is as it was before that step.

        lost: what `lost_steps` was after so many `steps`, where the host knows it; None: now, waiting for the device.
        """
        if lost is None:
            lost = 0 if self._finite is None else self._finite.lost()
        if lost:
            step = (self.trainer.global_step if steps is None else steps) - lost
            raise NotFinite(f"training step {step} is not finite", step)

    @property
    def lost_steps(self) -> Tensor:
        """`FiniteWatch.steps`, on the device; from the training's start on."""
        assert self._finite is not None
        return self._finite.steps

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        render = self.rasterizer(
            self.avatar(self.avatar.dressed(batch.pose, batch.frame), batch.time), batch.cameras
        )
        truth, image = (batch.rgb.float() / 255).flatten(0, 1), render.rgb.clamp(0, 1).flatten(0, 1)
        for name, metric in {"psnr": psnr, "ssim": ssim}.items():
            value = metric(image, truth).mean()
            key, views = f"novel_view/{name}", batch.rgb.shape[1]
            # The dashboard's callback logs it, by images seen.
            self.log(key, value, batch_size=views, on_epoch=True, on_step=False, logger=False)
        return {"rgb": render.rgb, "alpha": render.alpha}

    def on_validation_start(self) -> None:
        if self.device.type == "cuda" and not self.trainer.sanity_checking:
            torch.cuda.synchronize(self.device)  # the host is some steps ahead; they are training
            self.count_time()

    def on_validation_epoch_end(self) -> None:
        metrics = self.trainer.callback_metrics
        values = {name: round(float(metrics[f"novel_view/{name}"]), 5) for name in ("psnr", "ssim")}
        at = {"images": self.images, "seconds": round(self.seconds, 3), "gaussians": len(self.avatar.gaussians)}
        self.curve.append({**at, **values})

    def on_validation_end(self) -> None:
        self.restart_clock()  # a validation is not training time

    def configure_optimizers(self):
        return self.make_optimizer(self.avatar, self.extent)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["progress"] = {"images": self.images, "seconds": self.seconds, "curve": self.curve}

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        progress = checkpoint["progress"]
        self.images, self.seconds, self.curve = progress["images"], progress["seconds"], progress["curve"]
