"""Loading batches one after the other, in this process or in others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch.utils.data import DataLoader, Dataset

from r3avatar.captures.batches import crop_batch, full_batch
from r3avatar.captures.capture import Capture
from r3avatar.captures.prepared_frame import FrameSource
from r3avatar.captures.schedule import Schedule, Step
from r3avatar.types import Batch

# A trainer counts steps, not epochs: the training loader is one epoch that does not end. It has a length so that
# Lightning fetches no batch ahead of the step that uses it, and the position in a checkpoint is exact.
_ENDLESS = 10**9


class TrainBatches(Dataset):
    """Training batches by step; frames and cameras are the split's, as positions in the capture's lists."""

    def __init__(self, capture: Capture, source: FrameSource, frames: list[int], cameras: list[int]):
        self._capture, self._source, self._frames, self._cameras = capture, source, frames, cameras

    def __getitem__(self, step: Step) -> Batch:
        frames = [self._frames[frame] for frame in step[0]]
        views = [[self._cameras[view] for view in row] for row in step[1]]
        return crop_batch(self._capture, self._source, frames, views)


class EvalBatches(Dataset):
    """Evaluation batches by (frame, views), positions in the capture's lists."""

    def __init__(self, capture: Capture, source: FrameSource):
        self._capture, self._source = capture, source

    def __getitem__(self, plan: tuple[int, list[int]]) -> Batch:
        return full_batch(self._capture, self._source, *plan)


class BatchLoader:
    """A data set's batches for the plans that iterating `plans` gives, anew at each pass.

    workers: processes that load, 0 = this one.
    """

    def __init__(self, dataset: Dataset, plans: Iterable, workers: int):
        self._dataset, self._plans, self._processes = dataset, plans, None
        if workers:
            # Spawned, as HDF5 handles do not survive a fork; kept from pass to pass, as starting takes seconds.
            self._processes = DataLoader(
                dataset, batch_size=None, sampler=plans, num_workers=workers,
                multiprocessing_context="spawn", persistent_workers=True,
            )  # fmt: skip

    def __len__(self) -> int:
        return len(self._plans)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._processes) if self._processes is not None else map(self._dataset.__getitem__, self._plans)


class TrainLoader:
    """The batches of a schedule from its position on, which each batch that is used advances; endless.

    batches: anything that iterates the schedule's batches anew at each pass (`BatchLoader`, `training_batches`).
    """

    def __init__(self, batches: Iterable[Batch], schedule: Schedule):
        self.batches, self._schedule = batches, schedule
        # Lightning resumes a loader that has these in the middle of an epoch.
        self.state_dict, self.load_state_dict = schedule.state_dict, schedule.load_state_dict

    def __len__(self) -> int:
        return _ENDLESS

    def __iter__(self) -> Iterator[Batch]:
        batches = iter(self.batches)
        try:
            for batch in batches:
                self._schedule.position += 1
                yield batch
        finally:
            if hasattr(batches, "close"):  # a generator may own threads
                batches.close()
