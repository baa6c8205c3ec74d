"""Cameras for videos, made from a capture's own."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from r3avatar.types import Cameras


def look_at(centre: Tensor, target: Tensor, up: Tensor) -> Tensor:
    """World-to-camera [4, 4] of an OpenCV camera at `centre` [3] that looks at `target` [3] with `up` [3] upwards."""
    z = torch.nn.functional.normalize(target - centre, dim=0)
    x = torch.nn.functional.normalize(torch.linalg.cross(z, up), dim=0)
    R = torch.stack([x, torch.linalg.cross(z, x), z])
    w2c = torch.eye(4, dtype=centre.dtype)
    w2c[:3, :3], w2c[:3, 3] = R, -R @ centre
    return w2c


def rig_up(cameras: list[Cameras]) -> Tensor:
    """The direction [3] that the capture's cameras agree to call up."""
    return torch.nn.functional.normalize(-torch.stack([c.w2c[1, :3] for c in cameras]).mean(0), dim=0)


def turntable(cameras: list[Cameras], target: Tensor, frames: int, turns: float = 1.0) -> Cameras:
    """Cameras [F] that circle `target` [3] at the rig's mean distance and height, with the first camera's lens.

    target: metres, usually the middle of the person.
    """
    up = rig_up(cameras)
    offsets = torch.stack([c.centres for c in cameras]) - target
    heights = offsets @ up
    flat = offsets - heights[:, None] * up
    radius, height = flat.norm(dim=1).mean(), heights.mean()
    start = torch.nn.functional.normalize(flat[0], dim=0)
    side = torch.linalg.cross(up, start)
    w2c = []
    for f in range(frames):
        angle = 2 * math.pi * turns * f / frames
        around = math.cos(angle) * start + math.sin(angle) * side
        w2c.append(look_at(target + radius * around + height * up, target, up))
    K = cameras[0].K.clone()
    K[0, 2], K[1, 2] = cameras[0].width / 2, cameras[0].height / 2
    return Cameras(K.expand(frames, 3, 3), torch.stack(w2c), cameras[0].width, cameras[0].height)


def still(camera: Cameras, frames: int) -> Cameras:
    """One camera, unmoved, for F frames."""
    return Cameras(camera.K.expand(frames, 3, 3), camera.w2c.expand(frames, 4, 4), camera.width, camera.height)
