"""Triton's projection and colours agree with the torch twins in float64: values, gradients, boxes."""

import importlib.util

import pytest
import torch

from r3avatar.rasterizer.projection import ALPHA_MIN, project_gaussians
from r3avatar.rasterizer.spherical_harmonics import view_colours
from r3avatar.types import Cameras, Gaussians

from .conformance import SCENES, Scene, cloud, ring

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TILE = 16
NAMES = ("means2d", "conics", "weights", "colours", "depths", "radii")
INPUTS = ("means", "covariances", "opacities", "sh")


def twin(gaussians: Gaussians, cameras: Cameras, eps2d=0.3, near=0.01, antialiased=False) -> tuple[torch.Tensor, ...]:
    means2d, conics, weights, depths, radii = project_gaussians(
        gaussians.means, gaussians.covariances, gaussians.opacities, cameras, eps2d, near, antialiased
    )
    colours = view_colours(gaussians.sh, gaussians.means, cameras.centres)
    return means2d, conics, weights, torch.where(radii[..., None] > 0, colours, 0.0), depths, radii


def triton(gaussians: Gaussians, cameras: Cameras, eps2d=0.3, near=0.01, antialiased=False):
    from r3avatar.rasterizer.triton_projection import project

    given = (gaussians.means, gaussians.covariances, gaussians.opacities, gaussians.sh, cameras.w2c, cameras.K)
    return project(*given, cameras.width, cameras.height, eps2d, near, antialiased, TILE)


def leaves_of(scene: Scene, like: torch.Tensor, shared: bool) -> dict[str, torch.Tensor]:
    leaves = {k: getattr(scene.gaussians, k).to(like).clone() for k in INPUTS}
    if shared:
        leaves["sh"] = leaves["sh"][0].clone()
    return {k: x.requires_grad_() for k, x in leaves.items()}


def gaussians_of(leaves: dict[str, torch.Tensor]) -> Gaussians:
    sh = leaves["sh"]
    return Gaussians(**{**leaves, "sh": sh.expand(len(leaves["means"]), -1, -1, -1) if sh.ndim == 3 else sh})


def differentiate(outputs: tuple[torch.Tensor, ...], leaves: dict[str, torch.Tensor], visible: torch.Tensor) -> dict:
    """Gradients of a fixed random combination of what is `visible`, each kind of output weighed by its own size."""
    random = torch.Generator().manual_seed(3)
    loss = 0.0
    for x in outputs[:4]:
        weight = torch.randn(x.shape, generator=random).to(x)
        mask = visible if x.ndim == 3 else visible[..., None]
        loss = loss + (weight * torch.where(mask, x, 0.0)).sum() / (1e-3 + x.detach().abs().mean())
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values()))))


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float, name: str) -> None:
    """Within a share of the reference's norm: the error of float32 is relative to the largest terms of a sum."""
    a, b = a.detach().cpu().double(), b.detach().cpu().double()
    assert a.shape == b.shape, f"{name} is {tuple(a.shape)}, not {tuple(b.shape)}"
    assert torch.isfinite(a).all(), f"{name} is not finite"
    error, scale = (a - b).norm(), b.norm()
    assert error <= tolerance * scale + 1e-6, f"{name}: error {error:.3g}, norm {scale:.3g}"


def check_values(a: torch.Tensor, b: torch.Tensor, tolerance: float, name: str) -> None:
    """Nearly all to 1e-4: a thin Gaussian's determinant loses more digits in float32."""
    error = (a - b).abs() - tolerance
    assert (error > 1e-4 * b.abs()).double().mean().nan_to_num() <= 1e-4, name
    assert (error <= 1e-2 * b.abs() + 10 * tolerance).all(), name


def compare(scene: Scene, device: str, shared: bool = False, tolerance: float = 1e-4) -> None:
    options = scene.options or {}
    double = leaves_of(scene, torch.zeros((), dtype=torch.float64, device=device), shared)
    single = leaves_of(scene, torch.zeros((), device=device), shared)
    cameras = scene.cameras.to(device)
    expected = twin(gaussians_of(double), cameras.to(torch.float64), **options)
    *outputs, boxes = triton(gaussians_of(single), cameras, **options)
    seen, found = expected[5] > 0, outputs[5] > 0
    # The box that decides may touch the image's border within rounding.
    assert (seen != found).double().mean().nan_to_num() <= 1e-3
    both = seen & found
    for name, x, y in zip(NAMES, outputs, expected):
        assert not x[~found].any() and x.dtype == torch.float32, name
        assert x.shape == y.shape, name
        check_values(x[both].double(), y[both], 1e-3 if name == "means2d" else 1e-5, name)
    assert [x.requires_grad for x in outputs] == [True] * 4 + [False] * 2 and not boxes.requires_grad
    check_boxes(expected, boxes, both, cameras)
    assert not boxes[~found].any()
    slopes = differentiate(expected, double, both)
    for name, x in differentiate(tuple(outputs), single, both).items():
        close(x, slopes[name], tolerance, name)
        if name != "sh":
            assert not x[~both.any(1)].any(), f"what no camera sees has a gradient in {name}"


def check_boxes(expected: tuple[torch.Tensor, ...], boxes: torch.Tensor, both: torch.Tensor, cameras: Cameras) -> None:
    """Every pixel drawn lies in the box's tiles; a box holds no row or column of tiles that reaches no such pixel."""
    W, H = cameras.width, cameras.height
    means2d, conics, weights = (x.detach() for x in expected[:3])
    some = slice(None, None, max(1, means2d.shape[2] * W * H >> 21))  # pixels x Gaussians that fit in memory
    grid = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    y, x = (g.reshape(-1).to(boxes.device) for g in grid)
    pixels = torch.stack([x, y], -1) + 0.5
    for image in zip(means2d.flatten(0, 1), conics.flatten(0, 1), weights.flatten(0, 1), boxes.flatten(0, 1)):
        mean, conic, weight, box = (x[some] for x in image)
        assert (box >= 0).all() and (box[:, 2] <= -(-W // TILE)).all() and (box[:, 3] <= -(-H // TILE)).all()
        d = pixels - mean[:, None]  # [N, pixels, 2]
        a, b, c = (conic[:, i, None] for i in range(3))
        sigma = 0.5 * (a * d[..., 0] ** 2 + c * d[..., 1] ** 2) + b * d[..., 0] * d[..., 1]
        drawn = weight[:, None] * torch.exp(-sigma) >= ALPHA_MIN * (1 + 1e-6)
        inside = (x // TILE >= box[:, :1]) & (x // TILE < box[:, 2:3]) & (y // TILE >= box[:, 1:2])
        inside &= y // TILE < box[:, 3:]
        assert not (drawn & ~inside).any(), "a pixel drawn is outside its box"
    # Half a pixel more on each side than the ellipse's own box never adds a whole tile.
    half = (2 * torch.log(weights / ALPHA_MIN)).clamp(min=0)[..., None] * variances(conics)
    half = half.sqrt() * 1.001 + 1.5
    size = torch.tensor([W, H], device=boxes.device)
    low = ((means2d - half).clamp(min=0).minimum(size) / TILE).floor().long()
    high = ((means2d + half).clamp(min=0).minimum(size) / TILE).ceil().long()
    full = both & (boxes[..., 2] > boxes[..., 0])
    assert (boxes[..., :2] >= low)[full].all() and (boxes[..., 2:] <= high)[full].all()


def variances(conics: torch.Tensor) -> torch.Tensor:
    determinant = conics[..., 0] * conics[..., 2] - conics[..., 1] ** 2
    return torch.stack([conics[..., 2], conics[..., 0]], -1) / determinant.clamp(min=1e-30)[..., None]


@pytest.mark.parametrize("name", [name for name in SCENES if name != "none"])
def test_agrees_with_the_twins(name):
    compare(SCENES[name](), DEVICE)


@pytest.mark.parametrize("K", [1, 4, 9, 16])
def test_coefficients_shared_by_the_frames(K):
    compare(SCENES[f"{K} harmonics"](), DEVICE, shared=True)


def test_any_block_and_number_of_views(monkeypatch):
    from r3avatar.rasterizer import triton_projection

    scene = Scene(cloud(2, 40, 11, K=16), ring(2, 5, 50, 40))
    for views, block in ((1, 32), (8, 128)):
        for way in ("FORWARD", "BACKWARD"):
            monkeypatch.setattr(triton_projection, f"{way}_VIEWS", views)
            monkeypatch.setattr(triton_projection, f"{way}_BLOCK", block)
        compare(scene, DEVICE, shared=True)


def test_an_expanded_leaf_gets_the_gradient_of_each_frame():
    scene = SCENES["4 harmonics"]()
    gaussians, cameras = scene.gaussians.to(DEVICE), scene.cameras.to(DEVICE)
    gaussians.sh = gaussians.sh[:1].expand(2, -1, -1, -1).requires_grad_()
    (found,) = torch.autograd.grad(triton(gaussians, cameras)[3].square().sum(), gaussians.sh)
    gaussians.sh = gaussians.sh.detach().clone().requires_grad_()
    (expected,) = torch.autograd.grad(triton(gaussians, cameras)[3].square().sum(), gaussians.sh)
    assert torch.equal(found, expected) and not torch.equal(found[0], found[1])


@pytest.mark.parametrize("N, K", [(0, 4), (0, 1)])
def test_no_gaussians(N, K):
    scene = Scene(cloud(2, N, 8, K=K), ring(2, 3))
    leaves = leaves_of(scene, torch.zeros((), device=DEVICE), shared=True)
    outputs = triton(gaussians_of(leaves), scene.cameras.to(DEVICE))
    assert [tuple(x.shape[3:]) for x in outputs] == [(2,), (3,), (), (3,), (), (), (4,)]
    assert all(x.shape[:3] == (2, 3, 0) for x in outputs)
    gradients = torch.autograd.grad(sum(x.sum() for x in outputs[:4]), list(leaves.values()))
    assert [x.shape for x in gradients] == [x.shape for x in leaves.values()]


def test_means2d_keeps_its_gradient_and_others_may_be_unused():
    scene = SCENES["4 harmonics"]()
    leaves = leaves_of(scene, torch.zeros((), device=DEVICE), shared=False)
    means2d, *_ = triton(gaussians_of(leaves), scene.cameras.to(DEVICE))
    means2d.retain_grad()
    means2d.square().sum().backward()
    assert torch.equal(means2d.grad, 2 * means2d)
    assert leaves["means"].grad.any() and not any(leaves[k].grad.any() for k in ("covariances", "opacities", "sh"))


def test_refuses_what_it_cannot_project():
    scene = SCENES["one"]()
    gaussians, cameras = scene.gaussians.to(DEVICE), scene.cameras.to(DEVICE)
    with pytest.raises(TypeError, match=r"means is torch.float64"):
        triton(gaussians.to(torch.float64), cameras)
    with pytest.raises(ValueError, match=r"w2c must be \[1, 2, 4, 4\]"):
        triton(gaussians, Cameras(cameras.K, cameras.w2c.expand(3, 2, 4, 4), 30, 20))
    with pytest.raises(ValueError, match="1, 4, 9 or 16, not 5"):
        triton(Gaussians(gaussians.means, gaussians.covariances, gaussians.opacities, torch.zeros(1, 1, 5, 3)), cameras)
    cameras.w2c.requires_grad_()
    with pytest.raises(ValueError, match="gives cameras no gradient"):
        triton(gaussians, cameras)


def full_size(N: int, K: int = 16, V: int = 4, **options) -> Scene:
    """Two frames at the size of a training's crops, Gaussians of some pixels."""
    cameras = ring(2, V, 400, 592)
    cameras.K[..., :2, :2] *= 8
    return Scene(cloud(2, N, 12, K=K, size=0.03), cameras, options=options)


def step(leaves: dict[str, torch.Tensor], cameras: Cameras) -> list[torch.Tensor]:
    outputs = triton(gaussians_of(leaves), cameras)
    loss = sum((x * x).sum() for x in outputs[:4])
    return [*(x.detach() for x in outputs), *torch.autograd.grad(loss, list(leaves.values()))]


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("K", [1, 4, 9, 16])
@pytest.mark.parametrize("shared", [False, True])
def test_full_size(K, shared):
    compare(full_size(11_000, K, antialiased=shared), "cuda", shared, tolerance=1e-3)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("V", [1, 3, 8])
def test_full_size_in_any_number_of_views(V):
    compare(full_size(5_000, V=V), "cuda", shared=True, tolerance=1e-3)


@pytest.mark.gpu
@needs_cuda
def test_crowd_repeats_itself():
    scene = full_size(200_000)
    leaves, cameras = leaves_of(scene, torch.zeros((), device="cuda"), shared=True), scene.cameras.to("cuda")
    for x, y in zip(step(leaves, cameras), step(leaves, cameras)):
        assert torch.equal(x, y)


@pytest.mark.gpu
@needs_cuda
def test_does_not_synchronise():
    scene = full_size(11_000)
    leaves, cameras = leaves_of(scene, torch.zeros((), device="cuda"), shared=True), scene.cameras.to("cuda")
    step(leaves, cameras)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(leaves, cameras)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@needs_cuda
def test_replays_as_a_graph():
    scene = full_size(11_000)
    leaves, cameras = leaves_of(scene, torch.zeros((), device="cuda"), shared=True), scene.cameras.to("cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step(leaves, cameras)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        recorded = step(leaves, cameras)
    with torch.no_grad():
        leaves["means"].mul_(0.9)
        leaves["sh"].neg_()
    graph.replay()
    for x, y in zip(recorded, step(leaves, cameras)):
        assert torch.equal(x, y)
