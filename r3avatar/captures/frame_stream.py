"""Batches cut ahead of their use by a thread, and copied to the device while it computes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch

from r3avatar.captures.prepared_frame import FrameSource
from r3avatar.captures.schedule import Step
from r3avatar.captures.step_memory import StepMemory, StepTables
from r3avatar.cuda_streams import stream_for
from r3avatar.types import Batch

_AHEAD = 2  # batches that wait on the device
_CUTTERS = 4  # threads that cut a batch's images


class FrameStream:
    """The batches of some steps on a device, `crop_batch`'s with the tables' size, in the steps' order.

    Each pass iterates `steps` anew with threads of its own, which end with the pass (close its iterator to end early);
    what fails in them is raised where the batch would be due. frames, cameras: the split's, as positions in the
    capture's lists.
    """

    def __init__(
        self,
        source: FrameSource,
        tables: StepTables,
        frames: list[int],
        cameras: list[int],
        steps: Iterable[Step],
        device: torch.device,
    ):
        self._source, self._tables, self._steps, self._device = source, tables, steps, device
        self._frames, self._cameras = frames, cameras

    def __iter__(self) -> Iterator[Batch]:
        room, ready = threading.Semaphore(_AHEAD), queue.SimpleQueue()
        stopping = threading.Event()

        def run() -> None:
            try:
                for loaded in self._load_all(room, stopping):
                    ready.put(loaded)
                ready.put(None)
            except BaseException as error:  # whatever it is, the trainer must not wait for ever
                ready.put(error)

        thread = threading.Thread(target=run, name="frame stream", daemon=True)
        thread.start()
        try:
            while (loaded := ready.get()) is not None:
                if isinstance(loaded, BaseException):
                    raise loaded
                memory, copied = loaded
                if copied is not None:
                    stream = torch.cuda.current_stream(self._device)
                    stream.wait_event(copied)
                    memory.buffer.record_stream(stream)  # allocated on the copying stream, used on this one
                room.release()
                yield memory.batch
        finally:
            stopping.set()
            room.release()
            thread.join()

    def _load_all(
        self, room: threading.Semaphore, stopping: threading.Event
    ) -> Iterator[tuple[StepMemory, torch.cuda.Event | None]]:
        """Load step after step as there is room, until `stopping`."""
        cuda = self._device.type == "cuda"
        stream = stream_for("frames", self._device) if cuda else None
        slots: list[tuple[StepMemory, torch.cuda.Event]] = []  # pinned memory and the end of its last copy
        with ThreadPoolExecutor(_CUTTERS) as pool:
            for frames, views in self._steps:
                room.acquire()
                if stopping.is_set():
                    return
                F, V = len(frames), len(views[0])
                if not cuda:
                    memory = StepMemory(self._tables, F, V)
                    self._cut(memory, frames, views, pool)
                    yield memory, None
                    continue
                with torch.cuda.device(self._device), torch.cuda.stream(stream):
                    if len(slots) < _AHEAD + 1:
                        slot = StepMemory(self._tables, F, V, pinned=True)
                    else:
                        slot, copied = slots.pop(0)
                        copied.synchronize()
                    self._cut(slot, frames, views, pool)
                    memory = StepMemory(self._tables, F, V, self._device)
                    memory.buffer.copy_(slot.buffer, non_blocking=True)
                    copied = torch.cuda.Event(blocking=True)
                    copied.record(stream)
                slots.append((slot, copied))
                yield memory, copied

    def _cut(self, memory: StepMemory, frames: list[int], views: list[list[int]], pool: ThreadPoolExecutor) -> None:
        """Fill a step's host memory."""
        memory.fill(frames, views)
        rgb, mask = memory.batch.rgb.numpy(), memory.batch.mask.numpy()

        def cut(image: tuple[int, int]) -> None:
            f, v = image
            prepared = self._source.get(self._cameras[views[f][v]], self._frames[frames[f]])
            rgb[f, v], mask[f, v] = 0, 0
            prepared.copy_window(*prepared.bound[:2], rgb[f, v], mask[f, v])

        list(pool.map(cut, [(f, v) for f in range(len(frames)) for v in range(len(views[0]))]))
