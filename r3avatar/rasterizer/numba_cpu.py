"""The CPU rasterizer: tiles in parallel, eight pixels at a time, analytic gradients, the same result every time."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from r3avatar import numba_threads
from r3avatar.numba_cache import forget_stale
from r3avatar.numba_threads import chunks, run_tasks

from ..types import Cameras, RenderOutput
from . import spherical_harmonics
from .base import TwoStepRasterizer
from .numba_binning import build_tile_lists
from .numba_composite import composite, composite_backward
from .numba_harmonics import colours_backward, colours_forward
from .numba_projection import project_backward, project_forward

log = logging.getLogger(__name__)
_sources = [Path(numba_threads.__file__), *Path(__file__).parent.glob("*.py")]
forget_stale(Path(project_forward.stats.cache_path), _sources)


class NumbaRasterizer(TwoStepRasterizer):
    """Rasterizer for the CPU: float32, the same result with any number of threads (NUMBA_NUM_THREADS sets it).

    All frames and views of a call are drawn together. The kernels compile at the first call (seconds) and are kept on
    disk, beside the modules or in NUMBA_CACHE_DIR. Cameras get no gradient. torch's OpenMP threads spin between its
    operations and hold cores meanwhile; GOMP_SPINCOUNT=1000 in the environment, before torch is imported, frees them.

    Args:
        eps2d, near, antialiased: see `Rasterizer`.
    """

    _warm = False

    def _view_colours(self, sh: Tensor, means: Tensor, centres: Tensor) -> Tensor:
        _check(sh=sh, means=means)
        if sh.shape[2] == 1:
            return spherical_harmonics.view_colours(sh, means, centres)
        return _ViewColours.apply(sh, means, centres.detach())

    def _rasterize(
        self,
        means: Tensor,
        covariances: Tensor,
        opacities: Tensor,
        colours: Tensor,
        cameras: Cameras,
        background: Tensor,
    ) -> RenderOutput:
        _check(means=means, covariances=covariances, opacities=opacities, colours=colours)
        if cameras.w2c.requires_grad or cameras.K.requires_grad:
            raise ValueError("the numba rasterizer gives cameras no gradient; use rasterizer=torch to optimise cameras")
        start = time.perf_counter()
        if not NumbaRasterizer._warm:
            log.info("CPU rasterizer: kernels compile once, at their first use (some seconds; then kept on disk)")
        means2d, conics, weights, depths, radii = _Project.apply(
            means, covariances, opacities, cameras, self.eps2d, self.near, self.antialiased
        )
        rgb, alpha = _Composite.apply(
            means2d, conics, weights, colours, depths, radii, background, cameras.width, cameras.height
        )
        if not NumbaRasterizer._warm:
            log.info("CPU rasterizer: first images after %.1f s", time.perf_counter() - start)
            NumbaRasterizer._warm = True
        return RenderOutput(rgb, alpha, radii, means2d)


def _check(**tensors: Tensor) -> None:
    for name, x in tensors.items():
        if x.dtype != torch.float32 or x.device.type != "cpu":
            raise TypeError(
                f"the numba rasterizer takes float32 tensors on the CPU; {name} is {x.dtype} on {x.device}. Convert "
                "it, or use rasterizer=torch (any float type, any device) or rasterizer=gsplat (CUDA)"
            )


def _empty(*shape: int) -> Tensor:
    # Not what torch.set_default_dtype or torch.set_default_device say.
    return torch.empty(shape, dtype=torch.float32, device="cpu")


def _array(x: Tensor) -> np.ndarray:
    return x.detach().to(torch.float32).contiguous().numpy()


class _ViewColours(torch.autograd.Function):
    """sh [F, N, K, 3], means [F, N, 3], centres [F, V, 3] -> colours [F, V, N, 3]."""

    @staticmethod
    def forward(ctx, sh, means, centres):
        F, N = means.shape[:2]
        colours = _empty(F, centres.shape[1], N, 3)
        given = [_array(x) for x in (sh, means, centres)]
        run_tasks(colours_forward, F * chunks(N), *given, colours.numpy())
        ctx.save_for_backward(sh, means, centres, colours)
        return colours

    @staticmethod
    @once_differentiable
    def backward(ctx, g_colours):
        sh, means, centres, colours = ctx.saved_tensors
        d_sh, d_means = _empty(*sh.shape), _empty(*means.shape)
        given = [_array(x) for x in (sh, means, centres, colours, g_colours)]
        F, N = means.shape[:2]
        run_tasks(colours_backward, F * chunks(N), *given, d_sh.numpy(), d_means.numpy())
        return d_sh, d_means, None


class _Project(torch.autograd.Function):
    """Gaussians [F, N] -> means2d, conics, weights (compensated opacities), depths, radii, all [F, V, N, ...]."""

    @staticmethod
    def forward(ctx, means, covariances, opacities, cameras, eps2d, near, antialiased):
        F, V, N = *cameras.K.shape[:2], means.shape[1]
        means2d, conics = _empty(F, V, N, 2), _empty(F, V, N, 3)
        weights, depths, radii = (_empty(F, V, N) for _ in range(3))
        ctx.save_for_backward(means, covariances, opacities, cameras.w2c, cameras.K, radii)
        ctx.options = cameras.width, cameras.height, eps2d, antialiased
        given = [_array(x) for x in (means, covariances, opacities, cameras.w2c, cameras.K)]
        outputs = [x.numpy() for x in (means2d, conics, weights, depths, radii)]
        run_tasks(project_forward, F * V * chunks(N), *given, *ctx.options, near, *outputs)
        ctx.mark_non_differentiable(depths, radii)
        return means2d, conics, weights, depths, radii

    @staticmethod
    @once_differentiable
    def backward(ctx, g_means2d, g_conics, g_weights, *_):
        *inputs, radii = (_array(x) for x in ctx.saved_tensors)
        given = [_array(x) for x in (g_means2d, g_conics, g_weights)]
        gradients = [_empty(*x.shape) for x in inputs[:3]]
        tasks = radii.shape[0] * chunks(radii.shape[2])
        run_tasks(project_backward, tasks, *inputs, *ctx.options, radii, *given, *(x.numpy() for x in gradients))
        return *gradients, None, None, None, None


class _Composite(torch.autograd.Function):
    """Projected Gaussians [F, V, N, ...] -> rgb [F, V, H, W, 3], alpha [F, V, H, W]."""

    @staticmethod
    def forward(ctx, means2d, conics, weights, colours, depths, radii, background, width, height):
        F, V = radii.shape[:2]
        arrays = [_array(x.flatten(0, 1)) for x in (means2d, conics, weights, colours, depths, radii)]
        ctx.background = _array(background)
        rgb, alpha = _empty(F, V, height, width, 3), _empty(F, V, height, width)
        ctx.lists = build_tile_lists(*arrays, width, height)
        ctx.used = composite(ctx.lists, ctx.background, rgb.flatten(0, 1).numpy(), alpha.flatten(0, 1).numpy())
        ctx.save_for_backward(rgb, alpha)
        return rgb, alpha

    @staticmethod
    @once_differentiable
    def backward(ctx, g_rgb, g_alpha):
        F, V = g_alpha.shape[:2]
        images = [_array(x.flatten(0, 1)) for x in (*ctx.saved_tensors, g_rgb, g_alpha)]
        gradients = composite_backward(ctx.lists, ctx.used, ctx.background, *images)
        return *(torch.from_numpy(x).unflatten(0, (F, V)) for x in gradients), None, None, None, None, None
