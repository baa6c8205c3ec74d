"""Soft light from above and in front, with the shadows of the body and the cloth on each other.

The sky is a set of directions of different brightness. For each the mesh is drawn as seen from there (a depth map); a
vertex receives from a direction what its slope lets in, unless something stands nearer to the light.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

from r3avatar.captures.synthesis import arithmetic as am
from r3avatar.captures.synthesis.performance import Surface
from r3avatar.captures.synthesis.raster import rasterize
from r3avatar.captures.synthesis.skin import vertex_normals

Array = NDArray[np.float64]

_DIRECTIONS = 24
_PIXEL = 0.010  # metres; a depth map's resolution
_BIAS = 0.012  # metres that a vertex is moved out before it is looked up: more than the cloth's distance to the skin
_KEY = (0.36, 0.62, 0.70)  # where most light comes from, world axes


def sky() -> tuple[Array, Array]:
    """Directions towards the light [D, 3] and their brightness [D], which sums to 1 over what an upward slope sees."""
    k = np.arange(_DIRECTIONS) + 0.5
    height = 1.0 - 1.35 * k / _DIRECTIONS  # a little below the horizon: light that the floor throws back
    turn = k * 2.399963229728653  # the golden angle spreads them evenly
    level = np.sqrt(1.0 - height * height)
    directions = np.stack([level * am.cos(turn), height, level * am.sin(turn)], -1)
    key = am.unit(np.array(_KEY))
    toward = np.clip(am.dot(directions, key), 0.0, 1.0)
    brightness = 0.35 + 0.25 * np.clip(height, 0.0, 1.0) + 2.6 * toward * toward * toward
    return directions, brightness


def light_on(vertices: Array, surface: Surface) -> Array:
    """Light on the front and on the back of each vertex, [V, 2], about 1 where it is brightest."""
    normals = vertex_normals(vertices, surface.triangles)
    directions, brightness = sky()
    received = np.zeros((len(vertices), 2))
    low, high = vertices.min(0), vertices.max(0)
    middle, radius = 0.5 * (low + high), 0.5 * float(np.sqrt(am.dot(high - low, high - low))) + 0.05
    size = math.ceil(2.0 * radius / _PIXEL)
    index, nearness = np.empty((size, size), np.int32), np.empty((size, size), np.float32)
    casts = np.ones(len(surface.triangles), bool)
    for direction, bright in zip(directions, brightness):
        right = am.unit(
            am.cross(np.array([0.0, 0.0, 1.0]) if abs(direction[1]) > 0.9 else np.array([0.0, 1.0, 0.0]), direction)
        )
        up = am.cross(direction, right)
        view = np.stack([right, up, direction])
        shifted = vertices - middle
        projected = np.stack([am.dot(shifted, right), am.dot(shifted, up), am.dot(shifted, direction)], -1)
        projected[:, :2] = (projected[:, :2] + radius) / _PIXEL
        rasterize(projected, surface.triangles, casts, 0, 0, 1, index, nearness)
        _gather(projected, normals, view, nearness, bright, received)
    # Opposite slopes share the scale, so that a full view of the key's side is 1.
    facing = np.clip(am.dot(directions, am.unit(np.array(_KEY))), 0.0, 1.0) * brightness
    total = 0.0
    for value in facing.tolist():
        total += value
    return received / total


@numba.njit(cache=True, nogil=True)
def _gather(projected, normals, view, nearness, bright, received):
    size = nearness.shape[0]
    for v in range(projected.shape[0]):
        nx = view[0, 0] * normals[v, 0] + view[0, 1] * normals[v, 1] + view[0, 2] * normals[v, 2]
        ny = view[1, 0] * normals[v, 0] + view[1, 1] * normals[v, 1] + view[1, 2] * normals[v, 2]
        nz = view[2, 0] * normals[v, 0] + view[2, 1] * normals[v, 1] + view[2, 2] * normals[v, 2]
        side = 0 if nz > 0.0 else 1
        sign = 1.0 if nz > 0.0 else -1.0
        slope = abs(nz)
        x = projected[v, 0] + sign * nx * _BIAS / _PIXEL
        y = projected[v, 1] + sign * ny * _BIAS / _PIXEL
        z = projected[v, 2] + sign * nz * _BIAS
        i0, j0 = math.floor(y), math.floor(x)
        fy, fx = y - i0, x - j0
        open_ = 0.0
        for di in range(-1, 3):
            for dj in range(-1, 3):
                # A 4 x 4 neighbourhood whose outer weights slide with the fraction: soft and without steps.
                wy = (1.0 - fy) if di == -1 else (fy if di == 2 else 1.0)
                wx = (1.0 - fx) if dj == -1 else (fx if dj == 2 else 1.0)
                i, j = min(max(i0 + di, 0), size - 1), min(max(j0 + dj, 0), size - 1)
                if nearness[i, j] < z + 0.01:
                    open_ += wy * wx
        received[v, side] += bright * slope * open_ / 9.0
