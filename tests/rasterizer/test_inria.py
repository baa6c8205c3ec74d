"""The adapter of diff-gaussian-rasterization, on a stand-in of its interface; on the package where installed."""

import importlib.util
import math
import sys
import types
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from r3avatar.rasterizer import TorchRasterizer
from r3avatar.rasterizer.inria import InriaRasterizer, padded
from r3avatar.rasterizer.projection import symmetric_matrix
from r3avatar.rasterizer.torch_reference import composite
from r3avatar.training.density_statistics import DensityStatistics

from .conformance import Scene, cloud, ring, run

FOUND = torch.cuda.is_available() and importlib.util.find_spec("diff_gaussian_rasterization") is not None


class Settings(NamedTuple):
    """The documented settings; newer versions have `antialiasing`."""

    image_height: int
    image_width: int
    tanfovx: float
    tanfovy: float
    bg: Tensor
    scale_modifier: float
    viewmatrix: Tensor
    projmatrix: Tensor
    sh_degree: int
    campos: Tensor
    prefiltered: bool
    debug: bool


NewSettings = NamedTuple("NewSettings", [*Settings.__annotations__.items(), ("antialiasing", bool)])


class StandIn(torch.nn.Module):
    """Renders as the package's conventions say: row vectors, fields of view, screen gradients by NDC."""

    def __init__(self, raster_settings):
        super().__init__()
        self.s = raster_settings

    def forward(
        self,
        means3D,
        means2D,
        opacities,
        shs=None,
        colors_precomp=None,
        scales=None,
        rotations=None,
        cov3D_precomp=None,
    ):
        s = self.s
        assert (shs is None) != (colors_precomp is None) and scales is rotations is None
        assert isinstance(s.tanfovx, float) and s.scale_modifier == 1.0 and not s.prefiltered and not s.debug
        N, W, H = len(means3D), s.image_width, s.image_height
        assert means2D.shape == (N, 3) and opacities.shape == (N, 1) and cov3D_precomp.shape == (N, 6)
        assert s.viewmatrix.is_contiguous() and s.projmatrix.is_contiguous() and s.bg.shape == s.campos.shape == (3,)
        torch.testing.assert_close(torch.cat([s.campos, s.campos.new_ones(1)]) @ s.viewmatrix, torch.eye(4)[3])
        points = torch.cat([means3D, torch.ones(N, 1)], 1)
        view, clip = points @ s.viewmatrix, points @ s.projmatrix
        ndc = clip[:, :2] / clip[:, 3:] + means2D[:, :2]
        pixels = ((ndc + 1) * torch.tensor([W, H]) - 1) / 2  # a whole number is a pixel's centre
        z = view[:, 2]
        focal = W / (2 * s.tanfovx), H / (2 * s.tanfovy)
        x, y = ((view[:, i] / z).clamp(-1.3 * t, 1.3 * t) for i, t in ((0, s.tanfovx), (1, s.tanfovy)))
        zero = torch.zeros_like(z)
        J = torch.stack([focal[0] / z, zero, -focal[0] * x / z, zero, focal[1] / z, -focal[1] * y / z], -1)
        M = J.unflatten(-1, (2, 3)) @ s.viewmatrix[:3, :3].mT
        covariance = M @ symmetric_matrix(cov3D_precomp) @ M.mT
        a, b, c = covariance[:, 0, 0], covariance[:, 0, 1], covariance[:, 1, 1]
        before, determinant = a * c - b * b, (a + 0.3) * (c + 0.3) - b * b
        if getattr(s, "antialiasing", False):
            opacities = opacities * (before / determinant).clamp(min=2.5e-5).sqrt()[:, None]
        conics = torch.stack([c + 0.3, -b, a + 0.3], -1) / determinant[:, None]
        middle = 0.5 * (a + c) + 0.3
        radii = (3 * (middle + (middle**2 - determinant).clamp(min=0.1).sqrt()).sqrt()).ceil()
        size = torch.tensor([W, H])
        seen = (z > 0.2) & ((pixels + radii[:, None] > 0) & (pixels - radii[:, None] < size)).all(1)
        order = z.argsort(stable=True)
        order = order[z[order] > 0.2]
        grid = torch.stack(torch.meshgrid(torch.arange(W), torch.arange(H), indexing="xy"), -1).reshape(-1, 2).float()
        image = composite(grid, pixels[order], conics[order], opacities[order, 0], colors_precomp[order])
        rgb = image[:, :3] + (1 - image[:, 3:]) * s.bg
        result = rgb.T.reshape(3, H, W), torch.where(seen, radii, 0).int()
        return (*result, torch.zeros(1, H, W)) if isinstance(s, NewSettings) else result


class OnCpu(InriaRasterizer):
    """The adapter where the stand-in computes."""

    device_type = "cpu"


@pytest.fixture(params=[Settings, NewSettings], ids=["old", "new"])
def package(monkeypatch, request):
    """The stand-in, installed."""
    module = types.ModuleType("diff_gaussian_rasterization")
    module.GaussianRasterizationSettings, module.GaussianRasterizer = request.param, StandIn
    monkeypatch.setitem(sys.modules, "diff_gaussian_rasterization", module)
    return request.param


def agree(make, scene: Scene, like: Tensor, options: dict, image: float, gradient: float) -> None:
    """Images and gradients of the adapter are the reference's."""
    reference = TorchRasterizer(near=0.2, **options)
    expected, slopes = run(reference, scene, torch.zeros((), dtype=torch.float64))
    output, gradients = run(make(**options), scene, like)
    for name in ("rgb", "alpha"):
        error = (getattr(output, name).cpu().double() - getattr(expected, name)).abs()
        assert error.mean() <= image / 10 and error.max() <= image, f"{name}: {error.mean()}, {error.max()}"
    both = (expected.radii > 0) & (output.radii.cpu() > 0)  # at the border 3 deviations may not reach in
    assert both.sum() >= 0.7 * (expected.radii > 0).sum()
    assert ((output.radii.cpu() - expected.radii)[both] > -1e-3).all(), "its radii are rounded up"
    found = output.means2d.detach().cpu().double()
    torch.testing.assert_close(found[both], expected.means2d[both], rtol=1e-4, atol=1e-3)
    for name, slope in slopes.items():
        error = (gradients[name].cpu().double() - slope).norm()
        assert error <= gradient * slope.norm(), f"gradient of {name}: {error} of {slope.norm()}"


SCENES = {
    "two frames, three views, a background": lambda: Scene(
        cloud(2, 30, 0), ring(2, 3, 23, 18), torch.tensor([0.2, 0.5, 0.9])
    ),
    "off-centre": lambda: Scene(cloud(1, 30, 1), ring(1, 2, 23, 18, shift=(4.0, -3.0))),
    "a crop far from the axis": lambda: Scene(cloud(1, 80, 2), ring(1, 1, 20, 24, shift=(-15.0, 16.0))),
    "nearer than the near plane": lambda: Scene(cloud(1, 30, 3), _close(ring(1, 1, 30, 20))),
}


def _close(cameras):
    cameras.w2c[..., 2, 3] = 0.6
    return cameras


@pytest.mark.parametrize("name", SCENES)
def test_agrees_with_the_reference(package, name):
    agree(OnCpu, SCENES[name](), torch.zeros(()), {}, image=5e-3, gradient=3e-3)


def test_antialiasing_where_the_package_has_it(package):
    scene = Scene(cloud(1, 30, 1, size=0.02), ring(1, 2, 23, 18))
    if package is Settings:
        with pytest.raises(ValueError, match="has no antialiasing"):
            OnCpu(antialiased=True)
    else:
        agree(OnCpu, scene, torch.zeros(()), {"antialiased": True}, image=5e-3, gradient=3e-3)


def test_density_statistics_are_the_same(package):
    scene, found = SCENES["off-centre"](), []
    for rasterizer in (TorchRasterizer(near=0.2), OnCpu()):
        output, _ = run(rasterizer, scene, torch.zeros(()))
        N = output.radii.shape[-1]
        statistics = DensityStatistics(10)
        attributes = types.SimpleNamespace(
            opacity_logit=torch.zeros(1, N, 1), scale=torch.ones(1, N, 3), rotation=torch.ones(1, N, 4)
        )
        statistics.observe(output, attributes, 100, 80)
        found.append(statistics.interval)
    torch.testing.assert_close(found[1]["gradient_sum"], found[0]["gradient_sum"], rtol=1e-2, atol=1e-2)


def test_padding():
    assert (padded(ring(1, 1, 43, 30)).width, padded(ring(1, 1, 43, 30)).height) == (43, 30)
    crop = ring(1, 1, 40, 30, shift=(-50.0, 0.0))  # the axis passes 30 pixels left of the crop
    assert (padded(crop).width, padded(crop).height) == (math.ceil((70 + 6) / 0.65), 30)


def test_nothing_to_draw(package):
    output = OnCpu()(cloud(1, 0, 0), ring(1, 2, 8, 6), torch.tensor([0.1, 0.2, 0.3]))
    assert output.rgb.shape == (1, 2, 6, 8, 3) and (output.alpha == 0).all() and output.radii.shape == (1, 2, 0)
    with torch.no_grad():
        assert not OnCpu()(cloud(1, 5, 0), ring(1, 1, 8, 6)).means2d.requires_grad


def test_refusals(package, monkeypatch):
    for options in ({"eps2d": 0.1}, {"near": 0.01}):
        with pytest.raises(ValueError, match="built in"):
            OnCpu(**options)
    with pytest.raises(TypeError, match="float32"):
        OnCpu()(cloud(1, 5, 0).to(torch.float64), ring(1, 1, 8, 6).to(torch.float64))
    monkeypatch.setitem(sys.modules, "diff_gaussian_rasterization", None)
    with pytest.raises(RuntimeError, match=r"pip install(.|\n)*licence(.|\n)*rasterizer=triton"):
        OnCpu()


@pytest.mark.gpu
@pytest.mark.skipif(not FOUND, reason="needs a CUDA device and diff-gaussian-rasterization")
@pytest.mark.parametrize("name", SCENES)
def test_the_package_agrees_with_the_reference(name):
    """It cuts Gaussians at 3 standard deviations and alpha at 0.99: images differ by up to some hundredths."""
    agree(InriaRasterizer, SCENES[name](), torch.zeros((), device="cuda"), {}, image=5e-2, gradient=5e-2)
