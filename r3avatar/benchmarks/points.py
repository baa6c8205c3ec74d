"""Another number of Gaussians for an untrained avatar."""

from __future__ import annotations

import torch
from torch import Tensor

from r3avatar.avatar import Avatar, CanonicalGaussians


def surface_points(vertices: Tensor, faces: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` points [count, 3] of a mesh: so many of its vertices [V, 3], then random points of its faces [T, 3]."""
    V = len(vertices)
    if count <= V:
        return vertices[torch.randperm(V, generator=generator)[:count].sort().values]
    a, b, c = vertices[faces].unbind(1)  # [T, 3]
    area = torch.linalg.cross(b - a, c - a).norm(dim=1)
    face = torch.multinomial(area, count - V, replacement=True, generator=generator)
    # Uniform in the triangle: the square root spreads the points that would crowd at the first corner.
    u, v = torch.rand(2, count - V, 1, generator=generator)
    u = u.sqrt()
    return torch.cat([vertices, (1 - u) * a[face] + u * (1 - v) * b[face] + u * v * c[face]])


def resample(avatar: Avatar, count: int, shrink: bool = True, seed: int = 0) -> None:
    """Give an untrained avatar `count` Gaussians on the canonical body's surface, in place.

    shrink: change their first size as the distance between neighbours changes. False where they begin without one.
    """
    vertices = avatar.skinning.big_vertices.cpu()
    points = surface_points(vertices, avatar.skinning.body.faces.cpu(), count, torch.Generator().manual_seed(seed))
    avatar.gaussians = CanonicalGaussians(points, avatar.gaussians.max_sh_degree)
    if shrink:
        with torch.no_grad():  # scales are squared outputs, and go with the distance, the root of the density
            avatar.decoder.scale.bias.mul_((len(vertices) / count) ** 0.25)
