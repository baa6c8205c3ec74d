"""The training frames in a device's own memory, cut to batches there; larger captures are streamed instead."""

from __future__ import annotations

import itertools
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from r3avatar.captures.batches import CROP_MULTIPLE
from r3avatar.captures.cache import FrameStore
from r3avatar.captures.capture import Capture
from r3avatar.captures.frame_stream import FrameStream
from r3avatar.captures.gather import gather, pack
from r3avatar.captures.prepared_frame import DirectFrames, FrameSource, PreparedFrame, bound_mask
from r3avatar.captures.schedule import Step
from r3avatar.captures.step_memory import StepMemory, StepTables
from r3avatar.types import Batch

_SHARE_OF_FREE = 0.4  # of the device's free memory, where no budget is given
_CHUNK = 2**21  # pixels that a thread packs and copies at once (8 MiB)
_THREADS = 8  # that load
_HEADS = 16  # steps that the host may be ahead of the device
_log = logging.getLogger(__name__)


class DeviceFrames:
    """Prepared frames on a device as 32-bit pixels, and batches of one constant size cut out of them.

    tables: all but the pictures (host memory); their `source` says where each frame's window lies in `pixels`
    [P] int32 (gather.py). backend: as in `triton_support.use_triton`.
    """

    def __init__(self, tables: StepTables, pixels: Tensor, backend: str = "auto"):
        self.tables, self.pixels, self._backend = tables, pixels, backend
        self._heads: list[tuple[StepMemory, torch.cuda.Event | None]] = []
        self._next = 0

    def batch(self, frames: list[int], views: list[list[int]], memory: StepMemory | None = None) -> Batch:
        """The step's batch on the device: `crop_batch`'s with the constant size; nothing waits for the device.

        frames [F], views [F][V]: positions in the split's lists (`Schedule`). memory: write there (`allocate`), so that
        the addresses stay; None: into new memory.
        """
        F, V = len(frames), len(views[0])
        memory = memory or self.allocate(F, V)
        if self.pixels.device.type == "cuda":
            self._send_head(memory, frames, views)
        else:
            memory.fill(frames, views)
        gather(self.pixels, memory.source, memory.batch.rgb, memory.batch.mask, self._backend)
        return memory.batch

    def allocate(self, F: int, V: int) -> StepMemory:
        """Memory on the device for batches of F frames x V views."""
        return StepMemory(self.tables, F, V, self.pixels.device)

    def _send_head(self, memory: StepMemory, frames: list[int], views: list[list[int]]) -> None:
        """One copy from pinned memory; a ring of it, as the host runs ahead of the device."""
        shape = len(views), len(views[0])
        if not self._heads or self._heads[0][0].source.shape[:2] != shape:
            self._heads = [(StepMemory(self.tables, *shape, pinned=True, pictures=False), None) for _ in range(_HEADS)]
        self._next = (self._next + 1) % _HEADS
        head, copied = self._heads[self._next]
        if copied is not None:
            copied.synchronize()  # of _HEADS steps ago
        head.fill(frames, views)
        memory.head.copy_(head.head, non_blocking=True)
        copied = torch.cuda.Event(blocking=True)
        copied.record(torch.cuda.current_stream(self.pixels.device))
        self._heads[self._next] = head, copied


class ResidentBatches:
    """The batches of some steps out of `DeviceFrames`; each pass iterates the steps anew."""

    def __init__(self, frames: DeviceFrames, steps: Iterable[Step]):
        self.frames, self._steps = frames, steps

    def __iter__(self) -> Iterator[Batch]:
        return (self.frames.batch(*step) for step in self._steps)


def training_batches(
    capture: Capture,
    source: FrameSource,
    frames: list[int],
    cameras: list[int],
    steps: Iterable[Step],
    device: torch.device,
    gpu_gib: float | None = None,
) -> ResidentBatches | FrameStream:
    """The batches of steps on a device: from its memory where the frames fit, otherwise streamed; the log says which.

    frames, cameras: the split's, as positions in the capture's lists. gpu_gib: GiB that the frames may take; None: 40 %
    of what is free; 0: stream. Without the cache, frames that fit are prepared once, here. All batches have one size:
    the split's largest bound rectangle, rounded up to a multiple of 16. ValueError for a negative gpu_gib.
    """
    if gpu_gib is not None and gpu_gib < 0:
        raise ValueError(f"cache.gpu_gib is {gpu_gib}; expected GiB, 0 to stream, or null")
    pairs = [(camera, frame) for camera in cameras for frame in frames]
    limit, why = _budget(device, gpu_gib)
    windows = _windows(capture, source, pairs)
    if isinstance(source, DirectFrames) and _bytes(windows) <= limit:
        source = _prepared_once(capture, source, pairs)
        windows = source.windows(pairs)
    tables = _tables(capture, frames, cameras, windows)
    size, place = f"{len(pairs)} frames, {_bytes(windows) / 2**30:.2f} GiB", "GPU" if device.type == "cuda" else device
    if _bytes(windows) > limit:
        slow = ", each prepared at every use (turn the cache on)" if isinstance(source, DirectFrames) else ""
        _log.info("training batches: streaming to the %s: %s, over %s%s", place, size, why, slow)
        return FrameStream(source, tables, frames, cameras, steps, device)
    pixels = _load(source, pairs, windows, device)
    if isinstance(source, FrameStore):
        source.unmap()
    _log.info("training batches: %s, on the %s", size, place)
    return ResidentBatches(DeviceFrames(tables, pixels), steps)


def _budget(device: torch.device, gpu_gib: float | None) -> tuple[float, str]:
    """Bytes that frames may take on the device, and where the number comes from."""
    if gpu_gib is not None:
        return gpu_gib * 2**30, f"cache.gpu_gib={gpu_gib:g}"
    if device.type != "cuda":
        return float("inf"), "no limit"
    free, _ = torch.cuda.mem_get_info(device)
    return _SHARE_OF_FREE * free, f"{_SHARE_OF_FREE:.0%} of the {free / 2**30:.1f} GiB that are free"


def _windows(capture: Capture, source: FrameSource, pairs: list[tuple[int, int]]) -> np.ndarray:
    """x, y, width, height of each pair's window and of its bound mask's rectangle, [n, 8] int64.

    Frames that are not prepared yet: the rectangle stands for the window, which is seldom larger.
    """
    if isinstance(source, DirectFrames):
        rectangles = [bound_mask(capture, source.bounds[f], c, f)[1] for c, f in pairs]
        return np.array(rectangles, np.int64)[:, [0, 1, 2, 3] * 2]
    return source.windows(pairs)


def _bytes(windows: np.ndarray) -> int:
    return 4 * int((windows[:, 2] * windows[:, 3]).sum())


def _tables(capture: Capture, frames: list[int], cameras: list[int], windows: np.ndarray) -> StepTables:
    """The split's tables; `source` by the order of the windows, camera by camera."""
    size = (-(-int(windows[:, side].max()) // CROP_MULTIPLE) * CROP_MULTIPLE for side in (6, 7))
    by_frame = windows.reshape(len(cameras), len(frames), 8).swapaxes(0, 1)
    tables = StepTables.of(capture, frames, cameras, by_frame[..., 4:], tuple(size))
    offsets = _offsets(windows)[:-1].reshape(len(cameras), len(frames)).T
    x, y, w, h, left, top = np.moveaxis(by_frame[..., :6], -1, 0)
    tables.images["source"][...] = np.stack([offsets, w, h, left - x, top - y], -1)
    return tables


def _offsets(windows: np.ndarray) -> np.ndarray:
    """Where each window begins in the flat pixels, and where the last one ends, [n + 1]."""
    return np.concatenate([[0], np.cumsum(windows[:, 2] * windows[:, 3])])


class _HeldFrames:
    """Prepared frames in host memory."""

    def __init__(self, prepared: dict[tuple[int, int], PreparedFrame]):
        self._prepared = prepared

    def get(self, camera: int, frame: int) -> PreparedFrame:
        return self._prepared[camera, frame]

    def windows(self, pairs: list[tuple[int, int]]) -> np.ndarray:
        held = (self._prepared[pair] for pair in pairs)
        return np.array([[p.x, p.y, *p.mask.shape[::-1], *p.bound] for p in held], np.int64)


def _prepared_once(capture: Capture, source: DirectFrames, pairs: list[tuple[int, int]]) -> _HeldFrames:
    def prepared(pair: tuple[int, int]) -> PreparedFrame:
        frame = source.get(*pair)
        return frame._replace(rgb=frame.rgb.copy(), mask=frame.mask.copy())  # views would keep the full frames

    results = in_threads(prepared, pairs)
    return _HeldFrames(dict(zip(pairs, tqdm(results, f"preparing {capture.name}", len(pairs), unit="frame"))))


def _load(
    source: FrameStore | _HeldFrames, pairs: list[tuple[int, int]], windows: np.ndarray, device: torch.device
) -> Tensor:
    """The frames' packed pixels [P] int32 on the device, one after the other; packed and copied by several threads."""
    offsets = _offsets(windows)
    pixels = torch.empty(max(1, int(offsets[-1])), dtype=torch.int32, device=device)
    # Runs of frames of about _CHUNK pixels: [first, last) positions in `pairs`
    edges = [0, *(np.flatnonzero(np.diff(offsets[:-1] // _CHUNK)) + 1).tolist(), len(pairs)]
    chunks = list(itertools.pairwise(edges))
    longest = max(int(offsets[last] - offsets[first]) for first, last in chunks)
    mine = threading.local()
    after = torch.cuda.current_stream(device) if device.type == "cuda" else None

    def load(chunk: tuple[int, int]) -> torch.cuda.Stream | None:
        first, last = chunk
        begin, end = int(offsets[first]), int(offsets[last])
        target = pixels[begin:end]
        if after is None:
            staging = target
        else:
            if not hasattr(mine, "stream"):
                with torch.cuda.device(device):
                    mine.stream = torch.cuda.Stream()
                    mine.staging = torch.empty(longest, dtype=torch.int32, pin_memory=True)
                mine.stream.wait_stream(after)  # the memory of `pixels` may have been another tensor's
            mine.stream.synchronize()  # the staging memory's last copy
            staging = mine.staging[: end - begin]
        words = staging.numpy()
        for (camera, frame), start, stop in zip(pairs[first:last], offsets[first:last], offsets[first + 1 : last + 1]):
            pack(source.get(camera, frame), words[start - begin : stop - begin])
        if after is None:
            return None
        with torch.cuda.stream(mine.stream):
            target.copy_(staging, non_blocking=True)
        return mine.stream

    for stream in set(in_threads(load, chunks)) - {None}:
        stream.synchronize()
    return pixels


def in_threads(work: Callable, items: Iterable, threads: int = _THREADS) -> Iterator:
    """`work` of each item in order, by several threads; the first error ends the rest."""
    pool = ThreadPoolExecutor(min(threads, len(os.sched_getaffinity(0))))
    try:
        yield from pool.map(work, items)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
