"""Pose embeddings in which rotations are compared as rotations, and where a person faces does not count."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from r3avatar.retrieval.embedding import (
    axis_angle_to_quaternion,
    pose_embedding,
    quaternion_inverse,
    quaternion_product,
)
from r3avatar.retrieval.retrieved import RetrievalError

log = logging.getLogger(__name__)

_UPRIGHT = math.radians(35)  # a person stands at least this straight on average, or the world's up cannot be told


def rotation_embedding(
    theta: Tensor, history: Tensor | None = None, geodesic: bool = True, up: Tensor | None = None
) -> Tensor:
    """`pose_embedding` with the joints' rotations in another form, and the root's without its heading.

    Args:
        theta: [T, J, 3] axis-angle of consecutive frames, the root first.
        history: [P, J, 3] the frames just before, oldest first; only the last two count (see `pose_embedding`).
        geodesic: the rotations as matrices / sqrt(2), 9 numbers, for `geodesic_distance`; False = axis-angle.
        up: [3] the world's up. Of the root's rotation R only R^T up is kept (up as the body sees it, filled up with
            zeros), and its steps are taken in the body's own axes: nothing changes when the world turns about `up`.
            None = the whole root counts, in the world's axes, as published.

    Returns:
        [T, J, 15] or [T, J, 9]: (rotation, d_1, d_2). With geodesic=False and up=None that is `pose_embedding`.
    """
    plain = pose_embedding(theta, history)
    steps = plain[..., 3:]
    q = axis_angle_to_quaternion(theta)
    rotation = rotation_matrices(q).flatten(-2) / math.sqrt(2) if geodesic else plain[..., :3]
    if up is None:
        return torch.cat([rotation, steps], dim=-1)
    inverse = quaternion_inverse(q[:, :1])
    gravity = rotate(inverse, up.to(theta).expand(len(theta), 1, 3))
    root = torch.nn.functional.pad(gravity, (0, rotation.shape[-1] - 3))
    # d_1 = log(R(f) R(f-1)^-1) turns with the world; R(f)^-1 d_1 = R(f-1)^-1 d_1 is log(R(f-1)^-1 R(f)). d_2 likewise
    # with R(f-1), which is the root of the frame before: theta's own or the history's, clamped as the embedding is.
    if history is not None and len(history):
        first = axis_angle_to_quaternion(history[-1:, :1].to(theta))
    else:
        first = q[:1, :1]
    before = quaternion_inverse(torch.cat([first, q[:-1, :1]]))
    turns = torch.cat([rotate(inverse, steps[:, :1, :3]), rotate(before, steps[:, :1, 3:])], dim=-1)
    root = torch.cat([root, turns], dim=-1)
    return torch.cat([root, torch.cat([rotation, steps], dim=-1)[:, 1:]], dim=1)


def geodesic_distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean over joints of sqrt(angle^2 + |difference of the steps|^2), radians: [..., J', 15] twice gives [...].

    The angle is that between the two rotations: with matrices / sqrt(2) it is 2 asin(|difference| / 2). For a root
    without heading it is the angle between the two directions of up, by the same formula: the least angle that any
    turn about up leaves between the two rotations. Never below `pose_distance` of the same numbers, since asin x >= x.
    """
    squared = (a - b).square()
    angle = 2 * torch.asin((squared[..., :9].sum(-1).sqrt() / 2).clamp_max(1))
    return (angle.square() + squared[..., 9:].sum(-1)).sqrt().mean(-1)


def given_up(up: Sequence[float] | None) -> Tensor | None:
    """The unit direction [3] of a world's up as a configuration gives it; None stays None."""
    if up is None:
        return None
    direction = torch.tensor([float(x) for x in up])
    if direction.shape != (3,) or not direction.norm() > 0:
        raise ValueError(f"up must be a direction [x, y, z], not {list(up)}")
    return direction / direction.norm()


def world_up(theta: Tensor) -> Tensor:
    """[3] the world axis (one of six) that the body's own up (+y) points along in the mean of the frames [T, J, 3].

    Raises:
        RetrievalError: that mean is far from every axis: the recording does not tell where up is.
    """
    q = axis_angle_to_quaternion(theta[:, 0].double())
    mean = rotate(q, torch.tensor([0.0, 1.0, 0.0]).to(q).expand(len(q), 3)).mean(0)
    axis = torch.zeros_like(mean)
    at = int(mean.abs().argmax())
    axis[at] = mean[at].sign()
    if not float(mean @ axis) > math.cos(_UPRIGHT) * float(mean.norm()) or float(mean.norm()) < 0.5:
        found = ", ".join(f"{x:.2f}" for x in mean.tolist())
        raise RetrievalError(
            f"the recorded poses do not tell the world's up (the bodies' own has the mean {found}, near no axis); "
            "give it as retrieval.up=[x,y,z], or set retrieval.heading_free=false"
        )
    log.info("the world's up by the recorded poses: %s", axis.int().tolist())
    return axis.to(theta)


def rotate(q: Tensor, v: Tensor) -> Tensor:
    """Vectors [..., 3] turned by unit quaternions (w, x, y, z) [..., 4]."""
    pure = torch.cat([torch.zeros_like(v[..., :1]), v], dim=-1)
    return quaternion_product(quaternion_product(q, pure), quaternion_inverse(q))[..., 1:]


def rotation_matrices(q: Tensor) -> Tensor:
    """Matrices [..., 3, 3] of unit quaternions (w, x, y, z) [..., 4]."""
    w, x, y, z = q.unbind(-1)
    xx, yy, zz, xy, xz, yz, wx, wy, wz = x * x, y * y, z * z, x * y, x * z, y * z, w * x, w * y, w * z
    rows = [1 - 2 * (yy + zz), 2 * (xy - wz), 2 * (xz + wy), 2 * (xy + wz), 1 - 2 * (xx + zz), 2 * (yz - wx)]
    rows += [2 * (xz - wy), 2 * (yz + wx), 1 - 2 * (xx + yy)]
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))
