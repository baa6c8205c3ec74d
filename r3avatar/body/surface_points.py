"""Points spread evenly over a triangle mesh."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_PLASTIC = 1.32471795724474602596  # its powers step through a square most evenly (Roberts' R2 sequence)
_GRID = 1024  # cells an axis, of the order in which faces are walked


def surface_points(vertices: Tensor, faces: Tensor, count: int, seed: int = 0) -> Tensor:
    """`count` points [count, 3] on a mesh of vertices [V, 3] and faces [T, 3], as many on a face as its area asks for.

    Faces are walked in Morton's order, in which what is near comes near, with one point every so much area; inside a
    face points follow a sequence of low discrepancy. The same seed gives the same points. ValueError for no points, or
    a mesh without area.
    """
    if count < 1:
        raise ValueError(f"{count} points cannot be spread over a surface; expected at least 1")
    a, b, c = vertices.double()[faces].unbind(1)  # [T, 3]
    area = torch.linalg.cross(b - a, c - a).norm(dim=1)
    if not area.sum() > 0:
        raise ValueError("the surface has no area to put points on")
    order = _morton((a + b + c) / 3).argsort(stable=True)
    a, b, c, reached = a[order], b[order], c[order], area[order].cumsum(0)
    shifts = torch.rand(3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    number = torch.arange(count, dtype=torch.float64)
    face = torch.searchsorted(reached, (number + shifts[0]) / count * reached[-1], right=True).clamp_max(len(faces) - 1)
    u, v = (torch.frac(number / _PLASTIC**k + shift)[:, None] for k, shift in enumerate(shifts[1:], start=1))
    u = u.sqrt()  # spreads the points that would crowd at the first corner
    return ((1 - u) * a[face] + u * (1 - v) * b[face] + u * v * c[face]).to(vertices.dtype)


def _morton(points: Tensor) -> Tensor:
    """Morton codes [N] int64 of points [N, 3]: the bits of their cells' three numbers in turns."""
    low, high = points.amin(0), points.amax(0)
    cells = ((points - low) / (high - low).max().clamp_min(1e-12) * (_GRID - 1)).long()
    code = torch.zeros(len(points), dtype=torch.int64)
    for bit in range(int(math.log2(_GRID))):
        for axis in range(3):
            code |= ((cells[:, axis] >> bit) & 1) << (3 * bit + axis)
    return code
