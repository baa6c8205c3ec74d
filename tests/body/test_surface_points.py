"""Points spread over a surface: as many as area asks for, evenly, the same for the same seed."""

import pytest
import torch

from r3avatar.avatar.neighbour_distance import initial_distances
from r3avatar.body import load_body
from r3avatar.body.surface_points import surface_points

SQUARE = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
HALVES = torch.tensor([[0, 1, 2], [0, 2, 3]])


def test_they_are_uniform():
    points = surface_points(SQUARE, HALVES, 40_000)
    assert (points[:, 2] == 0).all()
    counts = torch.histogramdd(points[:, :2], bins=[16, 16], range=[0.0, 1.0, 0.0, 1.0]).hist
    assert (counts * 256 / 40_000 - 1).abs().max() < 0.15  # random ones: about 0.25


def test_faces_get_what_their_area_asks_for():
    wide = torch.cat([SQUARE, SQUARE * 2 + 5])  # the second square has four times the area
    points = surface_points(wide, torch.cat([HALVES, HALVES + 4]), 1000)
    assert abs(int((points[:, 0] < 2).sum()) - 200) <= 2


def test_a_body_is_covered_evenly_whatever_its_mesh():
    body = load_body("demo")
    points = surface_points(body.v_template, body.faces, body.num_vertices, seed=3)
    ours, mesh = (initial_distances(x).sqrt() for x in (points, body.v_template))
    assert ours.std() / ours.mean() < 0.5 * mesh.std() / mesh.mean()
    assert (torch.cdist(body.v_template[::50], points).amin(1) < 0.03).all()
    assert torch.equal(points, surface_points(body.v_template, body.faces, body.num_vertices, seed=3))
    assert not torch.equal(points, surface_points(body.v_template, body.faces, body.num_vertices, seed=4))


def test_it_refuses_what_has_no_surface():
    with pytest.raises(ValueError, match="at least 1"):
        surface_points(SQUARE, HALVES, 0)
    for faces in (HALVES[:0], torch.tensor([[0, 0, 1]])):
        with pytest.raises(ValueError, match="no area"):
            surface_points(SQUARE, faces, 5)
