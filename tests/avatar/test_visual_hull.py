"""The visual hull of solids whose silhouettes are known."""

import pytest
import torch

from r3avatar.avatar import visual_hull
from r3avatar.avatar.visual_hull import carve, grid_centres, surface

from .dotted_images import SIZE, cameras_around

pytestmark = pytest.mark.usefixtures("one_thread")
VOXEL = 0.02
LOW, HIGH = torch.tensor([-0.6, -0.7, -0.6]), torch.tensor([0.6, 0.7, 0.6])


def rays(camera):
    """Origin [3] and unit directions [H, W, 3] of a camera's pixels."""
    at = torch.arange(SIZE) + 0.5
    y, x = torch.meshgrid(at, at, indexing="ij")
    local = torch.stack([(x - camera.K[0, 2]) / camera.K[0, 0], (y - camera.K[1, 2]) / camera.K[1, 1], x * 0 + 1], -1)
    return camera.centres, torch.nn.functional.normalize(local @ camera.w2c[:3, :3], dim=-1)


def ball_mask(camera, centre, radius):
    origin, direction = rays(camera)
    along = ((centre - origin) * direction).sum(-1, keepdim=True)
    return ((origin + along * direction - centre).norm(dim=-1) < radius).to(torch.uint8)


def box_mask(camera, low, high):
    origin, direction = rays(camera)
    a, b = (low - origin) / direction, (high - origin) / direction
    return (torch.minimum(a, b).amax(-1) < torch.maximum(a, b).amin(-1)).to(torch.uint8)


def carved(masks, cameras):
    inside, low = carve(masks, cameras, LOW, HIGH, VOXEL)
    return inside, grid_centres(low, inside.shape, VOXEL).view(*inside.shape, 3)


def test_a_ball_is_right_to_a_voxel():
    centre, radius = torch.tensor([0.07, -0.2, 0.03]), 0.35
    cameras = cameras_around(60)
    inside, centres = carved([ball_mask(c, centre, radius) for c in cameras], cameras)
    away = (centres - centre).norm(dim=-1)
    assert inside[away < radius - VOXEL / 2].all() and not inside[away > radius + VOXEL].any()
    assert int((away < radius - VOXEL).sum()) > 18_000  # none of the ball is outside of the grid that came back
    shell = surface(inside)
    assert (away[shell] > radius - 2 * VOXEL).all() and not shell[~inside].any()


def test_a_box_is_right_to_a_voxel():
    low, high = torch.tensor([-0.2, -0.5, -0.1]), torch.tensor([0.3, 0.2, 0.25])
    cameras = cameras_around(100)
    inside, centres = carved([box_mask(c, low, high) for c in cameras], cameras)
    assert inside[((centres > low + VOXEL / 2) & (centres < high - VOXEL / 2)).all(-1)].all()
    assert not inside[((centres < low - VOXEL) | (centres > high + VOXEL)).any(-1)].any()


def test_coarse_cells_leave_out_nothing(monkeypatch):
    # A rod thinner than a coarse cell, seen by cameras that are near.
    low, high = torch.tensor([-0.013, -0.55, 0.1]), torch.tensor([0.013, 0.2, 0.126])
    cameras = cameras_around(6, distance=1.5)
    masks = [box_mask(c, low, high) for c in cameras]
    inside, centres = carved(masks, cameras)
    assert inside[((centres > low) & (centres < high)).all(-1)].all() and inside.any()
    monkeypatch.setattr(visual_hull, "COARSE", 1)
    fine, _ = carve(masks, cameras, LOW, HIGH, VOXEL)
    assert int(fine.sum()) == int(inside.sum())


def test_few_masks_may_miss_what_nearly_all_show():
    centre, cameras = torch.tensor([0.0, -0.2, 0.0]), cameras_around(24)
    masks = [ball_mask(c, centre, 0.3) for c in cameras]
    masks[5] = torch.zeros_like(masks[5])
    inside, centres = carved(masks, cameras)
    assert inside[(centres - centre).norm(dim=-1) < 0.28].all()
    masks[6] = torch.zeros_like(masks[6])
    with pytest.raises(ValueError, match="nothing around the body lies inside the 24 masks"):
        carve(masks, cameras, LOW, HIGH, VOXEL)


def test_it_says_what_it_lacks():
    cameras = cameras_around(3)
    empty = torch.zeros(SIZE, SIZE, dtype=torch.uint8)
    with pytest.raises(ValueError, match="two cameras or more, not 1"):
        carve([empty + 1], cameras[:1], LOW, HIGH, VOXEL)
    with pytest.raises(ValueError, match="none of the 3 masks shows anybody"):
        carve([empty] * 3, cameras, LOW, HIGH, VOXEL)
