"""From codebook features to a Gaussian's attributes at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from r3avatar.triton_support import use_triton
from r3avatar.types import _Tensors

# What products of the networks' matrices compute in, where Triton has kernels for them. 'tf32' cuts the factors to 10
# bits and sums in float32: outputs and gradients within about 0.4 % of their norm (and ReLUs near zero may switch).
# 'tf32x3' adds the remainders' products: about as exact as float32. 'ieee' is float32 in torch's own products. Networks
# in double precision, or of widths that the kernels do not hold, use torch as well; torch has its own switch for TF32.
MATMULS = ("tf32", "tf32x3", "ieee")


def check_matmul(matmul: str) -> str:
    """`matmul` itself if it is one of `MATMULS`; ValueError otherwise."""
    if matmul not in MATMULS:
        raise ValueError(f"matmul '{matmul}' is none of {', '.join(MATMULS)}")
    return matmul


@dataclass
class Attributes(_Tensors):
    """What is recorded of N Gaussians at F times: the decoder's absolute values, and a change of the static colour."""

    offset: Tensor  # [F, N, 3] metres, added to the canonical position
    opacity_logit: Tensor  # [F, N, 1]
    scale: Tensor  # [F, N, 3] standard deviations, metres
    rotation: Tensor  # [F, N, 4] quaternion (w, x, y, z), not normalised
    colour: Tensor | None = None  # [F, N, 3] added to the harmonics' constant coefficient; None: colours are static


class AttributeDecoder(nn.Module):
    """MLP features-128-128 (ReLU) with four linear heads; scales are squared outputs.

    Source: R3-Avatar, section "temporal codebook". `initial_scale` (metres) and `initial_opacity` set the heads' biases
    so that the first rendering already covers the body; None leaves PyTorch's default, as published.
    """

    def __init__(
        self,
        features: int,
        width: int = 128,
        initial_scale: float | None = None,
        initial_opacity: float | None = None,
        backend: str = "auto",
        matmul: str = "tf32",
    ):
        """backend: 'auto' (Triton on CUDA where it is installed), 'torch' or 'triton'; see `triton_support`.
        matmul: see `MATMULS`."""
        super().__init__()
        self.backend, self.matmul = backend, check_matmul(matmul)
        self.hidden1, self.hidden2 = nn.Linear(features, width), nn.Linear(width, width)
        self.offset, self.opacity = nn.Linear(width, 3), nn.Linear(width, 1)
        self.scale, self.rotation = nn.Linear(width, 3), nn.Linear(width, 4)
        with torch.no_grad():
            if initial_scale is not None:
                self._start(self.scale, math.sqrt(initial_scale))
                self._start(self.offset, 0.0)
            if initial_opacity is not None:
                self._start(self.opacity, math.log(initial_opacity / (1 - initial_opacity)))

    @staticmethod
    def _start(head: nn.Linear, value: float) -> None:
        """Begin a head near a constant: a small weight keeps its gradient alive."""
        head.weight.mul_(0.1)
        head.bias.fill_(value)

    def forward(self, features: Tensor) -> Attributes:
        """features [F, N, C] to the attributes of F times and N Gaussians."""
        if self.matmul != "ieee" and use_triton(self.backend, features.device):
            from r3avatar.avatar.triton_decoder import decode, fits

            if fits(features, self.hidden1.out_features):
                layers = [self.hidden1, self.hidden2, self.offset, self.opacity, self.scale, self.rotation]
                return Attributes(*decode(features, layers, self.matmul))
        h = F.relu(self.hidden2(F.relu(self.hidden1(features))))
        heads = self.offset, self.opacity, self.scale, self.rotation  # in one product: they are thin
        out = F.linear(h, torch.cat([head.weight for head in heads]), torch.cat([head.bias for head in heads]))
        offset, opacity, scale, rotation = out.split([head.out_features for head in heads], -1)
        return Attributes(offset, opacity, scale.square(), rotation)
