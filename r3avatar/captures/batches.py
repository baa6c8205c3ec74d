"""From prepared frames to the `Batch` that training and evaluation read."""

from __future__ import annotations

import numpy as np
import torch

from r3avatar.captures.capture import Capture
from r3avatar.captures.prepared_frame import FrameSource
from r3avatar.types import Batch, Cameras

CROP_MULTIPLE = 16  # pixels; few distinct sizes keep memory allocators calm


def crop_batch(
    capture: Capture,
    source: FrameSource,
    frames: list[int],
    views: list[list[int]],
    size: tuple[int, int] | None = None,
) -> Batch:
    """F frames with V views each, every image cropped to its bound mask's rectangle and padded to one size.

    frames [F], views [F][V]: positions in the capture's frames and cameras. Each crop begins at its rectangle's corner
    and shows the image as it is; the size is the largest rectangle's, rounded up to CROP_MULTIPLE. Where a crop leaves
    the image it is black with an empty mask. `Batch.rect` is the rectangle inside the crop. size: another width and
    height.
    """
    prepared = [[source.get(view, frame) for view in row] for frame, row in zip(frames, views)]
    width, height = size or (
        _round_up(max(item.bound[side] for row in prepared for item in row), CROP_MULTIPLE) for side in (2, 3)
    )
    windows = [[(item.bound[0], item.bound[1], width, height) for item in row] for row in prepared]
    return _batch(capture, frames, views, prepared, windows)


def full_batch(capture: Capture, source: FrameSource, frame: int, views: list[int]) -> Batch:
    """One frame (F = 1) with V views of one image size, whole images; `rect` is the bound mask's rectangle."""
    cameras = [capture.cameras[view] for view in views]
    sizes = {(camera.width, camera.height) for camera in cameras}
    if len(sizes) != 1:
        raise ValueError(f"{capture.name}: cameras {views} have several image sizes {sorted(sizes)}; batch them apart")
    prepared = [[source.get(view, frame) for view in views]]
    return _batch(capture, [frame], [views], prepared, [[(0, 0, c.width, c.height) for c in cameras]])


def _batch(capture: Capture, frames: list[int], views: list[list[int]], prepared: list[list], windows: list) -> Batch:
    """Cut the windows (x, y, width, height; one size) out of the prepared frames, [F][V] each."""
    F, V = len(views), len(views[0])
    _, _, width, height = windows[0][0]
    rgb = np.zeros((F, V, height, width, 3), np.uint8)
    mask = np.zeros((F, V, height, width), np.uint8)
    rect = np.zeros((F, V, 4), np.int64)
    rows = []
    for f in range(F):
        for v in range(V):
            x, y, _, _ = windows[f][v]
            prepared[f][v].copy_window(x, y, rgb[f, v], mask[f, v])
            bound = prepared[f][v].bound
            rect[f, v] = bound[0] - x, bound[1] - y, bound[2], bound[3]
            rows.append(capture.cameras[views[f][v]].cropped(x, y, width, height))
    stacked = Cameras.stack(rows)
    cameras = Cameras(stacked.K.view(F, V, 3, 3), stacked.w2c.view(F, V, 4, 4), width, height)
    ids = torch.tensor([capture.frame_ids[frame] for frame in frames])
    return Batch(
        frame=ids,
        time=(ids - capture.recorded[0]).float(),
        pose=capture.poses[torch.tensor(frames)],
        cameras=cameras,
        rgb=torch.from_numpy(rgb),
        mask=torch.from_numpy(mask),
        rect=torch.from_numpy(rect),
    )


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
