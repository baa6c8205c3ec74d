"""Cameras for videos, made from a capture's own."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from r3avatar.body import BodyModel
from r3avatar.captures import Capture
from r3avatar.motion.camera_path import read_camera_path
from r3avatar.motion.motion import MotionError
from r3avatar.motion.stage import stage_of
from r3avatar.types import BodyPose, Cameras

MOVES = ("turntable", "follow", "fixed")
MARGIN = 1.05  # of what has to be in the picture
NEAR = 0.1  # metres before the camera


def choose_cameras(
    choice: str, *, capture: Capture, body: BodyModel, pose: BodyPose, fps: float, turns: float = 1.0
) -> Cameras:
    """Cameras [F] for the F frames of `pose`.

    Args:
        choice: 'turntable' circles the person and 'follow' keeps its side, both going along; 'fixed' stands still where
            it sees the whole motion; the name of one of the capture's cameras; or a .json file in
            the layout of cameras.json, several cameras being a path (`read_camera_path`).
        capture: its training cameras give turntable, follow and fixed their lens, height and least distance; follow and
            fixed look from the one that the first pose faces.
        fps: frames a second of the pose. turns: of the turntable.

    Raises MotionError for a choice that is none of these, CaptureError for a damaged file.
    """
    F = len(pose)
    if choice.endswith(".json"):
        return read_camera_path(Path(choice), F, fps)
    if choice in capture.camera_ids and choice not in MOVES:
        return still(capture.cameras[capture.camera_index(choice)], F)
    if choice not in MOVES:
        raise MotionError(
            f"camera={choice} is neither {', '.join(MOVES)}, nor a .json file of cameras, nor one of the capture's: "
            f"{', '.join(capture.camera_ids)}"
        )
    rig = [capture.cameras[capture.camera_index(c)] for c in capture.split("train").cameras]
    stage = stage_of(body, pose, rig_up(rig))
    followed = stage.followed(fps)
    away = followed - followed[0]
    corners = stage.corners()
    if choice == "turntable":
        strayed = corners - followed[:, None]
        above = strayed @ stage.up
        radius = (strayed - above[..., None] * stage.up).norm(dim=-1).max()
        return turntable(rig, followed, F, turns, radius, 2 * above.abs().max())
    ahead = torch.stack([torch.nn.functional.normalize(c.centres - stage.path[0], dim=0) for c in rig]) @ stage.heading
    front = rig[int(ahead.argmax())]
    if choice == "fixed":
        return still(towards(front, stage.centre, stage.up, corners), F)
    camera = towards(front, followed[0], stage.up, corners - away[:, None])
    w2c = camera.w2c.expand(F, 4, 4).clone()
    w2c[:, :3, 3] -= away @ camera.w2c[:3, :3].T
    return Cameras(camera.K.expand(F, 3, 3), w2c, camera.width, camera.height)


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


def turntable(
    cameras: list[Cameras],
    target: Tensor,
    frames: int,
    turns: float = 1.0,
    radius: float | Tensor = 0.0,
    height: float | Tensor = 0.0,
) -> Cameras:
    """Cameras [F] that circle `target` at the rig's mean distance and height, with the first camera's lens.

    target: metres, usually the middle of the person: [3], or [F, 3] to go along.
    radius, height: of the upright cylinder around it that has to be in the picture: where the rig's distance is too
        small for it, the circle is larger.
    """
    up = rig_up(cameras)
    target = target.expand(frames, 3)
    offsets = torch.stack([c.centres for c in cameras]) - target[0]
    heights = offsets @ up
    flat = offsets - heights[:, None] * up
    distance, rise = flat.norm(dim=1).mean(), heights.mean()
    farther = max(1.0, float(_distance(cameras[0], radius, height) / torch.hypot(distance, rise)))
    start = torch.nn.functional.normalize(flat[0], dim=0)
    side = torch.linalg.cross(up, start)
    w2c = []
    for f in range(frames):
        angle = 2 * math.pi * turns * f / frames
        around = math.cos(angle) * start + math.sin(angle) * side
        w2c.append(look_at(target[f] + farther * (distance * around + rise * up), target[f], up))
    return Cameras(_centred(cameras[0]).expand(frames, 3, 3), torch.stack(w2c), cameras[0].width, cameras[0].height)


def towards(camera: Cameras, target: Tensor, up: Tensor, points: Tensor) -> Cameras:
    """`camera` turned to `target` [3] and moved away from it until `points` [..., 3] are in the picture."""
    offset, K, points = camera.centres - target, _centred(camera), points.reshape(-1, 3)
    half = torch.tensor([camera.width, camera.height]) / 2 / MARGIN

    def at(distance: float) -> Tensor:
        return look_at(target + distance * offset, target, up)

    def fits(distance: float) -> bool:
        w2c = at(distance)
        seen = points @ w2c[:3, :3].T + w2c[:3, 3]
        image = seen[:, :2] * torch.stack([K[0, 0], K[1, 1]]) / seen[:, 2:]
        return bool((seen[:, 2] > NEAR).all() and (image.abs() <= half).all())

    near, far = 1.0, 1.0
    while not fits(far) and far < 1e6:
        near, far = far, 2 * far
    for _ in range(20 if far > 1 else 0):
        between = (near + far) / 2
        near, far = (near, between) if fits(between) else (between, far)
    return Cameras(K, at(far), camera.width, camera.height)


def still(camera: Cameras, frames: int) -> Cameras:
    """One camera, unmoved, for F frames."""
    return Cameras(camera.K.expand(frames, 3, 3), camera.w2c.expand(frames, 4, 4), camera.width, camera.height)


def _distance(camera: Cameras, radius: float | Tensor, height: float | Tensor) -> Tensor:
    """From which distance a camera sees an upright cylinder whole."""
    radius, height = torch.as_tensor(radius), torch.as_tensor(height)
    wide, high = camera.width / 2 / camera.K[0, 0], camera.height / 2 / camera.K[1, 1]
    return MARGIN * torch.maximum(radius + height / 2 / high, radius * (1 + wide.square()).sqrt() / wide)


def _centred(camera: Cameras) -> Tensor:
    """Intrinsics [3, 3] with the principal point in the middle of the picture."""
    K = camera.K.clone()
    K[0, 2], K[1, 2] = camera.width / 2, camera.height / 2
    return K
