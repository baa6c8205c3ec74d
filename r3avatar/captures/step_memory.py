"""One training step's batch as a single piece of memory: it goes to the GPU in one copy, and its addresses can stay."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from r3avatar.captures.capture import Capture
from r3avatar.types import Batch, BodyPose, Cameras

_ALIGNMENT = 128  # bytes; every field begins at a multiple
SOURCE_COLUMNS = 5  # of `StepMemory.source`


@dataclass
class StepTables:
    """Everything of a split's batches but the pictures, on the host; rows of one step are copied out of it.

    frames: field to [F, ...] a frame; images: field to [F, C, ...] a frame and camera. width, height: of every crop.
    """

    frames: dict[str, np.ndarray]
    images: dict[str, np.ndarray]
    width: int
    height: int

    @classmethod
    def of(
        cls,
        capture: Capture,
        frames: list[int],
        cameras: list[int],
        bounds: np.ndarray,
        size: tuple[int, int],
    ) -> StepTables:
        """The tables of some frames and cameras, positions in the capture's lists.

        bounds [F, C, 4]: the bound masks' rectangles x, y, width, height in the full frame; crops begin at their
        corners. size: width and height of every crop.
        """
        width, height = size
        ids = torch.tensor([capture.frame_ids[frame] for frame in frames])
        pose = capture.poses[torch.tensor(frames)]
        per_frame = {
            "frame": ids, "time": (ids - capture.recorded[0]).float(),
            "theta": pose.theta, "betas": pose.betas, "expression": pose.expression, "R": pose.R, "Th": pose.Th,
        }  # fmt: skip
        F, C = bounds.shape[:2]
        K, rect = np.empty((F, C, 3, 3), np.float32), np.zeros((F, C, 4), np.int64)
        for f in range(F):
            for c, camera in enumerate(cameras):
                x, y = int(bounds[f, c, 0]), int(bounds[f, c, 1])
                K[f, c] = capture.cameras[camera].cropped(x, y, width, height).K.numpy()
        rect[..., 2:] = bounds[..., 2:]
        w2c = np.stack([capture.cameras[camera].w2c.numpy() for camera in cameras])
        per_image = {
            "K": K, "w2c": np.ascontiguousarray(np.broadcast_to(w2c, (F, C, 4, 4))), "rect": rect,
            "source": np.zeros((F, C, SOURCE_COLUMNS), np.int64),
        }  # fmt: skip
        return cls({name: np.ascontiguousarray(value) for name, value in per_frame.items()}, per_image, width, height)


class StepMemory:
    """A `Batch` of F frames x V views whose tensors are parts of one flat buffer.

    The fields that `fill` writes come first (`head`, some kilobytes), then the pictures. On the host `fill` writes into
    it; on a device it is the target of one copy of a host's `head` or `buffer`.

    buffer [bytes] uint8; batch: views of it; source [F, V, 5] int64: offset in pixels, columns and rows of each
    prepared window and the crop's first column and row inside of it (device_frames.py).
    """

    def __init__(
        self,
        tables: StepTables,
        F: int,
        V: int,
        device: torch.device | str = "cpu",
        pinned: bool = False,
        pictures: bool = True,
    ):
        """pinned: host memory that a device copies from by itself. pictures: False: the fields of `head` only."""
        self.tables = tables
        H, W = (tables.height, tables.width) if pictures else (0, 0)
        shapes = {name: ((F, *value.shape[1:]), value.dtype) for name, value in tables.frames.items()}
        shapes |= {name: ((F, V, *value.shape[2:]), value.dtype) for name, value in tables.images.items()}
        shapes |= {"mask": ((F, V, H, W), np.dtype(np.uint8)), "rgb": ((F, V, H, W, 3), np.dtype(np.uint8))}
        places, end = {}, 0
        for name, (shape, dtype) in shapes.items():
            places[name] = end, end + math.prod(shape) * dtype.itemsize
            end = -(-places[name][1] // _ALIGNMENT) * _ALIGNMENT
        self.buffer = torch.empty(end, dtype=torch.uint8, device=device, pin_memory=pinned)
        self.head = self.buffer[: places["mask"][0]]
        parts = {}
        for name, (shape, dtype) in shapes.items():
            first, last = places[name]
            parts[name] = self.buffer[first:last].view(getattr(torch, dtype.name)).view(shape)
        self.source: Tensor = parts["source"]
        self.batch = Batch(
            frame=parts["frame"],
            time=parts["time"],
            pose=BodyPose(*(parts[name] for name in ("theta", "betas", "expression", "R", "Th"))),
            cameras=Cameras(parts["K"], parts["w2c"], W, H),
            rgb=parts["rgb"],
            mask=parts["mask"],
            rect=parts["rect"],
        )
        self._parts = {name: part.numpy() for name, part in parts.items()} if self.buffer.device.type == "cpu" else {}

    def fill(self, frames: list[int], views: list[list[int]]) -> None:
        """Write all but the pictures of a step (positions in the split's lists); host memory only."""
        for name, table in self.tables.frames.items():
            self._parts[name][...] = table[frames]
        for name, table in self.tables.images.items():
            self._parts[name][...] = table[np.asarray(frames)[:, None], views]
