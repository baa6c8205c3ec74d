"""Compositing of all images of a call and the gradients' way back, on the GPU: a program a tile.

A program holds its tile's pixels in registers and takes the tile's list a few Gaussians at a time: [Gaussians, pixels]
blocks, whose Gaussians lie within a thread, so that the transmittance is a product in registers. The backward pass
walks front to back as well: with s = c . dL/dcolour + dL/dalpha,
    dL/dalpha_i = T_i s_i - (sum over j > i of w_j s_j) / (1 - alpha_i),
where the sum behind i is the whole pixel's minus what has been passed: nothing is kept for a (Gaussian, pixel) pair.
Its sums over pixels are added to the Gaussians' by atomic operations: they differ in the last bits from run to run.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

from ..triton_support import interpreting
from .projection import ALPHA_MAX, T_MIN
from .triton_binning import LOG2_255, LOG2E, RECORD, TILE, build_tile_lists, tile_grid

# For tuning: Gaussians a block (a power of two) and warps a tile. One warp a tile never waits for another.
FORWARD_GROUP, FORWARD_WARPS = 32, 1
BACKWARD_GROUP, BACKWARD_WARPS = 16, 1
SPREAD_BLOCK, SPREAD_WARPS = 128, 4
if interpreting():  # an operation costs much the same at any length there
    FORWARD_GROUP = BACKWARD_GROUP = 64
    SPREAD_BLOCK = 1024

# The interpreter runs functions given to a scan or a sum element by element, in Python: it gets built-in ones.
_INTERPRETED = tl.constexpr(interpreting())
_ALPHA_MAX = tl.constexpr(ALPHA_MAX)
_T_MIN = tl.constexpr(T_MIN)
_RECORD = tl.constexpr(RECORD)
_SUMS = tl.constexpr(9)  # of a Gaussian: q, q dx, q dy, q dx^2, q dx dy, q dy^2, red, green, blue; q = dL/dp / ln 2


class Composite(torch.autograd.Function):
    """Projected Gaussians to rgb [F, V, H, W, 3] and alpha [F, V, H, W].

    Takes means2d [F, V, N, 2], conics [F, V, N, 3], weights [F, V, N], colours [F, V, N, 3], depths [F, V, N] and boxes
    [F, V, N, 4], see triton_projection.py; background [3]; width, height; and the lists' `capacity` and `fill`, see
    `build_tile_lists`. Gradients reach the first four.
    """

    @staticmethod
    def forward(ctx, means2d, conics, weights, colours, depths, boxes, background, width, height, capacity, fill):
        F, V, N = depths.shape
        B, (columns, rows) = F * V, tile_grid(width, height)
        rgb, alpha = means2d.new_empty(F, V, height, width, 3), means2d.new_empty(F, V, height, width)
        flat = [x.contiguous().flatten(0, 1) for x in (means2d, conics, weights, colours, depths, boxes)]
        with torch.cuda.device_of(means2d):
            lists = build_tile_lists(*flat, width, height, capacity, fill)
            used = torch.empty_like(lists.counts)
            given = (lists.records, lists.ranks, lists.starts, lists.counts, used, background.contiguous(), rgb, alpha)
            _composite[(columns * rows * B,)](
                *given, N, B, width, height, columns, columns * rows,
                TILE=TILE, GROUP=FORWARD_GROUP, num_warps=FORWARD_WARPS,
            )  # fmt: skip
        ctx.save_for_backward(lists.order, lists.records, lists.ranks, lists.starts, used, background, rgb, alpha)
        return rgb, alpha

    @staticmethod
    @once_differentiable
    def backward(ctx, g_rgb, g_alpha):
        order, records, ranks, starts, used, background, rgb, alpha = ctx.saved_tensors
        F, V, height, width = alpha.shape
        B, N = order.shape
        columns, rows = tile_grid(width, height)
        sums = torch.zeros_like(records)
        empty = rgb.new_empty
        gradients = empty(F, V, N, 2), empty(F, V, N, 3), empty(F, V, N), empty(F, V, N, 3)
        with torch.cuda.device_of(rgb):
            given = (records, ranks, starts, used, background.contiguous(), rgb, alpha)
            _composite_backward[(columns * rows * B,)](
                *given, g_rgb.contiguous(), g_alpha.contiguous(), sums, N, B, width, height, columns, columns * rows,
                TILE=TILE, GROUP=BACKWARD_GROUP, COLUMNS=32 * BACKWARD_WARPS, num_warps=BACKWARD_WARPS,
            )  # fmt: skip
            _spread[(triton.cdiv(N, SPREAD_BLOCK), B)](
                order, records, sums, *gradients, N, BLOCK=SPREAD_BLOCK, num_warps=SPREAD_WARPS
            )
        return *gradients, *(None,) * 7


@triton.jit
def _alphas(records, ranks, k, count, px, py, GROUP: tl.constexpr):
    """Of the next GROUP Gaussians of a list: their colours [GROUP, 1], and [GROUP, pixels] offsets and alphas.

    Returns red, green, blue, dx, dy, alpha, and alpha where it follows the opacity, below its upper bound (else 0).
    """
    place = k + tl.arange(0, GROUP)
    listed = place < count
    row = tl.load(ranks + place, mask=listed, other=0) * _RECORD
    corner = tl.arange(0, 4)[None, :]
    block = records + row[:, None] + corner
    mask = listed[:, None] & (corner < 4)
    x, y, p_xx, p_xy = _columns(tl.load(block, mask=mask, other=0.0), GROUP)
    p_yy, opacity, red, green = _columns(tl.load(block + 4, mask=mask, other=0.0), GROUP)
    blue = tl.load(records + row + 8, mask=listed, other=0.0)
    opacity = tl.where(listed, opacity, -1000.0)  # in powers of two: never drawn
    dx, dy = px[None, :] - x[:, None], py[None, :] - y[:, None]
    power = opacity[:, None] + dx * (p_xx[:, None] * dx + p_xy[:, None] * dy) + p_yy[:, None] * dy * dy
    power = tl.minimum(power, opacity[:, None])
    alpha = tl.where(power >= -LOG2_255, tl.exp2(power), 0.0)
    free = tl.where(alpha < _ALPHA_MAX, alpha, 0.0)
    return red[:, None], green[:, None], blue[:, None], dx, dy, tl.minimum(alpha, _ALPHA_MAX), free


@triton.jit
def _columns(matrix, GROUP: tl.constexpr):
    """The four columns of a [GROUP, 4] matrix."""
    even, odd = tl.split(tl.reshape(matrix, (GROUP, 2, 2)))
    a, c = tl.split(even)
    b, d = tl.split(odd)
    return a, b, c, d


@triton.jit
def _pass(through, before, other, other_before):
    """Two stretches, one behind the other: what passes both, and what reaches the last Gaussian of the second."""
    return through * other, through * other_before


@triton.jit
def _transmittances(T, alpha, INTERPRETED: tl.constexpr):
    """Of pixels reached by T [pixels] through alphas [group, pixels]: the transmittance after and before each."""
    if INTERPRETED:
        after = tl.cumprod(1.0 - alpha, 0)
        before = after / (1.0 - alpha)
    else:
        after, before = tl.associative_scan((1.0 - alpha, tl.full(alpha.shape, 1.0, tl.float32)), 0, _pass)
    return T[None, :] * after, T[None, :] * before


@triton.jit(
    do_not_specialize=["background", "N", "B", "width", "height", "columns", "tiles"]
)  # fmt: skip
def _composite(
    records, ranks, starts, counts, used, background, rgb, alpha, N, B, width, height, columns, tiles,
    TILE: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    # Neighbouring programs take the same tile of different images: the crowded tiles, in the middle, are not the last.
    image, tile = (tl.program_id(0) % B).to(tl.int64), tl.program_id(0) // B
    pixel = tl.arange(0, TILE * TILE)
    x, y = tile % columns * TILE + pixel % TILE, tile // columns * TILE + pixel // TILE
    inside = (x < width) & (y < height)
    px, py = x.to(tl.float32) + 0.5, y.to(tl.float32) + 0.5
    records += image * N * _RECORD
    ranks += tl.load(starts + image * tiles + tile)
    count = tl.load(counts + image * tiles + tile)

    T = tl.where(inside, 1.0, 0.0)  # goes on falling where a pixel has ended
    light = tl.zeros([TILE * TILE], tl.float32)
    red, green, blue = light, light, light
    k, reach = 0, 1.0
    while (k < count) & (reach > _T_MIN):
        r, g, b, _, _, a, _ = _alphas(records, ranks, k, count, px, py, GROUP)
        after, before = _transmittances(T, a, _INTERPRETED)
        weight = tl.where(after > _T_MIN, a * before, 0.0)
        red += tl.sum(weight * r, 0)
        green += tl.sum(weight * g, 0)
        blue += tl.sum(weight * b, 0)
        light += tl.sum(weight, 0)
        T = tl.min(after, 0)
        reach = tl.max(T, 0)
        k += GROUP
    tl.store(used + image * tiles + tile, tl.minimum(k, count))

    i = (image * height + y) * width + x
    tl.store(alpha + i, light, mask=inside)
    tl.store(rgb + 3 * i, red + (1.0 - light) * tl.load(background), mask=inside)
    tl.store(rgb + 3 * i + 1, green + (1.0 - light) * tl.load(background + 1), mask=inside)
    tl.store(rgb + 3 * i + 2, blue + (1.0 - light) * tl.load(background + 2), mask=inside)


@triton.jit
def _sums_of_nine(x, INTERPRETED: tl.constexpr):
    """Nine sums over the last axis; together, so that the warps meet once."""
    if INTERPRETED:
        sums = tl.sum(x[0], 1), tl.sum(x[1], 1), tl.sum(x[2], 1), tl.sum(x[3], 1), tl.sum(x[4], 1)
        sums += tl.sum(x[5], 1), tl.sum(x[6], 1), tl.sum(x[7], 1), tl.sum(x[8], 1)
    else:
        sums = tl.reduce(x, 1, _add_nine)
    return sums


@triton.jit
def _add_nine(a0, a1, a2, a3, a4, a5, a6, a7, a8, b0, b1, b2, b3, b4, b5, b6, b7, b8):
    return a0 + b0, a1 + b1, a2 + b2, a3 + b3, a4 + b4, a5 + b5, a6 + b6, a7 + b7, a8 + b8


@triton.jit(
    do_not_specialize=["background", "g_rgb", "g_alpha", "sums", "N", "B", "width", "height", "columns", "tiles"]
)  # fmt: skip
def _composite_backward(
    records, ranks, starts, used, background, rgb, alpha, g_rgb, g_alpha, sums,
    N, B, width, height, columns, tiles, TILE: tl.constexpr, GROUP: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    image, tile = (tl.program_id(0) % B).to(tl.int64), tl.program_id(0) // B
    count = tl.load(used + image * tiles + tile)
    if count > 0:
        pixel = tl.arange(0, TILE * TILE)
        x, y = tile % columns * TILE + pixel % TILE, tile // columns * TILE + pixel // TILE
        inside = (x < width) & (y < height)
        px, py = x.to(tl.float32) + 0.5, y.to(tl.float32) + 0.5
        records += image * N * _RECORD
        sums += image * N * _RECORD
        ranks += tl.load(starts + image * tiles + tile)

        # The background shows through 1 - alpha: alpha's gradient carries its colour away. What is behind the first
        # Gaussian is the whole pixel less the background.
        i = (image * height + y) * width + x
        g_red = tl.load(g_rgb + 3 * i, mask=inside, other=0.0)
        g_green = tl.load(g_rgb + 3 * i + 1, mask=inside, other=0.0)
        g_blue = tl.load(g_rgb + 3 * i + 2, mask=inside, other=0.0)
        g_light = tl.load(g_alpha + i, mask=inside, other=0.0)
        shade = g_red * tl.load(background) + g_green * tl.load(background + 1) + g_blue * tl.load(background + 2)
        behind = g_light * tl.load(alpha + i, mask=inside, other=0.0) - shade
        behind += g_red * tl.load(rgb + 3 * i, mask=inside, other=0.0)
        behind += g_green * tl.load(rgb + 3 * i + 1, mask=inside, other=0.0)
        behind += g_blue * tl.load(rgb + 3 * i + 2, mask=inside, other=0.0)
        g_light -= shade

        T = tl.where(inside, 1.0, 0.0)
        # As wide as the warps: each has its own lanes of a row, as of the blocks, and nothing is moved between threads.
        column = tl.arange(0, COLUMNS)[None, :]
        k = 0
        while k < count:
            r, g, b, dx, dy, a, free = _alphas(records, ranks, k, count, px, py, GROUP)
            after, before = _transmittances(T, a, _INTERPRETED)
            drawn = after > _T_MIN
            weight = tl.where(drawn, a * before, 0.0)
            s = g_red[None, :] * r + g_green[None, :] * g + g_blue[None, :] * b + g_light[None, :]
            share = weight * s
            rest = behind[None, :] - tl.cumsum(share, 0)
            q = tl.where(drawn, free * (before * s - rest / (1.0 - a)), 0.0)
            qx, qy = q * dx, q * dy
            nine = (q, qx, qy, qx * dx, qx * dy, qy * dy)
            nine += (weight * g_red[None, :], weight * g_green[None, :], weight * g_blue[None, :])
            s0, s1, s2, s3, s4, s5, s6, s7, s8 = _sums_of_nine(nine, _INTERPRETED)
            value = tl.where(column == 0, s0[:, None], 0.0)
            value = tl.where(column == 1, s1[:, None], value)
            value = tl.where(column == 2, s2[:, None], value)
            value = tl.where(column == 3, s3[:, None], value)
            value = tl.where(column == 4, s4[:, None], value)
            value = tl.where(column == 5, s5[:, None], value)
            value = tl.where(column == 6, s6[:, None], value)
            value = tl.where(column == 7, s7[:, None], value)
            value = tl.where(column == 8, s8[:, None], value)
            place = k + tl.arange(0, GROUP)
            row = tl.load(ranks + place, mask=place < count, other=0) * _RECORD
            some = (place < count)[:, None] & (column < _SUMS) & (value != 0.0)
            tl.atomic_add(sums + row[:, None] + column, value, mask=some, sem="relaxed")
            T = tl.min(after, 0)
            behind -= tl.sum(share, 0)
            k += GROUP


@triton.jit(do_not_specialize=["N"])
def _spread(order, records, sums, d_means2d, d_conics, d_weights, d_colours, N, BLOCK: tl.constexpr):
    """From the sums over pixels, by rank, to the gradients of the Gaussians.

    With q = dL/d(power), power = -(a dx^2 + 2 b dx dy + c dy^2)/2 + ln(opacity) and dx = pixel - mean.
    """
    image = tl.program_id(1).to(tl.int64)
    rank = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    real = rank < N
    row = image * N + rank
    i = image * N + tl.load(order + row, mask=real, other=0)
    corner = tl.arange(0, 4)[None, :]
    at = row[:, None] * _RECORD + corner
    mask = real[:, None] & (corner < 4)
    q, qx, qy, qxx = _columns(tl.load(sums + at, mask=mask, other=0.0), BLOCK)
    qxy, qyy, red, green = _columns(tl.load(sums + at + 4, mask=mask, other=0.0), BLOCK)
    blue = tl.load(sums + row * _RECORD + 8, mask=real, other=0.0)
    _, _, a, b = _columns(tl.load(records + at, mask=mask, other=0.0), BLOCK)
    c, opacity, _, _ = _columns(tl.load(records + at + 4, mask=mask, other=0.0), BLOCK)
    a, b, c = a * (-2.0 / LOG2E), b * (-1.0 / LOG2E), c * (-2.0 / LOG2E)
    tl.store(d_means2d + 2 * i, a * qx + b * qy, mask=real)
    tl.store(d_means2d + 2 * i + 1, b * qx + c * qy, mask=real)
    tl.store(d_conics + 3 * i, -0.5 * qxx, mask=real)
    tl.store(d_conics + 3 * i + 1, -qxy, mask=real)
    tl.store(d_conics + 3 * i + 2, -0.5 * qyy, mask=real)
    tl.store(d_weights + i, q * tl.exp2(-opacity), mask=real)
    tl.store(d_colours + 3 * i, red, mask=real)
    tl.store(d_colours + 3 * i + 1, green, mask=real)
    tl.store(d_colours + 3 * i + 2, blue, mask=real)
