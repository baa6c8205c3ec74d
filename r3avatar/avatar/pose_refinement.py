"""Corrections of the fitted pose, learned with the avatar."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from r3avatar.triton_support import use_triton


def rodrigues(rotvec: Tensor, backend: str = "auto") -> Tensor:
    """Axis-angle [..., 3] to matrices [..., 3, 3] with the angle smoothed at zero: th = sqrt(1e-5 + |r|^2).

    Differentiable at r = 0, where it gives cos(0.00316) I (R3-Avatar, pose correction).
    """
    if use_triton(backend, rotvec.device):
        from r3avatar.body.triton_rotations import rodrigues as kernel

        return kernel(rotvec, smoothed=True)
    angle = (rotvec.square().sum(-1, keepdim=True) + 1e-5).sqrt()
    x, y, z = (rotvec / angle).unbind(-1)
    cos, sin = angle[..., 0].cos(), angle[..., 0].sin()
    rest = 1 - cos
    rows = [
        rest * x * x + cos, rest * x * y - sin * z, rest * x * z + sin * y,
        rest * x * y + sin * z, rest * y * y + cos, rest * y * z - sin * x,
        rest * x * z - sin * y, rest * y * z + sin * x, rest * z * z + cos,
    ]  # fmt: skip
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


class PoseRefinement(nn.Module):
    """Delta_j = rodrigues(MLP(theta without the root)): R_j' = R_j Delta_j for every joint but the root."""

    def __init__(self, joints: int, width: int = 128, backend: str = "auto"):
        """backend: of `rodrigues`: 'auto' (Triton on CUDA where it is installed), 'torch' or 'triton'."""
        super().__init__()
        self.backend = backend
        inputs = 3 * (joints - 1)
        self.hidden1, self.hidden2, self.out = (
            nn.Linear(inputs, width),
            nn.Linear(width, width),
            nn.Linear(width, inputs),
        )
        for layer in (self.hidden1, self.hidden2):
            nn.init.xavier_uniform_(layer.weight, gain=math.sqrt(2))
            nn.init.zeros_(layer.bias)
        nn.init.uniform_(self.out.weight, -1e-5, 1e-5)  # the corrections start at identity
        nn.init.zeros_(self.out.bias)

    def rotvecs(self, theta: Tensor) -> Tensor:
        """Axis-angle corrections [F, J-1, 3] for theta [F, J, 3], radians."""
        h = F.relu(self.hidden2(F.relu(self.hidden1(theta[:, 1:].flatten(1)))))
        return self.out(h).unflatten(-1, (-1, 3))

    def forward(self, theta: Tensor) -> Tensor:
        """Correction matrices [F, J-1, 3, 3] of the joints 1 .. J-1."""
        return rodrigues(self.rotvecs(theta), self.backend)
