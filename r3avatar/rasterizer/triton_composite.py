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
BACKWARD_SUMS = "dot"  # over pixels: by tensor cores, or "reduce": by shuffles
BACKWARD_REGISTERS = 128  # a thread's, at most (None: 255): the fewer, the more tiles at work, and the more is spilled
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
                TILE=TILE, GROUP=BACKWARD_GROUP, COLUMNS=32 * BACKWARD_WARPS, SUMS=BACKWARD_SUMS,
                num_warps=BACKWARD_WARPS, maxnreg=BACKWARD_REGISTERS,
            )  # fmt: skip
            _spread[(triton.cdiv(N, SPREAD_BLOCK), B)](
                order, records, sums, *gradients, N, BLOCK=SPREAD_BLOCK, num_warps=SPREAD_WARPS
            )
        return *gradients, *(None,) * 7


@triton.jit
def _alphas(records, ranks, k, count, px, py, GROUP: tl.constexpr):
    """Of the next GROUP Gaussians of a list: their colours [GROUP, 1], and [GROUP, pixels] offsets and alphas.

    Returns red, green, blue, dx, dy, alpha, and where it follows the opacity, below its upper bound.
    """
    place = k + tl.arange(0, GROUP)
    listed = place < count
    row = tl.load(ranks + place, mask=listed, other=0) * _RECORD
    corner = tl.arange(0, 4)[None, :]
    block = records + row[:, None] + corner
    mask = listed[:, None] & (corner < 4)
    x, y, p_xx, p_xy = _columns(tl.load(block, mask=mask, other=0.0), GROUP)
    # What is not listed has its opacity, in powers of two, below all that is drawn.
    p_yy, opacity, red, green = _columns(tl.load(block + 4, mask=mask, other=-1000.0), GROUP)
    blue, _, _, _ = _columns(tl.load(block + 8, mask=mask, other=0.0), GROUP)
    dx, dy = px[None, :] - x[:, None], py[None, :] - y[:, None]
    opacity = opacity[:, None]
    # A thread's pixels have the same dx, and all but two products of each.
    power = opacity + p_xx[:, None] * dx * dx + dy * (p_xy[:, None] * dx + p_yy[:, None] * dy)
    power = tl.minimum(power, opacity)
    alpha = tl.where(power >= -LOG2_255, _exp2(power, _INTERPRETED), 0.0)
    return red[:, None], green[:, None], blue[:, None], dx, dy, tl.minimum(alpha, _ALPHA_MAX), alpha < _ALPHA_MAX


@triton.jit
def _exp2(x, INTERPRETED: tl.constexpr):
    """2^x of what is above -126: there an instruction, with nothing about it for smaller ones."""
    if INTERPRETED:
        return tl.exp2(x)
    else:
        return tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)


@triton.jit
def _reciprocal(x, INTERPRETED: tl.constexpr):
    """1 / x of what is neither tiny nor huge."""
    if INTERPRETED:
        return 1.0 / x
    else:
        return tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)


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
        after = T[None, :] * tl.cumprod(1.0 - alpha, 0)
        before = after / (1.0 - alpha)
    else:  # T within the first's: not a product for each
        first = tl.arange(0, alpha.shape[0])[:, None] == 0
        through = tl.where(first, T[None, :] * (1.0 - alpha), 1.0 - alpha)
        after, before = tl.associative_scan((through, tl.where(first, T[None, :], 1.0)), 0, _pass)
    return after, before


@triton.jit
def _last(x):
    """The last row of [group, pixels]. What adds nothing at all is -0: no addition is left of the sum."""
    return tl.sum(tl.where(tl.arange(0, x.shape[0])[:, None] == x.shape[0] - 1, x, -0.0), 0)


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


@triton.jit
def _columns_of_pixels(pixel, g_red, g_green, g_blue, TILE: tl.constexpr):
    """What `_add_by_dots` multiplies by, both [pixels, 8]: monomials of the offsets from the tile's centre, exact in
    tf32: 1, x, y, x^2, xy, y^2; and the colour's gradients, then what tf32 leaves of them, then 1."""
    column = tl.arange(0, 8)[None, :]
    x, y = (pixel % TILE - (TILE / 2 - 0.5))[:, None], (pixel // TILE - (TILE / 2 - 0.5))[:, None]
    monomials = tl.where(column == 0, 1.0, 0.0)
    monomials = tl.where(column == 1, x, monomials)
    monomials = tl.where(column == 2, y, monomials)
    monomials = tl.where(column == 3, x * x, monomials)
    monomials = tl.where(column == 4, x * y, monomials)
    monomials = tl.where(column == 5, y * y, monomials)
    third = column % 3
    g = tl.where(third == 0, g_red[:, None], tl.where(third == 1, g_green[:, None], g_blue[:, None]))
    coarse = _coarse(g)
    shades = tl.where(column < 3, coarse, tl.where(column < 6, g - coarse, tl.where(column == 6, 1.0, 0.0)))
    return monomials, shades


@triton.jit
def _coarse(x):
    """The part of float32 values that tf32 holds; the rest of it is held but for 2^-21 of the value."""
    return (x.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)


@triton.jit
def _dot(x, matrix):
    """x [group, pixels] times what tf32 holds [pixels, 8]: of x both parts, or 1e-3 of it were lost."""
    # The way there and back has the compiler move x to where the product needs it before it is split, not the parts. A
    # difference, for a sum would be one long chain of dependent products.
    x = tl.trans(x)
    coarse = _coarse(x)
    part = tl.dot(tl.trans(coarse - x), matrix, input_precision="tf32")
    return tl.dot(tl.trans(coarse), matrix, input_precision="tf32") - part


@triton.jit
def _eight(matrix, GROUP: tl.constexpr):
    """The eight columns of a [GROUP, 8] matrix."""
    even, odd = tl.split(tl.reshape(matrix, (GROUP, 4, 2)))
    a, c, e, g = _columns(even, GROUP)
    b, d, f, h = _columns(odd, GROUP)
    return a, b, c, d, e, f, g, h


@triton.jit
def _matrix(a, b, c, d, GROUP: tl.constexpr):
    """Four columns [GROUP] as a [GROUP, 4] matrix."""
    return tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), (GROUP, 4))


@triton.jit
def _add_by_dots(q, weight, monomials, shades, left, top, records, ranks, sums, k, count, GROUP: tl.constexpr):
    """Add the nine sums over pixels of q and weight [GROUP, pixels] to those of GROUP Gaussians of a list."""
    place = k + tl.arange(0, GROUP)
    row = tl.load(ranks + place, mask=place < count, other=0) * _RECORD
    x, y = tl.load(records + row) - left, tl.load(records + row + 1) - top
    if not _INTERPRETED:  # nothing, but two are less likely than one to be computed once more in another layout
        q, weight = tl.inline_asm_elementwise(
            "mov.b32 $0, $2; mov.b32 $1, $3;", "=f,=f,f,f", [q, weight], (tl.float32, tl.float32), is_pure=True, pack=1
        )
    m, m_x, m_y, m_xx, m_xy, m_yy, _, _ = _eight(_dot(q, monomials), GROUP)
    red, green, blue, fine_red, fine_green, fine_blue, light, _ = _eight(_dot(weight, shades), GROUP)
    # From moments about the tile's centre to those about the mean, by the mean's offset.
    q_x, q_y = m_x - x * m, m_y - y * m
    q_xx, q_xy, q_yy = m_xx - x * (m_x + q_x), m_xy - x * m_y - y * q_x, m_yy - y * (m_y + q_y)
    corner = tl.arange(0, 4)[None, :]
    to = sums + row[:, None] + corner
    drawn = (place < count) & (light > 0.0)
    some = drawn[:, None] & (corner < 4)
    tl.atomic_add(to, _matrix(m, q_x, q_y, q_xx, GROUP), mask=some, sem="relaxed")
    tl.atomic_add(to + 4, _matrix(q_xy, q_yy, red + fine_red, green + fine_green, GROUP), mask=some, sem="relaxed")
    tl.atomic_add(sums + row + 8, blue + fine_blue, mask=drawn, sem="relaxed")


@triton.jit(
    do_not_specialize=["background", "g_rgb", "g_alpha", "N", "B", "width", "height", "columns", "tiles"]
)  # fmt: skip
def _composite_backward(
    records, ranks, starts, used, background, rgb, alpha, g_rgb, g_alpha, sums,
    N, B, width, height, columns, tiles,
    TILE: tl.constexpr, GROUP: tl.constexpr, COLUMNS: tl.constexpr, SUMS: tl.constexpr,
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
        first = tl.arange(0, GROUP)[:, None] == 0
        if SUMS == "dot":
            half: tl.constexpr = TILE // 2
            monomials, shades = _columns_of_pixels(pixel, g_red, g_green, g_blue, TILE)
            left, top = (tile % columns * TILE + half).to(tl.float32), (tile // columns * TILE + half).to(tl.float32)
        k = 0
        while k < count:
            r, g, b, dx, dy, a, free = _alphas(records, ranks, k, count, px, py, GROUP)
            after, before = _transmittances(T, a, _INTERPRETED)
            part = tl.where(after > _T_MIN, a, 0.0)
            weight = part * before
            s = g_light[None, :] + g_red[None, :] * r + g_green[None, :] * g + g_blue[None, :] * b
            share = weight * s
            rest = tl.cumsum(tl.where(first, behind[None, :] - share, -share), 0)
            q = tl.where(free, part * (before * s - rest * _reciprocal(1.0 - a, _INTERPRETED)), 0.0)
            if SUMS == "dot":
                _add_by_dots(q, weight, monomials, shades, left, top, records, ranks, sums, k, count, GROUP)
            else:
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
            T, behind = _last(after), _last(rest)
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
