"""Arithmetic that gives the same bits on every machine.

Mathematical libraries and vector units round sine, exponential and sums of products differently. Everything that
decides a synthetic capture is therefore built from IEEE double additions, multiplications, divisions and square roots
in a fixed order (compiled without fast-math, so nothing is fused or reordered), and from whole-number hashing.
Quaternions are (w, x, y, z) and rotations act on column vectors.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

PI = 3.141592653589793
_HALF_PI_HIGH = 1.57079632673412561417  # the first 33 bits of pi/2: its small multiples are exact
_HALF_PI_LOW = 6.07710050650619224932e-11  # pi/2 minus the above


@numba.njit(cache=True)
def sine(x):
    """sin(x) for |x| up to about 1e5, to some units in the last place."""
    quarter = math.floor(x / 1.5707963267948966 + 0.5)
    r = (x - quarter * _HALF_PI_HIGH) - quarter * _HALF_PI_LOW
    z = r * r
    s = 2.7557319223985893e-06 + z * (-2.505210838544172e-08 + z * (1.6059043836821613e-10 - z * 7.647163731819816e-13))
    s = r * (1.0 + z * (-0.16666666666666666 + z * (0.008333333333333333 + z * (-0.0001984126984126984 + z * s))))
    c = -2.7557319223985888e-07 + z * (2.08767569878681e-09 + z * (-1.1470745597729725e-11 + z * 4.779477332387385e-14))
    c = 1.0 + z * (-0.5 + z * (0.041666666666666664 + z * (-0.001388888888888889 + z * (2.48015873015873e-05 + z * c))))
    turn = int(quarter) % 4
    if turn == 0:
        return s
    if turn == 1:
        return c
    if turn == 2:
        return -s
    return -c


@numba.njit(cache=True)
def arctangent2(y, x):
    """The angle of (x, y) in (-pi, pi]; 0 for the origin."""
    a, b = abs(x), abs(y)
    if a == 0.0 and b == 0.0:
        return 0.0
    t = min(a, b) / max(a, b)
    for _ in range(3):  # tan(angle / 2) three times: the series below then starts from at most 0.1
        t = t / (1.0 + math.sqrt(1.0 + t * t))
    z = t * t
    angle = 0.0
    for k in range(9, -1, -1):
        angle = (1.0 if k % 2 == 0 else -1.0) / (2 * k + 1) + z * angle
    angle = 8.0 * t * angle
    if b > a:
        angle = 0.5 * PI - angle
    if x < 0.0:
        angle = PI - angle
    return -angle if y < 0.0 else angle


sin = numba.vectorize(["f8(f8)"], cache=True)(lambda x: sine(x))
cos = numba.vectorize(["f8(f8)"], cache=True)(lambda x: sine(x + 0.5 * PI))
arctan2 = numba.vectorize(["f8(f8, f8)"], cache=True)(lambda y, x: arctangent2(y, x))


def draws(seed: int, stream: int, *shape: int) -> Array:
    """Random numbers in [0, 1), `shape`; each use of a seed has a stream of its own."""
    return np.random.Generator(np.random.PCG64([seed, stream])).random(shape)


def smooth(x: Array | float) -> Array:
    """0 below 0, 1 above 1, and between them the quintic whose first and second derivatives vanish at both ends."""
    x = np.clip(x, 0.0, 1.0)
    return x * x * x * (x * (x * 6.0 - 15.0) + 10.0)


def piecewise(x: Array, places: list[float], values: list[float]) -> Array:
    """Straight lines through (place, value) pairs in rising order, constant outside."""
    out = np.full_like(x, values[0])
    for a, b, low, high in zip(places[:-1], places[1:], values[:-1], values[1:]):
        out = out + (high - low) / (b - a) * np.clip(x - a, 0.0, b - a)
    return out


def dot(a: Array, b: Array) -> Array:
    """Inner product of 3-vectors on the last axis, [...]."""
    return a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1] + a[..., 2] * b[..., 2]


def cross(a: Array, b: Array) -> Array:
    """Cross product of 3-vectors on the last axis, [..., 3]."""
    x = a[..., 1] * b[..., 2] - a[..., 2] * b[..., 1]
    y = a[..., 2] * b[..., 0] - a[..., 0] * b[..., 2]
    return np.stack([x, y, a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]], -1)


def unit(a: Array) -> Array:
    """3-vectors scaled to length 1, [..., 3]."""
    return a / np.sqrt(dot(a, a))[..., None]


def axis_turn(axis: int, angle: Array | float) -> Array:
    """Quaternions of turns by `angle` radians about a coordinate axis, [..., 4]."""
    half = 0.5 * np.asarray(angle, np.float64)
    q = np.zeros((*half.shape, 4))
    q[..., 0], q[..., 1 + axis] = cos(half), sin(half)
    return q


def quaternion_product(*quaternions: Array) -> Array:
    """The rotations applied right to left, as matrices would be, [..., 4]."""
    p = quaternions[0]
    for q in quaternions[1:]:
        pw, px, py, pz = (p[..., i] for i in range(4))
        qw, qx, qy, qz = (q[..., i] for i in range(4))
        p = np.stack(
            [
                pw * qw - px * qx - py * qy - pz * qz,
                pw * qx + px * qw + py * qz - pz * qy,
                pw * qy - px * qz + py * qw + pz * qx,
                pw * qz + px * qy - py * qx + pz * qw,
            ],
            -1,
        )
    return p


def inverse(q: Array) -> Array:
    """The opposite rotations of unit quaternions, [..., 4]."""
    return q * np.array([1.0, -1.0, -1.0, -1.0])


def turned(q: Array, v: Array) -> Array:
    """The vectors [..., 3] turned by the unit quaternions [..., 4]."""
    q, v = np.broadcast_arrays(q, np.concatenate([np.zeros_like(v[..., :1]), v], -1))
    return quaternion_product(q, v, inverse(q))[..., 1:]


def blended(a: Array, b: Array, weight: Array) -> Array:
    """Unit quaternions between a and b: normalised linear blend with b's `weight`, the short way round, [..., 4]."""
    weight = weight[..., None]
    side = np.where(a[..., :1] * b[..., :1] + dot(a[..., 1:], b[..., 1:])[..., None] < 0.0, -1.0, 1.0)
    q = (1.0 - weight) * a + weight * side * b
    return q / np.sqrt(q[..., :1] * q[..., :1] + dot(q[..., 1:], q[..., 1:])[..., None])


def quaternion_of_frame(x: Array, y: Array) -> Array:
    """Quaternions of the rotation matrices whose first two columns are the orthonormal x and y, [..., 4]."""
    z = cross(x, y)
    m = [[v[..., i] for v in (x, y, z)] for i in range(3)]  # m[row][column]
    w2 = np.maximum(1.0 + m[0][0] + m[1][1] + m[2][2], 0.0)
    x2 = np.maximum(1.0 + m[0][0] - m[1][1] - m[2][2], 0.0)
    y2 = np.maximum(1.0 - m[0][0] + m[1][1] - m[2][2], 0.0)
    z2 = np.maximum(1.0 - m[0][0] - m[1][1] + m[2][2], 0.0)
    wx, wy, wz = m[2][1] - m[1][2], m[0][2] - m[2][0], m[1][0] - m[0][1]
    xy, xz, yz = m[0][1] + m[1][0], m[0][2] + m[2][0], m[1][2] + m[2][1]
    squares = np.stack([w2, x2, y2, z2], -1)
    rows = np.stack(
        [
            np.stack([w2, wx, wy, wz], -1),
            np.stack([wx, x2, xy, xz], -1),
            np.stack([wy, xy, y2, yz], -1),
            np.stack([wz, xz, yz, z2], -1),
        ],
        -2,
    )
    best = np.argmax(squares, -1)[..., None, None]  # the largest component divides: no cancellation
    q = np.take_along_axis(rows, best, -2)[..., 0, :]
    q = q / np.sqrt(q[..., :1] * q[..., :1] + dot(q[..., 1:], q[..., 1:])[..., None])
    return np.where(q[..., :1] < 0.0, -q, q)


def rotation_vector(q: Array) -> Array:
    """Axis-angle vectors of unit quaternions, angle at most pi, [..., 3] radians."""
    q = np.where(q[..., :1] < 0.0, -q, q)
    length = np.sqrt(dot(q[..., 1:], q[..., 1:]))
    angle = 2.0 * arctan2(length, q[..., 0])
    return q[..., 1:] * np.where(length > 1e-12, angle / np.maximum(length, 1e-12), 2.0)[..., None]


def quaternion(vector: Array) -> Array:
    """Unit quaternions of axis-angle vectors [..., 3] radians, [..., 4]."""
    angle = np.sqrt(dot(vector, vector))
    factor = np.where(angle > 1e-12, sin(0.5 * angle) / np.maximum(angle, 1e-12), 0.5)
    return np.concatenate([cos(0.5 * angle)[..., None], vector * factor[..., None]], -1)


def matrix(q: Array) -> Array:
    """Rotation matrices of unit quaternions, [..., 3, 3]."""
    x, y, z = (turned(q, np.broadcast_to(e, (*q.shape[:-1], 3))) for e in np.eye(3))
    return np.stack([x, y, z], -1)
