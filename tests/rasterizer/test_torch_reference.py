"""The reference rasterizer: gradients against finite differences, one pixel by hand, memory chunks."""

import math

import pytest
import torch

from r3avatar.rasterizer import TorchRasterizer
from r3avatar.rasterizer.projection import project_gaussians
from r3avatar.types import Cameras, Gaussians

from .conformance import SCENES, cloud, ring, run


@pytest.mark.parametrize("antialiased", [False, True])
def test_gradients(antialiased):
    scene, cameras = cloud(1, 5, 0, opacity=(0.5, 0.9)).to(torch.float64), ring(1, 2, 9, 7).to(torch.float64)
    cameras.K[..., :2, :2] *= 0.12  # the cloud fills the small image
    rasterizer = TorchRasterizer(antialiased=antialiased)

    weights = torch.randn(12, 2 * 9 * 7 * 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def images(*tensors):
        """Random sums over all pixels: each single pixel's gradient takes half a minute."""
        output = rasterizer(Gaussians(*tensors), cameras)
        return weights @ torch.cat([output.rgb.flatten(), output.alpha.flatten()])

    leaves = (scene.means, scene.covariances, scene.opacities, scene.sh)
    assert torch.autograd.gradcheck(images, [x.requires_grad_() for x in leaves])


def test_gradient_of_pixel_positions():
    """means2d.grad is dL/d(pixel): moving the principal point by d moves every mean by d."""
    scene = SCENES["one"]()
    like = torch.zeros((), dtype=torch.float64)
    step = 1e-6
    for axis in (0, 1):
        losses = []
        for sign in (1, -1):
            moved = scene.cameras.to(like)
            moved = Cameras(moved.K.clone(), moved.w2c, moved.width, moved.height)
            moved.K[..., axis, 2] += sign * step
            output = TorchRasterizer()(scene.gaussians.to(like), moved)
            random = torch.Generator().manual_seed(1)
            loss = (output.rgb * torch.randn(output.rgb.shape, generator=random)).sum()
            losses.append(loss + (output.alpha * torch.randn(output.alpha.shape, generator=random)).sum())
        _, gradients = run(TorchRasterizer(), scene, like)
        slope = (losses[0] - losses[1]) / (2 * step)
        # The Jacobian's point is not clamped here, so that the principal point enters through the means alone.
        torch.testing.assert_close(gradients["means2d"][..., axis].sum(), slope, rtol=1e-5, atol=1e-7)


def test_two_gaussians_at_one_pixel():
    """Front-to-back compositing by hand, at a pixel centre that both means project to."""
    K = torch.tensor([[100.0, 0, 4.5], [0, 100.0, 3.5], [0, 0, 1]])[None, None]
    cameras = Cameras(K, torch.eye(4)[None, None], 9, 7)
    covariance = torch.tensor([1e-4, 0, 0, 1e-4, 0, 1e-4])  # (0.01 m)^2: at 2 m half a pixel
    colours = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])
    gaussians = Gaussians(
        torch.tensor([[[0, 0, 4.0], [0, 0, 2.0]]]),
        covariance.expand(1, 2, 6),
        torch.tensor([[0.9, 0.6]]),
        ((colours - 0.5) / 0.28209479177387814)[None, :, None],
    )
    output = TorchRasterizer()(gaussians, cameras, torch.tensor([0.0, 0.0, 1.0]))
    expected = torch.tensor([0.4 * 0.9, 0.6, 0.4 * 0.1])  # the nearer one (green) first, the background last
    torch.testing.assert_close(output.rgb[0, 0, 3, 4], expected)
    torch.testing.assert_close(output.alpha[0, 0, 3, 4], torch.tensor(1 - 0.4 * 0.1))
    # One pixel to the side: variance (100 * 0.01 / z)^2 + 0.3.
    near, far = 0.25 + 0.3, 0.0625 + 0.3
    green, red = 0.6 * math.exp(-0.5 / near), 0.9 * math.exp(-0.5 / far)
    torch.testing.assert_close(output.rgb[0, 0, 3, 5, :2], torch.tensor([(1 - green) * red, green]))
    torch.testing.assert_close(output.radii[0, 0], 3 * torch.tensor([far, near]).sqrt())


def test_chunks_change_nothing():
    scene = SCENES["opaque stack"]()
    like = torch.zeros((), dtype=torch.float64)
    whole, expected = run(TorchRasterizer(), scene, like)
    parts, gradients = run(TorchRasterizer(pairs=5000), scene, like)
    torch.testing.assert_close(parts.rgb, whole.rgb)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name])


def test_antialiased_dims():
    gaussians, cameras = cloud(1, 50, 0, size=0.01), ring(1, 1)
    arguments = (gaussians.means, gaussians.covariances, gaussians.opacities, cameras, 0.3, 0.01)
    plain, dimmed = project_gaussians(*arguments, False)[2], project_gaussians(*arguments, True)[2]
    assert (dimmed < plain)[dimmed > 0].all()
