"""Triton's projection and colours agree with the torch twins in float64: values, gradients, boxes."""

import importlib.util

import pytest
import torch

from r3avatar.rasterizer.projection import ALPHA_MIN, project_gaussians
from r3avatar.rasterizer.spherical_harmonics import view_colours
from r3avatar.types import Cameras, Gaussians

from .conformance import SCENES, Scene

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


def compare(scene: Scene, device: str, shared: bool = False) -> None:
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
        torch.testing.assert_close(x[both].double(), y[both], rtol=1e-4, atol=1e-3 if name == "means2d" else 1e-5)
    assert [x.requires_grad for x in outputs] == [True] * 4 + [False] * 2 and not boxes.requires_grad
    check_boxes(expected, boxes, both, cameras)
    assert not boxes[~found].any()
    slopes = differentiate(expected, double, both)
    for name, x in differentiate(tuple(outputs), single, both).items():
        close(x, slopes[name], 1e-4, name)
        if name != "sh":
            assert not x[~both.any(1)].any(), f"what no camera sees has a gradient in {name}"


def check_boxes(expected: tuple[torch.Tensor, ...], boxes: torch.Tensor, both: torch.Tensor, cameras: Cameras) -> None:
    """Every pixel drawn lies in the box's tiles; a box holds no row or column of tiles that reaches no such pixel."""
    W, H = cameras.width, cameras.height
    means2d, conics, weights = (x.detach() for x in expected[:3])
    grid = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    y, x = (g.reshape(-1).to(boxes.device) for g in grid)
    pixels = torch.stack([x, y], -1) + 0.5
    for image in zip(means2d.flatten(0, 1), conics.flatten(0, 1), weights.flatten(0, 1), boxes.flatten(0, 1)):
        mean, conic, weight, box = image
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
