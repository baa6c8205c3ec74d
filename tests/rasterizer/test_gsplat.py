"""The CUDA rasterizer agrees with the reference on every scene."""

import importlib.util

import pytest
import torch

from r3avatar.rasterizer import GsplatRasterizer

from .conformance import SCENES, check, run

FOUND = torch.cuda.is_available() and importlib.util.find_spec("gsplat") is not None
needs_cuda = pytest.mark.skipif(not FOUND, reason="needs a CUDA device and gsplat")


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("name", SCENES)
def test_agrees_with_the_reference(name):
    check(GsplatRasterizer, SCENES[name](), "cuda")


@pytest.mark.gpu
@needs_cuda
def test_refuses_other_tensors():
    scene = SCENES["one"]()
    with pytest.raises(TypeError, match="float32 CUDA tensors"):
        run(GsplatRasterizer(), scene, torch.zeros(()))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_names_the_fix_without_cuda():
    with pytest.raises(RuntimeError, match="rasterizer=numba"):
        GsplatRasterizer()
