"""Another number of Gaussians for an untrained avatar."""

from __future__ import annotations

import torch

from r3avatar.avatar import Avatar, CanonicalGaussians
from r3avatar.avatar.shading import first_normals
from r3avatar.body.surface_points import surface_points


def resample(avatar: Avatar, count: int, shrink: bool = True, seed: int = 0) -> None:
    """Give an untrained avatar `count` Gaussians on the canonical body's surface, in place.

    shrink: change their first size as the distance between neighbours changes. False where they begin without one.
    """
    vertices = avatar.skinning.big_vertices.cpu()
    before, garment = avatar.gaussians, avatar.garment
    on_garment = 0
    if garment is not None and garment.worn:  # the least that it may have
        on_garment = min(len(garment.rest), count // 2)
    points = surface_points(vertices, avatar.skinning.body.faces.cpu(), count - on_garment, seed)
    if garment is not None and on_garment:
        points = torch.cat([points, garment.rest[:on_garment].cpu()])
    worn = None
    if before.worn is not None:
        worn = (torch.arange(count) >= count - on_garment).float()
    cloth = None if before.cloth is None else before.cloth.new_zeros(count)  # none of them
    normals = None
    if avatar.shading is not None:
        on_body = torch.zeros(count, dtype=torch.bool)
        normals = first_normals(vertices, avatar.skinning.body.faces.cpu(), points, on_body)
    avatar.gaussians = CanonicalGaussians(points, before.max_sh_degree, before.static_residual, cloth, normals, worn)
    if shrink:
        with torch.no_grad():  # scales are squared outputs, and go with the distance, the root of the density
            avatar.decoder.scale.bias.mul_((len(vertices) / count) ** 0.25)
