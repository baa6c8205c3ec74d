"""What an avatar begins with: points of the big pose and their colours."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from r3avatar.avatar.cloth_bone import bone_logits
from r3avatar.avatar.initial_colours import initial_colours
from r3avatar.avatar.initial_points import off_body_points
from r3avatar.body import BodyModel
from r3avatar.body.surface_points import surface_points
from r3avatar.rasterizer.spherical_harmonics import rgb_to_sh
from r3avatar.types import Batch

POINTS = ("body", "hull")
COLOURS = ("grey", "images")
log = logging.getLogger(__name__)


def initial_gaussians_of(
    body: BodyModel,
    vertices: Tensor,
    count: int | None = None,
    points: str = "body",
    hull_limit: int = 2000,
    colours: str = "grey",
    frames: int = 8,
    seed: int = 0,
    images: Callable[[int], Iterable[Batch]] | None = None,
    cloth_bone: bool = False,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """First points [N, 3] of the big pose, their constant harmonics [N, 3] (None: mid-grey), whether they are off the
    body [N] bool, and 1 where they hang on the pelvis, else 0 [N] (`CanonicalGaussians.cloth`).

    vertices: [V, 3] the body in the big pose.
    count: None: its vertices, as published; else so many points spread evenly over its surface (`surface_points`, by
        `seed`).
    points: 'body', or 'hull': besides them at most `hull_limit` where the masks show cloth (`off_body_points`).
    colours: 'grey', or 'images': as the images show the points (`initial_colours`).
    images: of so many frames its whole training images, one frame a batch, to be read twice; called with `frames` where
        hull or images are asked for.
    cloth_bone: points off the body hang on the pelvis where that explains the masks (`off_body_points`).
    ValueError for another word or number, without the images that are asked for, or where those show nobody.
    """
    if points not in POINTS or colours not in COLOURS:
        raise ValueError(
            f"initial_points '{points}' and initial_colours '{colours}': expected one of {', '.join(POINTS)} and one "
            f"of {', '.join(COLOURS)}"
        )
    first = vertices
    if count is not None:
        if count < 4:  # neighbours give the first sizes
            raise ValueError(f"initial_gaussians = {count}; expected at least 4, or null: the body's vertices")
        first = surface_points(vertices, body.faces, count, seed)
    off_body, cloth = torch.zeros(len(first), dtype=torch.bool), torch.zeros(len(first))
    if points == "body" and colours == "grey":
        return first, None, off_body, cloth
    if images is None:
        raise ValueError(f"initial_points={points} and initial_colours={colours} need the training images")
    shown = images(frames)
    if points == "hull":
        found, pelvis = off_body_points(body, shown, first, hull_limit, cloth_bone)
        hung = f", {int(pelvis.sum())} of them hung on the pelvis" if cloth_bone else ""
        log.info("%d Gaussians begin on the body and %d off it%s", len(first), len(found), hung)
        first = torch.cat([first, found])
        off_body = torch.cat([off_body, torch.ones(len(found), dtype=torch.bool)])
        cloth = torch.cat([cloth, pelvis.float()])
    if colours == "grey":
        return first, None, off_body, cloth
    logits = bone_logits(cloth, body.num_joints) if cloth_bone else None
    return first, rgb_to_sh(initial_colours(body, first, shown, logits)), off_body, cloth
