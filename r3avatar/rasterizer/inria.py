"""The rasterizer of the original 3D Gaussian splatting, where its user has installed it, behind the common interface.

diff-gaussian-rasterization (Inria, GRAPHDECO) has its own licence, which allows non-commercial research and evaluation
alone: it is neither part of this project nor needed by it. This adapter was written from its documented interface and
tested against a stand-in of the same interface; it has never been run against the package itself.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..types import Cameras, RenderOutput
from .base import TwoStepRasterizer
from .projection import FOV_MARGIN, clip_matrix, project_points

_NEAR, _EPS2D = 0.2, 0.3  # fixed in the package's kernels: metres, square pixels
_LIMIT = 1.3  # the kernels clamp the Jacobian's point to so many half images about the optical axis
_INSTALL = (
    "`pip install --no-build-isolation git+https://github.com/graphdeco-inria/diff-gaussian-rasterization` (CUDA "
    "compiler needed; read its licence: non-commercial use alone), or use rasterizer=triton, gsplat or numba"
)


class _ScreenPoints(torch.autograd.Function):
    """The package's `means2D`: zeros whose gradient, by normalised device coordinates, is passed on by pixels."""

    @staticmethod
    def forward(ctx, pixels: Tensor, width: int, height: int) -> Tensor:
        ctx.size = width, height
        return pixels.new_zeros(pixels.shape[0], 3)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        width, height = ctx.size
        # ndc = 2 pixel / size - 1
        return gradient[:, :2] * gradient.new_tensor([2 / width, 2 / height]), None, None


class InriaRasterizer(TwoStepRasterizer):
    """Rasterizer for CUDA devices, float32, on diff-gaussian-rasterization: image after image, two passes each.

    It differs from the others in what its kernels fix: a Gaussian reaches 3 standard deviations, alpha at most 0.99,
    radii are whole pixels. Colour is its image; alpha is that of white Gaussians over black.

    Args:
        eps2d, near: only 0.3 and 0.2, the kernels' own.
        antialiased: needs a version of the package whose settings have `antialiasing`.

    Raises:
        RuntimeError: no CUDA device, or the package is missing; the message names the fix.
        ValueError: settings that its kernels do not have.
    """

    device_type = "cuda"  # where it computes

    def __init__(self, *, eps2d: float = _EPS2D, near: float = _NEAR, antialiased: bool = False):
        super().__init__(eps2d=eps2d, near=near, antialiased=antialiased)
        for name, value, fixed in (("eps2d", self.eps2d, _EPS2D), ("near", self.near, _NEAR)):
            if value != fixed:
                raise ValueError(
                    f"rasterizer=inria has {name}={fixed} built in and cannot take {value}; leave it at {fixed}, or "
                    "use another rasterizer"
                )
        if self.device_type == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("rasterizer=inria needs a CUDA device and torch built for it; use rasterizer=numba")
        try:
            import diff_gaussian_rasterization as package
        except ImportError as error:
            raise RuntimeError(
                f"rasterizer=inria cannot import diff_gaussian_rasterization ({error}); {_INSTALL}"
            ) from error
        self._settings, self._make = package.GaussianRasterizationSettings, package.GaussianRasterizer
        self._extra: dict[str, Any] = {}
        if "antialiasing" in self._settings._fields:
            self._extra["antialiasing"] = self.antialiased
        elif self.antialiased:
            raise ValueError(
                "rasterizer=inria: this diff-gaussian-rasterization has no antialiasing; set "
                f"rasterizer.antialiased=false, or install a newer one: {_INSTALL}"
            )

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
        H, W = cameras.height, cameras.width
        for name, x in {"means": means, "covariances": covariances, "opacities": opacities, "colours": colours}.items():
            if x.dtype != torch.float32 or x.device.type != self.device_type:
                raise TypeError(f"rasterizer=inria takes float32 CUDA tensors; {name} is {x.dtype} on {x.device}")
        if N == 0:
            rgb = background.expand(F, V, H, W, 3).clone()
            return RenderOutput(rgb, rgb.new_zeros(F, V, H, W), rgb.new_zeros(F, V, 0), means.new_zeros(F, V, 0, 2))
        with torch.no_grad():
            pixels, _ = project_points(means[:, None], cameras)  # [F, V, N, 2]
        differentiable = torch.is_grad_enabled() and any(
            x.requires_grad for x in (means, covariances, opacities, colours)
        )
        # A leaf: the package's own backward pass carries the gradient on to the means.
        means2d = pixels.clone().requires_grad_(differentiable)
        wide = padded(cameras)
        w2c, clip = wide.w2c, clip_matrix(wide, 0.01, 100.0) @ wide.w2c
        shared = {
            "image_height": wide.height, "image_width": wide.width, "scale_modifier": 1.0, "sh_degree": 0,
            "prefiltered": False, "debug": False, **self._extra,
        }  # fmt: skip
        focal = wide.K[..., [0, 1], [0, 1]].tolist()  # [F][V][2]; the package takes plain numbers
        black, white = torch.zeros_like(background), torch.ones_like(means)  # [3], [F, N, 3]
        rgb, alpha, radii = [], [], []
        for f in range(F):
            for v in range(V):
                fx, fy = focal[f][v]
                settings = dict(
                    shared, tanfovx=wide.width / (2 * fx), tanfovy=wide.height / (2 * fy),
                    # Its matrices act on row vectors.
                    viewmatrix=w2c[f, v].mT.contiguous(), projmatrix=clip[f, v].mT.contiguous(),
                    campos=wide.centres[f, v].contiguous(),
                )  # fmt: skip
                given = dict(
                    means3D=means[f],
                    means2D=_ScreenPoints.apply(means2d[f, v], wide.width, wide.height),
                    opacities=opacities[f, :, None],
                    cov3D_precomp=covariances[f].contiguous(),
                )
                # Newer versions return an inverse depth, too.
                colour, radius, *_ = self._make(self._settings(bg=background, **settings))(
                    colors_precomp=colours[f, v].contiguous(), **given
                )
                covered, *_ = self._make(self._settings(bg=black, **settings))(colors_precomp=white[f], **given)
                rgb.append(colour[:, :H, :W].permute(1, 2, 0))
                alpha.append(covered[0, :H, :W])
                radii.append(radius)
        with torch.no_grad():
            radius = torch.stack(radii).to(means).unflatten(0, (F, V))  # [F, V, N]
            # Of a padded image: visible is what meets the part that was asked for.
            near, far = pixels - radius[..., None], pixels + radius[..., None]
            reaches = ((far > 0) & (near < pixels.new_tensor([W, H]))).all(-1)
            radius = torch.where(reaches, radius, 0.0)
            means2d.masked_fill_((radius == 0)[..., None], 0.0)
        return RenderOutput(
            torch.stack(rgb).unflatten(0, (F, V)), torch.stack(alpha).unflatten(0, (F, V)), radius, means2d
        )


def padded(cameras: Cameras) -> Cameras:
    """The cameras of images grown to the right and below until no visible point is clamped.

    The package clamps the point at which a Gaussian's Jacobian is taken to 1.3 half images about the optical axis, as
    if it went through the middle. In a crop it does not: a larger image has a larger range. Centred cameras keep their
    size, and have the range that the other rasterizers give the Jacobian (FOV_MARGIN beyond the image).
    """
    sizes = []
    for axis, size in ((0, cameras.width), (1, cameras.height)):
        centre = cameras.K[..., axis, 2]
        reach = float(torch.maximum(centre, size - centre).max()) + FOV_MARGIN * size / 2
        sizes.append(max(size, math.ceil(2 * reach / _LIMIT - 1e-3)))
    return Cameras(cameras.K, cameras.w2c, *sizes)
