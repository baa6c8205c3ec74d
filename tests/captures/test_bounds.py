"""Boxes of the posed body and what their projections cover."""

import numpy as np
import pytest
import torch

from r3avatar.captures import CaptureError, body_bounds, projected_box_mask
from r3avatar.captures.boxes import mask_rectangle
from r3avatar.captures.prepared_frame import bound_mask
from r3avatar.types import Cameras


def test_bounds_hold_the_vertices(capture, body):
    bounds = body_bounds(body, capture.poses, 0.05)
    vertices = body.vertices(capture.poses).numpy()
    assert bounds.shape == (5, 2, 3)
    np.testing.assert_allclose(bounds[:, 0], vertices.min(1) - 0.05, atol=1e-5)
    np.testing.assert_allclose(bounds[:, 1], vertices.max(1) + 0.05, atol=1e-5)


def test_the_mask_covers_every_vertex_in_sight(capture, body):
    bounds, vertices = body_bounds(body, capture.poses, 0.0), body.vertices(capture.poses)
    for camera in capture.cameras:
        mask = projected_box_mask(bounds[0], camera)
        seen = vertices[0] @ camera.w2c[:3, :3].T + camera.w2c[:3, 3]
        pixels = (seen @ camera.K.T)[:, :2] / seen[:, 2:]
        column, row = pixels.floor().long().unbind(1)
        inside = (column >= 0) & (column < camera.width) & (row >= 0) & (row < camera.height)
        assert inside.any() and mask[row[inside], column[inside]].all()


def test_a_box_behind_the_camera_is_refused(capture):
    camera = Cameras(torch.eye(3), torch.eye(4), 10, 10)
    with pytest.raises(ValueError, match="behind the camera"):
        projected_box_mask(np.array([[-1.0, -1, -1], [1, 1, 1]]), camera)
    far_left = np.array([[-60.0, 0, 0], [-50, 1, 1]])
    for box, found in [
        (far_left, "the projected body box is outside"),
        (np.zeros((2, 3)), "has no volume; check the body's pose and box_margin"),
        (np.array([[0.0, 0, 0], [1, np.nan, 1]]), "has no volume"),
        (np.array([[-0.5, -1e12, -0.2], [0.5, 1e12, 0.2]]), "projects to .* pixels; check the camera's calibration"),
    ]:
        with pytest.raises(CaptureError, match=f"0012_09: camera 0, frame 1: expected .*, found .*{found}.* Fix: mend"):
            bound_mask(capture, box, 0, 1)


def test_empty_rectangle():
    assert mask_rectangle(np.zeros((5, 6), np.uint8)) == (0, 0, 0, 0)
