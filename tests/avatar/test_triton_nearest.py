"""Nearest vertices by Triton's kernels against distances in double precision."""

import numpy as np
import pytest
import torch

from r3avatar.avatar.nearest import NearestVertex
from r3avatar.training.density_rules import nearest_neighbour
from r3avatar.triton_support import installed, interpreting

pytestmark = pytest.mark.skipif(not installed(), reason="triton is not installed")
interpreted = pytest.mark.skipif(not interpreting(), reason="Triton compiles for the GPU here")
on_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def cloud(N, seed):
    return torch.randn(N, 3, generator=torch.Generator().manual_seed(seed)) * torch.tensor([0.3, 0.9, 0.15])


def in_blocks(points, vertices):
    from r3avatar.avatar.triton_nearest import nearest_in_blocks, sort_into_blocks

    return nearest_in_blocks(points, sort_into_blocks(vertices).to(points.device))


def brute(points, vertices, exclude_self=False):
    from r3avatar.avatar.triton_nearest import nearest_vertices

    return nearest_vertices(points, vertices.to(points.device), exclude_self)


def assert_nearest(found, points, vertices, exclude_self=False):
    """No vertex is nearer than the one found, but for float32's rounding."""
    assert found.dtype == torch.int64 and found.shape == points.shape[:1]
    points, vertices, found = points.double(), vertices.double().to(points.device), found.to(points.device)
    assert not (exclude_self and (found == torch.arange(len(points), device=points.device)).any())
    for p, i in zip(points.split(1024), found.split(1024)):
        distances = (p[:, None] - vertices[None]).square().sum(-1)
        own = distances.gather(1, i[:, None])[:, 0]
        if exclude_self:
            distances[distances == 0] = torch.inf  # callers give distinct points
        assert (own <= distances.min(1).values * (1 + 1e-6)).all()


@pytest.mark.parametrize("search", [brute, in_blocks])
@pytest.mark.parametrize("M, V", [(37, 50), (3, 1), (70, 1100)])
def test_finds_the_nearest(search, M, V):
    points, vertices = cloud(M, 0).to(DEVICE), cloud(V, 1)
    assert_nearest(search(points, vertices), points, vertices)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's, of what is not finite
@pytest.mark.parametrize("search", [brute, in_blocks])
def test_ties_go_to_the_lowest_index_and_nan_stays_in_range(search):
    generator = torch.Generator().manual_seed(2)
    points = torch.randint(0, 5, (40, 3), generator=generator).float()
    vertices = torch.randint(0, 5, (150, 3), generator=generator).float()  # many in one place
    expected = np.square(points.numpy()[:, None] - vertices.numpy()[None]).sum(-1).argmin(1)
    assert search(points.to(DEVICE), vertices).cpu().tolist() == expected.tolist()
    bad = torch.tensor([[torch.nan, 0, 0], [torch.inf, 0, 0], [1e30, 0, 0], [0.0, 0, 0]])
    found = search(bad.to(DEVICE), vertices).cpu()
    assert ((found >= 0) & (found < 150)).all()
    assert vertices[found[3]].norm() == vertices.norm(dim=1).min()


def test_the_point_itself_can_be_left_out():
    points = cloud(90, 3).to(DEVICE)
    assert_nearest(brute(points, points, True), points, points, True)
    same = torch.zeros(40, 3, device=DEVICE)
    assert brute(same, same, True).tolist() == [1] + [0] * 39


def test_no_points_and_wrong_input():
    vertices = cloud(5, 0).to(DEVICE)
    assert brute(vertices[:0], vertices).shape == in_blocks(vertices[:0], vertices).shape == (0,)
    for points, others, exclude in ((vertices, vertices[:0], False), (vertices, vertices[:3], True)):
        with pytest.raises(ValueError, match="too few or not the same"):
            brute(points, others, exclude)
    with pytest.raises(ValueError, match="float32"):
        brute(vertices.double(), vertices)
    with pytest.raises(ValueError, match="at least one"):
        in_blocks(vertices, vertices[:0])


def test_every_vertex_is_in_its_block():
    from r3avatar.avatar.triton_nearest import sort_into_blocks

    vertices = cloud(2500, 4)
    blocks = sort_into_blocks(vertices)
    assert blocks.spheres.shape == (4, 96) and blocks.vertices.shape == (3, 96 * 32)  # 79 blocks in three groups
    filled = blocks.vertices[0].isfinite()
    assert blocks.ids[filled].sort().values.tolist() == list(range(2500))
    assert torch.equal(blocks.vertices[:, filled].T, vertices[blocks.ids[filled].long()])
    distance = (blocks.vertices.view(3, 96, 32) - blocks.spheres[:3, :, None]).double().square().sum(0).sqrt()
    inside = distance <= blocks.spheres[3, :, None] * (1 + 1e-7)
    assert inside[filled.view(96, 32)].all()


class TestOnTheGPU:
    pytestmark = on_gpu

    @pytest.mark.parametrize("M, V", [(22_000, 12_868), (100_003, 6_890)])
    def test_real_sizes(self, M, V):
        vertices = cloud(V, 5)
        points = (vertices[torch.arange(M) % V] + 0.01 * cloud(M, 6)).cuda()
        found = in_blocks(points, vertices)
        assert_nearest(found, points, vertices)
        assert_nearest(brute(points, vertices), points, vertices)
        far = points * 3 + 1  # all outside of the body, in no helpful order
        far = far[torch.randperm(M, generator=torch.Generator().manual_seed(7)).cuda()]
        assert_nearest(in_blocks(far, vertices), far, vertices)

    def test_the_searches_agree_with_the_tree(self):
        vertices = cloud(10_475, 8)
        points = cloud(20_000, 9).view(2, 10_000, 3)
        search = NearestVertex(vertices)
        found = search(points.cuda())
        assert found.shape == (2, 10_000) and (found.cpu() == search(points)).float().mean() > 0.999
        means = cloud(20_000, 10)
        assert (nearest_neighbour(means.cuda()).cpu() == nearest_neighbour(means)).float().mean() > 0.999

    def test_neither_synchronises_and_both_are_captured(self):
        search, points = NearestVertex(cloud(12_868, 11)), cloud(22_000, 12).cuda()
        search(points), nearest_neighbour(points)
        torch.cuda.set_sync_debug_mode("error")
        try:
            expected, neighbours = search(points), nearest_neighbour(points)
            search(points[:777])
        finally:
            torch.cuda.set_sync_debug_mode("default")
        graph, held = torch.cuda.CUDAGraph(), torch.zeros_like(points)
        with torch.cuda.graph(graph):
            found, others = search(held), nearest_neighbour(held)
        held.copy_(points)
        graph.replay()
        assert torch.equal(found, expected) and torch.equal(others, neighbours)
