"""A motion at another frame rate."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from r3avatar.motion.motion import Motion, MotionError
from r3avatar.retrieval.embedding import (
    axis_angle_to_quaternion,
    quaternion_inverse,
    quaternion_product,
    quaternion_to_axis_angle,
)


def resample(motion: Motion, fps: float, start: float = 0.0, end: float | None = None) -> Motion:
    """The motion from `start` to `end` seconds (None: its end) at `fps` frames a second.

    Joints turn at constant velocity along the shorter way between two frames (slerp), translations move on a line.
    R must be the identity (the root turns in theta). Raises MotionError for a stretch that the motion does not hold.
    """
    duration = (len(motion) - 1) / motion.fps
    end = duration if end is None else min(end, duration)
    if not 0 <= start <= end:
        raise MotionError(
            f"{motion.name}: start={start:g} and end={end:g} seconds hold no frame; it lasts {duration:g} s "
            f"({len(motion)} frames at {motion.fps:g} a second)"
        )
    count = int((end - start) * fps + 1e-6) + 1
    place = (start + torch.arange(count, dtype=torch.float64) / fps) * motion.fps  # in the motion's frames
    place = place.clamp(max=len(motion) - 1)
    nearest = place.round()
    place = torch.where((place - nearest).abs() < 1e-6, nearest, place)  # an equal rate must give the very frames
    before = place.long()
    after, t = (before + 1).clamp(max=len(motion) - 1), place - before
    theta, Th = motion.pose.theta.double(), motion.pose.Th.double()
    turned = slerp(theta[before], theta[after], t[:, None, None])
    exact = (t == 0)[:, None, None]
    turned = torch.where(exact, theta[before], turned)
    moved = torch.lerp(Th[before], Th[after], t[:, None])
    pose = replace(motion.pose[before], theta=turned.float(), Th=moved.float())
    return Motion(pose, fps, motion.name)


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Axis-angles [..., 3] a part `t` [..., 1] of the way from `a` to `b` [..., 3], the shorter way round."""
    p, q = axis_angle_to_quaternion(a), axis_angle_to_quaternion(b)
    step = quaternion_to_axis_angle(quaternion_product(quaternion_inverse(p), q))
    return quaternion_to_axis_angle(quaternion_product(p, axis_angle_to_quaternion(t * step)))
