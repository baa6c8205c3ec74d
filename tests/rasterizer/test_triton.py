"""The Triton rasterizer agrees with the reference on every scene: on the GPU, and interpreted on the CPU."""

import logging

import pytest
import torch

from r3avatar.rasterizer import TritonRasterizer, make_rasterizer
from r3avatar.triton_support import installed, interpreting
from r3avatar.types import Gaussians

from .conformance import SCENES, Scene, check, cloud, ring, run

HERE = "cpu" if interpreting() else "cuda"
pytestmark = pytest.mark.skipif(not installed() or (HERE == "cuda" and not torch.cuda.is_available()), reason="no Triton")
cuda = pytest.mark.skipif(not torch.cuda.is_available() or interpreting(), reason="needs a CUDA device")
FLOAT = torch.zeros((), device=HERE)
HEAVY = ("crowd",)  # for the interpreter


@pytest.mark.skipif(HERE != "cpu", reason="the same runs on the GPU")
@pytest.mark.parametrize("name", [name for name in SCENES if name not in HEAVY])
def test_agrees_with_the_reference(name):
    check(TritonRasterizer, SCENES[name](), "cpu")


@pytest.mark.gpu
@cuda
@pytest.mark.parametrize("name", SCENES)
def test_agrees_with_the_reference_on_cuda(name):
    check(TritonRasterizer, SCENES[name](), "cuda")
