"""The known mistakes of calibrations and body fits, each with the change that mends it.

A `Mistake` is a single hypothesis: it maps the cameras and poses as they were read to what they would be had that one
mistake not been made. Where a mistake can be made in two directions, each direction is one hypothesis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from r3avatar.body import BodyModel, rodrigues
from r3avatar.body.model import HANDS
from r3avatar.types import BodyPose, Cameras

Rig = list[Cameras]
Change = Callable[[Rig, BodyPose, BodyModel], tuple[Rig, BodyPose]]


@dataclass(frozen=True)
class Mistake:
    """One hypothesis: its name, the change that undoes the mistake, and what a user has to set or write for it."""

    name: str
    change: Change
    file: str  # the file of the plain layout (capture=folder) that holds the mistaken numbers
    mend: str  # the line to write, in terms of `Cameras` and `BodyPose`
    keys: Mapping[str, str] = field(default_factory=dict)  # keys of a reader that do it, and the value to set

    def fix(self, keys: Iterable[str]) -> str:
        """What to do with a reader that has these keys: the override to give, else the line to write."""
        for key in keys:
            if key in self.keys:
                return f"'capture.{key}={self.keys[key]}'"
        return f"{self.mend} (in the reader; with capture=folder, in {self.file})"


def _of_cameras(change: Callable[[Cameras], Cameras]) -> Change:
    return lambda rig, poses, body: ([change(camera) for camera in rig], poses)


def _of_poses(change: Callable[[BodyPose, BodyModel], BodyPose]) -> Change:
    return lambda rig, poses, body: (rig, change(poses, body))


def _scaled_translation(factor: float) -> Change:
    def change(camera: Cameras) -> Cameras:
        w2c = camera.w2c.clone()
        w2c[:3, 3] *= factor
        return replace(camera, w2c=w2c)

    return _of_cameras(change)


def _scaled_intrinsics(factor: float) -> Change:
    def change(camera: Cameras) -> Cameras:
        return replace(camera, K=camera.K * camera.K.new_tensor([[factor], [factor], [1.0]]))

    return _of_cameras(change)


def _turned_world(axis: Tensor) -> Change:
    """The body's world is the cameras' turned: w2c maps from the body's world if the turn is put before it."""
    turn = torch.eye(4)
    turn[:3, :3] = rodrigues(axis)
    return _of_cameras(lambda camera: replace(camera, w2c=camera.w2c @ turn.to(camera.w2c)))


def _inverted(camera: Cameras) -> Cameras:
    return replace(camera, w2c=torch.linalg.inv(camera.w2c.double()).to(camera.w2c.dtype))


def _opengl(camera: Cameras) -> Cameras:
    return replace(camera, w2c=camera.w2c.new_tensor([1.0, -1.0, -1.0, 1.0])[:, None] * camera.w2c)


def _about_origin(poses: BodyPose, body: BodyModel) -> BodyPose:
    """The root rotation moved from theta, where it turns about the pelvis, to R, which turns about the origin."""
    theta = poses.theta.clone()
    theta[:, 0] = 0
    return replace(poses, theta=theta, R=poses.R @ rodrigues(poses.theta[:, 0]))


def _about_pelvis(poses: BodyPose, body: BodyModel) -> BodyPose:
    """The global rotation moved from R, which turns about the origin, to theta, where it turns about the pelvis."""
    R = poses.R @ rodrigues(poses.theta[:, 0])
    theta = poses.theta.clone()
    theta[:, 0] = torch.from_numpy(Rotation.from_matrix(R.double().numpy()).as_rotvec()).to(theta)
    return replace(poses, theta=theta, R=torch.eye(3).to(R).expand_as(R).clone())


def _with_hand_mean(sign: float) -> Change:
    def change(poses: BodyPose, body: BodyModel) -> BodyPose:
        theta = poses.theta.clone()
        if body.kind in HANDS:
            for joints, mean in zip(HANDS[body.kind], (body.left_hand_mean, body.right_hand_mean)):
                theta[:, joints] += sign * mean.view(15, 3)
        return replace(poses, theta=theta)

    return _of_poses(change)


def _shifted(frames: int) -> Change:
    """Each frame gets the pose `frames` rows later; rows beyond the ends repeat the last one."""

    def change(poses: BodyPose, body: BodyModel) -> BodyPose:
        return poses[np.clip(np.arange(len(poses)) + frames, 0, len(poses) - 1)]

    return _of_poses(change)


def _scaled_body_translation(factor: float) -> Change:
    return _of_poses(lambda poses, body: replace(poses, Th=poses.Th * factor))


_QUARTER = torch.pi / 2
_CAMERAS, _POSES = "cameras.json", "poses.npz"
_HANDS = "the mean hand pose (`r3avatar.captures.read_hand_mean`)"
_READ_MEAN = "{_target_:r3avatar.captures.read_hand_mean,kind:${body.kind},path:${body.path},gender:${body.gender}}"

MISTAKES: list[Mistake] = [
    Mistake(
        "cameras in millimetres, not metres", _scaled_translation(1e-3),
        _CAMERAS, "w2c[:3, 3] *= 0.001",
    ),
    Mistake(
        "cameras divided by 1000 though in metres", _scaled_translation(1e3),
        _CAMERAS, "w2c[:3, 3] *= 1000: the calibration is in metres already",
    ),
    Mistake(
        "body translation in millimetres, not metres", _scaled_body_translation(1e-3),
        _POSES, "Th *= 0.001",
    ),
    Mistake(
        "body translation divided by 1000 though in metres", _scaled_body_translation(1e3),
        _POSES, "Th *= 1000: the translation is in metres already",
    ),
    Mistake(
        "camera-to-world taken for world-to-camera, or the reverse", _of_cameras(_inverted),
        _CAMERAS, "w2c = torch.linalg.inv(w2c)",
    ),
    Mistake(
        "OpenGL camera axes (y up, looking along -z), not OpenCV's", _of_cameras(_opengl),
        _CAMERAS, "w2c = torch.diag(torch.tensor([1.0, -1, -1, 1])) @ w2c",
    ),
    Mistake(
        "global_orient and transl read as Rh and Th", _of_poses(_about_pelvis),
        _POSES, "theta[:, 0] = global_orient, R = identity, Th = transl: the rotation turns about the pelvis",
    ),
    Mistake(
        "Rh and Th read as global_orient and transl", _of_poses(_about_origin),
        _POSES, "R = rodrigues(Rh), theta[:, 0] = 0, Th = Th: the rotation turns about the origin",
    ),
    Mistake(
        "hand poses relative to the mean taken for full ones (flat_hand_mean)", _with_hand_mean(1.0),
        _POSES, f"theta[:, 25:55] += {_HANDS}",
        {"hand_mean": _READ_MEAN},
    ),
    Mistake(
        "full hand poses taken for relative to the mean (flat_hand_mean)", _with_hand_mean(-1.0),
        _POSES, f"do not add {_HANDS}: theta[:, 25:55] holds it already", {"hand_mean": "null"},
    ),
    Mistake(
        "the body's world is y-down, the cameras' y-up, or the reverse", _turned_world(torch.tensor([torch.pi, 0, 0])),
        _CAMERAS, "w2c = w2c @ torch.diag(torch.tensor([1.0, -1, -1, 1]))",
    ),
    Mistake(
        "the cameras' world is z-up, the body's y-up", _turned_world(torch.tensor([_QUARTER, 0, 0])),
        _CAMERAS, "w2c[:3, :3] = w2c[:3, :3] @ torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])",
    ),
    Mistake(
        "the cameras' world is y-up, the body's z-up", _turned_world(torch.tensor([-_QUARTER, 0, 0])),
        _CAMERAS, "w2c[:3, :3] = w2c[:3, :3] @ torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])",
    ),
    Mistake(
        "poses one frame too late: images show the next row", _shifted(1),
        _POSES, "the pose of image i is row i + 1 of the fits",
    ),
    Mistake(
        "poses one frame too early: images show the row before", _shifted(-1),
        _POSES, "the pose of image i is row i - 1 of the fits",
    ),
    *(
        Mistake(
            f"intrinsics at {1 / factor:g} times the images' size", _scaled_intrinsics(factor),
            _CAMERAS, f"K[:2] *= {factor:g}",
        )
        for factor in (0.5, 0.25, 2.0, 4.0)
    ),
]  # fmt: skip
