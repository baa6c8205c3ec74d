"""Colour that changes with time: what is added to the static one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ColourResidual(nn.Module):
    """A linear head beside the decoder: the codebook's features to a change of every Gaussian's colour.

    Not in the paper, whose colours are static: light and shadow on cloth that folds, and on a person who turns, go with
    the time as shape does. The change is of the harmonics' constant coefficient, alike in all directions, and begins as
    none at all.
    """

    def __init__(self, features: int):
        """features: C, channels of the codebook's features."""
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, features))
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, features: Tensor) -> Tensor:
        """features [F, N, C] to what is added to the constant coefficients, [F, N, 3]."""
        return F.linear(features, self.weight, self.bias)


def add_colour(sh: Tensor, colour: Tensor) -> Tensor:
    """Harmonics of every frame's own, [F, N, K, 3]: sh [N, K, 3] with colour [F, N, 3] added to the constant ones."""
    constant = sh[:, :1] + colour[:, :, None]
    return torch.cat([constant, sh[:, 1:].expand(len(colour), -1, -1, -1)], 2)
