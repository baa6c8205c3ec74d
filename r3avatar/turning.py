"""How a root has just been turning, which tells where loose cloth hangs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from r3avatar.retrieval.embedding import (
    axis_angle_to_quaternion,
    quaternion_inverse,
    quaternion_product,
    quaternion_to_axis_angle,
)
from r3avatar.types import BodyPose

TAUS = (1, 2, 4)
"""Frames over which turning is averaged: one forgets all but the last step."""


def with_turning(pose: BodyPose, frame_ids: Sequence[int] | None = None) -> BodyPose:
    """Poses [F] in time order with their `turning`; frame_ids: see `root_turning`."""
    return replace(pose, turning=root_turning(pose.R, pose.theta[:, 0], frame_ids))


def root_turning(R: Tensor, root: Tensor, frame_ids: Sequence[int] | None = None) -> Tensor:
    """Turning of F frames in time order, low-passed over TAUS: [F, 9] float32, radians per frame, in the root's axes.

    R [F, 3, 3] and root [F, 3] (axis-angle): the global rotation is R exp(root). The step to a frame is
    w_f = log((R exp(root))_{f-1}^-1 (R exp(root))_f), and what comes back y_f = y_{f-1} + (w_f - y_{f-1}) / tau.
    frame_ids: [F]; where they are not consecutive another sequence begins. None: all frames are. A sequence's first
    frame has the step to its second, a frame alone none. On the host, in float64.
    """
    R, root = R.detach().cpu().double(), root.detach().cpu().double()
    turned = quaternion_product(_quaternions(R), axis_angle_to_quaternion(root))
    # Row f leads to frame f + 1.
    steps = quaternion_to_axis_angle(quaternion_product(quaternion_inverse(turned[:-1]), turned[1:])).numpy()
    F = len(R)
    smooth = np.zeros((F, len(TAUS), 3))
    gaps = [] if frame_ids is None else (np.flatnonzero(np.diff(frame_ids) != 1) + 1).tolist()
    taus = np.array(TAUS)[:, None]
    for start, end in pairwise([0, *gaps, F]):
        if end - start < 2:
            continue
        smooth[start] = steps[start]
        for f in range(start + 1, end):
            smooth[f] = smooth[f - 1] + (steps[f - 1] - smooth[f - 1]) / taus
    return torch.from_numpy(smooth.reshape(F, 3 * len(TAUS))).float()


def _quaternions(R: Tensor) -> Tensor:
    """Unit quaternions (w, x, y, z) [F, 4] of rotations [F, 3, 3]."""
    trace, skew = R.diagonal(dim1=-2, dim2=-1).sum(-1), R - R.mT
    outer = R.new_empty(len(R), 4, 4)  # 4 q q^T; the row with the largest square is the most exact multiple of q
    outer[:, 0, 0] = 1 + trace
    outer[:, 0, 1:] = outer[:, 1:, 0] = torch.stack([skew[:, 2, 1], skew[:, 0, 2], skew[:, 1, 0]], -1)
    outer[:, 1:, 1:] = R + R.mT + (1 - trace)[:, None, None] * torch.eye(3, dtype=R.dtype)
    row = outer.diagonal(dim1=-2, dim2=-1).argmax(-1)
    return torch.nn.functional.normalize(outer[torch.arange(len(R)), row], dim=-1)
