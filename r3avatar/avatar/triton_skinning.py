"""Linear blend skinning of Gaussians and their covariances as Triton kernels: `Skinning.deform`'s twin on the GPU.

Two kernels forward, two backward, around `maps` [24, F, N]: every Gaussian's blended transforms to the big pose (rows
0-11: a 3 x 4 matrix row by row) and to the posed body (rows 12-23). Blending works on tiles Gaussians x joints, the
algebra of a Gaussian on one Gaussian a thread; stored by rows, the maps are read and written in whole lines.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from r3avatar.avatar.triton_normals import turn, turn_back
from r3avatar.triton_matrices import (
    EPS,
    apply,
    inverse,
    load_map,
    load_matrix,
    load_unit_quaternion,
    load_vector,
    multiply,
    rotation_matrix,
    store_map,
    store_vector,
)

# Tiles, chosen on an H200; results do not depend on them but for rounding.
BLEND_BLOCK, BLEND_WARPS = 32, 4  # Gaussians of a program
BLEND_BACKWARD_BLOCK, BLEND_BACKWARD_WARPS = 16, 4
PLACE_BLOCK, PLACE_WARPS = 128, 4
PLACE_BACKWARD_BLOCK, PLACE_BACKWARD_WARPS = 64, 2

# Views and slices come at any alignment, which may change with N: no kernel is compiled again for it.
_INPUTS = ["points", "vertex", "logits", "offsets", "R", "Th", "scale", "rotation", "d_means", "d_covariances",
           "worn", "own"]  # fmt: skip


@triton.jit
def _load_rows(weights, logits, at, n, inside, J: tl.constexpr, JP: tl.constexpr, LOGITS: tl.constexpr):
    """Weights [B, JP] of the vertices `at`; with LOGITS their logarithms plus the logits of the Gaussians n."""
    j = tl.arange(0, JP)
    joints = (j < J)[None, :]
    row = tl.load(weights + at[:, None] * J + j[None, :], mask=joints, other=-float("inf") if LOGITS else 0.0)
    if LOGITS:
        row += tl.load(logits + n[:, None] * J + j[None, :], mask=joints & inside[:, None], other=0.0)
    return row


@triton.jit(do_not_specialize=["N", "F"], do_not_specialize_on_alignment=_INPUTS)
def _blend(
    weights, logits, vertex, big, transforms, worn, own, normalisers, maps, N, F,
    J: tl.constexpr, JP: tl.constexpr, LOGITS: tl.constexpr, OWN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Weights of a block of Gaussians in a frame (a softmax with LOGITS), and the transforms that they blend; with OWN
    the identity and their own map of those that are worn."""
    frame = tl.program_id(1).to(tl.int64)
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    j, c = tl.arange(0, JP), tl.arange(0, 16)
    inside, joints = n < N, (j < J)[:, None]
    at = tl.load(vertex + frame * N + n, mask=inside, other=0)
    w = _load_rows(weights, logits, at, n, inside, J, JP, LOGITS)
    if LOGITS:
        largest = tl.max(w, 1)
        w = tl.exp(w - largest[:, None])
        total = tl.sum(w, 1)
        w = w / total[:, None]
        tl.store(normalisers + frame * N + n, largest + tl.log(total), mask=inside)
    entry = j[:, None] * 16 + c[None, :]  # a 4 x 4 matrix's first 12 entries are the 3 x 4 map
    to_big = tl.dot(w, tl.load(big + entry, mask=joints, other=0.0), input_precision="ieee")
    to_posed = tl.dot(w, tl.load(transforms + frame * J * 16 + entry, mask=joints, other=0.0), input_precision="ieee")
    stride = tl.cast(F, tl.int64) * N
    rows = c[None, :] * stride + frame * N + n[:, None]
    mask = inside[:, None] & (c < 12)[None, :]
    if OWN:
        is_worn = (tl.load(worn + n, mask=inside, other=0.0) != 0)[:, None]
        same = tl.where((c == 0) | (c == 5) | (c == 10), 1.0, 0.0)[None, :]
        to_big = tl.where(is_worn, same, to_big)
        its = tl.load(own + (frame * N + n)[:, None] * 12 + c[None, :], mask=mask & is_worn, other=0.0)
        to_posed = tl.where(is_worn, its, to_posed)
    tl.store(maps + rows, to_big, mask=mask)
    tl.store(maps + 12 * stride + rows, to_posed, mask=mask)


@triton.jit(do_not_specialize=["N"], do_not_specialize_on_alignment=_INPUTS)
def _blend_backward(
    weights, logits, vertex, big, transforms, normalisers, d_maps, d_logits, d_transforms, N,
    F: tl.constexpr, J: tl.constexpr, JP: tl.constexpr, LOGITS: tl.constexpr, TRANSFORMS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradients of the logits, summed over frames, and this block's share [F, J, 16] of those of the transforms."""
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    j, c = tl.arange(0, JP), tl.arange(0, 16)
    inside, joints = n < N, (j < J)[None, :]
    mask = inside[:, None] & (c < 12)[None, :]
    entry = j[None, :] * 16 + c[:, None]  # [16, JP]
    stride = tl.cast(N, tl.int64) * F
    if LOGITS:
        T_big = tl.load(big + entry, mask=joints, other=0.0)
        d_row = tl.zeros([BLOCK, JP], dtype=weights.dtype.element_ty)
    for f in range(F):
        start = tl.cast(N, tl.int64) * f
        at = tl.load(vertex + start + n, mask=inside, other=0)
        rows = c[None, :] * stride + start + n[:, None]
        d_posed = tl.load(d_maps + 12 * stride + rows, mask=mask, other=0.0)  # [BLOCK, 16]
        w = _load_rows(weights, logits, at, n, inside, J, JP, LOGITS)
        if LOGITS:
            w = tl.exp(w - tl.load(normalisers + start + n, mask=inside, other=0.0)[:, None])
            T_posed = tl.load(transforms + f * J * 16 + entry, mask=joints, other=0.0)
            d_big = tl.load(d_maps + rows, mask=mask, other=0.0)
            d_w = tl.dot(d_big, T_big, input_precision="ieee") + tl.dot(d_posed, T_posed, input_precision="ieee")
            d_row += w * (d_w - tl.sum(w * d_w, 1)[:, None])
        if TRANSFORMS:
            share = tl.dot(tl.trans(w), d_posed, input_precision="ieee")  # [JP, 16]
            to = (tl.program_id(0).to(tl.int64) * F + f) * J * 16 + j[:, None] * 16 + c[None, :]
            tl.store(d_transforms + to, share, mask=(j < J)[:, None])
    if LOGITS:
        tl.store(d_logits + n[:, None] * J + j[None, :], d_row, mask=inside[:, None] & joints)


@triton.jit(do_not_specialize=["N", "F", "V", "Q"], do_not_specialize_on_alignment=_INPUTS)
def _place(
    points, vertex, maps, offsets, worn, R, Th, scale, rotation, means, covariances, N, F, V, Q, OWN: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Means and covariances in the world, of a block of Gaussians in a frame; quaternions are Q numbers apart."""
    frame = tl.program_id(1).to(tl.int64)
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = n < N
    at = frame * N + n
    stride = tl.cast(F, tl.int64) * N
    a00, a01, a02, a03, a10, a11, a12, a13, a20, a21, a22, a23 = load_map(maps, at, stride, mask)
    p00, p01, p02, p03, p10, p11, p12, p13, p20, p21, p22, p23 = load_map(maps, at + 12 * stride, stride, mask)
    r00, r01, r02, r10, r11, r12, r20, r21, r22 = load_matrix(R + frame * 9)
    # The linear map of the world: R (to posed) (to big)^-1.
    c00, c01, c02, c10, c11, c12, c20, c21, c22 = inverse(a00, a01, a02, a10, a11, a12, a20, a21, a22)
    l00, l01, l02, l10, l11, l12, l20, l21, l22 = multiply(
        r00, r01, r02, r10, r11, r12, r20, r21, r22, p00, p01, p02, p10, p11, p12, p20, p21, p22
    )
    x, y, z = load_vector(points, at * 3, mask)
    x, y, z = apply(c00, c01, c02, c10, c11, c12, c20, c21, c22, x - a03, y - a13, z - a23)
    place = frame * V + tl.load(vertex + at, mask=mask, other=0)
    follows = mask
    if OWN:  # what is worn knows no vertex
        follows = mask & (tl.load(worn + n, mask=mask, other=0.0) == 0)
    dx, dy, dz = load_vector(offsets, place * 3, follows)
    x, y, z = apply(l00, l01, l02, l10, l11, l12, l20, l21, l22, x + dx, y + dy, z + dz)
    tx, ty, tz = apply(r00, r01, r02, r10, r11, r12, r20, r21, r22, p03, p13, p23)
    hx, hy, hz = tl.load(Th + frame * 3), tl.load(Th + frame * 3 + 1), tl.load(Th + frame * 3 + 2)
    store_vector(means, at * 3, x + tx + hx, y + ty + hy, z + tz + hz, mask)

    l00, l01, l02, l10, l11, l12, l20, l21, l22 = multiply(
        l00, l01, l02, l10, l11, l12, l20, l21, l22, c00, c01, c02, c10, c11, c12, c20, c21, c22
    )
    qw, qx, qy, qz, _length = load_unit_quaternion(rotation, at * Q, mask)
    q00, q01, q02, q10, q11, q12, q20, q21, q22 = rotation_matrix(qw, qx, qy, qz)
    m00, m01, m02, m10, m11, m12, m20, m21, m22 = multiply(
        l00, l01, l02, l10, l11, l12, l20, l21, l22, q00, q01, q02, q10, q11, q12, q20, q21, q22
    )
    sx, sy, sz = load_vector(scale, at * 3, mask)
    m00, m10, m20 = m00 * sx, m10 * sx, m20 * sx
    m01, m11, m21 = m01 * sy, m11 * sy, m21 * sy
    m02, m12, m22 = m02 * sz, m12 * sz, m22 * sz
    xx, xy, xz = apply(m00, m01, m02, m10, m11, m12, m20, m21, m22, m00, m01, m02)
    yy, yz = m10 * m10 + m11 * m11 + m12 * m12, m10 * m20 + m11 * m21 + m12 * m22
    store_vector(covariances, at * 6, xx, xy, xz, mask)
    store_vector(covariances, at * 6 + 3, yy, yz, m20 * m20 + m21 * m21 + m22 * m22, mask)


@triton.jit(do_not_specialize=["N", "F", "V", "Q"], do_not_specialize_on_alignment=_INPUTS)
def _place_backward(
    points, vertex, maps, offsets, worn, R, scale, rotation, d_means, d_covariances,
    d_points, d_maps, d_offsets, d_scale, d_rotation, N, F, V, Q, OFFSETS: tl.constexpr, OWN: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradients of everything that `_place` reads; those of the vertices' offsets are added up by atomics."""
    frame = tl.program_id(1).to(tl.int64)
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = n < N
    at = frame * N + n
    stride = tl.cast(F, tl.int64) * N
    a00, a01, a02, a03, a10, a11, a12, a13, a20, a21, a22, a23 = load_map(maps, at, stride, mask)
    p00, p01, p02, _p03, p10, p11, p12, _p13, p20, p21, p22, _p23 = load_map(maps, at + 12 * stride, stride, mask)
    r00, r01, r02, r10, r11, r12, r20, r21, r22 = load_matrix(R + frame * 9)
    c00, c01, c02, c10, c11, c12, c20, c21, c22 = inverse(a00, a01, a02, a10, a11, a12, a20, a21, a22)
    l00, l01, l02, l10, l11, l12, l20, l21, l22 = multiply(
        p00, p01, p02, p10, p11, p12, p20, p21, p22, c00, c01, c02, c10, c11, c12, c20, c21, c22
    )
    # K = R L Q, M = K S, covariance M M^T. First dM = (G + G^T) M with the upper triangle's gradient G.
    qw, qx, qy, qz, length = load_unit_quaternion(rotation, at * Q, mask)
    q00, q01, q02, q10, q11, q12, q20, q21, q22 = rotation_matrix(qw, qx, qy, qz)
    u00, u01, u02, u10, u11, u12, u20, u21, u22 = multiply(
        r00, r01, r02, r10, r11, r12, r20, r21, r22, l00, l01, l02, l10, l11, l12, l20, l21, l22
    )
    k00, k01, k02, k10, k11, k12, k20, k21, k22 = multiply(
        u00, u01, u02, u10, u11, u12, u20, u21, u22, q00, q01, q02, q10, q11, q12, q20, q21, q22
    )
    sx, sy, sz = load_vector(scale, at * 3, mask)
    gxx, gxy, gxz = load_vector(d_covariances, at * 6, mask)
    gyy, gyz, gzz = load_vector(d_covariances, at * 6 + 3, mask)
    gxx, gyy, gzz = 2 * gxx, 2 * gyy, 2 * gzz
    # (G + G^T) K; its columns times s^2 are dK, and its columns' products with K's times s are ds.
    h00, h01, h02, h10, h11, h12, h20, h21, h22 = multiply(
        gxx, gxy, gxz, gxy, gyy, gyz, gxz, gyz, gzz, k00, k01, k02, k10, k11, k12, k20, k21, k22
    )
    store_vector(
        d_scale, at * 3,
        (h00 * k00 + h10 * k10 + h20 * k20) * sx, (h01 * k01 + h11 * k11 + h21 * k21) * sy,
        (h02 * k02 + h12 * k12 + h22 * k22) * sz, mask,
    )  # fmt: skip
    h00, h10, h20 = h00 * sx * sx, h10 * sx * sx, h20 * sx * sx
    h01, h11, h21 = h01 * sy * sy, h11 * sy * sy, h21 * sy * sy
    h02, h12, h22 = h02 * sz * sz, h12 * sz * sz, h22 * sz * sz
    # dQ = U^T dK, through the quaternion, through its normalisation.
    g00, g01, g02, g10, g11, g12, g20, g21, g22 = multiply(
        u00, u10, u20, u01, u11, u21, u02, u12, u22, h00, h01, h02, h10, h11, h12, h20, h21, h22
    )
    gw = 2 * (qx * (g21 - g12) + qy * (g02 - g20) + qz * (g10 - g01))
    gx = 2 * (qw * (g21 - g12) + qy * (g01 + g10) + qz * (g02 + g20) - 2 * qx * (g11 + g22))
    gy = 2 * (qw * (g02 - g20) + qx * (g01 + g10) + qz * (g12 + g21) - 2 * qy * (g00 + g22))
    gz = 2 * (qw * (g10 - g01) + qx * (g02 + g20) + qy * (g12 + g21) - 2 * qz * (g00 + g11))
    along = tl.where(length > EPS, gw * qw + gx * qx + gy * qy + gz * qz, 0.0)
    tl.store(d_rotation + at * 4, (gw - along * qw) / length, mask=mask)
    store_vector(
        d_rotation, at * 4 + 1, (gx - along * qx) / length, (gy - along * qy) / length, (gz - along * qz) / length, mask
    )
    # dL = R^T (dK Q^T), and the mean's gradient in the body's frame.
    g00, g01, g02, g10, g11, g12, g20, g21, g22 = multiply(
        h00, h01, h02, h10, h11, h12, h20, h21, h22, q00, q10, q20, q01, q11, q21, q02, q12, q22
    )
    g00, g01, g02, g10, g11, g12, g20, g21, g22 = multiply(
        r00, r10, r20, r01, r11, r21, r02, r12, r22, g00, g01, g02, g10, g11, g12, g20, g21, g22
    )
    mx, my, mz = load_vector(d_means, at * 3, mask)
    mx, my, mz = apply(r00, r10, r20, r01, r11, r21, r02, r12, r22, mx, my, mz)
    # posed = P (C (point - a) + offset) + p and L = P C: first the gradient of [P | p].
    x, y, z = load_vector(points, at * 3, mask)
    x, y, z = x - a03, y - a13, z - a23
    vx, vy, vz = apply(c00, c01, c02, c10, c11, c12, c20, c21, c22, x, y, z)
    place = frame * V + tl.load(vertex + at, mask=mask, other=0)
    follows = mask
    if OWN:
        follows = mask & (tl.load(worn + n, mask=mask, other=0.0) == 0)
    dx, dy, dz = load_vector(offsets, place * 3, follows)
    vx, vy, vz = vx + dx, vy + dy, vz + dz
    h00, h01, h02, h10, h11, h12, h20, h21, h22 = multiply(
        g00, g01, g02, g10, g11, g12, g20, g21, g22, c00, c10, c20, c01, c11, c21, c02, c12, c22
    )
    to = d_maps + at + 12 * stride
    gone = 1.0
    if OWN:  # nothing of what is worn reaches the body's weights and transforms
        gone = tl.where(follows, 1.0, 0.0)
    store_map(
        to, stride, gone * (h00 + mx * vx), gone * (h01 + mx * vy), gone * (h02 + mx * vz), gone * mx,
        gone * (h10 + my * vx), gone * (h11 + my * vy), gone * (h12 + my * vz), gone * my,
        gone * (h20 + mz * vx), gone * (h21 + mz * vy), gone * (h22 + mz * vz), gone * mz, mask,
    )  # fmt: skip
    # Then that of the rest point, of C, and of [A | a] with dA = -C^T dC C^T.
    vx, vy, vz = apply(p00, p10, p20, p01, p11, p21, p02, p12, p22, mx, my, mz)
    if OFFSETS:
        tl.atomic_add(d_offsets + place * 3, vx, mask=follows, sem="relaxed")
        tl.atomic_add(d_offsets + place * 3 + 1, vy, mask=follows, sem="relaxed")
        tl.atomic_add(d_offsets + place * 3 + 2, vz, mask=follows, sem="relaxed")
    g00, g01, g02, g10, g11, g12, g20, g21, g22 = multiply(
        p00, p10, p20, p01, p11, p21, p02, p12, p22, g00, g01, g02, g10, g11, g12, g20, g21, g22
    )
    g00, g01, g02 = g00 + vx * x, g01 + vx * y, g02 + vx * z
    g10, g11, g12 = g10 + vy * x, g11 + vy * y, g12 + vy * z
    g20, g21, g22 = g20 + vz * x, g21 + vz * y, g22 + vz * z
    g00, g01, g02, g10, g11, g12, g20, g21, g22 = multiply(
        c00, c10, c20, c01, c11, c21, c02, c12, c22, g00, g01, g02, g10, g11, g12, g20, g21, g22
    )
    g00, g01, g02, g10, g11, g12, g20, g21, g22 = multiply(
        g00, g01, g02, g10, g11, g12, g20, g21, g22, c00, c10, c20, c01, c11, c21, c02, c12, c22
    )
    vx, vy, vz = apply(c00, c10, c20, c01, c11, c21, c02, c12, c22, vx, vy, vz)
    store_vector(d_points, at * 3, vx, vy, vz, mask)
    store_map(
        d_maps + at, stride, -gone * g00, -gone * g01, -gone * g02, -gone * vx, -gone * g10, -gone * g11, -gone * g12,
        -gone * vy, -gone * g20, -gone * g21, -gone * g22, -gone * vz, mask,
    )  # fmt: skip


class _Skin(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, points, vertex, logits, weights, big, transforms, offsets, R, Th, scale, rotation, normals, worn, own
    ):
        inputs = [points, vertex, logits, weights, big, transforms, offsets, R, Th, scale, normals, worn, own]
        points, vertex, logits, weights, big, transforms, offsets, R, Th, scale, normals, worn, own = (
            None if x is None else x.contiguous() for x in inputs
        )
        F, N, _ = points.shape
        Q = rotation.stride(1)
        if rotation.stride() != (N * Q, Q, 1):  # rows of a wider tensor, the decoder's, are read where they are
            rotation, Q = rotation.contiguous(), 4
        J = weights.shape[1]
        blend = {"J": J, "JP": max(16, triton.next_power_of_2(J)), "LOGITS": logits is not None}
        maps, normalisers = points.new_empty(24, F, N), points.new_empty(F, N)
        means, covariances = torch.empty_like(points), points.new_empty(F, N, 6)
        with torch.cuda.device_of(points):
            _blend[(triton.cdiv(N, BLEND_BLOCK), F)](
                weights, logits, vertex, big, transforms, worn, own, normalisers, maps, N, F,
                **blend, OWN=own is not None, BLOCK=BLEND_BLOCK, num_warps=BLEND_WARPS,
            )  # fmt: skip
            _place[(triton.cdiv(N, PLACE_BLOCK), F)](
                points, vertex, maps, offsets, worn, R, Th, scale, rotation, means, covariances, N, F, offsets.shape[1],
                Q, OWN=own is not None, BLOCK=PLACE_BLOCK, num_warps=PLACE_WARPS,
            )  # fmt: skip
            turned = None if normals is None else turn(normals, maps, R)
        ctx.blend, ctx.Q = blend, Q
        ctx.save_for_backward(
            points, vertex, logits, weights, big, transforms, offsets, R, scale, rotation, worn, maps, normalisers
        )
        return (means, covariances) if normals is None else (means, covariances, turned)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, d_means, d_covariances, d_turned=None):
        saved = ctx.saved_tensors
        points, vertex, logits, weights, big, transforms, offsets, R, scale, rotation, worn, maps, normalisers = saved
        F, N, _ = points.shape
        wants_logits, wants_transforms, wants_offsets = (ctx.needs_input_grad[i] for i in (2, 5, 6))
        d_points, d_maps = torch.empty_like(points), torch.empty_like(maps)
        d_scale, d_rotation = torch.empty_like(scale), rotation.new_empty(F, N, 4)
        d_offsets = torch.zeros_like(offsets) if wants_offsets else None
        d_logits = torch.empty_like(logits) if logits is not None else None
        blocks = triton.cdiv(N, BLEND_BACKWARD_BLOCK)
        shares = points.new_empty(blocks, *transforms.shape) if wants_transforms else None
        with torch.cuda.device_of(points):
            _place_backward[(triton.cdiv(N, PLACE_BACKWARD_BLOCK), F)](
                points, vertex, maps, offsets, worn, R, scale, rotation, d_means.contiguous(),
                d_covariances.contiguous(), d_points, d_maps, d_offsets, d_scale, d_rotation, N, F, offsets.shape[1],
                ctx.Q,
                OFFSETS=wants_offsets, OWN=worn is not None, BLOCK=PLACE_BACKWARD_BLOCK, num_warps=PLACE_BACKWARD_WARPS,
            )  # fmt: skip
            if wants_logits or wants_transforms:
                _blend_backward[(blocks,)](
                    weights, logits, vertex, big, transforms, normalisers, d_maps, d_logits, shares, N,
                    F=F, **ctx.blend, TRANSFORMS=wants_transforms,
                    BLOCK=BLEND_BACKWARD_BLOCK, num_warps=BLEND_BACKWARD_WARPS,
                )  # fmt: skip
            d_normals = turn_back(d_turned, maps, R) if ctx.needs_input_grad[11] else None
        d_transforms = shares.sum(0) if wants_transforms else None
        return (
            d_points, None, d_logits if wants_logits else None, None, None, d_transforms, d_offsets, None, None,
            d_scale, d_rotation, d_normals, None, None,
        )  # fmt: skip


def skin(
    points: Tensor,
    vertex: Tensor,
    logits: Tensor | None,
    weights: Tensor,
    big_transforms: Tensor,
    transforms: Tensor,
    vertex_offsets: Tensor,
    R: Tensor,
    Th: Tensor,
    scale: Tensor,
    rotation: Tensor,
    normals: Tensor | None = None,
    worn: Tensor | None = None,
    own: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Gaussians of the big pose, skinned to F frames: world means [F, N, 3] and covariances [F, N, 6]; with normals
    also these as they lie in the world, [F, N, 3], not of unit length.

    Differentiable in points, logits, transforms, vertex_offsets, scale, rotation and normals (through which nothing
    reaches the others); deterministic but for the gradient of vertex_offsets. Source: as `Skinning`; covariances by
    Kerbl et al. 2023, eq. 6.

    Args:
        points: [F, N, 3] metres, in the big pose.
        vertex: [F, N] int64, the vertex whose weights and offset a point takes.
        logits: [N, J] added to `weights`, or None.
        weights: [V, J] logarithms of the skinning weights; the weights themselves where logits is None.
        big_transforms: [J, 4, 4] rest to big pose.
        transforms: [F, J, 4, 4] rest to posed.
        vertex_offsets: [F, V, 3] metres.
        R, Th: [F, 3, 3], [F, 3] body to world.
        scale: [F, N, 3] standard deviations, metres.
        rotation: [F, N, 4] quaternions (w, x, y, z) of any length.
        normals: [N, 3] of the big pose.
        worn: [N] float, not 0 for Gaussians that follow no vertex; own: [F, N, 3, 4] their maps from where they are to
            the posed body (`OwnMaps`), constants.

    Raises ValueError where a constant requires a gradient.
    """
    constants = {"weights": weights, "big_transforms": big_transforms, "R": R, "Th": Th}
    for name, value in constants.items():
        if torch.is_grad_enabled() and value.requires_grad:
            raise ValueError(f"skin gives no gradient of {name}: detach it, or use backend='torch'")
    return _Skin.apply(
        points, vertex, logits, weights, big_transforms, transforms, vertex_offsets, R, Th, scale, rotation, normals,
        worn, own,
    )  # fmt: skip
