"""CPU kernels of the temporal codebook: bilinear samples of six planes, their product, and its exact gradient.

Every kernel walks channel-last texels, so that one bilinear sample is four contiguous rows. The planes of space are
read once a point and shared by all the times of a step. The backward pass runs in two phases without races: over points
(gradients of samples and coordinates), then over planes (scatter), so results do not depend on the number of threads.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

from r3avatar import numba_threads
from r3avatar.numba_cache import follow
from r3avatar.numba_threads import FAST, arrays, next_task, run_tasks

_CHUNK = 64  # points a task: enough to amortise what taking one costs
_FIRST = np.array([0, 0, 0, 1, 1, 2])  # axis along the width of each pair
_SECOND = np.array([1, 2, 3, 2, 3, 3])  # axis along the height


@njit(inline="always")
def _cell(c, size):
    """Left texel, fraction and d(position)/d(coordinate) of a coordinate in [-1, 1] with border clamping."""
    u = (c + 1) * 0.5 * (size - 1)
    slope = 0.5 * (size - 1)
    if u <= 0:
        u, slope = u * 0, slope * 0
    elif u >= size - 1:
        u, slope = u * 0 + (size - 1), slope * 0
    i = int(u)
    if i > size - 2:
        i = max(size - 2, 0)
    return i, u - i, slope


@njit(inline="always")
def _corners(offset, height, width, cu, cv):
    """Row numbers of the four texels, their fractions and slopes."""
    i, fu, su = _cell(cu, width)
    j, fv, sv = _cell(cv, height)
    right = 1 if width > 1 else 0
    down = width if height > 1 else 0
    base = offset + j * width + i
    return base, base + right, base + down, base + down + right, fu, fv, su, sv


@njit(fastmath=FAST, cache=True, nogil=True)
def _forward(counter, tasks, planes, layout, points, taus, temporal, first, second, out):
    N, T, S, C = points.shape[0], taus.shape[0], layout.shape[0], planes.shape[1]
    space = np.empty(C, planes.dtype)
    chunk = next_task(counter)
    while chunk < tasks:
        for n in range(chunk * _CHUNK, min(N, (chunk + 1) * _CHUNK)):
            for s in range(S):
                space[:] = 1
                for p in range(6):
                    if second[p] == 3:
                        continue
                    a, b, c, d, fu, fv, _, _ = _corners(
                        layout[s, p, 0], layout[s, p, 1], layout[s, p, 2], points[n, first[p]], points[n, second[p]]
                    )
                    for k in range(C):
                        top = planes[a, k] + fu * (planes[b, k] - planes[a, k])
                        bottom = planes[c, k] + fu * (planes[d, k] - planes[c, k])
                        space[k] *= top + fv * (bottom - top)
                for t in range(T):
                    for k in range(C):
                        out[t, n, s * C + k] = space[k]
                    if not temporal:
                        continue
                    for p in range(6):
                        if second[p] != 3:
                            continue
                        a, b, c, d, fu, fv, _, _ = _corners(
                            layout[s, p, 0], layout[s, p, 1], layout[s, p, 2], points[n, first[p]], taus[t]
                        )
                        for k in range(C):
                            top = planes[a, k] + fu * (planes[b, k] - planes[a, k])
                            bottom = planes[c, k] + fu * (planes[d, k] - planes[c, k])
                            out[t, n, s * C + k] *= top + fv * (bottom - top)
        chunk = next_task(counter)


@njit(fastmath=FAST, cache=True, nogil=True)
def _backward_samples(
    counter, tasks, planes, layout, points, taus, temporal, first, second, grad, d_space, d_time, d_points
):
    """Gradients of every bilinear sample (d_space [N, S, 3, C], d_time [T, N, S, 3, C]) and of the coordinates."""
    N, T, S, C = points.shape[0], taus.shape[0], layout.shape[0], planes.shape[1]
    v = np.empty((6, C), planes.dtype)  # the six samples
    du = np.empty((6, C), planes.dtype)  # their derivatives along the first and the second axis
    dv = np.empty((6, C), planes.dtype)
    chunk = next_task(counter)
    while chunk < tasks:
        for n in range(chunk * _CHUNK, min(N, (chunk + 1) * _CHUNK)):
            gx, gy, gz = points[n, 0] * 0, points[n, 0] * 0, points[n, 0] * 0
            for s in range(S):
                for p in range(6):
                    if second[p] == 3:
                        v[p] = 1
                        du[p] = 0
                        continue
                    a, b, c, d, fu, fv, su, sv = _corners(
                        layout[s, p, 0], layout[s, p, 1], layout[s, p, 2], points[n, first[p]], points[n, second[p]]
                    )
                    for k in range(C):
                        right_top, right_bottom = planes[b, k] - planes[a, k], planes[d, k] - planes[c, k]
                        top = planes[a, k] + fu * right_top
                        bottom = planes[c, k] + fu * right_bottom
                        v[p, k] = top + fv * (bottom - top)
                        du[p, k] = su * (right_top + fv * (right_bottom - right_top))
                        dv[p, k] = sv * (bottom - top)
                d_space[n, s] = 0
                for t in range(T):
                    if temporal:
                        for p in range(6):
                            if second[p] != 3:
                                continue
                            a, b, c, d, fu, fv, su, sv = _corners(
                                layout[s, p, 0], layout[s, p, 1], layout[s, p, 2], points[n, first[p]], taus[t]
                            )
                            for k in range(C):
                                right_top, right_bottom = planes[b, k] - planes[a, k], planes[d, k] - planes[c, k]
                                top = planes[a, k] + fu * right_top
                                bottom = planes[c, k] + fu * right_bottom
                                v[p, k] = top + fv * (bottom - top)
                                du[p, k] = su * (right_top + fv * (right_bottom - right_top))
                    for k in range(C):
                        g = grad[t, n, s * C + k]
                        # Pairs: 0 xy, 1 xz, 2 xt, 3 yz, 4 yt, 5 zt. Products of the other five, without division.
                        space = v[0, k] * v[1, k] * v[3, k]
                        time = v[2, k] * v[4, k] * v[5, k]
                        gs, gt = g * time, g * space
                        g_xy, g_xz, g_yz = gs * v[1, k] * v[3, k], gs * v[0, k] * v[3, k], gs * v[0, k] * v[1, k]
                        g_xt, g_yt, g_zt = gt * v[4, k] * v[5, k], gt * v[2, k] * v[5, k], gt * v[2, k] * v[4, k]
                        d_space[n, s, 0, k] += g_xy
                        d_space[n, s, 1, k] += g_xz
                        d_space[n, s, 2, k] += g_yz
                        if temporal:
                            d_time[t, n, s, 0, k] = g_xt
                            d_time[t, n, s, 1, k] = g_yt
                            d_time[t, n, s, 2, k] = g_zt
                        gx += g_xy * du[0, k] + g_xz * du[1, k] + g_xt * du[2, k]
                        gy += g_xy * dv[0, k] + g_yz * du[3, k] + g_yt * du[4, k]
                        gz += g_xz * dv[1, k] + g_yz * dv[3, k] + g_zt * du[5, k]
            d_points[n, 0], d_points[n, 1], d_points[n, 2] = gx, gy, gz
        chunk = next_task(counter)


@njit(inline="always")
def _scatter(d_planes, value, a, b, c, d, fu, fv):
    w11 = fu * fv
    w01, w10 = fu - w11, fv - w11
    w00 = 1 - fu - w10
    for k in range(value.shape[0]):
        g = value[k]
        d_planes[a, k] += w00 * g
        d_planes[b, k] += w01 * g
        d_planes[c, k] += w10 * g
        d_planes[d, k] += w11 * g


@njit(fastmath=FAST, cache=True, nogil=True)
def _backward_planes(counter, tasks, layout, points, taus, temporal, first, second, d_space, d_time, d_planes):
    """Scatter the samples' gradients; one task owns one plane, so no two threads write one texel."""
    N, T = points.shape[0], taus.shape[0]
    task = next_task(counter)
    while task < tasks:
        s, p = task // 6, task % 6
        offset, height, width = layout[s, p, 0], layout[s, p, 1], layout[s, p, 2]
        if second[p] != 3:
            row = 2 if p == 3 else p
            for n in range(N):
                a, b, c, d, fu, fv, _, _ = _corners(offset, height, width, points[n, first[p]], points[n, second[p]])
                _scatter(d_planes, d_space[n, s, row], a, b, c, d, fu, fv)
        elif temporal:
            row = first[p]
            for t in range(T):
                for n in range(N):
                    a, b, c, d, fu, fv, _, _ = _corners(offset, height, width, points[n, first[p]], taus[t])
                    _scatter(d_planes, d_time[t, n, s, row], a, b, c, d, fu, fv)
        task = next_task(counter)


class _Sample(torch.autograd.Function):
    @staticmethod
    def forward(ctx, planes: Tensor, layout: Tensor, points: Tensor, taus: Tensor, temporal: bool) -> Tensor:
        ctx.save_for_backward(planes, layout, points, taus)
        ctx.temporal = temporal
        N = points.shape[0]
        out = planes.new_empty(taus.shape[0], N, layout.shape[0] * planes.shape[1])
        given = arrays(planes, layout, points, taus)
        run_tasks(_forward, _chunks(N), *given, temporal, _FIRST, _SECOND, out.numpy())
        return out

    @staticmethod
    def backward(ctx, grad: Tensor):
        planes, layout, points, taus = ctx.saved_tensors
        T, N, (S, C) = taus.shape[0], points.shape[0], (layout.shape[0], planes.shape[1])
        d_space = planes.new_empty(N, S, 3, C)
        d_time = planes.new_empty((T, N, S, 3, C) if ctx.temporal else (T, 0, S, 3, C))
        d_points, d_planes = points.new_empty(N, 3), planes.new_zeros(planes.shape)
        common = *arrays(layout, points, taus), ctx.temporal, _FIRST, _SECOND
        samples = arrays(d_space, d_time)
        run_tasks(_backward_samples, _chunks(N), *arrays(planes), *common, *arrays(grad), *samples, d_points.numpy())
        run_tasks(_backward_planes, 6 * S, *common, *samples, d_planes.numpy())
        return d_planes, None, d_points, None, None


def _chunks(N: int) -> int:
    return -(-N // _CHUNK)


def sample_planes(planes: Tensor, layout: Tensor, points: Tensor, taus: Tensor, temporal: bool) -> Tensor:
    """Features [F, N, S * C] of normalised `points` [N, 3] at `taus` [F].

    planes [texels, C] and layout [S, 6, 3] (offset, height, width of each plane) as `TemporalCodebook` keeps them.
    Differentiable in planes and points, not in taus. Twin: `TemporalCodebook.sample_torch`.
    """
    return _Sample.apply(planes, layout, points, taus.to(points.dtype), temporal)


follow(_forward, numba_threads)
