"""The learned canonical Gaussians: positions and colours, and shapes of their own where an avatar has them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from r3avatar.avatar.decoder import Attributes


class CanonicalGaussians(nn.Module):
    """N Gaussians in the big pose. Opacity, scale and rotation come from the decoder, at a time.

    With a static residual (not in the paper) a Gaussian also has an opacity, scale and rotation of its own, which the
    recorded ones change: texture finer than the codebook's texels, and splits that do make Gaussians smaller.

    Source: R3-Avatar "canonical Gaussians"; spherical harmonics as in 3D Gaussian splatting (Kerbl et al. 2023).
    """

    def __init__(
        self,
        points: Tensor,
        sh_degree: int = 3,
        static_residual: bool = False,
        cloth: Tensor | None = None,
        normals: Tensor | None = None,
        worn: Tensor | None = None,
    ):
        """points [N, 3] metres; sh_degree: highest degree; the active one starts at 0. Colours start at mid-grey.
        static_residual: opacity, scale and rotation of a Gaussian's own, which start as no change at all.
        cloth: [N], not learned but handed on by density control: how firmly a Gaussian hangs on the pelvis, 0 to 1
        (`bone_logits`); None: an avatar of which nothing does.
        worn: [N], handed on likewise: 1 for what lies on the garment (`WornGarment`), else 0; None: no garment.
        normals: [N, 3] of the big pose, on which the light falls (`Shading`); learned; None: an avatar without."""
        super().__init__()
        N = points.shape[0]
        self.max_sh_degree, self.active_sh_degree = sh_degree, 0
        self.positions = nn.Parameter(points.detach().float().clone())
        self.sh_dc = nn.Parameter(torch.zeros(N, 1, 3))
        self.sh_rest = nn.Parameter(torch.zeros(N, (sh_degree + 1) ** 2 - 1, 3))
        self.cloth = None if cloth is None else nn.Parameter(cloth.detach().float().clone(), requires_grad=False)
        self.worn = None if worn is None else nn.Parameter(worn.detach().float().clone(), requires_grad=False)
        if normals is not None:
            self.normals = nn.Parameter(normals.detach().float().clone())
        # [rows] 1 for a Gaussian, 0 for a row that is none (`training.room`); None: every row is one.
        self.alive: Tensor | None = None
        self.static_residual = static_residual
        if static_residual:
            self.opacity_residual = nn.Parameter(torch.zeros(N, 1))  # added to the logit
            self.scale_residual = nn.Parameter(torch.zeros(N, 3))  # logarithm of a factor
            self.rotation_residual = nn.Parameter(torch.zeros(N, 4))  # added to the quaternion

    def __len__(self) -> int:
        return self.positions.shape[0]

    @property
    def sh(self) -> Tensor:
        """Coefficients of the active degree, [N, (degree + 1)^2, 3]."""
        count = (self.active_sh_degree + 1) ** 2 - 1
        return self.sh_dc if count == 0 else torch.cat([self.sh_dc, self.sh_rest[:, :count]], 1)

    def add_residual(self, attributes: Attributes) -> Attributes:
        """What is recorded at F times, [F, N, ...], on top of what is a Gaussian's own; itself without a residual."""
        if not self.static_residual:
            return attributes
        return replace(
            attributes,
            opacity_logit=attributes.opacity_logit + self.opacity_residual,
            scale=attributes.scale * self.scale_residual.exp(),
            rotation=attributes.rotation + self.rotation_residual,
        )

    # The active degree and the number of Gaussians are part of the state: a checkpoint taken after densification loads
    # into a model that was built from the body's vertices.
    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.active_sh_degree)

    def set_extra_state(self, state: Tensor) -> None:
        self.active_sh_degree = int(state)

    def _load_from_state_dict(self, state_dict, prefix, *args):
        for name, own in self.named_parameters(recurse=False):
            stored = state_dict.get(prefix + name)
            if stored is not None and stored.shape[1:] == own.shape[1:] and stored.shape[0] != own.shape[0]:
                own.data = own.data.new_empty(stored.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)
