"""How loose cloth swings when the body that it hangs on turns."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_FARTHEST = 2.5  # standard deviations of the recorded turning: a linear answer holds no farther
_TOP, _BOTTOM = 0.9, 0.02  # of the hung points, quantiles of height; where cloth lies on the body none is
_LOWEST = 1.3  # extents below the top: points farther down move as far as those there


class Swing(nn.Module):
    """Displacements of what hangs on the pelvis: a twist about its upright and sway along both level axes.

    Not in the paper. A skirt or a cape lags behind the pelvis and overshoots it, so that how the pelvis has just been
    turning (`BodyPose.turning`) tells where it hangs, in new motions too. Six numbers at a time say most of that: with
    h how far below its top cloth is, twist and sway grow like h and like h^2, the same for all cloth. They are linear
    in the nine numbers of turning, so that few numbers are learned, from all frames together, and nothing of a single
    frame can be learned by heart. `response` begins at 0.
    """

    def __init__(self, hung: Tensor, axis: Tensor, recorded_turning: Tensor | None):
        """hung: [M, 3] what hangs on the pelvis, big pose; axis [3]: the pelvis; recorded_turning [F, 9], whose mean
        and spread are part of the state. The first and the last may be missing (none, None) where a state is loaded."""
        super().__init__()
        seen = torch.zeros(1, 9) if recorded_turning is None else recorded_turning
        self.register_buffer("mean", seen.mean(0))
        self.register_buffer("std", seen.std(0, correction=0) + 1e-3)  # who hardly turns has no spread
        heights = hung[:, 1] if len(hung) else hung.new_tensor([0.0, 1.0])
        top, bottom = torch.quantile(heights, heights.new_tensor([_TOP, _BOTTOM])).tolist()
        top += 0.1 * (top - bottom)
        self.register_buffer("top", torch.tensor([float(axis[0]), top, float(axis[2])]))
        self.register_buffer("extent", torch.tensor(max(top - bottom, 0.05)))
        # Like h, like h^2; radians of twist, metres along x and z; a standard deviation of each number of turning.
        self.response = nn.Parameter(torch.zeros(2, 3, 9))

    def forward(self, points: Tensor, hung: Tensor, turning: Tensor) -> Tensor:
        """Metres [F, N, 3] in the big pose by which points [N, 3] are moved, of which hung [N] (0 to 1) hang on the
        pelvis; turning [F, 9] radians a frame. No gradient reaches the points: they are where they are without it."""
        x, y, z = (points.detach() - self.top).unbind(-1)
        h = (-y / self.extent).clamp(0, _LOWEST)
        turned = ((turning - self.mean) / self.std).clamp(-_FARTHEST, _FARTHEST)
        modes = torch.stack([h, h.square()], 1) * hung[:, None]
        twist, along_x, along_z = torch.einsum("nm,mck,fk->cfn", modes, self.response, turned)
        return torch.stack([twist * z + along_x, torch.zeros_like(twist), along_z - twist * x], -1)
