"""The learned canonical Gaussians: positions and colours."""

from __future__ import annotations

import torch
from torch import Tensor, nn

PARAMETERS = ("positions", "sh_dc", "sh_rest")


class CanonicalGaussians(nn.Module):
    """N Gaussians in the big pose. Opacity, scale and rotation come from the decoder, at a time.

    Source: R3-Avatar "canonical Gaussians"; spherical harmonics as in 3D Gaussian splatting (Kerbl et al. 2023).
    """

    def __init__(self, points: Tensor, sh_degree: int = 3):
        """points [N, 3] metres; sh_degree: highest degree; the active one starts at 0. Colours start at mid-grey."""
        super().__init__()
        N = points.shape[0]
        self.max_sh_degree, self.active_sh_degree = sh_degree, 0
        self.positions = nn.Parameter(points.detach().float().clone())
        self.sh_dc = nn.Parameter(torch.zeros(N, 1, 3))
        self.sh_rest = nn.Parameter(torch.zeros(N, (sh_degree + 1) ** 2 - 1, 3))

    def __len__(self) -> int:
        return self.positions.shape[0]

    @property
    def sh(self) -> Tensor:
        """Coefficients of the active degree, [N, (degree + 1)^2, 3]."""
        count = (self.active_sh_degree + 1) ** 2 - 1
        return self.sh_dc if count == 0 else torch.cat([self.sh_dc, self.sh_rest[:, :count]], 1)

    # The active degree and the number of Gaussians are part of the state: a checkpoint taken after densification loads
    # into a model that was built from the body's vertices.
    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.active_sh_degree)

    def set_extra_state(self, state: Tensor) -> None:
        self.active_sh_degree = int(state)

    def _load_from_state_dict(self, state_dict, prefix, *args):
        for name in PARAMETERS:
            stored, own = state_dict.get(prefix + name), getattr(self, name)
            if stored is not None and stored.shape[1:] == own.shape[1:] and stored.shape[0] != own.shape[0]:
                own.data = own.data.new_empty(stored.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)
