"""Filling the frame cache: prepare frames in parallel processes and write them as segments."""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import uuid
from pathlib import Path

import numpy as np
from tqdm import tqdm

from r3avatar.captures.capture import Capture
from r3avatar.captures.frame_workers import FrameWorkers
from r3avatar.captures.prepared_frame import prepare_frame
from r3avatar.captures.segment import SUFFIX, write_segment

_FRAMES_A_SEGMENT = 16  # what a kill loses at most, per worker
_WORTH_PROCESSES = 64  # frames; starting processes takes some seconds
_log = logging.getLogger(__name__)


FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


def full_disk_error(folder: Path, missing: int, need: str) -> OSError:
    """The error for a disk that cannot take the missing frames."""
    return OSError(
        errno.ENOSPC,
        f"the frame cache needs room for {missing} more frames: {need}. Finished frames are kept. Fix: free space, "
        "set R3AVATAR_CACHE or cache.folder to a folder on another disk, or do without the cache (cache.folder=off)",
        str(folder),
    )


def worker_count(missing: int, workers: int | None) -> int:
    """How many processes prepare so many frames, 0: this one; workers: as in `prepare`."""
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if missing >= _WORTH_PROCESSES else 0
    return min(workers, missing)


def write_missing(
    capture: Capture,
    bounds: np.ndarray,
    folder: Path,
    missing: list[tuple[int, int]],
    processes: FrameWorkers | None,
    workers: int,
    progress: bool,
    ready: int = 0,
) -> None:
    """Prepare the missing (camera, frame) positions and write them as segments of the folder.

    bounds [F, 2, 3]: the posed body's boxes. processes: whose `workers` do it; None: this one. ready: frames that the
    progress bar counts as finished before. OSError for a full disk; segments that were finished stay.
    """
    write = functools.partial(_write_frames, capture, bounds, folder)
    if processes is not None:
        written = processes.write(write, missing, workers, _FRAMES_A_SEGMENT)
    else:
        written = (write(*task) for task in _segments_to_write(missing))
    finished, total, title = 0, ready + len(missing), f"preparing {capture.name}"
    _log.info("preparing %d frames of %s in %s", len(missing), capture.name, folder)
    bar = tqdm(total=total, initial=ready, desc=title, unit="frame", smoothing=0.05, disable=not progress)
    with bar, contextlib.closing(written):  # closing ends the processes, also after an interrupt
        try:
            for count in written:
                finished += count
                bar.update(count)
        except OSError as error:
            if error.errno in FULL_DISK:
                raise full_disk_error(folder, len(missing) - finished, "the disk is full") from error
            raise


def _segments_to_write(missing: list[tuple[int, int]]) -> list[tuple[int, list[int]]]:
    """(camera, frames) of each segment: runs of one camera's missing frames."""
    by_camera: dict[int, list[int]] = {}
    for camera, frame in missing:
        by_camera.setdefault(camera, []).append(frame)
    n = _FRAMES_A_SEGMENT
    return [(c, frames[i : i + n]) for c, frames in by_camera.items() for i in range(0, len(frames), n)]


def _write_frames(capture: Capture, bounds: np.ndarray, folder: Path, camera: int, frames: list[int]) -> int:
    ids = [capture.frame_ids[frame] for frame in frames]
    path = folder / capture.camera_ids[camera] / f"{ids[0]:06d}-{ids[-1]:06d}-{uuid.uuid4().hex[:8]}{SUFFIX}"
    path.parent.mkdir(parents=True, exist_ok=True)
    prepared = (prepare_frame(capture, bounds[frame], camera, frame) for frame in frames)
    write_segment(path, zip(ids, prepared))
    return len(frames)
