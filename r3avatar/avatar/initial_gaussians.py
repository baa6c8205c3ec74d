"""What an avatar begins with: points of the big pose and their colours."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from r3avatar.avatar.cloth_bone import ShownFrame, bone_logits
from r3avatar.avatar.initial_colours import initial_colours
from r3avatar.avatar.initial_points import off_body_points, shown_frames
from r3avatar.avatar.worn_garment import WornGarment
from r3avatar.body import BodyModel
from r3avatar.body.surface_points import surface_points
from r3avatar.rasterizer.spherical_harmonics import rgb_to_sh
from r3avatar.types import Batch


@dataclass
class FirstGaussians:
    """N Gaussians to begin with."""

    points: Tensor  # [N, 3] canonical, metres
    sh_dc: Tensor | None  # [N, 3] constant harmonics; None: mid-grey
    off_body: Tensor  # [N] bool
    cloth: Tensor  # [N] 1 where they hang on the pelvis, else 0 (`CanonicalGaussians.cloth`)
    worn: Tensor  # [N] 1 for the last ones, on the garment, else 0
    normals: Tensor  # [last ones, 3] the garment's


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
    garment: WornGarment | None = None,
    put_on: Callable[[list[ShownFrame]], None] | None = None,
) -> FirstGaussians:
    """What an avatar begins with.

    vertices: [V, 3] the body in the big pose.
    count: None: its vertices, as published; else so many points spread evenly over its surface (`surface_points`, by
        `seed`).
    points: 'body', or 'hull': besides them at most `hull_limit` where the masks show cloth (`off_body_points`).
    colours: 'grey', or 'images': as the images show the points (`initial_colours`).
    images: of so many frames its whole training images, one frame a batch, to be read twice; called with `frames` where
        hull or images are asked for.
    cloth_bone: points off the body hang on the pelvis where that explains the masks (`off_body_points`).
    garment, put_on: what may be worn, and what puts it on when it is shown the frames; points on the garment come last.
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
    off_body, cloth, worn = torch.zeros(len(first), dtype=torch.bool), torch.zeros(len(first)), torch.zeros(len(first))
    normals = torch.zeros(0, 3)
    if points == "body" and colours == "grey" and garment is None:
        return FirstGaussians(first, None, off_body, cloth, worn, normals)
    if images is None:
        raise ValueError(
            f"initial_points={points}, initial_colours={colours} and a garment need the training images; or all without"
        )
    shown = images(frames)
    hulls = shown_frames(body, shown) if points == "hull" or garment is not None else []
    if garment is not None:
        assert put_on is not None
        put_on(hulls)

    def particles(frame: int) -> Tensor:
        assert garment is not None
        return garment.places[int(garment.rows[frame])]

    dressed = garment is not None and garment.worn
    if points == "hull":
        found, pelvis = off_body_points(
            body, hulls, first, hull_limit, cloth_bone, particles if dressed else None
        )
        hung = f", {int(pelvis.sum())} of them hung on the pelvis" if cloth_bone else ""
        log.info("%d Gaussians begin on the body and %d off it%s", len(first), len(found), hung)
        first = torch.cat([first, found])
        off_body = torch.cat([off_body, torch.ones(len(found), dtype=torch.bool)])
        cloth, worn = torch.cat([cloth, pelvis.float()]), torch.cat([worn, torch.zeros(len(found))])
    if dressed:
        assert garment is not None
        first, normals = torch.cat([first, garment.rest]), garment.normals
        off_body, cloth, worn = (
            torch.cat([x, torch.full((len(normals),), value, dtype=x.dtype)])
            for x, value in ((off_body, 1), (cloth, 0), (worn, 1))
        )
    if colours == "grey":
        return FirstGaussians(first, None, off_body, cloth, worn, normals)
    logits = bone_logits(cloth, body.num_joints) if cloth_bone else None
    colour = initial_colours(body, first, shown, logits, particles if dressed else None)
    return FirstGaussians(first, rgb_to_sh(colour), off_body, cloth, worn, normals)
