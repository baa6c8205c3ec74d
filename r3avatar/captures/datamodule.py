"""The Lightning DataModule: a capture's training steps and evaluation frames, with the frame cache or without it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch

from r3avatar.captures.batches import crop_batch
from r3avatar.captures.boxes import PosableBody, body_bounds
from r3avatar.captures.cache import FrameStore, prepare
from r3avatar.captures.capture import Capture, Split
from r3avatar.captures.device_frames import training_batches
from r3avatar.captures.loader import BatchLoader, EvalBatches, TrainBatches, TrainLoader
from r3avatar.captures.prepared_frame import DirectFrames, FrameSource
from r3avatar.captures.schedule import Schedule
from r3avatar.captures.shard import Shard, ShardedSteps
from r3avatar.types import Batch


class CaptureDataModule(pl.LightningDataModule):
    """Batches of a capture.

    Training: endless steps of frames_per_step frames x views_per_step views of split 'train', balanced (`Schedule`),
    cropped (`crop_batch`), the same for the same seed; the position is part of `state_dict`. On a GPU the crops have
    one constant size and come from its memory, or are streamed to it (`training_batches`).
    Validation: validation_frames evenly spaced frames of split 'novel_view' (None: all of them), all its views.

    cache: folder of the frame cache, None for its default place, 'off' to read the capture's files at every step.
    workers: processes that load batches, 0 = this one (fastest with the cache). Frames that the cache lacks are
        prepared by as many, 0 = one a core. Processes are spawned: scripts guard their entry. On a GPU the training
        batches need none.
    device: where training batches are made; None: the trainer's device if that is a GPU, otherwise plain host batches.
    gpu_gib: GiB of the GPU that the training frames may take, None: 40 % of what is free, 0: stream them.
    moving_view: train on one view a frame, as of one camera that goes around: frame i's is the split's camera i mod
        their number; views_per_step is 1.
    overfit_frames: train on so many first frames of the split alone, and validate on the same images; None: all.
    shard: the part of every training step that this process makes, None: all of it.
    """

    def __init__(
        self,
        capture: Capture,
        body: PosableBody,
        *,
        frames_per_step: int = 1,
        views_per_step: int = 1,
        cache: str | Path | None = None,
        workers: int = 0,
        seed: int = 0,
        validation_frames: int | None = None,
        device: torch.device | str | None = None,
        gpu_gib: float | None = None,
        moving_view: bool = False,
        overfit_frames: int | None = None,
        shard: Shard | None = None,
    ):
        super().__init__()
        split = capture.split("train")
        if overfit_frames is not None:
            if overfit_frames < 1:
                raise ValueError(f"overfit_frames is {overfit_frames}; expected at least 1, or null")
            split = Split(split.cameras, split.frames[:overfit_frames])
        self._split, self._overfit = split, overfit_frames is not None
        self.capture, self._body, self._cache, self._workers = capture, body, cache, workers
        self._validation_frames, self._moving_view = validation_frames, moving_view
        self.schedule = Schedule(
            len(split.frames), len(split.cameras), frames_per_step, views_per_step, seed, moving_view=moving_view
        )
        self._steps = self.schedule if shard is None else ShardedSteps(self.schedule, shard)
        self._device, self._gpu_gib = None if device is None else torch.device(device), gpu_gib
        self._source: FrameSource | None = None
        self._on_device: tuple[torch.device, Iterable[Batch]] | None = None  # loaded once

    @property
    def cached(self) -> bool:
        """Whether frames come from the cache."""
        return self._cache not in ("off", False)  # YAML reads a bare `off` as False

    @property
    def source(self) -> FrameSource:
        """Where frames come from; the first use prepares what the cache lacks."""
        if self._source is None:
            if self.cached:
                self._source = prepare(self.capture, self._body, self._cache, workers=self._workers or None)
            else:
                bounds = body_bounds(self._body, self.capture.poses, self.capture.box_margin)
                self._source = DirectFrames(self.capture, bounds)
        return self._source

    @property
    def store_folder(self) -> Path | None:
        """The cache's folder of this capture, None without the cache."""
        return self.source.folder if isinstance(self.source, FrameStore) else None

    def prepare_data(self) -> None:
        """Prepare the frames of every split that the cache lacks; ranks of one machine share the result."""
        if self.cached:
            _ = self.source

    def train_dataloader(self) -> Iterable[Batch]:
        """The training steps from the schedule's position on."""
        split = self._split
        frames = [self.capture.frame_index(frame) for frame in split.frames]
        cameras = [self.capture.camera_index(camera) for camera in split.cameras]
        device = self._batch_device()
        if device is None:
            dataset = TrainBatches(self.capture, self.source, frames, cameras)
            return TrainLoader(BatchLoader(dataset, self._steps, self._workers), self.schedule)
        if self._on_device is None or self._on_device[0] != device:
            self._on_device = (
                device,
                training_batches(self.capture, self.source, frames, cameras, self._steps, device, self._gpu_gib),
            )
        return TrainLoader(self._on_device[1], self.schedule)

    def training_step(self, number: int) -> tuple[list[int], list[list[str]], Batch]:
        """A training step by its number, 0 the run's first: frame ids [F], camera ids [F][V], and its batch (host)."""
        split = self._split
        frames, views = self.schedule.at(number)
        frame_ids = [split.frames[frame] for frame in frames]
        camera_ids = [[split.cameras[view] for view in row] for row in views]
        batch = crop_batch(
            self.capture,
            self.source,
            [self.capture.frame_index(frame) for frame in frame_ids],
            [[self.capture.camera_index(camera) for camera in row] for row in camera_ids],
        )
        return frame_ids, camera_ids, batch

    def initial_images(self, frames: int) -> Iterable[Batch]:
        """Whole images of so many training frames, evenly spaced, a frame a batch, made in this process.

        With a moving view each frame has the one that is trained on.
        """
        split = self._split
        if frames < 1:
            raise ValueError(f"{frames} frames of first images; expected at least 1")
        rows = np.linspace(0, len(split.frames) - 1, min(frames, len(split.frames))).round().astype(int).tolist()
        plans = []
        for row in rows:
            cameras = [split.cameras[row % len(split.cameras)]] if self._moving_view else split.cameras
            plans += [(self.capture.frame_index(split.frames[row]), views) for views in self._by_size(cameras)]
        return BatchLoader(EvalBatches(self.capture, self.source), plans, 0)

    def _batch_device(self) -> torch.device | None:
        """Where training batches are made, None: on the host, for Lightning to move."""
        if self._device is not None:
            return self._device
        device = self.trainer.strategy.root_device if self.trainer is not None else torch.device("cpu")
        return device if device.type == "cuda" else None

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """A batch that is there already stays as it is: moving it would cost a call a tensor at every step."""
        return batch if batch.rgb.device == device else batch.to(device, non_blocking=True)

    def val_dataloader(self) -> Iterable[Batch]:
        """Some frames of the novel views (see the class), empty if the capture has no such split."""
        if self._overfit:
            return self._whole_frames(self._split, None)
        if "novel_view" not in self.capture.splits:
            return []
        return self.eval_dataloader("novel_view", self._validation_frames)

    def eval_dataloader(self, split: str, max_frames: int | None = None) -> Iterable[Batch]:
        """Whole frames of a split, one frame a batch with all the split's views of one image size.

        max_frames: that many frames, evenly spaced; None: all. Frames come in the split's order.
        """
        return self._whole_frames(self.capture.split(split), max_frames)

    def _whole_frames(self, wanted: Split, max_frames: int | None) -> Iterable[Batch]:
        frames = [self.capture.frame_index(frame) for frame in wanted.frames]
        if max_frames is not None and max_frames < len(frames):
            frames = [frames[i] for i in np.linspace(0, len(frames) - 1, max_frames).round().astype(int)]
        plans = [(frame, views) for frame in frames for views in self._by_size(wanted.cameras)]
        return BatchLoader(EvalBatches(self.capture, self.source), plans, self._workers)

    def _by_size(self, camera_ids: list[str]) -> list[list[int]]:
        """The cameras' positions, those of one image size together."""
        by_size: dict[tuple[int, int], list[int]] = {}
        for camera_id in camera_ids:
            camera = self.capture.camera_index(camera_id)
            size = self.capture.cameras[camera].width, self.capture.cameras[camera].height
            by_size.setdefault(size, []).append(camera)
        return list(by_size.values())

    def state_dict(self) -> dict[str, int]:
        """The position in the training steps (`Schedule.state_dict`)."""
        return self.schedule.state_dict()

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on after the checkpoint's last step; ValueError if its steps were drawn otherwise."""
        self.schedule.load_state_dict(state_dict)
