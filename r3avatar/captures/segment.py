"""The frame cache's file: some prepared frames of one camera, read through memory maps.

Layout: per frame its rgb [h, w, 3] and its mask [h, w], uint8, one after the other; then a table int64 [n, 10] with a
row a frame (frame id, offset in bytes, x, y, w, h of the window, x, y, w, h of the bound mask's rectangle); then n as
int64 and 8 bytes that mark the end. Little-endian. A segment is written under another name, flushed to the disk and
renamed: those that carry their name are complete and never change.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from r3avatar.captures.prepared_frame import PreparedFrame

SUFFIX, PARTIAL_SUFFIX = ".frames", ".partial"
_MARK = b"r3frame1"
_COLUMNS = 10


class DamagedSegment(Exception):
    """A segment that is cut off or is something else."""


def write_segment(path: Path, frames: Iterable[tuple[int, PreparedFrame]]) -> None:
    """Write (frame id, prepared frame) pairs to a new segment, atomically; a failure leaves no partial file."""
    partial = path.with_suffix(PARTIAL_SUFFIX)
    rows, offset = [], 0
    try:
        with open(partial, "wb") as file:
            for frame_id, frame in frames:
                h, w = frame.mask.shape
                file.write(np.ascontiguousarray(frame.rgb).data)
                file.write(np.ascontiguousarray(frame.mask).data)
                rows.append([frame_id, offset, frame.x, frame.y, w, h, *frame.bound])
                offset += 4 * h * w
            file.write(np.array(rows, "<i8").tobytes() + np.array(len(rows), "<i8").tobytes() + _MARK)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def read_table(path: Path) -> np.ndarray:
    """A segment's table [n, 10] int64; DamagedSegment if the file is not a complete segment."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        if size >= 16:
            file.seek(size - 16)
            tail = file.read(16)
            n = int(np.frombuffer(tail[:8], "<i8")[0])
            start = size - 16 - n * _COLUMNS * 8
            if tail[8:] == _MARK and n > 0 and start > 0:
                file.seek(start)
                table = np.frombuffer(file.read(n * _COLUMNS * 8), "<i8").reshape(n, _COLUMNS)
                if table[-1, 1] + 4 * table[-1, 4] * table[-1, 5] == start:
                    return table
    raise DamagedSegment(f"{path}: not a complete segment of the frame cache ({size} bytes)")


def map_segment(path: Path) -> np.ndarray:
    """A segment's bytes [size] uint8 as a read-only memory map; processes on one machine share its pages."""
    return np.asarray(np.memmap(path, np.uint8, mode="r"))


def view_frame(content: np.ndarray, row: np.ndarray) -> PreparedFrame:
    """The prepared frame that a table's row describes, as views of the mapped segment."""
    offset, x, y, w, h = (int(value) for value in row[1:6])
    end = offset + 3 * h * w
    rgb = content[offset:end].reshape(h, w, 3)
    mask = content[end : end + h * w].reshape(h, w)
    return PreparedFrame(rgb, mask, x, y, tuple(int(value) for value in row[6:10]))
