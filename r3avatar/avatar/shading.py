"""Light that stays where it is while the person turns: what it makes of a Gaussian's colour, by its normal."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from scipy.spatial import cKDTree
from torch import Tensor, nn

from r3avatar.avatar.colour_residual import add_colour
from r3avatar.rasterizer.spherical_harmonics import C0, sh_basis
from r3avatar.triton_support import use_triton

_COEFFICIENTS = 9  # harmonics of degree 2 hold all but a hundredth of what any distant light does to a matt surface


class Shading(nn.Module):
    """The light of the studio as the spherical harmonics of its irradiance, which multiplies matt colours.

    Not in the paper, whose colours are static: there a cheek that turns to the light keeps the mean of its shades, in
    recorded poses and in new ones. Here a Gaussian's colour is its own times the irradiance at its normal, which turns
    with the body; one light for all Gaussians and times, so that what is seen in some poses holds in others. It begins
    alike from everywhere: a factor of 1, which changes nothing.

    Source: Ramamoorthi & Hanrahan 2001, "An efficient representation for irradiance environment maps".
    """

    def __init__(self, backend: str = "auto"):
        """backend: 'auto' (Triton on CUDA where it is installed, numba on the CPU), 'torch' or 'triton'; see
        `triton_support`."""
        super().__init__()
        self.backend = backend
        self.light = nn.Parameter(torch.zeros(_COEFFICIENTS, 3))
        with torch.no_grad():
            self.light[0] = 1 / C0

    def forward(self, sh: Tensor, colour: Tensor | None, normals: Tensor) -> Tensor:
        """Harmonics of what is seen, every frame's own, [F, N, K, 3].

        sh: [N, K, 3] of the Gaussians' own colours; colour: [F, N, 3] added to the constant ones (`add_colour`), or
        None; normals: [F, N, 3] in the world, of any length.
        """
        if use_triton(self.backend, normals.device):
            from r3avatar.avatar.triton_shading import shaded

            return shaded(sh, colour, normals, self.light)
        if self.backend == "auto" and normals.device.type == "cpu":
            from r3avatar.avatar.numba_shading import shaded

            return shaded(sh, colour, normals, self.light)
        return shade(sh if colour is None else add_colour(sh, colour), self.irradiance(normals))

    def irradiance(self, normals: Tensor) -> Tensor:
        """Normals [..., 3] in the world, of any length, to the factors [..., 3] of red, green and blue."""
        return sh_basis(F.normalize(normals, dim=-1), _COEFFICIENTS) @ self.light


def shade(sh: Tensor, factors: Tensor) -> Tensor:
    """Harmonics [F, N, K, 3] whose colours, 0.5 + a sum of harmonics, are those of `sh` times `factors` [F, N, 3].

    sh: [N, K, 3], or [F, N, K, 3] where every frame has its own.
    """
    constant, factors = sh[..., :1, :] + 0.5 / C0, factors[:, :, None]
    return torch.cat([constant * factors - 0.5 / C0, sh[..., 1:, :] * factors], 2)


@torch.no_grad()
def first_normals(vertices: Tensor, faces: Tensor, points: Tensor, off_body: Tensor) -> Tensor:
    """Unit normals [N, 3] that points [N, 3] of the big pose begin with.

    On the body that of the nearest of its vertices [V, 3] (faces [T, 3]), where off_body [N] is true the way from that
    vertex to the point: out of the cloth.
    """
    a, b, c = vertices[faces].unbind(1)
    normals = torch.zeros_like(vertices).index_add_(
        0, faces.flatten(), torch.linalg.cross(b - a, c - a).repeat_interleave(3, 0)
    )
    nearest = torch.from_numpy(cKDTree(vertices.double().numpy()).query(points.double().numpy())[1])
    outward = points - vertices[nearest]
    return F.normalize(torch.where(off_body[:, None], outward, normals[nearest]), dim=-1)
