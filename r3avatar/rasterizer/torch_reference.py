"""The reference rasterizer: every Gaussian at every pixel, written as the formulas read, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..types import Cameras, RenderOutput
from .base import TwoStepRasterizer
from .projection import ALPHA_MAX, ALPHA_MIN, T_MIN, project_gaussians


class TorchRasterizer(TwoStepRasterizer):
    """Dense rasterizer for tests and for reading: any device, any float dtype, gradients by autograd.

    Args:
        pairs: pixels x Gaussians held at once; the backward pass recomputes each chunk (memory: about 60 bytes a pair).
        eps2d, near, antialiased: see `Rasterizer`.
    """

    def __init__(self, *, pairs: int = 1 << 21, **options):
        super().__init__(**options)
        self.pairs = pairs

    def _rasterize(
        self,
        means: Tensor,
        covariances: Tensor,
        opacities: Tensor,
        colours: Tensor,
        cameras: Cameras,
        background: Tensor,
    ) -> RenderOutput:
        means2d, conics, weights, depths, radii = project_gaussians(
            means, covariances, opacities, cameras, self.eps2d, self.near, self.antialiased
        )
        F, V = radii.shape[:2]
        per_image = zip(*(x.flatten(0, 1) for x in (means2d, conics, weights, colours, depths, radii)))
        image = torch.stack([self._composite(*given, cameras) for given in per_image])
        image = image.unflatten(0, (F, V))  # [F, V, H, W, 4]
        rgb, alpha = image[..., :3], image[..., 3]
        return RenderOutput(rgb + (1 - alpha)[..., None] * background, alpha, radii, means2d)

    def _composite(self, means2d, conics, weights, colours, depths, radii, cameras: Cameras) -> Tensor:
        """Colour and accumulated alpha [H, W, 4] of one image."""
        H, W = cameras.height, cameras.width
        visible = radii > 0
        order = torch.argsort(torch.where(visible, depths, torch.inf), stable=True)[: int(visible.sum())]
        y, x = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
        pixels = torch.stack([x, y], -1).reshape(-1, 2).to(means2d) + 0.5  # [H W, 2]
        drawn = (means2d[order], conics[order], weights[order], colours[order])
        rows = max(1, self.pairs // max(1, len(order)))
        chunks = [checkpoint(composite, chunk, *drawn, use_reentrant=False) for chunk in pixels.split(rows)]
        return torch.cat(chunks).reshape(H, W, 4)


def composite(pixels: Tensor, means2d: Tensor, conics: Tensor, opacities: Tensor, colours: Tensor) -> Tensor:
    """Blend Gaussians, nearest first, at pixels (Kerbl et al. 2023, eq. 3).

    Args:
        pixels: [P, 2] positions; means2d: [N, 2]; conics: [N, 3]; opacities: [N]; colours: [N, 3].

    Returns:
        [P, 4]: colour over black and accumulated alpha.
    """
    dx, dy = (pixels[:, None] - means2d).unbind(-1)  # [P, N]
    a, b, c = conics.unbind(-1)
    sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    alpha = (opacities * torch.exp(-sigma.clamp(min=0))).clamp(max=ALPHA_MAX)
    alpha = torch.where(alpha >= ALPHA_MIN, alpha, 0.0)
    # Sums of logarithms instead of products: the gradient then never divides by a transmittance that underflowed.
    log_after = torch.cumsum(torch.log1p(-alpha), 1)
    before = torch.exp(log_after - torch.log1p(-alpha))
    # Once a Gaussian fails this test all behind it do, for the sum only falls.
    weights = torch.where(torch.exp(log_after) > T_MIN, alpha * before, 0.0)  # [P, N]
    return weights @ torch.cat([colours, torch.ones_like(colours[:, :1])], 1)
