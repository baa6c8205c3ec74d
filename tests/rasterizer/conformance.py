"""What every rasterizer must agree on with the dense reference in float64: scenes, and the comparison."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from r3avatar.rasterizer import Rasterizer, TorchRasterizer
from r3avatar.rasterizer.projection import covariance_from_scale_rotation
from r3avatar.types import Cameras, Gaussians, RenderOutput

# A pixel's alpha on either side of 1/255 by rounding draws or skips a Gaussian, up to 1/255 of its colour; two depths
# that round to one swap order. So: nearly all values within TIGHT, none beyond LOOSE, gradients by their norms.
TIGHT, LOOSE, RARE = 1e-4, 1e-2, 2e-3
GRADIENT = 3e-3  # of the reference gradient's norm


@dataclass
class Scene:
    gaussians: Gaussians
    cameras: Cameras
    background: Tensor | None = None
    options: dict | None = None


def cloud(
    F: int, N: int, seed: int, K: int = 4, size: float = 0.06, opacity: tuple[float, float] = (0.1, 1.0)
) -> Gaussians:
    """Random Gaussians in a cube of 1.5 m about the origin; `size`: largest standard deviation, metres."""
    random = torch.Generator().manual_seed(seed)
    scales = size * (0.15 + 0.85 * torch.rand(F, N, 3, generator=random))
    covariances = covariance_from_scale_rotation(scales, torch.randn(F, N, 4, generator=random))
    means = 1.5 * (torch.rand(F, N, 3, generator=random) - 0.5)
    opacities = opacity[0] + (opacity[1] - opacity[0]) * torch.rand(F, N, generator=random)
    return Gaussians(means, covariances, opacities, 0.5 * torch.randn(F, N, K, 3, generator=random))


def ring(F: int, V: int, width: int = 64, height: int = 64, shift: tuple[float, float] = (0.0, 0.0)) -> Cameras:
    """Cameras 2.5 m from the origin, turned about the vertical; `shift` moves the principal point, pixels."""
    K = torch.tensor([[70.0, 0.0, width / 2 + shift[0]], [0.0, 75.0, height / 2 + shift[1]], [0.0, 0.0, 1.0]])
    w2c = torch.eye(4).repeat(F, V, 1, 1)
    w2c[..., 2, 3] = 2.5
    for f in range(F):
        for v in range(V):
            c, s = math.cos(0.7 * v + 0.3 * f), math.sin(0.7 * v + 0.3 * f)
            w2c[f, v, :3, :3] = torch.tensor([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])
    return Cameras(K.expand(F, V, 3, 3).clone(), w2c, width, height)


def _batch() -> Scene:
    background = torch.tensor([0.2, 0.5, 0.9])
    return Scene(cloud(2, 300, 0), ring(2, 3, 75, 50, shift=(9.0, -6.0)), background)


def _antialiased() -> Scene:
    return Scene(cloud(1, 300, 1, size=0.02), ring(1, 2), options={"antialiased": True, "eps2d": 0.5})


def _near_and_behind() -> Scene:
    gaussians = cloud(1, 200, 2)
    gaussians.means[:, ::2, 2] -= 2.5  # about the camera's plane: behind, nearer than `near`, and just in front
    return Scene(gaussians, ring(1, 1), options={"near": 0.2})


def _all_behind() -> Scene:
    gaussians = cloud(1, 20, 3)
    gaussians.means[..., 2] -= 6
    return Scene(gaussians, ring(1, 1), torch.tensor([0.1, 0.2, 0.3]))


def _transparent() -> Scene:
    gaussians = cloud(1, 100, 4)
    gaussians.opacities[:, ::2] = 0
    gaussians.opacities[:, 1::4] *= 0.01  # about 1/255
    return Scene(gaussians, ring(1, 1))


def _opaque_stack() -> Scene:
    gaussians = cloud(1, 150, 5, opacity=(1.0, 1.0), size=0.4)  # alpha meets 0.999, pixels end early
    return Scene(gaussians, ring(1, 1, 40, 56))


def _huge_and_outside() -> Scene:
    gaussians = cloud(1, 40, 6)
    gaussians.covariances[:, :4] *= 400.0  # wider than the image
    gaussians.means[:, 4:30, :2] *= 4.0  # outside the image, where the Jacobian's point is clamped
    gaussians.covariances[:, 4:30] *= 30.0
    return Scene(gaussians, ring(1, 2, 33, 65))


def _one() -> Scene:
    return Scene(cloud(1, 1, 7, opacity=(0.8, 0.8)), ring(1, 1, 30, 20))


def _none() -> Scene:
    return Scene(cloud(1, 0, 8), ring(1, 2, 30, 20), torch.tensor([0.3, 0.6, 0.9]))


def _crowd() -> Scene:
    return Scene(cloud(1, 1000, 9, K=16, size=0.03, opacity=(0.5, 1.0)), ring(1, 1, 96, 80))


SCENES = {
    "batch of 2 frames x 3 views, off-centre, 75x50": _batch,
    "antialiased": _antialiased,
    "near and behind": _near_and_behind,
    "all behind": _all_behind,
    "transparent": _transparent,
    "opaque stack": _opaque_stack,
    "huge and outside": _huge_and_outside,
    "one": _one,
    "none": _none,
    "crowd": _crowd,
    **{f"{K} harmonics": lambda K=K: Scene(cloud(2, 60, 10, K=K), ring(2, 2)) for K in (1, 4, 9, 16)},
}


def run(rasterizer: Rasterizer, scene: Scene, like: Tensor) -> tuple[RenderOutput, dict[str, Tensor]]:
    """Render and differentiate a fixed random combination of colour and alpha, on `like`'s device and dtype."""
    given = scene.gaussians.to(like)
    leaves = {k: getattr(given, k).clone().requires_grad_() for k in ("means", "covariances", "opacities", "sh")}
    cameras = scene.cameras.to(like)
    output = rasterizer(Gaussians(**leaves), cameras, None if scene.background is None else scene.background.to(like))
    random = torch.Generator().manual_seed(1)
    loss = (output.rgb * torch.randn(output.rgb.shape, generator=random).to(like)).sum()
    loss = loss + (output.alpha * torch.randn(output.alpha.shape, generator=random).to(like)).sum()
    if loss.requires_grad:
        loss.backward()
    gradients = {k: torch.zeros_like(x) if x.grad is None else x.grad for k, x in leaves.items()}
    gradients["means2d"] = torch.zeros_like(output.means2d) if output.means2d.grad is None else output.means2d.grad
    return output, gradients


def check(make: type[Rasterizer], scene: Scene, device: str) -> None:
    """Assert that a rasterizer agrees with the reference on a scene: shapes, images, visibility, gradients."""
    options = scene.options or {}
    expected, slopes = run(TorchRasterizer(**options), scene, torch.zeros((), dtype=torch.float64))
    output, gradients = run(make(**options), scene, torch.zeros((), dtype=torch.float32, device=device))
    for name in ("rgb", "alpha", "radii", "means2d"):
        a, b = getattr(output, name).detach().cpu().double(), getattr(expected, name).detach()
        assert a.shape == b.shape, f"{name} is {tuple(a.shape)}, not {tuple(b.shape)}"
        if name == "radii":
            # The box that decides may touch the image's border within rounding: one in a thousand.
            assert ((a > 0) != (b > 0)).double().mean().nan_to_num() <= 1e-3
            both = (a > 0) & (b > 0)
            torch.testing.assert_close(a[both], b[both], rtol=1e-4, atol=1e-4)
        elif name == "means2d":
            torch.testing.assert_close(a[both], b[both], rtol=1e-5, atol=1e-3)
        else:
            error = (a - b).abs()
            assert error.max() <= LOOSE, f"{name} differs by {error.max():.3g}"
            rare = (error > TIGHT).double().mean()
            assert rare <= RARE, f"{name}: {100 * rare:.3g} % of the values differ by more than {TIGHT}"
    for name, slope in slopes.items():
        a = gradients[name].cpu().double()
        assert a.shape == slope.shape
        assert torch.isfinite(a).all() and torch.isfinite(slope).all(), f"the gradient of {name} is not finite"
        error, scale = (a - slope).norm(), slope.norm()
        assert error <= GRADIENT * scale + 1e-6, f"gradient of {name}: error {error:.3g}, norm {scale:.3g}"
        culled = (expected.radii == 0) & (output.radii.cpu() == 0)
        if name == "means2d":
            assert (a[culled] == 0).all(), "what is not visible has a gradient"
