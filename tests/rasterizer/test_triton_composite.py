"""Tile lists and compositing in Triton against brute force: what a tile lists, what a pixel shows, every gradient."""

import math

import pytest
import torch

from r3avatar.rasterizer import TorchRasterizer
from r3avatar.rasterizer.projection import ALPHA_MIN, project_gaussians
from r3avatar.triton_support import interpreting
from r3avatar.types import Cameras

from .conformance import cloud, ring

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")
from r3avatar.rasterizer import triton_composite  # noqa: E402

HERE = "cpu" if interpreting() else "cuda"
RUNS = HERE == "cpu" or torch.cuda.is_available()
pytestmark = pytest.mark.skipif(not RUNS, reason="needs CUDA or TRITON_INTERPRET=1")
SIZES = [(40, 45, 50)] if HERE == "cpu" else [(40, 45, 50), (5000, 397, 290)]  # Gaussians, width, height


def tile_boxes(means2d, conics, weights, radii, width: int, height: int):
    """Boxes of {alpha >= 1/255} in tiles, a little too large."""
    from r3avatar.rasterizer.triton_binning import TILE, tile_grid

    a, b, c = torch.where(radii[..., None] > 0, conics, torch.ones_like(conics)).double().unbind(-1)
    b = torch.where(radii > 0, b, 0.0)
    extent = 2 * torch.log(weights.double().clamp(min=ALPHA_MIN) / ALPHA_MIN)
    half = (torch.stack([c, a], -1) * (extent / (a * c - b * b))[..., None]).sqrt() + 1
    limits = torch.tensor(tile_grid(width, height), device=means2d.device)
    low = ((means2d - half) / TILE).floor().clamp(min=0).minimum(limits)
    high = ((means2d + half) / TILE).ceil().clamp(min=0).minimum(limits)
    return torch.where(radii[..., None] > 0, torch.cat([low, high], -1), 0.0).int()


def projected(N: int, width: int, height: int, needles: bool = False):
    gaussians, cameras = cloud(2, N, 0, size=0.05).to(torch.zeros((), device=HERE)), ring(2, 2, width, height)
    if needles:
        gaussians.covariances[:, ::2] *= torch.tensor([900.0, 0.1, 0.1, 0.01, 0.001, 0.01], device=HERE)
    given = gaussians.means, gaussians.covariances, gaussians.opacities, cameras.to(gaussians.means)
    means2d, conics, weights, depths, radii = project_gaussians(*given, 0.3, 0.01, False)
    colours = torch.rand(*radii.shape, 3, generator=torch.Generator().manual_seed(3)).to(HERE)
    return means2d, conics, weights, colours, depths, radii, tile_boxes(means2d, conics, weights, radii, width, height)


def fill():
    return torch.zeros(1, dtype=torch.int32, device=HERE)


@pytest.mark.parametrize("needles", [False, True])
@pytest.mark.parametrize(("N", "width", "height"), SIZES)
def test_lists_hold_what_is_drawn_by_depth(N, width, height, needles):
    """No pixel with alpha >= 1/255 is lost, next to nothing else is listed, nearest first."""
    from r3avatar.rasterizer.triton_binning import TILE, build_tile_lists, tile_grid

    means2d, conics, weights, colours, depths, radii, boxes = projected(N, width, height, needles)
    flat = [x.flatten(0, 1) for x in (means2d, conics, weights, colours, depths, boxes)]
    lists = build_tile_lists(*flat, width, height, 200 * N, full := fill())
    assert 0 < int(full) <= 1000
    columns, rows = tile_grid(width, height)
    y, x = torch.meshgrid(torch.arange(rows * TILE), torch.arange(columns * TILE), indexing="ij")
    pixels = (torch.stack([x, y], -1) + 0.5).double().to(HERE)
    inside = ((x < width) & (y < height)).to(HERE)
    listed = wanted = 0
    for image in (0, 3):
        order, starts, counts = (x[image].tolist() for x in (lists.order, lists.starts, lists.counts))
        mean, conic = flat[0][image].double(), flat[1][image].double()
        present = [set() for _ in counts]
        for n in range(N):
            if float(radii.flatten(0, 1)[image, n]) == 0:
                continue
            d = pixels - mean[n]
            a, b, c = conic[n]
            alpha = flat[2][image, n] * torch.exp(-0.5 * (a * d[..., 0] ** 2 + c * d[..., 1] ** 2) - b * d.prod(-1))
            hit = ((alpha >= ALPHA_MIN * 1.0001) & inside).unflatten(0, (rows, TILE)).unflatten(2, (columns, TILE))
            for tile in hit.any(3).any(1).flatten().nonzero()[:, 0].tolist():
                present[tile].add(n)
        for tile, (start, count) in enumerate(zip(starts, counts)):
            entries = [order[rank] for rank in lists.ranks[start : start + count].tolist()]
            assert present[tile] <= set(entries) and len(set(entries)) == count
            near = depths.flatten(0, 1)[image, entries]
            assert (near.diff() >= 0).all()
            listed, wanted = listed + count, wanted + len(present[tile])
        if HERE == "cuda":
            break
    assert wanted > 0 and listed <= 1.35 * wanted + 10


@pytest.mark.parametrize(("N", "width", "height"), SIZES)
def test_gradients_of_what_is_projected(N, width, height):
    means2d, conics, weights, colours, depths, radii, boxes = projected(N, width, height)
    background = torch.tensor([0.9, 0.2, 0.4], device=HERE)
    leaves = [x.clone().requires_grad_() for x in (means2d, conics, weights, colours)]
    rgb, alpha = triton_composite.Composite.apply(
        *leaves, depths, boxes, background, width, height, 100 * N, full := fill()
    )
    assert int(full) <= 1000
    random = torch.randn(*alpha.shape, 4, generator=torch.Generator().manual_seed(5)).to(HERE)
    found = torch.autograd.grad((rgb * random[..., :3]).sum() + (alpha * random[..., 3]).sum(), leaves)

    double = [x.double().clone().requires_grad_() for x in (means2d, conics, weights, colours)]
    cameras = Cameras(torch.eye(3, device=HERE), torch.eye(4, device=HERE), width, height)
    per_image = zip(*(x.flatten(0, 1) for x in (*double, depths.double(), radii)))
    reference = TorchRasterizer(pairs=1 << 24)
    image = torch.stack([reference._composite(*x, cameras) for x in per_image]).unflatten(0, (2, 2))
    light = image[..., 3]
    expected = image[..., :3] + (1 - light[..., None]) * background
    assert (rgb - expected).abs().max() < 1e-2 and ((rgb - expected).abs() > 1e-4).double().mean() < 2e-3
    assert (alpha - light).abs().max() < 1e-2
    wanted = torch.autograd.grad((expected * random[..., :3]).sum() + (light * random[..., 3]).sum(), double)
    for a, b in zip(found, wanted):
        assert (a - b).norm() <= 3e-3 * b.norm()
        assert (a[radii == 0] == 0).all()


def test_lists_end_where_the_room_ends():
    """What does not fit is dropped, nothing is written beyond, and the need is told."""
    from r3avatar.rasterizer.triton_binning import build_tile_lists

    means2d, conics, weights, colours, depths, _, boxes = projected(40, 45, 50)
    flat = [x.flatten(0, 1) for x in (means2d, conics, weights, colours, depths, boxes)]
    complete = build_tile_lists(*flat, 45, 50, 4000, fill())
    assert int(complete.counts.sum()) > 200
    cut = build_tile_lists(*flat, 45, 50, 100, full := fill())
    assert int(full) > 1000 and cut.ranks.shape == (100,)
    ends = cut.starts + cut.counts
    assert int(ends[cut.counts > 0].max()) <= 100 and int(cut.counts.sum()) <= 100 and (cut.counts >= 0).all()
    enough = 4 * 40 * math.ceil(45 / 16) * math.ceil(50 / 16)
    build_tile_lists(*flat, 45, 50, enough, full := fill())
    assert int(full) <= 1  # it cannot overflow: no reason to grow


@triton.jit
def _accumulate(alphas, T, after, before, sums, INTERPRETED: tl.constexpr):
    at = tl.arange(0, 8)[:, None] * 4 + tl.arange(0, 4)[None, :]
    a = tl.load(alphas + at)
    x, y = triton_composite._transmittances(tl.load(T + tl.arange(0, 4)), a, INTERPRETED)
    tl.store(after + at, x)
    tl.store(before + at, y)
    nine = a, 2 * a, 3 * a, 4 * a, 5 * a, 6 * a, 7 * a, 8 * a, 9 * a
    s0, s1, s2, s3, s4, s5, s6, s7, s8 = triton_composite._sums_of_nine(nine, INTERPRETED)
    row = sums + tl.arange(0, 8)
    tl.store(row, s0 + s1 + s2 + s3 + s4)
    tl.store(row + 8, s5 + s6 + s7 - s8)


@pytest.mark.parametrize("interpreted", [False, True])
def test_transmittances_and_sums(interpreted):
    """The interpreter's own way and the compiler's give the same."""
    alphas = torch.rand(8, 4, generator=torch.Generator().manual_seed(0)).to(HERE)
    T, (after, before) = torch.rand(4).to(HERE), alphas.new_empty(2, 8, 4)
    sums = alphas.new_empty(2, 8)
    _accumulate[(1,)](alphas, T, after, before, sums, INTERPRETED=interpreted, num_warps=1)
    expected = T * torch.cumprod(1 - alphas, 0)
    torch.testing.assert_close(after, expected)
    torch.testing.assert_close(before, torch.cat([T[None], expected[:-1]]))
    torch.testing.assert_close(sums, torch.stack([15 * alphas.sum(1), 12 * alphas.sum(1)]))


def test_huge_images_have_larger_bins():
    """A bin's place fits eight bits at any size."""
    from r3avatar.rasterizer.triton_binning import BIN_SHIFT, TILE, bin_shift

    assert bin_shift(25, 37) == BIN_SHIFT and bin_shift(256 << BIN_SHIFT, 3) == BIN_SHIFT
    assert bin_shift((256 << BIN_SHIFT) + 1, 3) == BIN_SHIFT + 1 and bin_shift(3, 100_000 // TILE) >= BIN_SHIFT
