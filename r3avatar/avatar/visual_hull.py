"""The visual hull of a person: what lies inside nearly all masks of one moment."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from r3avatar.rasterizer.projection import project_points
from r3avatar.types import Cameras

MISSES = 0.05  # share of the masks that see a place and may leave it out: masks have holes
COARSE = 4  # voxels along a coarse cell
_GOLDEN = (math.sqrt(5) - 1) / 2


def carve(
    masks: Sequence[Tensor], cameras: Sequence[Cameras], low: Tensor, high: Tensor, voxel: float
) -> tuple[Tensor, Tensor]:
    """The voxels inside the masks, as a grid [X, Y, Z] (bool) that holds all of them, and its corner [3] (metres).

    A voxel is inside if at least half of the cameras, and two, have its centre in their image and no more than MISSES
    of those masks leave it out. Coarse cells that cannot hold one are left out first.
    Source: Laurentini 1994, "The visual hull concept".

    masks: [H, W] each, not 0 where the person is; cameras: theirs, of one camera each; low, high: [3] metres, the box
    that is searched; voxel: metres, their edge. ValueError for fewer than two masks, no person in any, or no voxel
    inside.
    """
    if len(masks) < 2:
        raise ValueError(
            f"a visual hull needs the masks of two cameras or more, not {len(masks)}; set avatar.initial_points=body"
        )
    masks = [mask != 0 for mask in masks]
    if not any(bool(mask.any()) for mask in masks):
        raise ValueError(f"none of the {len(masks)} masks shows anybody")
    cell = COARSE * voxel
    shape = [int(n) for n in ((high - low) / cell).ceil()]
    cells = inside_masks(grid_centres(low, shape, cell), masks, cameras, math.sqrt(3) / 2 * cell).view(shape)
    if not cells.any():
        raise ValueError(f"nothing around the body lies inside the {len(masks)} masks")
    places = cells.nonzero()
    first, last = places.amin(0), places.amax(0) + 1
    cells = cells[tuple(slice(a, b) for a, b in zip(first.tolist(), last.tolist()))]
    for axis in range(3):
        cells = cells.repeat_interleave(COARSE, axis)
    low = low + cell * first
    inside = cells.clone()
    inside[cells] = inside_masks(grid_centres(low, cells.shape, voxel)[cells.flatten()], masks, cameras, 0.0)
    if not inside.any():
        raise ValueError(f"nothing around the body lies inside the {len(masks)} masks")
    return inside, low


def inside_masks(points: Tensor, masks: list[Tensor], cameras: Sequence[Cameras], radius: float = 0.0) -> Tensor:
    """Whether points [P, 3], or with a radius (metres) perhaps anything in the balls around them, are inside."""
    V = len(masks)
    inside = torch.zeros(len(points), dtype=torch.bool)
    left = torch.arange(len(points))
    seen, missed = torch.zeros(2, len(points), dtype=torch.int32)
    # Cameras far from each other in turns: the first few leave little of the grid.
    for view in sorted(range(V), key=lambda k: math.modf((k + 1) * _GOLDEN)[0]):
        sees, person = _look_up(points, masks[view], cameras[view], radius)
        seen, missed = seen + sees, missed + (sees & ~person)
        keep = missed <= MISSES * V
        if int(keep.sum()) < 0.8 * len(keep):
            points, left, seen, missed = points[keep], left[keep], seen[keep], missed[keep]
    enough = seen >= (max(2, V / 2) if radius == 0 else 0)
    inside[left[enough & (missed <= MISSES * (seen if radius == 0 else V))]] = True
    return inside


def _look_up(points: Tensor, mask: Tensor, camera: Cameras, radius: float) -> tuple[Tensor, Tensor]:
    """Of points [P, 3]: whether they are in a camera's image [P], and whether its mask [H, W] is true there [P].

    radius: metres around a point in which anything may be; its look-up errs on the side of true.
    """
    row, column, depth = pixels_of(points, camera)
    sees = (depth > 0) & (row >= 0) & (row < camera.height) & (column >= 0) & (column < camera.width)
    step = 1
    if radius > 0 and sees.any():
        pixels = float(camera.K[:2, :2].max()) * radius / max(float(depth[sees].min()) - radius, 1e-3)
        step = max(1, int(pixels / 4))
        reach = min(math.ceil(pixels / step), max(mask.shape))
        small = F.max_pool2d(mask[None].float(), step, ceil_mode=True)
        for size in ((2 * reach + 1, 1), (1, 2 * reach + 1)):
            small = F.max_pool2d(small, size, 1, (size[0] // 2, size[1] // 2))
        mask = small[0] > 0
    there = torch.where(sees, row // step * mask.shape[1] + column // step, 0)
    return sees, sees & mask.flatten()[there]


def grid_centres(low: Tensor, shape: Sequence[int], voxel: float) -> Tensor:
    """The voxels' centres [X Y Z, 3] metres, z innermost."""
    axes = [low[k] + voxel * (torch.arange(shape[k], dtype=low.dtype) + 0.5) for k in range(3)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).view(-1, 3)


def pixels_of(points: Tensor, camera: Cameras) -> tuple[Tensor, Tensor, Tensor]:
    """Row and column (int64) of the pixels that points [P, 3] fall on, perhaps outside the image, and depths [P]."""
    pixels, depth = project_points(points, camera)
    pixels = torch.where(depth[:, None] > 0, pixels, -1).clamp(-1, 2**30).floor().long()
    return pixels[:, 1], pixels[:, 0], depth


def surface(inside: Tensor) -> Tensor:
    """The voxels [X, Y, Z] of a solid that have a face towards the outside; the grid's border counts as outside."""
    padded = F.pad(inside, (1,) * 6)
    covered = inside.clone()
    for axis in range(3):
        for start in (0, 2):
            window = [slice(1, -1)] * 3
            window[axis] = slice(start, start + inside.shape[axis])
            covered &= padded[tuple(window)]
    return inside & ~covered
