"""The colours that Gaussians begin with: those of the training images where they are seen."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from scipy.spatial import cKDTree
from torch import Tensor

from r3avatar.avatar.initial_points import PERSON, frames_of
from r3avatar.avatar.neighbour_distance import initial_distances
from r3avatar.avatar.skinning import Skinning
from r3avatar.avatar.visual_hull import pixels_of
from r3avatar.body import BodyModel
from r3avatar.types import Batch, Cameras

VIEWS = 8  # of a frame; other ones in the next
CELL = 2.0  # gaps between points that a cell of the depth test spans: it holds several of a surface
BEHIND = 0.03  # metres behind the first point of its cell at which a point is hidden
_UNSEEN = 256  # more than any colour


@torch.no_grad()
def initial_colours(
    body: BodyModel,
    points: Tensor,
    images: Iterable[Batch],
    logits: Tensor | None = None,
    garment: Callable[[int], Tensor] | None = None,
) -> Tensor:
    """RGB in [0, 1] of points [N, 3] of the big pose, [N, 3]: their median over the images in which they are seen.

    A point is seen where it falls inside the mask (less a pixel at its edge, where the background shines through) and
    nothing of the posed points and body is in front. Points that no image sees get the colour of the nearest seen one.
    images: as for `shown_frames`; logits [N, J]: `bone_logits`, where points hang on the pelvis; garment: where in a
    frame (id) the last points are, its particles [P, 3]. ValueError where no point is seen at all.
    """
    skinning = Skinning(body, None, "torch")
    gap = float(initial_distances(points).sqrt().mean())
    samples = []  # [N, 3] int16 each
    for number, batches in enumerate(frames_of(images)):
        posed, _ = skinning(points[None], skinning.pose(batches[0].pose), logits)
        if garment is not None:
            particles = garment(int(batches[0].frame[0]))
            posed[0, len(points) - len(particles) :] = particles
        in_front = body.vertices(batches[0].pose)[0]
        views = [(batch, v) for batch in batches for v in range(batch.rgb.shape[1])]
        stride = -(-len(views) // VIEWS)
        for batch, v in views[number % stride :: stride]:
            seen, row, column = visible(posed[0], in_front, batch.mask[0, v] & PERSON, batch.cameras[0, v], gap)
            colour = torch.full(points.shape, _UNSEEN, dtype=torch.int16)
            colour[seen] = batch.rgb[0, v][row[seen], column[seen]].to(torch.int16)
            samples.append(colour)
    values = torch.stack(samples, -1).sort(-1).values  # [N, 3, images], the unseen last
    count = (values[:, 0] != _UNSEEN).sum(-1)
    found = count > 0
    if not found.any():
        raise ValueError("no image shows any of the avatar's points: masks, cameras and body poses do not fit together")
    middle = ((count - 1).clamp_min(0) // 2)[:, None, None].expand(-1, 3, 1)
    colours = values.gather(-1, middle)[..., 0].float() / 255
    _, nearest = cKDTree(points[found].double().numpy()).query(points[~found].double().numpy())
    colours[~found] = colours[found][torch.from_numpy(nearest)]
    return colours


def visible(points: Tensor, others: Tensor, mask: Tensor, camera: Cameras, gap: float) -> tuple[Tensor, Tensor, Tensor]:
    """Which of the world points [N, 3] a camera sees [N] bool, and the pixels that all fall on (row [N], column [N]).

    others: [M, 3] what may be in front besides the points themselves; mask: [H, W], not 0 where the person is;
    gap: metres between neighbouring points.
    """
    row, column, depth = pixels_of(torch.cat([points, others]), camera)
    ahead = depth > 0
    cell = max(1, round(CELL * gap * float(camera.K[0, 0]) / float(depth[ahead].median()))) if ahead.any() else 1
    width, height = camera.width, camera.height
    inside = ahead & (row >= 0) & (row < height) & (column >= 0) & (column < width)
    across = -(-width // cell)
    cells = torch.where(inside, row // cell * across + column // cell, 0)
    nearest = torch.full((across * -(-height // cell),), torch.inf)
    nearest.scatter_reduce_(0, cells, torch.where(inside, depth, torch.inf), "amin")
    seen = inside & (depth <= nearest[cells] + BEHIND)
    interior = -F.max_pool2d(-(mask != 0)[None, None].float(), 3, 1, 1)[0, 0] > 0
    N = len(points)
    seen, row, column = seen[:N], row[:N], column[:N]
    seen = seen & interior[row.clamp(0, height - 1), column.clamp(0, width - 1)]
    return seen, row, column
