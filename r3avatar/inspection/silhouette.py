"""The silhouette of a posed body: every pixel whose centre some triangle covers, whatever is in front."""

from __future__ import annotations

import math

import numba
import numpy as np

from r3avatar.types import Cameras

_NEAREST_DEPTH = 0.01  # metres; a vertex nearer than this, or behind the camera, has no usable projection


def silhouette(vertices: np.ndarray, faces: np.ndarray, camera: Cameras) -> np.ndarray:
    """The silhouette [H, W] uint8 0/1 of a mesh, vertices [V, 3] metres (world) and faces [T, 3] vertex ids.

    All zero where any of the mesh is behind the camera: such a camera cannot have filmed a whole person.
    """
    w2c, K = camera.w2c.double().cpu().numpy(), camera.K.double().cpu().numpy()
    seen = np.asarray(vertices, np.float64) @ w2c[:3, :3].T + w2c[:3, 3]
    image = np.zeros((camera.height, camera.width), np.uint8)
    if np.isfinite(seen).all() and seen[:, 2].min() >= _NEAREST_DEPTH:
        projected = seen @ K.T
        _fill(projected[:, :2] / projected[:, 2:], np.ascontiguousarray(faces, np.int64), image)
    return image


@numba.njit(cache=True, nogil=True)
def _fill(points, faces, image):
    """Set to 1 the pixels of image [H, W] whose centres lie in a triangle of points [V, 2] pixels (first centre 0.5).

    Edges belong to the triangle, so that neighbours leave no seam; the winding does not matter.
    """
    height, width = image.shape
    for t in range(faces.shape[0]):
        ax, ay = points[faces[t, 0], 0], points[faces[t, 0], 1]
        bx, by = points[faces[t, 1], 0], points[faces[t, 1], 1]
        cx, cy = points[faces[t, 2], 0], points[faces[t, 2], 1]
        left = math.ceil(max(min(ax, bx, cx) - 0.5, 0.0))
        top = math.ceil(max(min(ay, by, cy) - 0.5, 0.0))
        right = math.floor(min(max(ax, bx, cx) - 0.5, width - 1.0))
        bottom = math.floor(min(max(ay, by, cy) - 0.5, height - 1.0))
        for y in range(top, bottom + 1):
            for x in range(left, right + 1):
                if image[y, x]:
                    continue
                px, py = x + 0.5, y + 0.5
                u = (bx - ax) * (py - ay) - (by - ay) * (px - ax)
                v = (cx - bx) * (py - by) - (cy - by) * (px - bx)
                w = (ax - cx) * (py - cy) - (ay - cy) * (px - cx)
                if (u >= 0 and v >= 0 and w >= 0) or (u <= 0 and v <= 0 and w <= 0):
                    image[y, x] = 1
