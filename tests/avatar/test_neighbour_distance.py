"""Distances to neighbours, and the first size of Gaussians by them."""

import sys
import types

import pytest
import torch

from r3avatar.avatar import build_avatar
from r3avatar.avatar.neighbour_distance import initial_distances
from r3avatar.body import load_body

POINTS = torch.rand(50, 3, generator=torch.Generator().manual_seed(0))


def brute_force(points):
    squared = torch.cdist(points.double(), points.double()).square()
    return squared.topk(4, largest=False).values[:, 1:].mean(1).float()


def test_three_nearest_others():
    torch.testing.assert_close(initial_distances(POINTS), brute_force(POINTS))
    twice = torch.cat([POINTS, POINTS])
    torch.testing.assert_close(initial_distances(twice), brute_force(twice), atol=1e-7, rtol=1e-4)


def test_simple_knn_where_it_is_installed(monkeypatch):
    asked = []

    def distCUDA2(points):
        assert points.dtype == torch.float32 and points.is_contiguous()
        asked.append(points)
        return brute_force(points)

    package = types.ModuleType("simple_knn")
    package._C = types.ModuleType("simple_knn._C")
    package._C.distCUDA2 = distCUDA2
    monkeypatch.setitem(sys.modules, "simple_knn", package)
    monkeypatch.setitem(sys.modules, "simple_knn._C", package._C)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.Tensor, "cuda", lambda x: x)
    transposed = POINTS.T.contiguous().T
    torch.testing.assert_close(initial_distances(transposed.double(), "simple_knn"), brute_force(POINTS).double())
    assert len(asked) == 1


def test_refusals(monkeypatch):
    for points, backend in ((POINTS, "faiss"), (POINTS[:3], "auto"), (POINTS[:, :2], "scipy")):
        with pytest.raises(ValueError):
            initial_distances(points, backend)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="use scipy"):
        initial_distances(POINTS, "simple_knn")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "simple_knn", None)
    with pytest.raises(RuntimeError, match="cannot be imported"):
        initial_distances(POINTS, "simple_knn")


def test_initial_scale_by_neighbours():
    body = load_body("demo")
    avatar = build_avatar(body, 10, initial_scale="neighbours")
    gap = initial_distances(avatar.skinning.big_vertices).sqrt().mean()
    torch.testing.assert_close(avatar.decoder.scale.bias.square(), gap.expand(3))
    assert 0.001 < gap < 0.02
    with pytest.raises(ValueError, match="neighbours"):
        build_avatar(body, 10, initial_scale="neighbors")
