"""The CUDA rasterizer: gsplat (Ye et al. 2025, Apache-2.0) behind the common interface."""

from __future__ import annotations

import torch
from torch import Tensor

from ..types import Cameras, RenderOutput
from . import gsplat_build
from .base import TwoStepRasterizer
from .projection import symmetric_matrix


class GsplatRasterizer(TwoStepRasterizer):
    """Rasterizer for CUDA devices, float32, on gsplat 1.5; colour and alpha of all frames and views in one pass.

    gsplat builds its kernels at the first call (minutes; TORCH_CUDA_ARCH_LIST shortens it) unless a wheel brought them;
    `gsplat_build` announces it, and a machine that cannot build them is refused at construction.

    Args:
        eps2d, near, antialiased: see `Rasterizer`.

    Raises:
        RuntimeError: no CUDA device, gsplat is missing or too old, or its kernels cannot be built; the message names
            the fix.
    """

    def __init__(self, **options):
        super().__init__(**options)
        if not torch.cuda.is_available():
            raise RuntimeError("rasterizer=gsplat needs a CUDA device and torch built for it; use rasterizer=numba")
        try:
            import gsplat
        except ImportError as error:
            raise RuntimeError(
                f"rasterizer=gsplat cannot import gsplat ({error}); `pip install 'gsplat>=1.5.3,<1.6'`, or use "
                "rasterizer=numba"
            ) from error
        version = tuple(int(part) for part in gsplat.__version__.split("+")[0].split(".")[:3])
        if not (1, 5, 3) <= version < (1, 6):
            raise RuntimeError(
                f"rasterizer=gsplat is written for gsplat 1.5.3 and later 1.5, found {gsplat.__version__}; "
                "`pip install 'gsplat>=1.5.3,<1.6'`"
            )
        gsplat_build.require_tools()
        self._rasterization, self._loaded = gsplat.rasterization, False

    def _rasterize(
        self,
        means: Tensor,
        covariances: Tensor,
        opacities: Tensor,
        colours: Tensor,
        cameras: Cameras,
        background: Tensor,
    ) -> RenderOutput:
        F, V, N = colours.shape[:3]
        for name, x in {"means": means, "covariances": covariances, "opacities": opacities, "colours": colours}.items():
            if x.dtype != torch.float32 or x.device.type != "cuda":
                raise TypeError(f"rasterizer=gsplat takes float32 CUDA tensors; {name} is {x.dtype} on {x.device}")
        if N == 0:  # gsplat divides by the number of Gaussians' blocks
            H, W = cameras.height, cameras.width
            rgb = background.expand(F, V, H, W, 3).clone()
            return RenderOutput(rgb, rgb.new_zeros(F, V, H, W), rgb.new_zeros(F, V, 0), means.new_zeros(F, V, 0, 2))
        if not self._loaded:
            gsplat_build.load_kernels()
            self._loaded = True
        rgb, alpha, meta = self._rasterization(
            means=means,
            quats=None,  # the covariances stand for them
            scales=None,
            opacities=opacities,
            colors=colours,
            viewmats=cameras.w2c,
            Ks=cameras.K,
            width=cameras.width,
            height=cameras.height,
            near_plane=self.near,
            eps2d=self.eps2d,
            packed=False,
            backgrounds=background.expand(F, V, 3),
            rasterize_mode="antialiased" if self.antialiased else "classic",
            covars=symmetric_matrix(covariances),
        )
        visible = (meta["radii"] > 0).all(-1)  # [F, V, N]
        return RenderOutput(rgb, alpha[..., 0], _long_radius(meta["conics"], visible), meta["means2d"])


@torch.no_grad()
def _long_radius(conics: Tensor, visible: Tensor) -> Tensor:
    """3 standard deviations along the long axis: 3 / sqrt of the conic's smaller eigenvalue; 0 where not visible."""
    a, b, c = torch.where(visible[..., None], conics, torch.ones_like(conics)).unbind(-1)
    middle = 0.5 * (a + c)
    largest = middle + (0.25 * (a - c) ** 2 + b * b).sqrt()
    smallest = (a * c - b * b) / largest  # the product of the eigenvalues over the other one: no cancellation
    return torch.where(visible, 3 / smallest.sqrt(), torch.zeros_like(smallest))
