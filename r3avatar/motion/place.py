"""Where and how an external motion stands in a capture's world."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from r3avatar.body import BodyModel
from r3avatar.motion.motion import Motion, rest_joints, turn_world
from r3avatar.types import BodyPose

SNAP = np.cos(np.radians(25))


def snapped(up: np.ndarray) -> np.ndarray:
    """The axis that `up` [3] means: rigs look down a little, a world's up is one of its axes (else `up` as it is)."""
    axis = np.zeros(3)
    i = int(np.abs(up).argmax())
    axis[i] = np.sign(up[i])
    return axis if axis @ up > SNAP * np.linalg.norm(up) else up / np.linalg.norm(up)


def settle(motion: Motion, own_up: np.ndarray, up: np.ndarray, like: BodyPose, body: BodyModel, first: bool) -> Motion:
    """A motion whose up is `own_up` [3] taken to the capture's world, whose up is `up` [3] (unit vectors).

    first: stand its first frame where the capture's first pose stands: over the same spot, facing the same way, the
    lowest points of both level. Otherwise only its up is turned.
    """
    turn = _between(own_up, up)
    pelvis = rest_joints(body, like)[0]
    theta, Th = motion.pose.theta.double().numpy(), motion.pose.Th.double().numpy()
    theta, Th = turn_world(theta, Th, turn, pelvis)
    if first:
        root, stand = root_transform(like[:1], pelvis)
        heading = heading_of(Rotation.from_rotvec(theta[:1, 0]).as_matrix()[0], up)
        turn = _about(up, heading, heading_of(root, up))
        theta, Th = turn_world(theta, Th, turn, pelvis)
        moved = stand - (pelvis + Th[0])
        Th = Th + moved - (moved @ up) * up
        turned = replace(motion.pose[:1], theta=_float(theta[:1]), Th=_float(Th[:1]))
        Th = Th + (_lowest(like[:1], body, up) - _lowest(turned, body, up)) * up
    return replace(motion, pose=replace(motion.pose, theta=_float(theta), Th=_float(Th)))


def facing(motion: Motion, point: np.ndarray, up: np.ndarray, body: BodyModel, like: BodyPose) -> Motion:
    """The motion turned about its first pelvis until its first frame faces `point` [3], level; in the capture's world.

    A point straight above or below leaves it as it is.
    """
    pelvis = rest_joints(body, like)[0]
    theta, Th = motion.pose.theta.double().numpy(), motion.pose.Th.double().numpy()
    stand = pelvis + Th[0]
    ahead = point - stand - ((point - stand) @ up) * up
    if np.linalg.norm(ahead) < 1e-6:
        return motion
    now = heading_of(Rotation.from_rotvec(theta[0, 0]).as_matrix(), up)
    theta, Th = turn_world(theta, Th, _about(up, now, ahead / np.linalg.norm(ahead)), pelvis)
    Th = Th + stand - (pelvis + Th[0])
    return replace(motion, pose=replace(motion.pose, theta=_float(theta), Th=_float(Th)))


def in_place(motion: Motion, up: np.ndarray) -> Motion:
    """The motion without its way over the ground: the root stays over its first spot and keeps rising and falling."""
    up = torch.from_numpy(up).float()
    Th = motion.pose.Th
    return replace(motion, pose=replace(motion.pose, Th=Th[:1] + ((Th - Th[:1]) @ up)[:, None] * up))


def in_convention(pose: BodyPose, like: BodyPose, body: BodyModel) -> BodyPose:
    """The same pose with its root's rotation where the capture has it: in theta[:, 0], or in R (ZJU-MoCap's SMPL)."""
    if like.theta[:, 0].any() or not (like.R - torch.eye(3).to(like.R)).any():
        return pose
    pelvis = rest_joints(body, like)[0]
    R = Rotation.from_rotvec(pose.theta[:, 0].double().numpy()).as_matrix()
    theta = pose.theta.clone()
    theta[:, 0] = 0
    return replace(pose, theta=theta, R=_float(R), Th=_float(pose.Th.double().numpy() + pelvis - R @ pelvis))


def root_transform(pose: BodyPose, pelvis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The root's rotation [3, 3] in the world and where its joint stands [3], of a pose [1] in any convention."""
    R = pose.R[0].double().cpu().numpy()
    turned = Rotation.from_rotvec(pose.theta[0, 0].double().cpu().numpy()).as_matrix()
    return R @ turned, R @ pelvis + pose.Th[0].double().cpu().numpy()


def heading_of(root: np.ndarray, up: np.ndarray) -> np.ndarray:
    """The level direction [3] that a root [3, 3] faces: forward of its left side, which bowing leaves level."""
    ahead = np.cross(root[:, 0], up)
    if np.linalg.norm(ahead) < 0.3:  # lying on a side: what the chest or, at last, the head points to
        ahead = max((root[:, 2], root[:, 1]), key=lambda v: np.linalg.norm(v - (v @ up) * up))
        ahead = ahead - (ahead @ up) * up
    return ahead / np.linalg.norm(ahead)


def _about(up: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The turn [3, 3] about `up` that takes level `a` to level `b`."""
    return Rotation.from_rotvec(up * np.arctan2(np.cross(a, b) @ up, a @ b)).as_matrix()


def _between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The smallest rotation [3, 3] that takes unit `a` to unit `b` [3]; about x where they are opposite."""
    axis = np.cross(a, b)
    sine, cosine = np.linalg.norm(axis), a @ b
    if sine < 1e-9:
        axis, sine = (np.array([1.0, 0, 0]), 1.0) if cosine < 0 else (axis, 1.0)
        return Rotation.from_rotvec(axis * (np.pi if cosine < 0 else 0)).as_matrix()
    return Rotation.from_rotvec(axis / sine * np.arctan2(sine, cosine)).as_matrix()


def _lowest(pose: BodyPose, body: BodyModel, up: np.ndarray) -> float:
    vertices = body.vertices(pose.to(body.v_template.device))[0].double().cpu().numpy()
    return float((vertices @ up).min())


def _float(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x, np.float32))
