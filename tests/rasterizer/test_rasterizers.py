"""The common interface: choice by name, checks, configurations, projection helpers."""

import logging
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from r3avatar.rasterizer import NumbaRasterizer, Rasterizer, TorchRasterizer, make_rasterizer
from r3avatar.rasterizer.projection import covariance_from_scale_rotation, quaternion_to_matrix, symmetric_matrix

from .conformance import cloud, ring

CONFIGS = Path(__file__).parents[2] / "configs" / "rasterizer"


def test_auto_says_what_it_took(caplog):
    with caplog.at_level(logging.INFO, logger="r3avatar.rasterizer"):
        rasterizer = make_rasterizer("auto", eps2d=0.1)
    assert rasterizer.eps2d == 0.1
    assert "rasterizer: " in caplog.text
    if not torch.cuda.is_available():
        assert isinstance(rasterizer, NumbaRasterizer) and "no CUDA device" in caplog.text


def test_unknown_name():
    with pytest.raises(ValueError, match="auto, torch, numba, gsplat, triton or inria"):
        make_rasterizer("vulkan")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_configurations(path):
    config = OmegaConf.load(path)
    if path.stem == "gsplat" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device and gsplat")
    if path.stem == "inria" and not (torch.cuda.is_available() and find_spec("diff_gaussian_rasterization")):
        pytest.skip("needs a CUDA device and diff-gaussian-rasterization")
    rasterizer = instantiate(config)
    assert isinstance(rasterizer, Rasterizer)
    plain = type(rasterizer)()
    assert repr(rasterizer) == repr(plain), "the file's defaults are not the class's"


@pytest.mark.parametrize("make", [TorchRasterizer, NumbaRasterizer])
def test_refusals(make):
    rasterizer, gaussians, cameras = make(), cloud(2, 5, 0), ring(2, 1)
    with pytest.raises(ValueError, match=r"cameras must be \[F, V\] with F = 2"):
        rasterizer(gaussians, cameras[:1])
    with pytest.raises(ValueError, match=r"background must be \[3\]"):
        rasterizer(gaussians, cameras, torch.zeros(1, 3))
    cameras.K[..., 0, 1] = 2.0
    with pytest.raises(ValueError, match="skew"):
        rasterizer(gaussians, cameras)
    with pytest.raises(ValueError, match="eps2d"):
        make(eps2d=-1)


@pytest.mark.parametrize("make", [TorchRasterizer, NumbaRasterizer])
def test_without_gradients(make):
    with torch.no_grad():
        output = make()(cloud(1, 5, 0), ring(1, 1))
    assert not output.rgb.requires_grad and not output.means2d.requires_grad


def test_covariance():
    random = torch.Generator().manual_seed(0)
    scales, linear = torch.rand(2, 7, 3, generator=random).double(), torch.randn(2, 7, 3, 3, generator=random).double()
    quaternions = torch.randn(2, 7, 4, generator=random).double()
    R = quaternion_to_matrix(quaternions)
    torch.testing.assert_close(R @ R.mT, torch.eye(3).double().expand_as(R))
    expected = linear @ R @ torch.diag_embed(scales**2) @ R.mT @ linear.mT
    torch.testing.assert_close(symmetric_matrix(covariance_from_scale_rotation(scales, quaternions, linear)), expected)
    leaves = [x[0, :2].requires_grad_() for x in (scales, quaternions, linear)]
    assert torch.autograd.gradcheck(covariance_from_scale_rotation, leaves)
