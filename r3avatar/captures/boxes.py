"""The posed body's box and its projection, the bound mask: where the losses look."""

from __future__ import annotations

from typing import Protocol

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from r3avatar.types import BodyPose, Cameras

# Corner i is (min, max)[bit] per axis: x is bit 2, y bit 1, z bit 0. Each face lists its corners in a ring.
_FACES = ((0, 1, 3, 2), (4, 5, 7, 6), (0, 1, 5, 4), (2, 3, 7, 6), (0, 2, 6, 4), (1, 3, 7, 5))
_NEAREST_DEPTH = 0.01  # metres; a corner nearer than this, or behind the camera, has no usable projection
_FARTHEST_PIXEL = 1e6  # a corner farther out than this, in pixels, is no person's in sight
_FRAMES_AT_ONCE = 16  # posed bodies in memory


class PosableBody(Protocol):
    """What the bounds need of a body model."""

    def vertices(self, pose: BodyPose) -> Tensor:
        """Posed vertices [F, V, 3], metres, world."""


@torch.no_grad()
def body_bounds(body: PosableBody, poses: BodyPose, margin: float) -> np.ndarray:
    """Axis-aligned boxes of the posed body, grown by `margin` metres: [F, 2, 3] float64, min and max corner."""
    if isinstance(body, nn.Module):  # a trained avatar's body may live on a GPU
        poses = poses.to(next((tensor.device for tensor in body.buffers()), "cpu"))
    boxes = []
    for first in range(0, len(poses), _FRAMES_AT_ONCE):
        vertices = body.vertices(poses[first : first + _FRAMES_AT_ONCE])  # [f, V, 3]
        boxes.append(torch.stack([vertices.amin(1), vertices.amax(1)], 1))
    bounds = torch.cat(boxes).cpu().double().numpy()
    return bounds + np.array([[-margin], [margin]])


def box_corners(bounds: np.ndarray, camera: Cameras) -> np.ndarray:
    """The projected corners [8, 2] of a box [2, 3] (min, max corner), in pixels (first pixel's centre at 0.5, 0.5).

    Order: x outermost, z innermost, min before max. ValueError for a box without volume, and if a corner is behind the
    camera or has hardly any projection.
    """
    bounds = np.asarray(bounds, np.float64)
    if not (np.isfinite(bounds).all() and (bounds[1] > bounds[0]).all()):
        raise ValueError(f"the body's box {bounds.tolist()} has no volume; check the body's pose and box_margin")
    corners = np.stack(np.meshgrid(*bounds.T, indexing="ij"), -1).reshape(8, 3)
    w2c, K = camera.w2c.double().cpu().numpy(), camera.K.double().cpu().numpy()
    seen = corners @ w2c[:3, :3].T + w2c[:3, 3]
    if (seen[:, 2] < _NEAREST_DEPTH).any():
        raise ValueError(
            f"a corner of the body's box {np.round(bounds, 3).tolist()} is behind the camera "
            f"(depth {seen[:, 2].min():.3f} m); check the camera's pose and the body's"
        )
    projected = seen @ K.T
    pixels = projected[:, :2] / projected[:, 2:]
    if not (np.abs(pixels) < _FARTHEST_PIXEL).all():
        raise ValueError(
            f"a corner of the body's box {np.round(bounds, 3).tolist()} projects to {np.abs(pixels).max():.3g} pixels; "
            "check the camera's calibration and the body's pose"
        )
    return pixels


def projected_box_mask(bounds: np.ndarray, camera: Cameras) -> np.ndarray:
    """The bound mask [H, W] uint8 0/1: a box [2, 3] projected, corners at the nearest pixel, its six faces filled.

    Source: R3-Avatar's preparation (after Neural Body, Peng et al. 2021). ValueError as `box_corners`.
    """
    # Polygons are filled between pixel centres, which OpenCV counts from (0, 0): hence the half pixel.
    pixels = np.rint(box_corners(bounds, camera) - 0.5).astype(np.int32)
    mask = np.zeros((camera.height, camera.width), np.uint8)
    for face in _FACES:
        cv2.fillPoly(mask, [pixels[list(face)]], 1)
    return mask


def mask_rectangle(mask: np.ndarray) -> tuple[int, int, int, int]:
    """x, y, width, height of the smallest rectangle that holds a mask's nonzero pixels; all 0 for an empty mask."""
    return tuple(int(value) for value in cv2.boundingRect(mask))
