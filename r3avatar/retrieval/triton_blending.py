"""The parts' decoder outputs mixed into one set of Gaussians, as Triton kernels: the twin of `blending` on the GPU.

Nothing is gathered before: a part's outputs are read at its own row of the decoded times, and at the row of the time
that it jumped from where there is one. No gradients: recorded appearance is mixed for new poses, after training.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# Gaussians of a program and its warps; results do not depend on them.
POINTS_BLOCK, POINTS_WARPS = 128, 4
BLEND_BLOCK, BLEND_WARPS = 32, 4


@triton.jit
def _load(field, row, n, N, stride, C: tl.constexpr):
    """[BLOCK, 4]: the C numbers (0 beyond) of the Gaussians n in a row of a field; they lie `stride` apart."""
    c = tl.arange(0, 4)
    at = (row * N + n).to(tl.int64)[:, None] * stride + c[None, :]
    return tl.load(field + at, mask=(n < N)[:, None] & (c < C)[None, :], other=0.0)


@triton.jit
def _store(field, row, n, N, value, C: tl.constexpr):
    c = tl.arange(0, 4)
    at = (row * N + n).to(tl.int64)[:, None] * C + c[None, :]
    tl.store(field + at, value, mask=(n < N)[:, None] & (c < C)[None, :])


@triton.jit
def _turned(q, main, ALIGN: tl.constexpr):
    """Quaternions as `blending.align_rotations` leaves them: unit length, signs turned towards `main`."""
    if ALIGN:
        length = tl.maximum(tl.sqrt(tl.sum(q * q, 1)), 1e-12)[:, None]
        q = tl.where(tl.sum(q * main, 1)[:, None] < 0, -q, q) / length
    return q


@triton.jit(do_not_specialize=["N", "stride"], do_not_specialize_on_alignment=["offset", "current", "previous", "fade"])
def _points(
    positions, offset, current, previous, fade, points, N, stride, FIRST: tl.constexpr, PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Canonical positions plus the mean offset of the parts from FIRST on."""
    frame = tl.program_id(1).to(tl.int64)
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK, 4], dtype=positions.dtype.element_ty)
    for p in tl.static_range(FIRST, PARTS):
        now, before = tl.load(current + frame * PARTS + p), tl.load(previous + frame * PARTS + p)
        value = _load(offset, now, n, N, stride, 3)
        if before != now:
            share = tl.load(fade + frame * PARTS + p)
            value = (1 - share) * value + share * _load(offset, before, n, N, stride, 3)
        total += value
    _store(points, frame, n, N, _load(positions, frame * 0, n, N, 3, 3) + total / (PARTS - FIRST), 3)


@triton.jit(
    do_not_specialize=["N", "offset_stride", "opacity_stride", "scale_stride", "rotation_stride"],
    do_not_specialize_on_alignment=[
        "offset", "opacity", "scale", "rotation", "current", "previous", "fade", "vertex", "weights", "logits"
    ],
)  # fmt: skip
def _blend(
    offset, opacity, scale, rotation, current, previous, fade, vertex, weights, logits, part_of_joint,
    mixed_offset, mixed_opacity, mixed_scale, mixed_rotation,
    N, offset_stride, opacity_stride, scale_stride, rotation_stride,
    PARTS: tl.constexpr, J: tl.constexpr, JP: tl.constexpr, LOGITS: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Each part's share of a block of Gaussians in a frame, and the parts' outputs mixed by the shares."""
    frame = tl.program_id(1).to(tl.int64)
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    j = tl.arange(0, JP)
    inside, joints = n < N, (j < J)[None, :]
    at = tl.load(vertex + frame * N + n, mask=inside, other=0)
    w = tl.load(weights + at[:, None] * J + j[None, :], mask=joints, other=-float("inf") if LOGITS else 0.0)
    if LOGITS:
        w += tl.load(logits + n[:, None] * J + j[None, :], mask=joints & inside[:, None], other=0.0)
        w = tl.exp(w - tl.max(w, 1)[:, None])
        w = w / tl.sum(w, 1)[:, None]
    part = tl.load(part_of_joint + j, mask=j < J, other=PARTS)
    a = tl.zeros([BLOCK, 4], dtype=mixed_offset.dtype.element_ty)
    b, c, d = a, a, a
    main = a
    if ALIGN:  # the current quaternion of the part with the largest share
        largest = tl.full([BLOCK, 1], -1.0, w.dtype)
        for p in tl.static_range(PARTS):
            share = tl.sum(tl.where((part == p)[None, :], w, 0.0), 1)[:, None]
            q = _load(rotation, tl.load(current + frame * PARTS + p), n, N, rotation_stride, 4)
            main = tl.where(share > largest, q, main)
            largest = tl.maximum(share, largest)
    for p in tl.static_range(PARTS):
        share = tl.sum(tl.where((part == p)[None, :], w, 0.0), 1)[:, None]
        now, before = tl.load(current + frame * PARTS + p), tl.load(previous + frame * PARTS + p)
        if before != now:  # some of it comes from where the part jumped from
            whole = share
            share = whole * tl.load(fade + frame * PARTS + p)
            a += share * _load(offset, before, n, N, offset_stride, 3)
            b += share * _load(opacity, before, n, N, opacity_stride, 1)
            c += share * _load(scale, before, n, N, scale_stride, 3)
            d += share * _turned(_load(rotation, before, n, N, rotation_stride, 4), main, ALIGN)
            share = whole - share
        a += share * _load(offset, now, n, N, offset_stride, 3)
        b += share * _load(opacity, now, n, N, opacity_stride, 1)
        c += share * _load(scale, now, n, N, scale_stride, 3)
        d += share * _turned(_load(rotation, now, n, N, rotation_stride, 4), main, ALIGN)
    _store(mixed_offset, frame, n, N, a, 3)
    _store(mixed_opacity, frame, n, N, b, 1)
    _store(mixed_scale, frame, n, N, c, 3)
    _store(mixed_rotation, frame, n, N, d, 4)


def weight_query_points(
    positions: Tensor, offset: Tensor, current: Tensor, previous: Tensor, fade: Tensor, last_part: bool
) -> Tensor:
    """Where the parts put the Gaussians, [F, N, 3] metres: their parts' weights are looked up there.

    positions: [N, 3]; offset: [D, N, 3] at D times; current, previous, fade: [F, P] rows of it and shares, as for
    `blend_parts`.
    last_part: take the last part's offsets instead of the mean over parts.
    """
    (offset,), (stride,) = _rows(offset)
    F, P = current.shape
    N = positions.shape[0]
    points = positions.new_empty(F, N, 3)
    with torch.cuda.device_of(points):
        _points[(triton.cdiv(N, POINTS_BLOCK), F)](
            positions.contiguous(), offset, current.contiguous(), previous.contiguous(), fade.contiguous(), points, N,
            stride,
            FIRST=P - 1 if last_part else 0, PARTS=P, BLOCK=POINTS_BLOCK, num_warps=POINTS_WARPS,
        )  # fmt: skip
    return points


def blend_parts(
    fields: tuple[Tensor, Tensor, Tensor, Tensor],
    current: Tensor,
    previous: Tensor,
    fade: Tensor,
    vertex: Tensor,
    weights: Tensor,
    logits: Tensor | None,
    part_of_joint: Tensor,
    align: bool = False,
) -> tuple[Tensor, ...]:
    """Offsets, opacity logits, scales and rotations [F, N, c] mixed by each part's share of every Gaussian.

    Args:
        fields: those four at D times, [D, N, 3], [D, N, 1], [D, N, 3], [D, N, 4].
        current: [F, P] int64, the row of each part's time; previous: likewise of the time that it jumped from, equal to
            `current` for parts that did not jump: (1 - fade) current + fade previous.
        fade: [F, P] float in [0, 1), read where the two rows differ.
        vertex: [F, N] int64, the body's vertices whose skinning weights count.
        weights: [V, J] skinning weights; with `logits` [N, J] their logarithms, to which the logits are added.
        part_of_joint: [J] int32, from `blending.part_of_joint`.
        align: mix rotations after `blending.align_rotations`.

    Source: R3-Avatar (arXiv 2503.12751), body-part-wise blending.
    """
    fields, strides = _rows(*fields)
    (F, P), N, J = current.shape, vertex.shape[1], weights.shape[1]
    mixed = tuple(x.new_empty(F, N, x.shape[-1]) for x in fields)
    with torch.cuda.device_of(vertex):
        _blend[(triton.cdiv(N, BLEND_BLOCK), F)](
            *fields, current.contiguous(), previous.contiguous(), fade.contiguous(), vertex.contiguous(),
            weights.contiguous(), None if logits is None else logits.contiguous(), part_of_joint,
            *mixed, N, *strides,
            PARTS=P, J=J, JP=max(16, triton.next_power_of_2(J)), LOGITS=logits is not None, ALIGN=align,
            BLOCK=BLEND_BLOCK, num_warps=BLEND_WARPS,
        )  # fmt: skip
    return mixed


def _rows(*fields: Tensor) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """Fields [D, N, c] and how far apart their Gaussians lie: columns of a wider tensor are read where they are."""
    kept = []
    for x in fields:
        D, N, Q = x.shape[0], x.shape[1], x.stride(1)
        kept.append(x if x.stride(2) == 1 and (D == 1 or x.stride(0) == N * Q) else x.contiguous())
    return tuple(kept), tuple(x.stride(1) for x in kept)
