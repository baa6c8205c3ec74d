"""Let a garment follow a body through its poses."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from r3avatar.body import BodyModel
from r3avatar.cloth.particles import Cloth, Collider, Fabric
from r3avatar.cloth.tailor import Garment
from r3avatar.types import BodyPose

Array = NDArray[np.float64]

RATE = 60.0  # samples of the body's motion a second, at least
STEPS = 12  # of the cloth, a sample
DRESS_SECONDS, REST_SECONDS = 0.8, 0.6  # from the rest pose to the first one, and standing there, to settle
GAP_SECONDS = 0.5  # frames further apart are different motions
FABRICS = (
    Fabric(), Fabric(drag=2.0), Fabric(drag=0.9), Fabric(bending=10.0), Fabric(bending=90.0), Fabric(friction=0.2),
    Fabric(density=0.3), Fabric(damping=1.5),
)  # fmt: skip
"""What a garment may be made of: of each the simulation is as likely as of the others."""
UNKNOWN_FPS = 25.0  # of captures that do not say theirs
_FOREARMS = (18, 19)  # joints; they and what hangs on them do not push cloth: a hand is rarely fitted well
_ANKLE = 7
_BATCH = 32  # frames posed at once


@dataclass
class Surface:
    """The body's surface at F moments, the world y up."""

    points: Array  # [F, C, 3] metres
    normals: Array  # [F, C, 3]
    maps: Array  # [F, J, 3, 4] rest to posed, of every joint


@dataclass
class Bodies:
    """What a garment meets: the body's surface and the garment's sewn edge at F moments, the world y up."""

    points: Array  # [F, C, 3] metres
    normals: Array  # [F, C, 3]
    pins: Array  # [F, P, 3] metres

    def __len__(self) -> int:
        return len(self.points)


class Wearer:
    """A body of one shape, that can be dressed."""

    def __init__(self, body: BodyModel, like: BodyPose, up: Tensor):
        """like: whose first frame's shape it has; up: [3] the world's up, a unit vector."""
        self.device = body.v_template.device
        self.body, self.like = body, like[:1].to(self.device)
        self.turn = turn_up(up)
        weights = body.weights
        forearm = torch.zeros(body.num_joints, dtype=torch.bool, device=self.device)
        for joint in range(body.num_joints):
            parent = body.parents[joint]
            forearm[joint] = joint in _FOREARMS or (parent >= 0 and bool(forearm[parent]))
        self._touched = torch.nonzero(weights[:, forearm].sum(1) < 0.5)[:, 0]
        with torch.no_grad():
            rest = replace(
                self.like, theta=torch.zeros_like(self.like.theta),
                R=torch.eye(3, device=self.device)[None], Th=torch.zeros(1, 3, device=self.device), garment=None,
            )  # fmt: skip
            self.rest_vertices = body.vertices(rest)[0].double().cpu().numpy()
            self.rest_joints = body.joints(self.like.betas, self.like.expression)[0].double().cpu().numpy()
        self.weights = weights.double().cpu().numpy()

    @torch.no_grad()
    def surface(self, poses: BodyPose) -> Surface:
        """The body in poses [F]."""
        body, faces = self.body, self.body.faces
        turn = torch.from_numpy(self.turn).float().to(self.device)
        found: list[tuple[Array, ...]] = []
        for start in range(0, len(poses), _BATCH):
            pose = poses[start : start + _BATCH]
            pose = replace(pose, betas=self.like.betas.expand(len(pose), -1))
            vertices = body.vertices(pose)
            a, b, c = (vertices[:, faces[:, k]] for k in range(3))
            normals, across = torch.zeros_like(vertices), torch.linalg.cross(b - a, c - a)
            for k in range(3):
                normals.index_add_(1, faces[:, k], across)
            normals = torch.nn.functional.normalize(normals[:, self._touched], dim=-1)
            transforms = body.skinning_transforms(
                body.rotations(pose.theta), body.joints(pose.betas, pose.expression)
            )[..., :3, :]  # fmt: skip
            linear = turn @ pose.R[:, None] @ transforms[..., :3]
            shift = (pose.R[:, None] @ transforms[..., 3:])[..., 0] + pose.Th[:, None]
            maps = torch.cat([linear, (shift @ turn.T)[..., None]], -1)
            places = vertices[:, self._touched] @ turn.T
            found.append(tuple(x.double().cpu().numpy() for x in (places, normals @ turn.T, maps)))
        return Surface(*(np.concatenate(x) for x in zip(*found)))

    def meet(self, surface: Surface, garment: Garment) -> Bodies:
        """What a garment meets that was cut for this body."""
        sewn = garment.grid.start[: len(garment.sewn_to)]
        heights = self.rest_vertices[self._touched.cpu().numpy(), 1]
        reached = heights > self.rest_joints[_ANKLE, 1] - 0.03
        if garment.grid.closed:  # a tube hangs below its edge
            reached &= heights < sewn[:, 1].max() + 0.06
        # In PyTorch's memory, which is aligned: NumPy's sums may differ in the last bit with where theirs lies, and
        # what differs in the last bit falls in other folds.
        shares = torch.from_numpy(self.weights)[torch.from_numpy(garment.sewn_to)].mean(1)  # [P, J]
        maps = torch.einsum("pj,fjab->fpab", shares, torch.from_numpy(surface.maps).clone())
        pins = (maps[..., :3] @ torch.from_numpy(sewn).clone()[..., None])[..., 0] + maps[..., 3]
        return Bodies(surface.points[:, reached], surface.normals[:, reached], pins.numpy())

    def dressing(self, first: BodyPose, fps: float) -> BodyPose:
        """Poses from the rest pose, standing where `first` [1] does, to that and a while in it."""
        ways = [k / math.ceil(DRESS_SECONDS * fps) for k in range(math.ceil(DRESS_SECONDS * fps))]
        share = torch.tensor(ways + [1.0] * math.ceil(REST_SECONDS * fps)).to(first.theta)
        smooth = share * share * (3 - 2 * share)
        theta = smooth[:, None, None] * first.theta
        theta[:, 0] = first.theta[:, 0]
        F = len(share)
        return BodyPose(
            theta, first.betas.expand(F, -1), first.expression.expand(F, -1), first.R.expand(F, 3, 3),
            first.Th.expand(F, 3),
        )  # fmt: skip


def turn_up(up: Tensor) -> Array:
    """The rotation [3, 3] of the world that makes y its up, from the direction `up` [3] now."""
    y = np.asarray(up, np.float64)
    y = y / np.linalg.norm(y)
    if y[1] > 0.99:
        return np.eye(3)
    x = np.cross(y, np.eye(3)[np.abs(y).argmin()])
    x /= np.linalg.norm(x)
    return np.stack([x, y, np.cross(x, y)])


def follow_body(
    garment: Garment, bodies: Bodies, seconds: Sequence[float], fabric: Fabric, steps: int = STEPS
) -> Array:
    """The garment's particles [F, P, 3] at F moments `seconds` [F] apart from 0, the body moving smoothly in between.

    It begins as it was cut, so that the first of `bodies` should be near the rest pose.
    """
    cloth = Cloth(garment.grid, fabric)
    cloth.position = _put_on(garment, bodies.pins[0])
    found = [cloth.position.copy()]
    before, pins_before = Collider(bodies.points[0], bodies.normals[0]), bodies.pins[0]
    for f in range(len(bodies) - 1):
        duration = seconds[f + 1] - seconds[f]
        samples = max(1, round(duration * RATE))
        for s in range(1, samples + 1):
            share = s / samples
            points, pins = (_between(x, seconds, f, share) for x in (bodies.points, bodies.pins))
            normals = (1 - share) * bodies.normals[f] + share * bodies.normals[f + 1]
            normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
            after = Collider(points, normals)
            cloth.advance(before, after, pins_before, pins, duration / samples, steps)
            before, pins_before = after, pins
        found.append(cloth.position.copy())
    return np.stack(found)


def _put_on(garment: Garment, pins: Array) -> Array:
    """The garment as it was cut, moved rigidly so that its sewn edge fits `pins` [P, 3]."""
    start, there = (torch.from_numpy(x).clone() for x in (garment.grid.start, pins))  # aligned: `Wearer.meet`
    sewn = start[: len(there)]
    u, _, vt = torch.linalg.svd((there - there.mean(0)).mT @ (sewn - sewn.mean(0)))
    upright = torch.ones(3, dtype=start.dtype)
    upright[2] = torch.linalg.det(u @ vt)
    turn = u @ (upright[:, None] * vt)
    return ((start - sewn.mean(0)) @ turn.mT + there.mean(0)).numpy()


def _between(values: Array, seconds: Sequence[float], f: int, share: float) -> Array:
    """values [F, ...] between the moments f and f + 1: Hermite's cubic with finite differences as speeds."""
    h = seconds[f + 1] - seconds[f]
    chord = (values[f + 1] - values[f]) / h
    speed_a = speed_b = chord
    if f > 0:
        speed_a = (values[f + 1] - values[f - 1]) / (seconds[f + 1] - seconds[f - 1])
    if f + 2 < len(values):
        speed_b = (values[f + 2] - values[f]) / (seconds[f + 2] - seconds[f])
    t, t2, t3 = share, share * share, share**3
    return (
        (2 * t3 - 3 * t2 + 1) * values[f] + (3 * t2 - 2 * t3) * values[f + 1]
        + h * ((t3 - 2 * t2 + t) * speed_a + (t3 - t2) * speed_b)
    )  # fmt: skip


def stretches(frame_ids: Sequence[int], fps: float | None) -> list[tuple[int, int]]:
    """Rows [start, end) of frames that follow each other within GAP_SECONDS."""
    most = GAP_SECONDS * (fps or UNKNOWN_FPS)
    breaks = [k for k in range(1, len(frame_ids)) if not 0 < frame_ids[k] - frame_ids[k - 1] <= most]
    return list(zip([0, *breaks], [*breaks, len(frame_ids)]))


def after_dressing(
    wearer: Wearer, poses: BodyPose, frame_ids: Sequence[int], fps: float | None
) -> tuple[BodyPose, list[float], int]:
    """The poses of one stretch behind those of `Wearer.dressing`, their moments (seconds), and how many come before."""
    fps = fps or UNKNOWN_FPS
    ahead = wearer.dressing(poses[:1], fps)
    first = len(ahead)
    seconds = [k / fps for k in range(first)] + [(first + id_ - frame_ids[0]) / fps for id_ in frame_ids]
    return BodyPose.joined([ahead, poses]), seconds, first


def dress(
    wearer: Wearer, garment: Garment, poses: BodyPose, frame_ids: Sequence[int], fps: float | None,
    fabrics: Sequence[Fabric] = FABRICS,
) -> Array:
    """The garment's particles [F, P, 3], the world y up, in poses [F] of frames `fps` a second (None: UNKNOWN_FPS): the
    mean of its motions as made of each of the fabrics.

    Where a fold falls is chance, in nature as in a simulation: of several the mean is nearer to the truth than each.
    Every stretch of frames is a motion of its own, which begins with getting dressed.
    """
    found = []
    with tqdm(
        total=len(poses) * len(fabrics), desc="dressing", unit="frame", leave=False, dynamic_ncols=True
    ) as bar, ThreadPoolExecutor(os.cpu_count()) as pool:
        for start, end in stretches(frame_ids, fps):
            some = poses[start:end].to(wearer.device)
            whole, seconds, first = after_dressing(wearer, some, frame_ids[start:end], fps)
            bodies = wearer.meet(wearer.surface(whole), garment)

            def simulate(fabric: Fabric, bodies=bodies, seconds=seconds, first=first) -> Array:
                places = follow_body(garment, bodies, seconds, fabric)[first:]
                bar.update(len(places))
                return places

            found.append(np.mean(list(pool.map(simulate, fabrics)), 0))
    return np.concatenate(found)
