"""The cameras: a ring around the person, with held-out cameras between its members."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from r3avatar.captures.synthesis import arithmetic as am

Array = NDArray[np.float64]

_DISTANCE = 3.6  # metres from the person, give or take a tenth
_FILLED = 0.90  # share of the image's height or width that the whole performance may take


@dataclass
class Camera:
    """One camera, OpenCV conventions: the first pixel's centre is (0, 0)."""

    K: Array  # [3, 3] pixels
    D: Array  # [5] k1, k2, p1, p2, k3
    w2c: Array  # [4, 4]
    width: int
    height: int


def ring(
    vertices: Array, cameras: Sequence[int], held_out: Sequence[int], *, width: int, height: int,
    distortion: Sequence[float], seed: int,
) -> dict[int, Camera]:  # fmt: skip
    """Cameras by id, all looking at the middle of the performance and holding all of it.

    vertices [F, V, 3]: of every frame. The training `cameras` stand around the person at equal angles, give or take a
    few degrees, at heights from the hips to above the head; `held_out` ones stand midway between two of them.
    Lens coefficients vary by a tenth from camera to camera.
    """
    vary = 2.0 * am.draws(seed, 5, len(cameras) + len(held_out), 5) - 1.0
    low, high = vertices.min((0, 1)), vertices.max((0, 1))
    target = 0.5 * (low + high)
    step = 2.0 * am.PI / len(cameras)
    turns = [k * step for k in range(len(cameras))]
    turns += [(k * len(cameras) // len(held_out) + 0.5) * step for k in range(len(held_out))]
    points = vertices.reshape(-1, 3)
    rig = {}
    for number, (camera, turn) in enumerate(zip([*cameras, *held_out], turns)):
        a, b, c, d, e = vary[number].tolist()
        turn = turn + 0.12 * step * a
        level = (0.0, 0.45, -0.35, 0.75)[number % 4] + 0.12 * b  # metres above the middle
        distance = _DISTANCE * (1.0 + 0.08 * c)
        w2c = _looking(target, turn, level, distance)
        D = np.array(distortion, np.float64) * (1.0 + 0.1 * d)
        centre = 0.5 * (width - 1) + 0.004 * width * e, 0.5 * (height - 1) - 0.004 * height * a
        focal = _focal(points, w2c, width, height)
        K = np.array([[focal, 0.0, centre[0]], [0.0, focal * (1.0 + 0.001 * b), centre[1]], [0.0, 0.0, 1.0]])
        rig[int(camera)] = Camera(K, D, w2c, width, height)
    return dict(sorted(rig.items()))


def _looking(target: Array, turn: float, level: float, distance: float) -> Array:
    """World-to-camera matrix of an upright camera at an angle from +z around y that looks at the target."""
    toward = np.array([float(am.sin(turn)), 0.0, float(am.cos(turn))])
    eye = target + distance * toward
    eye[1] += level
    forward = am.unit(target - eye)
    right = am.unit(am.cross(forward, np.array([0.0, 1.0, 0.0])))
    rotation = np.stack([right, am.cross(forward, right), forward])
    w2c = np.eye(4)
    w2c[:3, :3] = rotation
    w2c[:3, 3] = -am.dot(rotation, eye)
    return w2c


def _focal(points: Array, w2c: Array, width: int, height: int) -> float:
    """The focal length in pixels with which all points lie within _FILLED of the undistorted image."""
    x, y, z = (am.dot(points, w2c[r, :3]) + w2c[r, 3] for r in range(3))
    across, up = np.abs(x / z).max(), np.abs(y / z).max()
    return float(0.5 * _FILLED * min(width / across, height / up))
