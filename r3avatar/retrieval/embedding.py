"""Pose embedding: a frame's joint rotations and how they got there."""

from __future__ import annotations

import torch
from torch import Tensor


def pose_embedding(theta: Tensor, history: Tensor | None = None) -> Tensor:
    """Each frame's joint rotations with the two rotation steps that led to it.

    Args:
        theta: [T, J, 3] axis-angle of consecutive frames, radians; half types are computed in float32.
        history: [P, J, 3] the frames just before `theta[0]`, oldest first; only the last two count. Without them frames
            are clamped at the first, so that frame 0 has no steps and frame 1 has one.

    Returns:
        [T, J, 9]: (theta_f, d_1, d_2) with d_k = log(R(f-k+1) R(f-k)^-1) as axis-angle, its angle in [0, pi].

    Source: R3-Avatar (arXiv 2503.12751), retrieval by temporal pose similarity, two steps.
    """
    if theta.ndim != 3 or theta.shape[-1] != 3:
        raise ValueError(f"theta must be [T, J, 3] axis-angle, not {tuple(theta.shape)}")
    if not theta.is_floating_point():
        raise TypeError(f"theta must be floating point, not {theta.dtype}")
    dtype, T = theta.dtype, theta.shape[0]
    poses = theta
    if history is not None and len(history):
        if history.shape[1:] != theta.shape[1:]:
            raise ValueError(f"history must be [P, {theta.shape[1]}, 3] like theta, not {tuple(history.shape)}")
        poses = torch.cat([history[-2:].to(theta), theta])
    if poses.dtype in (torch.float16, torch.bfloat16):
        poses = poses.float()
    q = axis_angle_to_quaternion(poses)  # [P + T, J, 4]
    steps = quaternion_to_axis_angle(quaternion_product(q[1:], quaternion_inverse(q[:-1])))  # row i leads to i + 1
    steps = torch.cat([steps.new_zeros(2, *steps.shape[1:]), steps])  # now row i + 1 leads to i
    P = len(poses) - T
    return torch.cat([poses[P:], steps[P + 1 : P + 1 + T], steps[P : P + T]], dim=-1).to(dtype)


def axis_angle_to_quaternion(r: Tensor) -> Tensor:
    """Unit quaternions (w, x, y, z) [..., 4] of axis-angle vectors [..., 3]; exact at zero."""
    half = r.norm(dim=-1, keepdim=True) / 2
    return torch.cat([half.cos(), torch.sinc(half / torch.pi) * r / 2], dim=-1)


def quaternion_inverse(q: Tensor) -> Tensor:
    """Conjugates of unit quaternions (w, x, y, z) [..., 4]."""
    return q * q.new_tensor([1, -1, -1, -1])


def quaternion_product(a: Tensor, b: Tensor) -> Tensor:
    """Hamilton products a b of quaternions (w, x, y, z) [..., 4]."""
    aw, av = a[..., :1], a[..., 1:]
    bw, bv = b[..., :1], b[..., 1:]
    w = aw * bw - (av * bv).sum(-1, keepdim=True)
    return torch.cat([w, aw * bv + bw * av + torch.linalg.cross(av, bv)], dim=-1)


def quaternion_to_axis_angle(q: Tensor) -> Tensor:
    """Axis-angle [..., 3] with angle in [0, pi] of unit quaternions (w, x, y, z) [..., 4]."""
    q = torch.where(q[..., :1] < 0, -q, q)  # q and -q are one rotation; w >= 0 is the short way round
    sine = q[..., 1:].norm(dim=-1, keepdim=True)
    angle = 2 * torch.atan2(sine, q[..., :1])
    tiny = torch.finfo(q.dtype).tiny
    return torch.where(sine > tiny, angle / sine.clamp_min(tiny), torch.full_like(sine, 2)) * q[..., 1:]
