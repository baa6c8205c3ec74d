"""Normals of the big pose as they lie in the world, by the maps that skinning has blended (`triton_skinning`)."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from r3avatar.triton_matrices import apply, inverse, load_map, load_matrix, load_vector, multiply, store_vector

BLOCK, WARPS = 128, 4  # Gaussians of a program
BACKWARD_BLOCK, BACKWARD_WARPS = 64, 2


@triton.jit
def _linear(maps, R, frame, at, stride, mask):
    """The linear map from the big pose to the world, of Gaussians in a frame."""
    a00, a01, a02, _, a10, a11, a12, _, a20, a21, a22, _ = load_map(maps, at, stride, mask)
    p00, p01, p02, _, p10, p11, p12, _, p20, p21, p22, _ = load_map(maps, at + 12 * stride, stride, mask)
    r00, r01, r02, r10, r11, r12, r20, r21, r22 = load_matrix(R + frame * 9)
    c00, c01, c02, c10, c11, c12, c20, c21, c22 = inverse(a00, a01, a02, a10, a11, a12, a20, a21, a22)
    l00, l01, l02, l10, l11, l12, l20, l21, l22 = multiply(
        p00, p01, p02, p10, p11, p12, p20, p21, p22, c00, c01, c02, c10, c11, c12, c20, c21, c22
    )
    return multiply(r00, r01, r02, r10, r11, r12, r20, r21, r22, l00, l01, l02, l10, l11, l12, l20, l21, l22)


@triton.jit(do_not_specialize=["N", "F"], do_not_specialize_on_alignment=["normals", "R"])
def _turn(normals, maps, R, turned, N, F, BLOCK: tl.constexpr):
    """Normals of the big pose as they lie in the world, of a block of Gaussians in a frame."""
    frame = tl.program_id(1).to(tl.int64)
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = n < N
    at = frame * N + n
    l00, l01, l02, l10, l11, l12, l20, l21, l22 = _linear(maps, R, frame, at, tl.cast(F, tl.int64) * N, mask)
    x, y, z = load_vector(normals, n * 3, mask)
    x, y, z = apply(l00, l01, l02, l10, l11, l12, l20, l21, l22, x, y, z)
    store_vector(turned, at * 3, x, y, z, mask)


@triton.jit(do_not_specialize=["N", "F"], do_not_specialize_on_alignment=["R", "d_turned"])
def _turn_backward(maps, R, d_turned, d_normals, N, F, BLOCK: tl.constexpr):
    """The normals' gradients, summed over frames; maps have none through them."""
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = n < N
    sx = tl.zeros([BLOCK], maps.dtype.element_ty)
    sy, sz = sx, sx
    for frame in range(F):
        at = tl.cast(N, tl.int64) * frame + n
        l00, l01, l02, l10, l11, l12, l20, l21, l22 = _linear(maps, R, frame, at, tl.cast(F, tl.int64) * N, mask)
        x, y, z = load_vector(d_turned, at * 3, mask)
        x, y, z = apply(l00, l10, l20, l01, l11, l21, l02, l12, l22, x, y, z)
        sx, sy, sz = sx + x, sy + y, sz + z
    store_vector(d_normals, n * 3, sx, sy, sz, mask)


def turn(normals: Tensor, maps: Tensor, R: Tensor) -> Tensor:
    """Normals [N, 3] as they lie in the world in F frames, [F, N, 3], not of unit length.

    maps: [24, F, N], see `triton_skinning`; R: [F, 3, 3] body to world.
    """
    _, F, N = maps.shape
    turned = normals.new_empty(F, N, 3)
    _turn[(triton.cdiv(N, BLOCK), F)](normals, maps, R, turned, N, F, BLOCK=BLOCK, num_warps=WARPS)
    return turned


def turn_back(d_turned: Tensor, maps: Tensor, R: Tensor) -> Tensor:
    """Gradients [N, 3] of what `turn` took, from those [F, N, 3] of what it gave."""
    _, F, N = maps.shape
    d_normals = d_turned.new_empty(N, 3)
    _turn_backward[(triton.cdiv(N, BACKWARD_BLOCK),)](
        maps, R, d_turned.contiguous(), d_normals, N, F, BLOCK=BACKWARD_BLOCK, num_warps=BACKWARD_WARPS
    )
    return d_normals
