"""The frame cache: every image of a capture prepared once, kept on disk beside no data, read through memory maps.

A cache folder belongs to one state of one capture: its name ends in a hash of all that decides the prepared frames. In
it, `bounds.npy` holds the posed body's boxes, `about.json` says what the hash is made of, and `<camera>/*.frames` are
segments (segment.py) of some frames each. A run that is killed loses the segments it was writing and nothing else; the
next one goes on. One process at a time prepares (a file lock); any number read.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import logging
import multiprocessing
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import numpy as np
from torch import Tensor, nn

from r3avatar.captures.boxes import PosableBody, body_bounds
from r3avatar.captures.cache_folder import default_cache_dir
from r3avatar.captures.cache_writer import FULL_DISK, full_disk_error, worker_count, write_missing
from r3avatar.captures.capture import Capture
from r3avatar.captures.frame_workers import FrameWorkers
from r3avatar.captures.prepared_frame import PreparedFrame, bound_mask
from r3avatar.captures.segment import (
    PARTIAL_SUFFIX,
    SUFFIX,
    DamagedSegment,
    map_segment,
    read_table,
    view_frame,
)

FORMAT_VERSION = 1  # raise when prepared frames change their meaning
_log = logging.getLogger(__name__)


def frames_of_splits(capture: Capture, splits: Iterable[str]) -> list[tuple[int, int]]:
    """(camera, frame) positions that the named splits need, each once, camera by camera."""
    pairs = set()
    for name in splits:
        split = capture.split(name)
        frames = [capture.frame_index(frame) for frame in split.frames]
        pairs |= {(capture.camera_index(camera), frame) for camera in split.cameras for frame in frames}
    return sorted(pairs)


def prepare(
    capture: Capture,
    body: PosableBody,
    cache_dir: str | Path | None = None,
    needed: Iterable[tuple[int, int]] | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> FrameStore:
    """Make sure the needed frames are in the cache and open it.

    needed: (camera, frame) positions (`frames_of_splits`); None: those of every split. cache_dir: None is
    `default_cache_dir()`. workers: processes that prepare frames, 0 = this one, None = one a core (this one for a few
    frames); they are spawned, so a script must guard its entry with `if __name__ == "__main__"`.
    RuntimeError where it does not. OSError for a full disk, with what is missing; the frames that were finished stay
    and are not prepared again. PermissionError for a folder that cannot be written and lacks frames.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        # A spawned process that is still importing the script would wait for its parent's lock for ever.
        raise RuntimeError(
            "frames are prepared by spawned processes, which import this script again: put its entry under "
            '`if __name__ == "__main__":`, or prepare before with `r3avatar preprocess`'
        )
    needed = sorted(set(needed if needed is not None else frames_of_splits(capture, capture.splits)))
    folder = cache_folder(capture, body, cache_dir)
    try:
        lock = _lock_file(folder)
    except OSError as error:
        store = FrameStore(folder, capture.camera_ids, capture.frame_ids)
        if all(pair in store for pair in needed):  # a finished cache that others may only read
            return store
        raise _unwritable(folder, len(needed), error) from error
    with lock:
        _wait_for(lock, folder)
        _remove_leftovers(folder)
        store = FrameStore(folder, capture.camera_ids, capture.frame_ids)
        missing = [pair for pair in needed if pair not in store]
        workers = worker_count(len(missing), workers)
        with FrameWorkers() if workers else contextlib.nullcontext() as processes:  # its imports take some seconds
            bounds = _stored_bounds(folder, capture, body)
            if missing:
                _require_space(folder, capture, bounds, missing)
                ready = len(needed) - len(missing)
                write_missing(capture, bounds, folder, missing, processes, workers, progress, ready)
                store = FrameStore(folder, capture.camera_ids, capture.frame_ids)
    return store


def cache_folder(capture: Capture, body: PosableBody, cache_dir: str | Path | None = None) -> Path:
    """The folder that the capture's prepared frames belong in: `<cache_dir>/<name>-<hash>`."""
    about = json.dumps(_about(capture, body), sort_keys=True)
    root = default_cache_dir() if cache_dir is None else Path(cache_dir).expanduser()
    return root / f"{capture.name}-{hashlib.sha256(about.encode()).hexdigest()[:16]}"


class FrameStore:
    """Prepared frames of one cache folder, memory-mapped; pickles as its folder, so that processes share the pages."""

    def __init__(self, folder: Path, camera_ids: list[str], frame_ids: list[int]):
        self.folder, self._camera_ids, self._frame_ids = folder, camera_ids, frame_ids
        position = {frame: index for index, frame in enumerate(frame_ids)}
        self._segments: list[Path] = []
        self._rows: dict[tuple[int, int], tuple[int, np.ndarray]] = {}  # (camera, frame) to segment, table row
        self._contents: dict[int, np.ndarray] = {}  # segment to its mapped bytes, opened at first use
        for camera, camera_id in enumerate(camera_ids):
            for path in sorted((folder / camera_id).glob(f"*{SUFFIX}")):
                for row in read_table(path):
                    self._rows[camera, position[int(row[0])]] = len(self._segments), row
                self._segments.append(path)

    def __contains__(self, pair: tuple[int, int]) -> bool:
        return pair in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def bytes_on_disk(self) -> int:
        """Size of the segments' files together."""
        return sum(path.stat().st_size for path in self._segments)

    def get(self, camera: int, frame: int) -> PreparedFrame:
        """The prepared frame of a camera and a frame (by position), as views of the mapped file."""
        if (camera, frame) not in self._rows:
            raise KeyError(
                f"{self.folder}: camera {self._camera_ids[camera]}, frame {self._frame_ids[frame]} is not prepared; "
                "name it in `needed` of prepare()"
            )
        segment, row = self._rows[camera, frame]
        if segment not in self._contents:
            self._contents[segment] = map_segment(self._segments[segment])
        return view_frame(self._contents[segment], row)

    def unmap(self) -> None:
        """Let go of the mapped files, so that their pages are no longer this process's; frames in use keep theirs."""
        self._contents.clear()

    def windows(self, pairs: list[tuple[int, int]]) -> np.ndarray:
        """x, y, width, height of the pairs' windows and of their bound masks' rectangles, [n, 8] int64."""
        return np.stack([self._rows[pair][1][2:] for pair in pairs])

    def __reduce__(self):
        return FrameStore, (self.folder, self._camera_ids, self._frame_ids)


def _about(capture: Capture, body: PosableBody) -> dict[str, object]:
    return {
        "format": FORMAT_VERSION,
        "capture": capture.fingerprint(),
        "box_margin": capture.box_margin,
        "body": _body_hash(body),
    }


def _body_hash(body: PosableBody) -> str:
    """A hash of a body model's tensors."""
    named = body.named_buffers() if isinstance(body, nn.Module) else vars(body).items()
    tensors = {name: value for name, value in named if isinstance(value, Tensor)}
    if not tensors:
        raise TypeError(f"{type(body).__name__} holds no tensors: the frame cache cannot tell it from another body")
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = np.ascontiguousarray(tensors[name].detach().cpu().numpy())
        digest.update(f"{name} {value.dtype} {value.shape}".encode())
        digest.update(value.data)
    return digest.hexdigest()


def _lock_file(folder: Path) -> IO:
    """The folder's lock, open and not yet taken; the folder is made."""
    folder.mkdir(parents=True, exist_ok=True)
    return open(folder / "lock", "w")


def _wait_for(lock: IO, folder: Path) -> None:
    """Take the folder's lock; the system releases it when the file is closed or the process ends, however it ends."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _log.warning("another process prepares %s; waiting for it", folder)
        fcntl.flock(lock, fcntl.LOCK_EX)


def _unwritable(folder: Path, needed: int, error: OSError) -> OSError:
    """The error for a cache folder in which nothing can be written."""
    if error.errno in FULL_DISK:
        return full_disk_error(folder, needed, "the disk is full")
    return PermissionError(
        error.errno,
        f"the frame cache cannot be written there ({error.strerror}), and lacks frames that are needed. Fix: set "
        "R3AVATAR_CACHE or cache.folder to a folder of yours, or do without the cache (cache.folder=off)",
        str(folder),
    )


def _stored_bounds(folder: Path, capture: Capture, body: PosableBody) -> np.ndarray:
    """The posed body's boxes [F, 2, 3] of every frame, computed once a folder."""
    path, partial = folder / "bounds.npy", folder / "bounds.partial"
    if not path.exists():
        about = json.dumps(_about(capture, body), indent=1, sort_keys=True)
        content = io.BytesIO()  # np.save into a file would not say why a disk took no more
        np.save(content, body_bounds(body, capture.poses, capture.box_margin), allow_pickle=False)
        try:
            (folder / "about.json").write_text(about)
            with open(partial, "wb") as file:
                file.write(content.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except OSError as error:
            raise _unwritable(folder, len(capture.frame_ids), error) from error
    return np.load(path, allow_pickle=False)


def _remove_leftovers(folder: Path) -> None:
    """Remove what a killed run was writing, and segments that the disk damaged (they are prepared again)."""
    for path in folder.rglob(f"*{PARTIAL_SUFFIX}"):
        path.unlink(missing_ok=True)
    for path in folder.rglob(f"*{SUFFIX}"):
        try:
            read_table(path)
        except DamagedSegment as error:
            _log.warning("%s; its frames are prepared again", error)
            path.unlink()


def _require_space(folder: Path, capture: Capture, bounds: np.ndarray, missing: list[tuple[int, int]]) -> None:
    """OSError before any work if the disk cannot hold the missing frames, by the areas of some bound rectangles."""
    rectangles = [bound_mask(capture, bounds[f], c, f)[1] for c, f in missing[:: 1 + len(missing) // 100]]
    estimate = len(missing) * np.mean([4 * width * height for _, _, width, height in rectangles])
    free = shutil.disk_usage(folder).free
    if estimate > free:
        raise full_disk_error(folder, len(missing), f"about {estimate / 1e6:.3g} MB, and {free / 1e6:.3g} MB are free")
