"""Axis-angle vectors to matrices as Triton kernels: the twin of both `rodrigues` on the GPU, one kernel each way.

Both are a I + sin(t) K + (1 - cos t) k k^T with k = r / t and K the cross-product matrix of k: an exact rotation has
a = 1 - (1 - cos t) |k|^2 and t = |r + 1e-8|, a smoothed one a = cos t and t = sqrt(|r|^2 + 1e-5).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from r3avatar.triton_matrices import load_matrices, load_vector, store_matrices, store_vector

BLOCK, WARPS = 64, 2

SHIFT = tl.constexpr(1e-8)  # of every component, in an exact rotation's angle
SMOOTHING = tl.constexpr(1e-5)  # of a smoothed angle's square


@triton.jit
def _axis(rotvecs, n, mask, SMOOTHED: tl.constexpr):
    """Axis and angle of the vectors n."""
    x, y, z = load_vector(rotvecs, n * 3, mask)
    if SMOOTHED:
        angle = tl.sqrt(x * x + y * y + z * z + SMOOTHING)
    else:
        angle = tl.sqrt((x + SHIFT) * (x + SHIFT) + (y + SHIFT) * (y + SHIFT) + (z + SHIFT) * (z + SHIFT))
    return x / angle, y / angle, z / angle, angle


@triton.jit(do_not_specialize=["N"])
def _rodrigues(rotvecs, matrices, N, SMOOTHED: tl.constexpr, BLOCK: tl.constexpr):
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = n < N
    x, y, z, angle = _axis(rotvecs, n, mask, SMOOTHED)
    s, cos = tl.sin(angle), tl.cos(angle)
    half = tl.sin(0.5 * angle)
    c = 2 * half * half  # 1 - cos, without its cancellation at small angles
    if SMOOTHED:
        xx, yy, zz = cos + c * x * x, cos + c * y * y, cos + c * z * z
    else:
        xx, yy, zz = 1 - c * (y * y + z * z), 1 - c * (x * x + z * z), 1 - c * (x * x + y * y)
    store_matrices(
        matrices, n * 9, xx, c * x * y - s * z, c * x * z + s * y, c * x * y + s * z, yy, c * y * z - s * x,
        c * x * z - s * y, c * y * z + s * x, zz, mask,
    )  # fmt: skip


@triton.jit(do_not_specialize=["N"])
def _rodrigues_backward(rotvecs, d_matrices, d_rotvecs, N, SMOOTHED: tl.constexpr, BLOCK: tl.constexpr):
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = n < N
    x, y, z, angle = _axis(rotvecs, n, mask, SMOOTHED)
    s, cos = tl.sin(angle), tl.cos(angle)
    half = tl.sin(0.5 * angle)
    c = 2 * half * half  # 1 - cos, without its cancellation at small angles
    g00, g01, g02, g10, g11, g12, g20, g21, g22 = load_matrices(d_matrices, n * 9, mask)
    trace = g00 + g11 + g22
    vx, vy, vz = g21 - g12, g02 - g20, g10 - g01
    # (G + G^T) k, the gradient of k^T G k
    hx = 2 * g00 * x + (g01 + g10) * y + (g02 + g20) * z
    hy = (g01 + g10) * x + 2 * g11 * y + (g12 + g21) * z
    hz = (g02 + g20) * x + (g12 + g21) * y + 2 * g22 * z
    d_angle = cos * (vx * x + vy * y + vz * z) + s * 0.5 * (hx * x + hy * y + hz * z)
    dx, dy, dz = s * vx + c * hx, s * vy + c * hy, s * vz + c * hz
    if SMOOTHED:
        d_angle -= s * trace
    else:
        d_angle -= s * trace * (x * x + y * y + z * z)
        dx, dy, dz = dx - 2 * c * trace * x, dy - 2 * c * trace * y, dz - 2 * c * trace * z
    # k = r / t, and t's own derivative: k, or (r + 1e-8) / t.
    d_angle -= (dx * x + dy * y + dz * z) / angle
    if SMOOTHED:
        tx, ty, tz = x, y, z
    else:
        tx, ty, tz = x + SHIFT / angle, y + SHIFT / angle, z + SHIFT / angle
    store_vector(
        d_rotvecs, n * 3, dx / angle + d_angle * tx, dy / angle + d_angle * ty, dz / angle + d_angle * tz, mask
    )


class _Rodrigues(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rotvecs, smoothed):
        rotvecs = rotvecs.contiguous()
        matrices = rotvecs.new_empty(*rotvecs.shape, 3)
        N = rotvecs.numel() // 3
        with torch.cuda.device_of(rotvecs):
            _rodrigues[(triton.cdiv(N, BLOCK),)](
                rotvecs, matrices, N, SMOOTHED=smoothed, BLOCK=BLOCK, num_warps=WARPS
            )  # fmt: skip
        ctx.smoothed = smoothed
        ctx.save_for_backward(rotvecs)
        return matrices

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, d_matrices):
        (rotvecs,) = ctx.saved_tensors
        d_rotvecs = torch.empty_like(rotvecs)
        N = rotvecs.numel() // 3
        with torch.cuda.device_of(rotvecs):
            _rodrigues_backward[(triton.cdiv(N, BLOCK),)](
                rotvecs, d_matrices.contiguous(), d_rotvecs, N, SMOOTHED=ctx.smoothed, BLOCK=BLOCK, num_warps=WARPS
            )  # fmt: skip
        return d_rotvecs, None


def rodrigues(rotvecs: Tensor, smoothed: bool) -> Tensor:
    """Rotation matrices [..., 3, 3] of axis-angle vectors [..., 3], radians; differentiable.

    smoothed: as `r3avatar.avatar.pose_refinement.rodrigues`; otherwise as `r3avatar.body.rodrigues`.
    """
    return _Rodrigues.apply(rotvecs, smoothed)
