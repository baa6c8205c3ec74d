"""A triangle z-buffer: which triangle is seen at every sample of an image.

Images are sampled 2 x 2 times a pixel. Vertices are projected through the lens, distortion included, and joined by
straight edges: with triangles of a centimetre the difference to curved edges is far below a sample. Compiled functions
here and in the neighbouring files call only functions of their own file, because numba's cache on disk does not notice
a change in another one.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SAMPLES = 2  # samples a pixel along each axis
EMPTY = -1  # index of a sample that no triangle covers
_OVERLAP = 1e-7  # share by which a triangle is enlarged: rounding must not open seams between neighbours


@numba.njit(cache=True, nogil=True)
def project(vertices, w2c, K, D, projected):
    """Write each vertex' (x, y, 1 / depth) into projected [V, 3], through OpenCV's model (k1, k2, p1, p2, k3).

    vertices [V, 3] metres; w2c [4, 4]; K [3, 3] pixels; D [5]. The first pixel's centre is (0, 0). Returns the least x
    and y and the greatest x and y, pixels.
    """
    left, top, right, bottom = 1e30, 1e30, -1e30, -1e30
    for v in range(vertices.shape[0]):
        X, Y, Z = vertices[v, 0], vertices[v, 1], vertices[v, 2]
        z = w2c[2, 0] * X + w2c[2, 1] * Y + w2c[2, 2] * Z + w2c[2, 3]
        x = (w2c[0, 0] * X + w2c[0, 1] * Y + w2c[0, 2] * Z + w2c[0, 3]) / z
        y = (w2c[1, 0] * X + w2c[1, 1] * Y + w2c[1, 2] * Z + w2c[1, 3]) / z
        r2 = x * x + y * y
        radial = 1.0 + r2 * (D[0] + r2 * (D[1] + r2 * D[4]))
        xd = x * radial + 2.0 * D[2] * x * y + D[3] * (r2 + 2.0 * x * x)
        yd = y * radial + D[2] * (r2 + 2.0 * y * y) + 2.0 * D[3] * x * y
        projected[v, 0] = K[0, 0] * xd + K[0, 1] * yd + K[0, 2]
        projected[v, 1] = K[1, 1] * yd + K[1, 2]
        projected[v, 2] = 1.0 / z
        left, right = min(left, projected[v, 0]), max(right, projected[v, 0])
        top, bottom = min(top, projected[v, 1]), max(bottom, projected[v, 1])
    return left, top, right, bottom


def window(bounds: tuple[float, float, float, float], width: int, height: int) -> tuple[int, int, int, int]:
    """The pixels x0, y0, x1, y1 (end exclusive) around what `project` returned, inside the image."""
    left, top, right, bottom = bounds
    x0, y0 = min(max(math.floor(left) - 1, 0), width - 1), min(max(math.floor(top) - 1, 0), height - 1)
    x1, y1 = min(max(math.ceil(right) + 2, x0 + 1), width), min(max(math.ceil(bottom) + 2, y0 + 1), height)
    return x0, y0, x1, y1


@numba.njit(cache=True, nogil=True)
def rasterize(projected, triangles, two_sided, x0, y0, samples, index, nearness):
    """Find the triangle in front at every sample: index [h, w] and nearness [h, w].

    index int32: EMPTY where there is none; nearness float32, as projected's third number.
    projected [V, 3]: x, y in pixels and a number that grows towards the eye and is linear on the image plane (1 /
    depth). triangles [T, 3]; two_sided [T] bool: the others are seen only when they wind clockwise in the image (y
    down), as outward faces do. (x0, y0): the first pixel of the window, which `samples` a pixel along an axis divide.
    """
    index[:] = EMPTY
    nearness[:] = -1e30
    rows, columns = index.shape
    shift = 0.5 * samples - 0.5
    for t in range(triangles.shape[0]):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        # Sample coordinates: sample (0, 0) has its centre at the origin.
        ax, ay = (projected[a, 0] - x0) * samples + shift, (projected[a, 1] - y0) * samples + shift
        bx, by = (projected[b, 0] - x0) * samples + shift, (projected[b, 1] - y0) * samples + shift
        cx, cy = (projected[c, 0] - x0) * samples + shift, (projected[c, 1] - y0) * samples + shift
        area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
        if area == 0.0 or (area > 0.0 and not two_sided[t]):
            continue
        left, right = max(math.ceil(min(ax, bx, cx)), 0), min(math.floor(max(ax, bx, cx)), columns - 1)
        top, bottom = max(math.ceil(min(ay, by, cy)), 0), min(math.floor(max(ay, by, cy)), rows - 1)
        if left > right or top > bottom:
            continue
        inverse = 1.0 / area
        az, bz, cz = projected[a, 2], projected[b, 2], projected[c, 2]
        u_step, v_step = (by - cy) * inverse, (cy - ay) * inverse
        z_step = u_step * az + v_step * bz - (u_step + v_step) * cz
        for i in range(top, bottom + 1):
            u = ((bx - left) * (cy - i) - (cx - left) * (by - i)) * inverse
            v = ((cx - left) * (ay - i) - (ax - left) * (cy - i)) * inverse
            z = u * az + v * bz + (1.0 - u - v) * cz
            for j in range(left, right + 1):
                if u >= -_OVERLAP and v >= -_OVERLAP and u + v <= 1.0 + _OVERLAP and z > nearness[i, j]:
                    nearness[i, j] = z
                    index[i, j] = t
                u += u_step
                v += v_step
                z += z_step
