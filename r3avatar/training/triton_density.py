"""The nearest neighbour of chosen Gaussians and the KL divergence to it, in one kernel."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

POINTS, WARPS = 16, 4  # chosen Gaussians of a program
LANES = 32  # others at once


@triton.jit
def _axes(quaternions, n, other):
    """Components (w, x, y, z) of the normalised quaternions of Gaussians n."""
    w = tl.load(quaternions + n * 4, mask=other, other=1.0)
    x = tl.load(quaternions + n * 4 + 1, mask=other, other=0.0)
    y = tl.load(quaternions + n * 4 + 2, mask=other, other=0.0)
    z = tl.load(quaternions + n * 4 + 3, mask=other, other=0.0)
    norm = tl.maximum(tl.sqrt_rn(w * w + x * x + y * y + z * z), 1e-12)
    return tl.div_rn(w, norm), tl.div_rn(x, norm), tl.div_rn(y, norm), tl.div_rn(z, norm)


@triton.jit
def _rotated(w, x, y, z, a, b, c):
    """The vector (a, b, c) turned by a unit quaternion."""
    p = 2.0 * (y * c - z * b)
    q = 2.0 * (z * a - x * c)
    r = 2.0 * (x * b - y * a)
    return a + w * p + (y * r - z * q), b + w * q + (z * p - x * r), c + w * r + (x * q - y * p)


@triton.jit
def _square(a, b, c):
    return a * a + b * b + c * c


@triton.jit(do_not_specialize=["M", "N", "smallest"], do_not_specialize_on_alignment=["ids"])
def _divergence_kernel(
    positions, quaternions, scales, ids, kl, neighbour, M, N, smallest, P: tl.constexpr, LANES: tl.constexpr
):
    m = tl.program_id(0) * P + tl.arange(0, P)
    inside = m < M
    own = tl.load(ids + m, mask=inside, other=0)
    px = tl.load(positions + own * 3)
    py = tl.load(positions + own * 3 + 1)
    pz = tl.load(positions + own * 3 + 2)
    lane = tl.arange(0, LANES)
    mine = own.to(tl.int32)
    best = tl.full([P, LANES], float("inf"), tl.float32)
    found = tl.zeros([P, LANES], tl.int32)
    start = 0
    while start < N:
        v = start + lane
        valid = v < N
        dx = px[:, None] - tl.load(positions + v * 3, mask=valid, other=float("inf"))[None, :]
        dy = py[:, None] - tl.load(positions + v * 3 + 1, mask=valid, other=float("inf"))[None, :]
        dz = pz[:, None] - tl.load(positions + v * 3 + 2, mask=valid, other=float("inf"))[None, :]
        distance = dx * dx + dy * dy + dz * dz
        closer = (distance < best) & (v[None, :] != mine[:, None])  # never true of NaN: the id stays in range
        best = tl.where(closer, distance, best)
        found = tl.where(closer, start, found)
        start += LANES
    least = tl.min(best, axis=1)
    candidate = tl.where(best == least[:, None], found + lane[None, :], 2147483647)
    j = tl.minimum(tl.min(candidate, axis=1), N - 1).to(tl.int64)  # ties to the lowest id

    # Column k of the relative rotation is the Gaussian's own axis k, seen in the neighbour's axes.
    si = tl.maximum(tl.load(scales + own * 3), smallest)
    ti = tl.maximum(tl.load(scales + own * 3 + 1), smallest)
    ui = tl.maximum(tl.load(scales + own * 3 + 2), smallest)
    sj = tl.maximum(tl.load(scales + j * 3), smallest)
    tj = tl.maximum(tl.load(scales + j * 3 + 1), smallest)
    uj = tl.maximum(tl.load(scales + j * 3 + 2), smallest)
    wi, xi, yi, zi = _axes(quaternions, own, inside)
    wj, xj, yj, zj = _axes(quaternions, j, inside)
    zero = tl.zeros([P], tl.float32)
    a, b, c = _rotated(wi, xi, yi, zi, si, zero, zero)
    a, b, c = _rotated(wj, -xj, -yj, -zj, a, b, c)
    total = _square(tl.div_rn(a, sj), tl.div_rn(b, tj), tl.div_rn(c, uj))
    a, b, c = _rotated(wi, xi, yi, zi, zero, ti, zero)
    a, b, c = _rotated(wj, -xj, -yj, -zj, a, b, c)
    total += _square(tl.div_rn(a, sj), tl.div_rn(b, tj), tl.div_rn(c, uj))
    a, b, c = _rotated(wi, xi, yi, zi, zero, zero, ui)
    a, b, c = _rotated(wj, -xj, -yj, -zj, a, b, c)
    total += _square(tl.div_rn(a, sj), tl.div_rn(b, tj), tl.div_rn(c, uj))
    dx = tl.load(positions + j * 3) - px
    dy = tl.load(positions + j * 3 + 1) - py
    dz = tl.load(positions + j * 3 + 2) - pz
    a, b, c = _rotated(wj, -xj, -yj, -zj, dx, dy, dz)
    total += _square(tl.div_rn(a, sj), tl.div_rn(b, tj), tl.div_rn(c, uj))
    logs = tl.log(tl.div_rn(sj, si)) + tl.log(tl.div_rn(tj, ti)) + tl.log(tl.div_rn(uj, ui))
    tl.store(kl + own, 0.5 * (total - 3.0 + 2.0 * logs), mask=inside)
    tl.store(neighbour + own, j, mask=inside)


def divergence(
    positions: Tensor, quaternions: Tensor, scales: Tensor, ids: Tensor, smallest: float
) -> tuple[Tensor, Tensor]:
    """(KL [N] float32, neighbour [N] int64) of the Gaussians `ids` [M] int64; elsewhere zeros.

    positions [N, 3] metres, quaternions [N, 4] (w, x, y, z), scales [N, 3] metres, N > 1. What
    `density_rules.kl_to_neighbour` computes at `density_rules.nearest_neighbour`, scales taken as `smallest` at least.
    """
    N, M = len(positions), len(ids)
    if N < 2:
        raise ValueError(f"a nearest neighbour needs at least two Gaussians, not {N}")
    tensors = [x.detach().float().contiguous() for x in (positions, quaternions, scales)]
    kl = torch.zeros(N, device=positions.device)
    neighbour = torch.zeros(N, dtype=torch.int64, device=positions.device)
    if M:
        with torch.cuda.device_of(positions):
            _divergence_kernel[(triton.cdiv(M, POINTS),)](
                *tensors, ids.contiguous(), kl, neighbour, M, N, smallest, P=POINTS, LANES=LANES, num_warps=WARPS
            )
    return kl, neighbour
