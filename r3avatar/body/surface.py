"""The demo body's surface: its UV map and named parts, for renderers that texture it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from r3avatar.body.files import demo_arrays


@dataclass(frozen=True)
class BodySurface:
    """Texture coordinates and parts of a triangle mesh; the triangles are `BodyModel.faces`."""

    uv: np.ndarray  # [U, 2] float32, u right, v up, in [0, 1]
    uv_faces: np.ndarray  # [T, 3] int64, rows of uv of each triangle's corners
    part: np.ndarray  # [T] int64, index into part_names
    part_names: tuple[str, ...]  # body, hand, foot, head, scalp, lips, mouth (its inside), eye, iris


def demo_surface() -> BodySurface:
    """The surface of the demo body."""
    arrays = demo_arrays()
    return BodySurface(
        uv=arrays["vt"],
        uv_faces=arrays["ft"].astype(np.int64),
        part=arrays["part"].astype(np.int64),
        part_names=tuple(str(name) for name in arrays["part_names"]),
    )
