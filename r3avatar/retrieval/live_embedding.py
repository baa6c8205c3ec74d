"""The embedding of one pose after the other, without the cost of many small tensor operations."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

Array = np.ndarray


class LiveEmbedding:
    """`rotation_embedding` (or, with neither option, `pose_embedding`) of poses that come one by one."""

    def __init__(self, joints: int, geodesic: bool = False, up: Array | None = None):
        """joints: the first so many take part; geodesic, up: as for `rotation_embedding`."""
        self.joints, self.geodesic = joints, geodesic
        self.up = np.zeros(3) if up is None else np.asarray(up, np.float64)
        self._turns = np.zeros((2, joints, 4))  # quaternions of the last two poses
        self._known = 0

    def __call__(self, theta: Array) -> Array:
        """The next pose [J, 3], axis-angle, as [J', C] float32; C = 15 with `geodesic`, else 9."""
        out = np.zeros((self.joints, 15 if self.geodesic else 9), np.float32)
        _embed(theta, self._turns, self._known, self.geodesic, self.up, out)
        self._known = min(self._known + 1, 2)
        return out

    def forget(self) -> None:
        """The next pose has none before it."""
        self._known = 0


@njit(cache=True, nogil=True)
def _embed(theta, turns, known, geodesic, up, out):
    """Writes `out`, and moves `turns` on by one pose."""
    first = 9 if geodesic else 3
    heading_free = up[0] != 0.0 or up[1] != 0.0 or up[2] != 0.0
    for j in range(len(out)):
        x, y, z = np.float64(theta[j, 0]), np.float64(theta[j, 1]), np.float64(theta[j, 2])
        angle = math.sqrt(x * x + y * y + z * z)
        scale = 0.5 if angle < 1e-12 else math.sin(angle / 2) / angle
        q = (math.cos(angle / 2), scale * x, scale * y, scale * z)
        before = (turns[0, j, 0], turns[0, j, 1], turns[0, j, 2], turns[0, j, 3])
        earlier = (turns[1, j, 0], turns[1, j, 1], turns[1, j, 2], turns[1, j, 3])
        one, two = (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)
        if known > 0:
            one = _log(_product(q, _inverse(before)))
        if known > 1:
            two = _log(_product(before, _inverse(earlier)))
        if j == 0 and heading_free:
            gravity = _rotate(_inverse(q), (up[0], up[1], up[2]))
            one, two = _rotate(_inverse(q), one), _rotate(_inverse(before), two)
            for c in range(3):
                out[j, c] = gravity[c]
        elif geodesic:
            for c in range(3):
                unit = (1.0 if c == 0 else 0.0, 1.0 if c == 1 else 0.0, 1.0 if c == 2 else 0.0)
                column = _rotate(q, unit)
                for r in range(3):
                    out[j, 3 * r + c] = column[r] / math.sqrt(2.0)
        else:
            out[j, 0], out[j, 1], out[j, 2] = x, y, z
        for c in range(3):
            out[j, first + c], out[j, first + 3 + c] = one[c], two[c]
        for c in range(4):
            turns[1, j, c] = before[c]
            turns[0, j, c] = q[c]


@njit(inline="always")
def _inverse(q):
    return q[0], -q[1], -q[2], -q[3]


@njit(inline="always")
def _product(a, b):
    return (
        a[0] * b[0] - a[1] * b[1] - a[2] * b[2] - a[3] * b[3],
        a[0] * b[1] + a[1] * b[0] + a[2] * b[3] - a[3] * b[2],
        a[0] * b[2] - a[1] * b[3] + a[2] * b[0] + a[3] * b[1],
        a[0] * b[3] + a[1] * b[2] - a[2] * b[1] + a[3] * b[0],
    )


@njit(inline="always")
def _rotate(q, v):
    turned = _product(_product(q, (0.0, v[0], v[1], v[2])), _inverse(q))
    return turned[1], turned[2], turned[3]


@njit(inline="always")
def _log(q):
    """Axis-angle with angle in [0, pi]: q and -q are one rotation, and w >= 0 is the short way round."""
    sign = -1.0 if q[0] < 0 else 1.0
    sine = math.sqrt(q[1] * q[1] + q[2] * q[2] + q[3] * q[3])
    scale = 2.0 if sine < 1e-300 else 2.0 * math.atan2(sine, sign * q[0]) / sine
    return sign * scale * q[1], sign * scale * q[2], sign * scale * q[3]
