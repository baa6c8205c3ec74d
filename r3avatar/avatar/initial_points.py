"""Where Gaussians begin off the body: on the cloth that the training masks show."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import groupby

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial import cKDTree
from torch import Tensor

from r3avatar.avatar.cloth_bone import ShownFrame, bone_logits, hangs_on_pelvis, to_big_pose
from r3avatar.avatar.skinning import Skinning
from r3avatar.avatar.visual_hull import carve, grid_centres, inside_masks, surface
from r3avatar.body import BodyModel
from r3avatar.types import Batch, Cameras

VOXEL = 0.02  # metres
REACH = 0.5  # metres around the posed body in which cloth is looked for
OFF_BODY = 0.03  # metres from the nearest vertex; nearer, the body's own points are near enough
RETURN = 0.05  # metres by which a place may come back elsewhere when it is posed again
SUPPORT = 0.04  # metres within which a frame has a place too
SHARE = 0.5  # of the frames that must have it: what cameras leave standing beside the cloth changes with the pose
OF_GARMENT = 0.08  # metres from its particles: what the hull shows there is the garment
PERSON = 1  # bit of Batch.mask


def frames_of(images: Iterable[Batch]) -> Iterator[list[Batch]]:
    """The batches of each frame: several where cameras have several image sizes. Each batch holds one frame."""
    for _, batches in groupby(images, key=lambda batch: int(batch.frame[0])):
        yield list(batches)


@torch.no_grad()
def shown_frames(body: BodyModel, images: Iterable[Batch]) -> list[ShownFrame]:
    """What the masks of some frames show: their visual hulls.

    images: whole images, one frame a batch, a frame's batches together. ValueError for a frame with fewer than two
    masks, masks that show nobody, or nothing inside all of them.
    """
    skinning = Skinning(body, None, "torch")
    return [_shown(skinning, batches) for batches in frames_of(images)]


@torch.no_grad()
def off_body_points(
    body: BodyModel,
    frames: list[ShownFrame],
    near: Tensor,
    limit: int,
    cloth_bone: bool = False,
    garment: Callable[[int], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Points [M, 3] of the big pose, on the surface of the frames' visual hulls away from the body; and whether each
    hangs on the pelvis [M] bool.

    Each frame's hull is carved around its posed body; of its surface, what is more than OFF_BODY from the body is
    brought to the big pose by the skinning of the nearest vertex, or with `cloth_bone` by the pelvis where that does as
    well (`hangs_on_pelvis`). Kept are places that come back to where they were when they are posed again (between the
    legs the nearest vertex may change), and that half of the frames have.

    near: [N, 3] points that are there already; those added keep their mean distance from them and from each other, and
    are at most `limit`. garment: the particles [P, 3] of the garment that is worn in a frame (id): what is within
    OF_GARMENT of them is left out.
    """
    skinning = Skinning(body, None, "torch")
    if garment is not None:
        frames = [_without(frame, garment(frame.number)) for frame in frames]
    found, pelvis = [], []
    for k, frame in enumerate(frames):
        trunk = torch.zeros(len(frame.vertex), dtype=torch.bool)
        if cloth_bone:
            trunk = hangs_on_pelvis(skinning, frames, k)
        points, kept = _in_big_pose(skinning, frame, trunk)
        found.append(points)
        pelvis.append(trunk[kept])
    trees, points = [cKDTree(each) for each in found], np.concatenate(found)
    having = sum(np.isfinite(tree.query(points, distance_upper_bound=SUPPORT)[0]).astype(int) for tree in trees)
    supported = having >= max(min(2, len(found)), SHARE * len(found))
    there = near.double().numpy()
    gaps, _ = cKDTree(there).query(there, k=2)
    picked = thin(points[supported], there, float(gaps[:, 1].mean()), limit)
    return torch.from_numpy(points[supported][picked]).float(), torch.cat(pelvis)[torch.from_numpy(supported)][picked]


def _shown(skinning: Skinning, batches: list[Batch]) -> ShownFrame:
    """A frame's hull in the world, from all of its batches."""
    pose, frame = batches[0].pose, int(batches[0].frame[0])
    vertices = skinning.body.vertices(pose)[0]
    points = _hull(batches, vertices, frame)
    distance, vertex = cKDTree(vertices.double().numpy()).query(points.double().numpy())
    away = torch.from_numpy(distance > OFF_BODY)
    masks, cameras = _views(batches)
    return ShownFrame(
        skinning.pose(pose), points, points[away], torch.from_numpy(vertex)[away], frame,
        lambda places: inside_masks(places, masks, cameras),
    )  # fmt: skip


def _without(frame: ShownFrame, particles: Tensor) -> ShownFrame:
    """The frame with nothing off the body within OF_GARMENT of `particles` [P, 3]."""
    if not len(frame.off_body):
        return frame
    far = cKDTree(particles.double().numpy()).query(frame.off_body.double().numpy())[0] > OF_GARMENT
    kept = torch.from_numpy(far)
    return replace(frame, off_body=frame.off_body[kept], vertex=frame.vertex[kept])


def _views(batches: list[Batch]) -> tuple[list[Tensor], list[Cameras]]:
    """The masks of a frame [H, W] (bool), and their cameras."""
    masks = [mask & PERSON != 0 for batch in batches for mask in batch.mask[0]]
    return masks, [batch.cameras[0, v] for batch in batches for v in range(batch.rgb.shape[1])]


def _in_big_pose(skinning: Skinning, frame: ShownFrame, trunk: Tensor) -> tuple[np.ndarray, Tensor]:
    """A frame's points off the body in the big pose, [M, 3] float64, trunk [M] those that hang on the pelvis; and which
    of them come back to where they were, [M] bool."""
    canonical, missed = to_big_pose(skinning, frame.pose, frame.off_body, frame.vertex)
    if trunk.any():
        logits = bone_logits(trunk.float(), skinning.body.num_joints)
        hung = to_big_pose(skinning, frame.pose, frame.off_body, frame.vertex, logits)
        canonical, missed = torch.where(trunk[:, None], hung[0], canonical), torch.where(trunk, hung[1], missed)
    kept = missed <= RETURN
    return canonical[kept].double().numpy(), kept


def _hull(batches: list[Batch], vertices: Tensor, frame: int) -> Tensor:
    """World points [S, 3] on the surface of a frame's hull around the posed vertices [V, 3]."""
    low, high = vertices.amin(0) - REACH, vertices.amax(0) + REACH
    masks, cameras = _views(batches)
    try:
        inside, low = carve(masks, cameras, low, high, VOXEL)
    except ValueError as error:
        raise ValueError(f"frame {frame}: {error}") from error
    # What hangs together with the body: a shadow or a phantom that few cameras cut stands alone.
    pieces = ndimage.label(inside.numpy(), np.ones((3, 3, 3)))[0]
    cells = ((vertices - low) / VOXEL).floor().long()
    cells = cells[((cells >= 0) & (cells < torch.tensor(inside.shape))).all(1)]
    of_body = np.zeros(pieces.max() + 1, bool)
    of_body[pieces[tuple(cells.T.numpy())]] = True
    of_body[0] = False  # what is outside of all pieces
    hull = torch.from_numpy(of_body[pieces])
    if not hull.any():
        raise ValueError(
            f"frame {frame}: no part of the posed body is inside its {len(masks)} masks; masks, cameras and body poses "
            "do not fit together (`r3avatar inspect` names known mistakes)"
        )
    return grid_centres(low, hull.shape, VOXEL)[surface(hull).flatten()]


def thin(points: np.ndarray, there: np.ndarray, spacing: float, limit: int) -> list[int]:
    """Of points [M, 3], the rows of those picked one after the other, farthest from `there` [N, 3] and those before.

    Ends at `limit` points, or where the next one is nearer than `spacing` metres.
    """
    picked: list[int] = []
    if len(points):
        far, _ = cKDTree(there).query(points)
        while len(picked) < limit:
            next_one = int(far.argmax())
            if far[next_one] < spacing:
                break
            picked.append(next_one)
            far = np.minimum(far, np.sqrt(((points - points[next_one]) ** 2).sum(1)))
    return picked
