"""What a dashboard gets while a run trains."""

from __future__ import annotations

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers.logger import Logger

from r3avatar.avatar import Attributes
from r3avatar.dashboards.pictures import gaussian_histograms, plane_changes, plane_pictures, validation_strip
from r3avatar.dashboards.run_log import RunLog
from r3avatar.training.module import AvatarModule
from r3avatar.types import Batch

_STRIPS = 4  # of a validation, at most


class DashboardCallback(pl.Callback):
    """Logs every validation: novel-view metrics, strips, the Gaussians' histograms, the codebook's planes.

    Steps are `ProgressCallback`'s; nothing here is called in one. A checkpoint remembers the log's run, which goes on
    with it. Of several processes the first one has it.
    """

    def __init__(self, log: Logger, strips: bool = True):
        """strips: whether to log pictures of validated frames."""
        self.run_log, self.strips = log, strips
        self._pictures: list[tuple[np.ndarray, str]] = []
        self._attributes: Attributes | None = None

    def on_train_start(self, trainer: pl.Trainer, module: AvatarModule) -> None:
        if isinstance(self.run_log, RunLog):
            self.run_log.begin()

    def on_validation_batch_end(
        self, trainer: pl.Trainer, module: AvatarModule, outputs, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if trainer.sanity_checking:
            return
        if batch_idx == 0:
            with torch.no_grad():
                self._attributes = module.avatar.record(batch.time[:1])
        if self.strips and isinstance(self.run_log, RunLog) and batch_idx < _STRIPS:
            view = batch_idx % batch.rgb.shape[1]  # another one every frame, the same ones every time
            frame = int(batch.frame[0])
            labels = [f"truth, frame {frame}, view {view}", f"{module.images} images", "error", "alpha"]
            truth, rgb = batch.rgb[0, view].float() / 255, outputs["rgb"][0, view].clamp(0, 1)
            picture = validation_strip(truth, rgb, outputs["alpha"][0, view], labels)
            self._pictures.append((picture, f"frame {frame}, view {view}"))

    def on_validation_end(self, trainer: pl.Trainer, module: AvatarModule) -> None:
        if trainer.sanity_checking or self._attributes is None:
            return
        step, codebook = module.images, module.avatar.codebook
        histograms, medians = gaussian_histograms(self._attributes)
        metrics = {f"novel_view/{name}": module.curve[-1][name] for name in ("psnr", "ssim")}
        self.run_log.log_metrics({**metrics, **medians, **plane_changes(codebook)}, step)
        if isinstance(self.run_log, RunLog):
            for key, (counts, edges) in histograms.items():
                self.run_log.log_histogram(key, counts, edges, step)
            self.run_log.log_pictures("codebook/planes", *plane_pictures(codebook), step)
            if self._pictures:
                self.run_log.log_pictures("media/strips", *map(list, zip(*self._pictures)), step)
        self._pictures, self._attributes = [], None

    def state_dict(self) -> dict:
        return {"run_id": getattr(self.run_log, "run_id", None)}

    def load_state_dict(self, state_dict: dict) -> None:
        if isinstance(self.run_log, RunLog):
            self.run_log.run_id = state_dict["run_id"]
