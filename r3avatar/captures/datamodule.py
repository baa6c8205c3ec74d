"""The Lightning DataModule: a capture's training steps and evaluation frames, with the frame cache or without it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
from torch.utils.data import DataLoader, Dataset

from r3avatar.captures.batches import crop_batch, full_batch
from r3avatar.captures.boxes import PosableBody, body_bounds
from r3avatar.captures.cache import FrameStore, prepare
from r3avatar.captures.capture import Capture
from r3avatar.captures.prepared_frame import DirectFrames, FrameSource
from r3avatar.captures.schedule import Schedule, Step
from r3avatar.types import Batch

# A trainer counts steps, not epochs: the training loader is one epoch that does not end. It has a length so that
# Lightning fetches no batch ahead of the step that uses it, and the position in a checkpoint is exact.
_ENDLESS = 10**9


class CaptureDataModule(pl.LightningDataModule):
    """Batches of a capture.

    Training: endless steps of frames_per_step frames x views_per_step views of split 'train', balanced (`Schedule`),
    cropped (`crop_batch`), the same for the same seed; the position is part of `state_dict`.
    Validation: validation_frames evenly spaced frames of split 'novel_view' (None: all of them), all its views.

    cache: folder of the frame cache, None for its default place, 'off' to read the capture's files at every step.
    workers: processes that load batches, 0 = this one (fastest with the cache). Frames that the cache lacks are
        prepared by as many, 0 = one a core. Processes are spawned: scripts guard their entry.
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
    ):
        super().__init__()
        split = capture.split("train")
        self.capture, self._body, self._cache, self._workers = capture, body, cache, workers
        self._validation_frames = validation_frames
        self._schedule = Schedule(len(split.frames), len(split.cameras), frames_per_step, views_per_step, seed)
        self._source: FrameSource | None = None
        self.position = 0  # training steps handed out

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
        """The training steps from `position` on."""
        split = self.capture.split("train")
        frames = [self.capture.frame_index(frame) for frame in split.frames]
        cameras = [self.capture.camera_index(camera) for camera in split.cameras]
        steps = _Steps(self.capture, self.source, frames, cameras)
        return _Loader(steps, self._remaining_steps, _ENDLESS, self._workers, self._count_step)

    def val_dataloader(self) -> Iterable[Batch]:
        """Some frames of the novel views (see the class), empty if the capture has no such split."""
        if "novel_view" not in self.capture.splits:
            return []
        return self.eval_dataloader("novel_view", self._validation_frames)

    def eval_dataloader(self, split: str, max_frames: int | None = None) -> Iterable[Batch]:
        """Whole frames of a split, one frame a batch with all the split's views of one image size.

        max_frames: that many frames, evenly spaced; None: all. Frames come in the split's order.
        """
        wanted = self.capture.split(split)
        frames = [self.capture.frame_index(frame) for frame in wanted.frames]
        if max_frames is not None and max_frames < len(frames):
            frames = [frames[i] for i in np.linspace(0, len(frames) - 1, max_frames).round().astype(int)]
        by_size: dict[tuple[int, int], list[int]] = {}
        for camera_id in wanted.cameras:
            camera = self.capture.camera_index(camera_id)
            size = self.capture.cameras[camera].width, self.capture.cameras[camera].height
            by_size.setdefault(size, []).append(camera)
        plans = [(frame, views) for frame in frames for views in by_size.values()]
        return _Loader(_Views(self.capture, self.source), lambda: plans, len(plans), self._workers)

    def state_dict(self) -> dict[str, object]:
        """Position in the training steps, and what decides their order."""
        return {"position": self.position, "schedule": vars(self._schedule)}

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        """Go on after the checkpoint's last step; ValueError if its steps were drawn otherwise."""
        changed = {
            name: (value, getattr(self._schedule, name))
            for name, value in state_dict["schedule"].items()
            if value != getattr(self._schedule, name)
        }
        if changed:
            listed = ", ".join(f"{name} {was} (now {now})" for name, (was, now) in changed.items())
            raise ValueError(f"the checkpoint's training steps were drawn with {listed}; resume with the same values")
        self.position = state_dict["position"]

    def _remaining_steps(self) -> Iterator[Step]:
        return self._schedule.steps(self.position)

    def _count_step(self) -> None:
        self.position += 1


class _Steps(Dataset):
    """Training batches by step: frames and views are positions in the split's lists."""

    def __init__(self, capture: Capture, source: FrameSource, frames: list[int], cameras: list[int]):
        self._capture, self._source, self._frames, self._cameras = capture, source, frames, cameras

    def __getitem__(self, step: Step) -> Batch:
        frames = [self._frames[frame] for frame in step[0]]
        views = [[self._cameras[view] for view in row] for row in step[1]]
        return crop_batch(self._capture, self._source, frames, views)


class _Views(Dataset):
    """Evaluation batches by frame and views, positions in the capture's lists."""

    def __init__(self, capture: Capture, source: FrameSource):
        self._capture, self._source = capture, source

    def __getitem__(self, plan: tuple[int, list[int]]) -> Batch:
        return full_batch(self._capture, self._source, *plan)


class _Loader:
    """A data set's batches for the plans that `plans()` gives at each pass, loaded here or by worker processes."""

    def __init__(
        self,
        dataset: Dataset,
        plans: Callable[[], Iterable],
        length: int,
        workers: int,
        handed_out: Callable[[], None] | None = None,
    ):
        self._dataset, self._plans, self._length, self._handed_out = dataset, plans, length, handed_out
        self._processes = None
        if workers:
            # Spawned, as HDF5 handles do not survive a fork; kept from pass to pass, as starting takes seconds.
            self._processes = DataLoader(
                dataset, batch_size=None, sampler=_Plans(plans), num_workers=workers,
                multiprocessing_context="spawn", persistent_workers=True,
            )  # fmt: skip

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Batch]:
        batches = self._processes if self._processes is not None else map(self._dataset.__getitem__, self._plans())
        for batch in batches:
            if self._handed_out is not None:
                self._handed_out()
            yield batch


class _Plans:
    """What DataLoader calls a sampler: iterates anew over `plans()`."""

    def __init__(self, plans: Callable[[], Iterable]):
        self._plans = plans

    def __iter__(self) -> Iterator:
        return iter(self._plans())
