"""GPU kernels of the temporal codebook: samples of six planes, their product, and its exact gradient.

At one time a plane of time is read along a single line, so the lines of a step's times are interpolated first
([F, scales * 3, W, C], small enough for the cache): every point then takes two texels of a line instead of four of a
plane, and its gradient two atomic additions instead of four. A program holds a tile of points x channels of one scale,
channels fastest, reads the planes of space once and walks over the times.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

# Elements (points x channels) a program, and its warps. The backward pass holds about thirty tiles in registers.
FORWARD_TILE, FORWARD_WARPS = 512, 4
BACKWARD_TILE, BACKWARD_WARPS = 512, 4
LINE_TILE, LINE_WARPS = 1024, 4


@triton.jit
def _cell(c, size):
    """Left texel, fraction and d(position)/d(coordinate) of a coordinate in [-1, 1] with border clamping."""
    last = (size - 1).to(c.dtype)
    u = (c + 1) * 0.5 * last
    slope = tl.where((u > 0) & (u < last), 0.5 * last, 0.0)
    u = tl.minimum(tl.maximum(u, 0.0), last)
    i = tl.maximum(tl.minimum(u.to(tl.int32), size - 2), 0)
    return i, u - i.to(c.dtype), slope


@triton.jit
def _corners(planes, entry, cu, cv, k, C: tl.constexpr):
    """Pointers [P, C] to the left upper texels, steps to the right and down, fractions and slopes [P, 1]."""
    offset = tl.load(entry).to(tl.int64)
    height = tl.load(entry + 1).to(tl.int32)
    width = tl.load(entry + 2).to(tl.int32)
    i, fu, su = _cell(cu, width)
    j, fv, sv = _cell(cv, height)
    at = planes + offset * C + (((j * width + i) * C)[:, None] + k[None, :])
    right = tl.minimum(width - 1, 1) * C  # nothing to the right in a plane of one column
    down = tl.minimum(height - 1, 1) * width * C
    return at, right, down, fu[:, None], fv[:, None], su[:, None], sv[:, None]


@triton.jit
def _sample(planes, entry, cu, cv, k, C: tl.constexpr):
    """A plane's samples [P, C] and their derivatives along the plane's two coordinates."""
    at, right, down, fu, fv, su, sv = _corners(planes, entry, cu, cv, k, C)
    a = tl.load(at)
    c = tl.load(at + down)
    right_top = tl.load(at + right) - a
    right_bottom = tl.load(at + (down + right)) - c
    top = a + fu * right_top
    bottom = c + fu * right_bottom
    return top + fv * (bottom - top), su * (right_top + fv * (right_bottom - right_top)), sv * (bottom - top)


@triton.jit
def _scatter(d_planes, entry, cu, cv, k, gradient, keep, C: tl.constexpr):
    """Add the gradient [P, C] of a plane's samples to its texels."""
    at, right, down, fu, fv, _, _ = _corners(d_planes, entry, cu, cv, k, C)
    lower = fv * gradient
    upper = gradient - lower
    tl.atomic_add(at, upper - fu * upper, mask=keep, sem="relaxed")
    tl.atomic_add(at + right, fu * upper, mask=keep, sem="relaxed")
    tl.atomic_add(at + down, lower - fu * lower, mask=keep, sem="relaxed")
    tl.atomic_add(at + (down + right), fu * lower, mask=keep, sem="relaxed")


@triton.jit
def _line_cell(entry, axis, c, W, k, C: tl.constexpr):
    """Offsets [P, C] in a time's lines of one scale, the step to the right, fractions [P, 1] and slopes [P]."""
    width = tl.load(entry + 2).to(tl.int32)
    i, f, slope = _cell(c, width)
    return ((axis * W + i) * C)[:, None] + k[None, :], tl.minimum(width - 1, 1) * C, f[:, None], slope


@triton.jit
def _line_sample(line, at, right, f):
    """A line's samples and their differences from left to right, [P, C]."""
    a = tl.load(line + at)
    difference = tl.load(line + at + right) - a
    return a + f * difference, difference


@triton.jit
def _line_scatter(line, at, right, f, gradient, keep):
    """Add the gradient [P, C] of a line's samples to its texels."""
    part = f * gradient
    tl.atomic_add(line + at, gradient - part, mask=keep, sem="relaxed")
    tl.atomic_add(line + at + right, part, mask=keep, sem="relaxed")


@triton.jit
def _coordinates(points, box, n, BOX: tl.constexpr):
    """Normalised coordinates of points n and d(normalised)/d(given) along x, y, z."""
    x = tl.load(points + n * 3)
    y = tl.load(points + n * 3 + 1)
    z = tl.load(points + n * 3 + 2)
    sx = 1.0
    sy = 1.0
    sz = 1.0
    if BOX:  # metres
        low_x = tl.load(box)
        low_y = tl.load(box + 1)
        low_z = tl.load(box + 2)
        sx = 2.0 / (tl.load(box + 3) - low_x)
        sy = 2.0 / (tl.load(box + 4) - low_y)
        sz = 2.0 / (tl.load(box + 5) - low_z)
        x = (x - low_x) * sx - 1
        y = (y - low_y) * sy - 1
        z = (z - low_z) * sz - 1
    return x, y, z, sx, sy, sz


@triton.jit
def _channels(n, N, C: tl.constexpr, K: tl.constexpr):
    """Channel numbers [K] that are safe to read, and where [P, K] results count."""
    k = tl.arange(0, K)
    keep = (n < N)[:, None]
    if K != C:
        keep = keep & (k < C)[None, :]
        k = tl.minimum(k, C - 1)
    return k, keep


@triton.jit
def _time_line(
    layout, times, length, lines, W, FRAMES: tl.constexpr, C: tl.constexpr, K: tl.constexpr, B: tl.constexpr
):
    """This program's B texels of one line: where they are in `lines`, in the plane (upper row), and the time's cell."""
    axis = tl.program_id(1)  # scale * 3 + axis
    t = tl.program_id(2)
    entry = layout + ((axis // 3) * 6 + 2 + axis % 3 + tl.minimum(axis % 3, 1)) * 3  # the pairs 2, 4, 5: xt, yt, zt
    offset = tl.load(entry).to(tl.int64)
    height = tl.load(entry + 1).to(tl.int32)
    width = tl.load(entry + 2).to(tl.int32)
    tau = tl.load(times + t)
    if FRAMES:
        tau = 2.0 * tau / length - 1
    j, f, _ = _cell(tau, height)
    i = tl.program_id(0) * B + tl.arange(0, B)
    k, keep = _channels(i, width, C, K)
    i = tl.minimum(i, width - 1)
    row = (offset + j * width) * C
    texel = (i * C)[:, None] + k[None, :]
    line = lines + (t * tl.num_programs(1) + axis) * W * C + texel
    return line, row, texel, tl.minimum(height - 1, 1) * width * C, f, keep


@triton.jit(do_not_specialize=["W"])
def _lines_kernel(
    planes, layout, times, length, lines, W,
    FRAMES: tl.constexpr, C: tl.constexpr, K: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    line, row, texel, down, f, keep = _time_line(layout, times, length, lines, W, FRAMES, C, K, B)
    upper = tl.load(planes + row + texel)
    lower = tl.load(planes + row + (texel + down))
    tl.store(line, upper + f * (lower - upper), mask=keep)


@triton.jit(do_not_specialize=["W"])
def _lines_backward_kernel(
    d_planes, layout, times, length, d_lines, W,
    FRAMES: tl.constexpr, C: tl.constexpr, K: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    line, row, texel, down, f, keep = _time_line(layout, times, length, d_lines, W, FRAMES, C, K, B)
    gradient = tl.load(line, mask=keep, other=0.0)
    lower = f * gradient  # atomic: two times of a step may share a row
    tl.atomic_add(d_planes + row + texel, gradient - lower, mask=keep, sem="relaxed")
    tl.atomic_add(d_planes + row + (texel + down), lower, mask=keep, sem="relaxed")


@triton.jit(do_not_specialize=["N", "F", "W"])
def _forward_kernel(
    planes, lines, layout, points, box, out, N, F, W,
    BOX: tl.constexpr, TEMPORAL: tl.constexpr, S: tl.constexpr, C: tl.constexpr, K: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * P + tl.arange(0, P)
    s = tl.program_id(1)
    k, keep = _channels(n, N, C, K)
    n = tl.minimum(n, N - 1)
    x, y, z, _, _, _ = _coordinates(points, box, n, BOX)
    entry = layout + s * 18
    xy, _, _ = _sample(planes, entry, x, y, k, C)
    xz, _, _ = _sample(planes, entry + 3, x, z, k, C)
    yz, _, _ = _sample(planes, entry + 9, y, z, k, C)
    space = xy * xz * yz
    target = (n * (S * C) + s * C)[:, None] + k[None, :]
    step = N.to(tl.int64) * (S * C)
    if TEMPORAL:
        at_x, right_x, fx, _ = _line_cell(entry + 6, 0, x, W, k, C)
        at_y, right_y, fy, _ = _line_cell(entry + 12, 1, y, W, k, C)
        at_z, right_z, fz, _ = _line_cell(entry + 15, 2, z, W, k, C)
    t = 0
    while t < F:
        value = space
        if TEMPORAL:
            line = lines + (t * S + s) * 3 * W * C
            xt, _xt_x = _line_sample(line, at_x, right_x, fx)
            yt, _yt_y = _line_sample(line, at_y, right_y, fy)
            zt, _zt_z = _line_sample(line, at_z, right_z, fz)
            value = space * (xt * yt * zt)
        tl.store(out + t * step + target, value, mask=keep)
        t += 1


@triton.jit(do_not_specialize=["N", "F", "W"])
def _backward_kernel(
    planes, lines, layout, points, box, grad, d_planes, d_lines, d_points, N, F, W,
    BOX: tl.constexpr, TEMPORAL: tl.constexpr, S: tl.constexpr, C: tl.constexpr, K: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * P + tl.arange(0, P)
    live = n < N
    s = tl.program_id(1)
    k, keep = _channels(n, N, C, K)
    n = tl.minimum(n, N - 1)
    x, y, z, scale_x, scale_y, scale_z = _coordinates(points, box, n, BOX)
    entry = layout + s * 18
    xy, xy_x, xy_y = _sample(planes, entry, x, y, k, C)
    xz, xz_x, xz_z = _sample(planes, entry + 3, x, z, k, C)
    yz, yz_y, yz_z = _sample(planes, entry + 9, y, z, k, C)
    space = xy * xz * yz
    source = (n * (S * C) + s * C)[:, None] + k[None, :]
    step = N.to(tl.int64) * (S * C)
    total = tl.zeros([P, K], space.dtype)  # the gradient of `space`
    gx = tl.zeros([P, K], space.dtype)
    gy = tl.zeros([P, K], space.dtype)
    gz = tl.zeros([P, K], space.dtype)
    if TEMPORAL:
        at_x, right_x, fx, slope_x = _line_cell(entry + 6, 0, x, W, k, C)
        at_y, right_y, fy, slope_y = _line_cell(entry + 12, 1, y, W, k, C)
        at_z, right_z, fz, slope_z = _line_cell(entry + 15, 2, z, W, k, C)
    t = 0
    while t < F:
        g = tl.load(grad + t * step + source, mask=keep, other=0.0)
        if TEMPORAL:
            start = (t * S + s) * 3 * W * C
            xt, xt_x = _line_sample(lines + start, at_x, right_x, fx)
            yt, yt_y = _line_sample(lines + start, at_y, right_y, fy)
            zt, zt_z = _line_sample(lines + start, at_z, right_z, fz)
            # Products of the other five samples, without division.
            gt = g * space
            g_xt = gt * (yt * zt)
            g_yt = gt * (xt * zt)
            g_zt = gt * (xt * yt)
            gx += g_xt * xt_x
            gy += g_yt * yt_y
            gz += g_zt * zt_z
            _line_scatter(d_lines + start, at_x, right_x, fx, g_xt, keep)
            _line_scatter(d_lines + start, at_y, right_y, fy, g_yt, keep)
            _line_scatter(d_lines + start, at_z, right_z, fz, g_zt, keep)
            g = g * (xt * yt * zt)
        total += g
        t += 1
    if TEMPORAL:
        gx *= slope_x[:, None]
        gy *= slope_y[:, None]
        gz *= slope_z[:, None]
    g_xy = total * (xz * yz)
    g_xz = total * (xy * yz)
    g_yz = total * (xy * xz)
    gx += g_xy * xy_x + g_xz * xz_x
    gy += g_xy * xy_y + g_yz * yz_y
    gz += g_xz * xz_z + g_yz * yz_z
    _scatter(d_planes, entry, x, y, k, g_xy, keep, C)
    _scatter(d_planes, entry + 3, x, z, k, g_xz, keep, C)
    _scatter(d_planes, entry + 9, y, z, k, g_yz, keep, C)
    at = d_points + n * 3  # atomic: the scales add up
    tl.atomic_add(at, tl.sum(gx, axis=1) * scale_x, mask=live, sem="relaxed")
    tl.atomic_add(at + 1, tl.sum(gy, axis=1) * scale_y, mask=live, sem="relaxed")
    tl.atomic_add(at + 2, tl.sum(gz, axis=1) * scale_z, mask=live, sem="relaxed")


class _Sample(torch.autograd.Function):
    @staticmethod
    def forward(ctx, planes, layout, points, times, box, length, widest, temporal):
        planes, points, times = planes.contiguous(), points.contiguous(), times.contiguous()
        N, F, S, C = points.shape[0], times.shape[0], layout.shape[0], planes.shape[1]
        K = triton.next_power_of_2(C)
        out = planes.new_empty(F, N, S * C)
        lines = planes.new_empty(F if temporal else 0, S * 3, widest, C)
        with torch.cuda.device_of(planes):
            if temporal and out.numel():
                B = max(1, LINE_TILE // K)
                _lines_kernel[(triton.cdiv(widest, B), S * 3, F)](
                    planes, layout, times, length or 0.0, lines, widest,
                    FRAMES=length is not None, C=C, K=K, B=B, num_warps=LINE_WARPS,
                )  # fmt: skip
            if out.numel():
                P = max(1, FORWARD_TILE // K)
                _forward_kernel[(triton.cdiv(N, P), S)](
                    planes, lines, layout, points, points if box is None else box, out, N, F, widest,
                    BOX=box is not None, TEMPORAL=temporal, S=S, C=C, K=K, P=P, num_warps=FORWARD_WARPS,
                )  # fmt: skip
        ctx.save_for_backward(planes, layout, points, times, box, lines)
        ctx.length, ctx.widest, ctx.temporal = length, widest, temporal
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        planes, layout, points, times, box, lines = ctx.saved_tensors
        N, F, S, C = points.shape[0], times.shape[0], layout.shape[0], planes.shape[1]
        K = triton.next_power_of_2(C)
        grad = grad.contiguous()
        # One buffer, so that one kernel fills it with zeros.
        zeros = planes.new_zeros(planes.numel() + lines.numel() + points.numel())
        d_planes, d_lines, d_points = zeros.split([planes.numel(), lines.numel(), points.numel()])
        with torch.cuda.device_of(planes):
            if grad.numel():
                P = max(1, BACKWARD_TILE // K)
                _backward_kernel[(triton.cdiv(N, P), S)](
                    planes, lines, layout, points, points if box is None else box, grad, d_planes, d_lines, d_points,
                    N, F, ctx.widest, BOX=box is not None, TEMPORAL=ctx.temporal, S=S, C=C, K=K, P=P,
                    num_warps=BACKWARD_WARPS,
                )  # fmt: skip
            if ctx.temporal and grad.numel():
                B = max(1, LINE_TILE // K)
                _lines_backward_kernel[(triton.cdiv(ctx.widest, B), S * 3, F)](
                    d_planes, layout, times, ctx.length or 0.0, d_lines, ctx.widest,
                    FRAMES=ctx.length is not None, C=C, K=K, B=B, num_warps=LINE_WARPS,
                )  # fmt: skip
        return d_planes.view_as(planes), None, d_points.view_as(points), None, None, None, None, None


def sample_planes(
    planes: Tensor,
    layout: Tensor,
    points: Tensor,
    times: Tensor,
    temporal: bool,
    widest: int,
    box: Tensor | None = None,
    recorded_length: float | None = None,
) -> Tensor:
    """Features [F, N, S * C] of `points` [N, 3] at `times` [F].

    planes [texels, C] and layout [S, 6, 3] (offset, height, width of each plane) as `TemporalCodebook` keeps them.
    widest: texels, the largest width among the planes of time; known on the host, so that no device is waited for.
    box: [2, 3] metres; None where `points` are normalised to [-1, 1] already.
    recorded_length: T, frames; None where `times` are normalised to [-1, 1] already.
    Differentiable once in planes and points, not in times. Twin: `TemporalCodebook.sample_torch`.
    """
    if points.dtype != planes.dtype:
        raise ValueError(f"points are {points.dtype}, the codebook's planes {planes.dtype}: give both one precision")
    times = times.to(points.dtype)
    return _Sample.apply(planes, layout, points, times, box, recorded_length, widest, temporal)
