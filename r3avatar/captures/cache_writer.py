"""Filling the frame cache: prepare frames in parallel processes and write them as segments."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from r3avatar.captures.capture import Capture
from r3avatar.captures.prepared_frame import prepare_frame
from r3avatar.captures.segment import SUFFIX, write_segment

_FRAMES_A_SEGMENT = 16  # what a kill loses at most, per worker
_WORTH_PROCESSES = 64  # frames; starting processes takes some seconds
_log = logging.getLogger(__name__)


def full_disk_error(folder: Path, missing: int, need: str) -> OSError:
    """The error for a disk that cannot take the missing frames."""
    return OSError(
        errno.ENOSPC,
        f"the frame cache needs room for {missing} more frames: {need}. Finished frames are kept. Fix: free space, "
        "set R3AVATAR_CACHE or the cache key to a folder on another disk, or turn the cache off (cache=off)",
        str(folder),
    )


def write_missing(
    capture: Capture,
    bounds: np.ndarray,
    folder: Path,
    missing: list[tuple[int, int]],
    workers: int | None,
    progress: bool,
) -> None:
    """Prepare the missing (camera, frame) positions and write them as segments of the folder.

    bounds [F, 2, 3]: the posed body's boxes. workers: as in `prepare`. OSError for a full
    disk; segments that were finished stay.
    """
    tasks = _segments_to_write(missing)
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if len(missing) >= _WORTH_PROCESSES else 0
    workers = min(workers, len(tasks))
    finished = 0
    _log.info("preparing %d frames of %s in %s", len(missing), capture.name, folder)
    with tqdm(total=len(missing), desc=f"preparing {capture.name}", unit="frame", disable=not progress) as bar:
        try:
            for count in _run(capture, bounds, folder, tasks, workers):
                finished += count
                bar.update(count)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise full_disk_error(folder, len(missing) - finished, "the disk is full") from error
            raise


def _segments_to_write(missing: list[tuple[int, int]]) -> list[tuple[int, list[int]]]:
    """(camera, frames) of each segment: runs of one camera's missing frames."""
    by_camera: dict[int, list[int]] = {}
    for camera, frame in missing:
        by_camera.setdefault(camera, []).append(frame)
    n = _FRAMES_A_SEGMENT
    return [(c, frames[i : i + n]) for c, frames in by_camera.items() for i in range(0, len(frames), n)]


def _run(
    capture: Capture, bounds: np.ndarray, folder: Path, tasks: list[tuple[int, list[int]]], workers: int
) -> Iterator[int]:
    """Write every segment, here or in worker processes; yields the number of frames as segments are finished."""
    if workers == 0:
        for camera, frames in tasks:
            yield _write_frames(capture, bounds, folder, camera, frames)
        return
    context = multiprocessing.get_context("spawn")  # a fork would share HDF5 and thread state
    with ProcessPoolExecutor(workers, context, _start_worker, (capture, bounds, folder)) as pool:
        futures = [pool.submit(_write_in_worker, camera, frames) for camera, frames in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise RuntimeError(
                "a process that prepared frames died (out of memory?). Finished frames are kept: run again, with fewer "
                "workers if it was memory. In a script, guard the entry with `if __name__ == '__main__'`"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _write_frames(capture: Capture, bounds: np.ndarray, folder: Path, camera: int, frames: list[int]) -> int:
    ids = [capture.frame_ids[frame] for frame in frames]
    path = folder / capture.camera_ids[camera] / f"{ids[0]:06d}-{ids[-1]:06d}-{uuid.uuid4().hex[:8]}{SUFFIX}"
    path.parent.mkdir(parents=True, exist_ok=True)
    prepared = (prepare_frame(capture, bounds[frame], camera, frame) for frame in frames)
    write_segment(path, zip(ids, prepared))
    return len(frames)


_worker: tuple[Capture, np.ndarray, Path]  # what a worker process was started with


def _start_worker(capture: Capture, bounds: np.ndarray, folder: Path) -> None:
    global _worker
    _worker = capture, bounds, folder
    cv2.setNumThreads(1)  # one process a core already
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _write_in_worker(camera: int, frames: list[int]) -> int:
    capture, bounds, folder = _worker
    return _write_frames(capture, bounds, folder, camera, frames)
