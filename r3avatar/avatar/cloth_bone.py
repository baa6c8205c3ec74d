"""Loose cloth hangs on the trunk, not on the limb that it happens to be near."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial import cKDTree
from torch import Tensor

from r3avatar.avatar.skinning import PosedFrame, Skinning

PELVIS = 0  # joint, of both layouts
FIRM = 40.0  # logit of the pelvis: beside it the nearest vertex' own weights vanish (a logarithm of 0 + floor is -21)
TOLERANCE = 0.01  # metres by which the body's skinning must carry cloth better than the pelvis does to be preferred
FAR = 0.1  # metres; farther off is no worse
NEIGHBOURS = 16  # points that decide together: cloth hangs on one bone over wide patches


@dataclass
class ShownFrame:
    """One frame's visual hull and its part away from the body."""

    pose: PosedFrame
    hull: Tensor  # [S, 3] surface, world
    off_body: Tensor  # [M, 3] those of it that are away from the body
    vertex: Tensor  # [M] the posed body's vertices nearest to them
    number: int = 0  # the frame's id
    inside: Callable[[Tensor], Tensor] | None = None  # world points [P, 3] inside the hull, [P] bool


def bone_logits(pelvis: Tensor, joints: int) -> Tensor:
    """[N, J] added to the logarithms of skinning weights: pelvis [N] from 0 (nothing) to 1 (hangs on it alone)."""
    return F.pad(FIRM * pelvis[:, None], (PELVIS, joints - 1 - PELVIS))


def to_big_pose(
    skinning: Skinning, frame: PosedFrame, world: Tensor, vertex: Tensor, logits: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """World points [M, 3] in the big pose [M, 3], and by how much [M] (metres) they miss where they were when posed.

    frame: one; vertex: [M] whose skinning they follow; logits: [M, J] added to it (`bone_logits`).
    """
    for _ in range(1 if logits is None else 2):  # away from that vertex: another one's shape offsets count there
        canonical = skinning.unpose(world[None], frame, vertex[None], logits)
        vertex = vertex if logits is None else skinning.nearest(canonical[0])
    again, _ = skinning(canonical, frame, logits)
    return canonical[0], (again[0] - world).norm(dim=1)


def hangs_on_pelvis(skinning: Skinning, frames: Sequence[ShownFrame], k: int) -> Tensor:
    """Of frame k's points off the body: whether they hang on the pelvis [M] bool, else on the nearest vertex.

    Posed like the other frames either way, they are looked for on those frames' hulls. A skirt or a cape slides along
    itself when a leg carries it, which no hull tells, so that the pelvis needs only be nearly as good; trousers and
    sleeves it leaves behind.
    """
    shown = frames[k]
    if not len(shown.off_body) or len(frames) < 2:
        return torch.zeros(len(shown.off_body), dtype=torch.bool)
    fits = []
    for pelvis in (0.0, 1.0):
        logits = bone_logits(torch.full((len(shown.off_body),), pelvis), skinning.body.num_joints)
        canonical, missed = to_big_pose(skinning, shown.pose, shown.off_body, shown.vertex, logits if pelvis else None)
        distances = []
        for other in frames[:k] + frames[k + 1 :]:
            posed, _ = skinning(canonical[None], other.pose, logits if pelvis else None)
            distances.append(cKDTree(other.hull.numpy()).query(posed[0].numpy())[0].clip(max=FAR))
        fits.append(np.where(missed.numpy() > FAR / 2, FAR, np.mean(distances, 0)))
    points = shown.off_body.numpy()
    _, near = cKDTree(points).query(points, k=min(NEIGHBOURS, len(points)))
    body, trunk = np.stack(fits)[:, near.reshape(len(points), -1)].mean(-1)
    return torch.from_numpy(trunk < body + TOLERANCE)
