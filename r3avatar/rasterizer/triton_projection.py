"""Projection and view-dependent colour of Gaussians on the GPU: the twin of projection.project_gaussians joined with
spherical_harmonics.view_colours, one kernel each way.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from .triton_ewa import project_backward, project_forward

# Gaussians a program. A warp has 32 lanes and the warps follow the Gaussians, so that these must be 32 times a power of
# two: the sums over views then stay in a thread's registers.
FORWARD_BLOCK = 128
BACKWARD_BLOCK = 64
# Views a program projects at once, a power of two: more hide more latency and take more registers.
FORWARD_VIEWS = 2
BACKWARD_VIEWS = 2


def project(
    means: Tensor,
    covariances: Tensor,
    opacities: Tensor,
    sh: Tensor,
    w2c: Tensor,
    K: Tensor,
    width: int,
    height: int,
    eps2d: float,
    near: float,
    antialiased: bool,
    tile: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gaussians as the images see them, with their colours: differentiable in means, covariances, opacities and sh.

    Args:
        means: [F, N, 3] metres.
        covariances: [F, N, 6] upper triangles, square metres.
        opacities: [F, N].
        sh: [F, N, K, 3] spherical harmonics, K = 1, 4, 9 or 16; its F axis may be an expanded view, it is not copied.
        w2c: [F, V, 4, 4] world-to-camera, metres.
        K: [F, V, 3, 3] pixels, without skew.
        width, height: of the images, pixels.
        eps2d: added to both variances on the image, square pixels.
        near: nearest depth drawn, metres.
        antialiased: dim by sqrt(det before / det after adding eps2d) (Mip-Splatting, Yu et al. 2024, eq. 9).
        tile: side of the tiles that `boxes` counts in, pixels.

    Returns:
        means2d [F, V, N, 2] pixels; conics [F, V, N, 3]: xx, xy, yy of the inverse covariance; weights [F, V, N]:
        opacities after compensation; colours [F, V, N, 3], at least 0; depths [F, V, N] metres; radii [F, V, N]: 3
        standard deviations along the long axis, pixels, 0 where not visible; boxes [F, V, N, 4] int32: x0, y0, x1, y1
        of the tiles that hold every pixel with alpha >= 1/255, half-open, all zero where there is none. What is not
        visible is zero. depths, radii and boxes are not differentiable.

    Raises:
        ValueError: shapes that do not fit each other; a camera that requires a gradient (it would get none).
        TypeError: not float32, or not all on one device.
    """
    _check(means, covariances, opacities, sh, w2c, K)
    given = (means, covariances, opacities, sh, w2c, K)
    return _Project.apply(*given, int(width), int(height), float(eps2d), float(near), bool(antialiased), int(tile))


def _check(means: Tensor, covariances: Tensor, opacities: Tensor, sh: Tensor, w2c: Tensor, K: Tensor) -> None:
    F, N = means.shape[:2]
    V = w2c.shape[1]
    expected = {
        "means": (means, (F, N, 3)),
        "covariances": (covariances, (F, N, 6)),
        "opacities": (opacities, (F, N)),
        "sh": (sh, (F, N, sh.shape[2], 3)),
        "w2c": (w2c, (F, V, 4, 4)),
        "K": (K, (F, V, 3, 3)),
    }
    for name, (x, shape) in expected.items():
        if x.shape != shape:
            raise ValueError(f"{name} must be {list(shape)}, not {list(x.shape)}")
        if x.dtype != torch.float32 or x.device != means.device:
            raise TypeError(
                f"the triton rasterizer takes float32 tensors on one device; {name} is {x.dtype} on {x.device}, means "
                f"are on {means.device}. Convert it, or use rasterizer=torch (any float type)"
            )
    if sh.shape[2] not in (1, 4, 9, 16):
        raise ValueError(f"the number of spherical harmonics must be 1, 4, 9 or 16, not {sh.shape[2]}")
    if w2c.requires_grad or K.requires_grad:
        raise ValueError("the triton rasterizer gives cameras no gradient; use rasterizer=torch to optimise cameras")


def _aligned(x: Tensor) -> Tensor:
    # Triton compiles a kernel anew for pointers that 16 does not divide: slices must not bring that into a training.
    x = x.contiguous()
    return x if x.data_ptr() % 16 == 0 else x.clone()


class _Project(torch.autograd.Function):
    """See `project`."""

    @staticmethod
    def forward(ctx, means, covariances, opacities, sh, w2c, K, width, height, eps2d, near, antialiased, tile):
        F, V, N = *w2c.shape[:2], means.shape[1]
        # All frames of an expanded view are the same memory. A leaf is asked for the gradient of each frame, however.
        shared = F > 1 and sh.stride(0) == 0 and not (sh.is_leaf and ctx.needs_input_grad[3])
        given = [_aligned(x) for x in (means, covariances, opacities, sh[0] if shared else sh, w2c, K)]
        empty = means.new_empty
        means2d, conics, weights, colours = empty(F, V, N, 2), empty(F, V, N, 3), empty(F, V, N), empty(F, V, N, 3)
        depths, radii, boxes = empty(F, V, N), empty(F, V, N), empty(F, V, N, 4, dtype=torch.int32)
        outputs = (means2d, conics, weights, colours, depths, radii, boxes)
        ctx.mark_non_differentiable(depths, radii, boxes)
        # Else autograd fills zeros for the outputs without gradient too, a kernel each.
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*given, colours, radii)
        ctx.options = width, height, eps2d
        ctx.constants = {"ANTIALIASED": antialiased, "HARMONICS": sh.shape[2], "SHARED": shared}
        if radii.numel():
            views = min(FORWARD_VIEWS, triton.next_power_of_2(V))
            with torch.cuda.device_of(means):
                project_forward[triton.cdiv(N, FORWARD_BLOCK), triton.cdiv(V, views), F](
                    *given, *outputs, V, N, width, height, eps2d, near, **ctx.constants,
                    TILE=tile, VIEWS=views, BLOCK=FORWARD_BLOCK, num_warps=FORWARD_BLOCK // 32, num_stages=1,
                )  # fmt: skip
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx, g_means2d, g_conics, g_weights, g_colours, *_):
        *given, colours, radii = ctx.saved_tensors
        F, V, N = radii.shape
        shapes = ((2,), (3,), (), (3,))
        slopes = [
            radii.new_zeros(F, V, N, *shape) if g is None else _aligned(g)
            for g, shape in zip((g_means2d, g_conics, g_weights, g_colours), shapes)
        ]
        if not radii.numel():
            gradients = [torch.zeros_like(x) for x in given[:4]]
        else:
            gradients = [torch.empty_like(x) for x in given[:4]]
            shared, views = ctx.constants["SHARED"], triton.next_power_of_2(V)
            with torch.cuda.device_of(radii):
                project_backward[triton.cdiv(N, BACKWARD_BLOCK), 1 if shared else F](
                    *given, colours, radii, *slopes, *gradients, F, V, N, *ctx.options, **ctx.constants,
                    GROUP=min(BACKWARD_VIEWS, views), VIEWS=views, BLOCK=BACKWARD_BLOCK,
                    num_warps=BACKWARD_BLOCK // 32, num_stages=1,
                )  # fmt: skip
        if ctx.constants["SHARED"]:
            # The kernel has summed over the frames, and divided by their number: the expanded view's own gradient is
            # the sum of what each frame gets.
            gradients[3] = gradients[3].expand(F, -1, -1, -1)
        return *gradients, *(None,) * 8
