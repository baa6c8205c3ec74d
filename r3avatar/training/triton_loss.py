"""The photometric terms of the training loss as three Triton kernels; the torch twin is `AvatarLoss._torch_terms`.

A row of an image is treated as 3 W values: the window's taps are 3 values apart, and neighbouring threads read
neighbouring addresses. A program owns a strip of COLUMNS values and marches down ROWS rows of it: it blurs every row
horizontally from global memory (the taps come from the L1 cache) and pushes it into a vertical window of ten open sums
in registers. So the blurred maps, which are 12 floats a pixel, never reach memory. The forward kernel leaves the slopes
of SSIM by the three blurred maps that depend on the render (9 floats a pixel), and the backward kernel blurs those.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from r3avatar.evaluation import metrics
from r3avatar.training import losses

# Tuning: values of a row and rows that one program covers, and its warps. COLUMNS is a power of two, 32 * WARPS or a
# small multiple; fewer rows mean more programs, and more of the 10 rows of overlap.
COLUMNS, ROWS, WARPS = 128, 24, 4
# Threads read single values, wherever these lie: no kernel of its own for a batch that is a slice of a buffer.
_INPUTS = ["rgb", "alpha", "truth", "mask", "rect", "squared"]
# The finishing kernel is one program that sums blocks of IMAGES x TILES.
IMAGES, TILES = 16, 64

_taps = [math.exp(-(k**2) / (2 * metrics.SIGMA**2)) for k in range(metrics.WINDOW // 2 + 1)]
_G0, _G1, _G2, _G3, _G4, _G5 = (tl.constexpr(tap / (2 * sum(_taps) - _taps[0])) for tap in _taps)
_DECAY = tl.constexpr(-0.5 / metrics.SIGMA**2)
_E = tl.constexpr(math.e)
_C1, _C2 = tl.constexpr(metrics.C1), tl.constexpr(metrics.C2)
_PERSON, _BOUND = tl.constexpr(losses.PERSON), tl.constexpr(losses.BOUND)


def photometric_terms(
    rgb: Tensor,
    alpha: Tensor,
    truth: Tensor,
    mask: Tensor,
    rect: Tensor,
    l1: float,
    mask_weight: float,
    ssim: float,
    white_background: bool = False,
    squared: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """L1, squared error of alpha and 1 - SSIM, unweighted, and their weighted sum: four scalars on the device.

    Args:
        rgb, alpha: the render, float32 [B, H, W, 3] and [B, H, W]; gradients flow to them.
        truth, mask: uint8 [B, H, W, 3] and [B, H, W], as in `Batch`.
        rect: int64 [B, 4] x, y, width, height of the rectangle that holds the bound mask, as in `Batch`. Nothing
            outside it is read: bound pixels there would not count.
        l1, mask_weight, ssim: weights in the sum. With ssim = 0 SSIM is not computed, and its term is meaningless.
        white_background: put the truth on white.
        squared: float32 [B]; where positive, L1 is so many times the squared error instead. None: nowhere.

    Raises:
        TypeError, ValueError: tensors of another type or shape.
    Source: R3-Avatar (arXiv 2503.12751), training losses; SSIM as in `metrics.ssim_map`.
    """
    B, H, W = alpha.shape
    if rgb.dtype != torch.float32 or alpha.dtype != torch.float32:
        raise TypeError(
            f"the Triton loss takes float32 renders, not {rgb.dtype} and {alpha.dtype}; set loss.backend=torch"
        )
    if truth.dtype != torch.uint8 or mask.dtype != torch.uint8 or rect.dtype != torch.int64:
        raise TypeError(f"truth and mask must be uint8 and rect int64, not {truth.dtype}, {mask.dtype}, {rect.dtype}")
    if rgb.shape != (B, H, W, 3) or truth.shape != rgb.shape or mask.shape != alpha.shape or rect.shape != (B, 4):
        shapes = ", ".join(str(tuple(x.shape)) for x in (rgb, alpha, truth, mask, rect))
        raise ValueError(f"rgb, alpha, truth, mask, rect must be [B, H, W, 3], [B, H, W] twice over, [B, 4]: {shapes}")
    if squared is not None and (squared.dtype != torch.float32 or squared.shape != (B,)):
        raise ValueError(f"squared must be float32 [{B}], not {squared.dtype} {list(squared.shape)}")
    grad = torch.is_grad_enabled() and (rgb.requires_grad or alpha.requires_grad)
    tensors = [x.contiguous() for x in (rgb, alpha, truth, mask, rect)]
    return _Photometric.apply(*tensors, squared, (float(l1), float(mask_weight), float(ssim)), white_background, grad)


class _Photometric(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rgb, alpha, truth, mask, rect, squared, weights, white, grad):
        B, H, W = alpha.shape
        grid = (triton.cdiv(3 * W, COLUMNS), triton.cdiv(H, ROWS), B)
        tiles, has_ssim = grid[0] * grid[1], weights[2] > 0
        sums = rgb.new_empty(4, B, tiles)
        slopes = rgb.new_empty(3, B, H, 3 * W) if grad and has_ssim else None
        _forward[grid](
            rgb, alpha, truth, mask, rect, squared, sums, slopes, H, W,
            COLUMNS=COLUMNS, ROWS=ROWS, SSIM=has_ssim, GRAD=slopes is not None, WHITE=white, num_warps=WARPS,
        )  # fmt: skip
        pixels, terms = rgb.new_empty(B), [rgb.new_empty(()) for _ in range(4)]
        _finish[(1,)](sums, rect, pixels, *terms, *weights, B, tiles, IMAGES=IMAGES, TILES=TILES, num_warps=4)
        ctx.save_for_backward(rgb, alpha, truth, mask, rect, squared, slopes, pixels)
        ctx.weights, ctx.white = weights, white
        ctx.set_materialize_grads(False)  # training asks for the sum's gradient alone
        return tuple(terms)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        rgb, alpha, truth, mask, rect, squared, slopes, pixels = ctx.saved_tensors
        B, H, W = alpha.shape
        d_rgb, d_alpha = torch.empty_like(rgb), torch.empty_like(alpha)
        _backward[(triton.cdiv(3 * W, COLUMNS), triton.cdiv(H, ROWS), B)](
            rgb, alpha, truth, mask, rect, squared, slopes, pixels, *grads, *ctx.weights, d_rgb, d_alpha, H, W,
            COLUMNS=COLUMNS, ROWS=ROWS, SSIM=slopes is not None, WHITE=ctx.white, num_warps=WARPS,
        )  # fmt: skip
        return d_rgb, d_alpha, *(None,) * 7


@triton.jit
def _tap(k: tl.constexpr):
    """The window's weight k pixels from its centre."""
    return _G0 * _E ** (_DECAY * k * k)


@triton.jit
def _push(row, s0, s1, s2, s3, s4, s5, s6, s7, s8, s9):
    """Push a row into a vertical window: the blurred value five rows above, now complete, and the ten open sums."""
    done = s0 + _G5 * row
    s0, s1, s2, s3 = s1 + _G4 * row, s2 + _G3 * row, s3 + _G2 * row, s4 + _G1 * row
    s4, s5, s6, s7 = s5 + _G0 * row, s6 + _G1 * row, s7 + _G2 * row, s8 + _G3 * row
    return done, s0, s1, s2, s3, s4, s5, s6, s7, s9 + _G4 * row, _G5 * row


@triton.jit
def _truth(truth, mask, at, pixel, valid, WHITE: tl.constexpr):
    """The truth's values at `at` in [0, 1], on the background; 0 where not valid."""
    value = tl.load(truth + at, mask=valid, other=0).to(tl.float32) * (1 / 255)  # 255 gives exactly 1
    if WHITE:
        bits = tl.load(mask + pixel, mask=valid, other=_PERSON).to(tl.int32)
        value += tl.where((bits & _PERSON) == 0, 1.0, 0.0)
    return value


@triton.jit
def _weight(squared, image):
    """The image's weight of the squared error; 0 where L1 stays."""
    value = 0.0
    if squared is not None:
        value += tl.load(squared + image)
    return value


@triton.jit
def _clip(rect, image, row0, height, width, COLUMNS: tl.constexpr, ROWS: tl.constexpr):
    """The rectangle in values and rows: low, high, top, bottom; its rows inside the tile: first, last (both the tile's
    end if there are none); and the tile's end."""
    x, y = tl.load(rect + 4 * image).to(tl.int32), tl.load(rect + 4 * image + 1).to(tl.int32)
    w, h = tl.load(rect + 4 * image + 2).to(tl.int32), tl.load(rect + 4 * image + 3).to(tl.int32)
    low, high = 3 * tl.maximum(x, 0), 3 * tl.minimum(x + w, width)
    top, bottom = tl.maximum(y, 0), tl.minimum(y + h, height)
    end = tl.minimum(row0 + ROWS, height)
    first, last = tl.maximum(top, row0), tl.minimum(bottom, end)
    column0 = tl.program_id(0) * COLUMNS
    empty = (first >= last) | (tl.maximum(low, column0) >= tl.minimum(high, column0 + COLUMNS))
    return low, high, top, bottom, tl.where(empty, end, first), tl.where(empty, end, last), end


@triton.jit(do_not_specialize=["height", "width"], do_not_specialize_on_alignment=_INPUTS)
def _forward(
    rgb, alpha, truth, mask, rect, squared, sums, slopes, height, width,
    COLUMNS: tl.constexpr, ROWS: tl.constexpr, SSIM: tl.constexpr, GRAD: tl.constexpr, WHITE: tl.constexpr,
):  # fmt: skip
    """Sums [4, B, tiles] of |colour error|, squared error of alpha, bound pixels and SSIM; and SSIM's slopes
    [3, B, H, 3W] by the blurred x, x^2 + y^2 and x y (x the render, y the truth), inside the rectangle only."""
    image, row0 = tl.program_id(2).to(tl.int64), tl.program_id(1) * ROWS
    low, high, top, bottom, first, last, _end = _clip(rect, image, row0, height, width, COLUMNS, ROWS)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    pixel = column // 3
    leads = column == 3 * pixel  # one of a pixel's three values speaks for its alpha and mask
    columns = (column >= low) & (column < high)
    plane = tl.num_programs(2) * height.to(tl.int64) * width * 3
    zero = tl.zeros([COLUMNS], tl.float32)
    errors, squares, bounds, similarity = zero, zero, zero, zero
    weight = _weight(squared, image)
    x0, x1, x2, x3, x4, x5, x6, x7, x8, x9 = zero, zero, zero, zero, zero, zero, zero, zero, zero, zero
    y0, y1, y2, y3, y4, y5, y6, y7, y8, y9 = zero, zero, zero, zero, zero, zero, zero, zero, zero, zero
    s0, s1, s2, s3, s4, s5, s6, s7, s8, s9 = zero, zero, zero, zero, zero, zero, zero, zero, zero, zero
    p0, p1, p2, p3, p4, p5, p6, p7, p8, p9 = zero, zero, zero, zero, zero, zero, zero, zero, zero, zero
    entering, stop = first - 5, tl.where(first < last, last + 5, first - 5)
    while entering < stop:
        row = entering - 5  # the row whose vertical window the entering row completes
        line = image * height + row
        # A vector of the row: Triton 3.9's interpreter turns a scalar's and a vector's conjunction into integers.
        colours, inside = line * width * 3 + column, columns & (row + tl.zeros_like(column) >= first)
        if SSIM:
            right = tl.where((entering >= top) & (entering < bottom), high, low)  # nothing enters from outside
            x_row, y_row, s_row, p_row = zero, zero, zero, zero
            ahead = (image * height + entering) * width
            for k in tl.static_range(-5, 6):
                tap, valid = _tap(k), (column + 3 * k >= low) & (column + 3 * k < right)
                x = tl.load(rgb + (ahead * 3 + column) + 3 * k, mask=valid, other=0.0)
                y = _truth(truth + 3 * k, mask + k, ahead * 3 + column, ahead + pixel, valid, WHITE)
                x_row += tap * x
                y_row += tap * y
                s_row += tap * (x * x + y * y)
                p_row += tap * (x * y)
            mx, x0, x1, x2, x3, x4, x5, x6, x7, x8, x9 = _push(x_row, x0, x1, x2, x3, x4, x5, x6, x7, x8, x9)
            my, y0, y1, y2, y3, y4, y5, y6, y7, y8, y9 = _push(y_row, y0, y1, y2, y3, y4, y5, y6, y7, y8, y9)
            ms, s0, s1, s2, s3, s4, s5, s6, s7, s8, s9 = _push(s_row, s0, s1, s2, s3, s4, s5, s6, s7, s8, s9)
            mp, p0, p1, p2, p3, p4, p5, p6, p7, p8, p9 = _push(p_row, p0, p1, p2, p3, p4, p5, p6, p7, p8, p9)
            mean_product, mean_squares = mx * my, mx * mx + my * my
            a1, a2 = 2 * mean_product + _C1, 2 * (mp - mean_product) + _C2
            r1, r2 = 1 / (mean_squares + _C1), 1 / (ms - mean_squares + _C2)
            ratio = a1 * a2 * r1 * r2
            similarity += tl.where(inside, ratio, 0.0)
            if GRAD:
                by_x = 2 * (my * (a2 - a1) * r1 * r2 - mx * ratio * (r1 - r2))
                tl.store(slopes + colours, by_x, mask=inside)
                tl.store(slopes + plane + colours, -ratio * r2, mask=inside)
                tl.store(slopes + 2 * plane + colours, 2 * a1 * r1 * r2, mask=inside)
        bits = tl.load(mask + line * width + pixel, mask=inside, other=0).to(tl.int32)
        bound, person = (bits & _BOUND) != 0, tl.where((bits & _PERSON) != 0, 1.0, 0.0)
        x = tl.load(rgb + colours, mask=bound, other=0.0)
        y = _truth(truth, mask, colours, line * width + pixel, bound, WHITE)
        difference = tl.load(alpha + line * width + pixel, mask=bound & leads, other=0.0) - person
        errors += tl.where(weight > 0, weight * (x - y) * (x - y), tl.abs(x - y))
        squares += tl.where(bound & leads, difference * difference, 0.0)
        bounds += tl.where(bound & leads, 1.0, 0.0)
        entering += 1
    tiles = tl.num_programs(0) * tl.num_programs(1)
    count = tl.num_programs(2) * tiles
    out = sums + image * tiles + tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    tl.store(out, tl.sum(errors, 0))
    tl.store(out + count, tl.sum(squares, 0))
    tl.store(out + 2 * count, tl.sum(bounds, 0))
    tl.store(out + 3 * count, tl.sum(similarity, 0))


@triton.jit(do_not_specialize=["images", "tiles"])
def _finish(
    sums, rect, pixels, l1, mask, ssim, total, l1_weight, mask_weight, ssim_weight, images, tiles,
    IMAGES: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """The tiles' sums to the mean over images of each term, their weighted sum, and each image's bound pixels [B]."""
    nothing = tl.zeros([IMAGES], tl.float32)
    errors, squares, dissimilarity = nothing, nothing, nothing
    begin = 0
    while begin < images:
        image = begin + tl.arange(0, IMAGES)
        known = image < images
        block = tl.zeros([IMAGES, TILES], tl.float32)
        a, b, c, d = block, block, block, block
        start = 0
        while start < tiles:
            tile = start + tl.arange(0, TILES)
            at, valid = sums + image[:, None] * tiles + tile[None, :], known[:, None] & (tile < tiles)[None, :]
            a += tl.load(at, mask=valid, other=0.0)
            b += tl.load(at + images * tiles, mask=valid, other=0.0)
            c += tl.load(at + 2 * images * tiles, mask=valid, other=0.0)
            d += tl.load(at + 3 * images * tiles, mask=valid, other=0.0)
            start += TILES
        count = tl.maximum(tl.sum(c, 1), 1.0)
        tl.store(pixels + image, count, mask=known)
        w = tl.load(rect + 4 * image + 2, mask=known, other=0)
        h = tl.load(rect + 4 * image + 3, mask=known, other=0)
        area = tl.maximum((w * h).to(tl.float32), 1.0)
        errors += tl.sum(a, 1) / (3 * count)
        squares += tl.sum(b, 1) / count
        dissimilarity += tl.where(known, 1 - tl.sum(d, 1) / (3 * area), 0.0)
        begin += IMAGES
    l1_mean, mask_mean = tl.sum(errors, 0) / images, tl.sum(squares, 0) / images
    ssim_mean = tl.sum(dissimilarity, 0) / images
    tl.store(l1, l1_mean)
    tl.store(mask, mask_mean)
    tl.store(ssim, ssim_mean)
    tl.store(total, l1_weight * l1_mean + mask_weight * mask_mean + ssim_weight * ssim_mean)


@triton.jit
def _gradient(own, total, weight):
    """dL/d(term): through the term itself and through the weighted sum, either of which may be absent (None)."""
    value = 0.0
    if own is not None:
        value += tl.load(own)
    if total is not None:
        value += weight * tl.load(total)
    return value


@triton.jit
def _clear(d_rgb, d_alpha, line, width, column, pixel, leads):
    """Zero gradients of one row of the strip; `line` is the row's number in the batch."""
    tl.store(d_rgb + line * width * 3 + column, tl.zeros_like(column).to(tl.float32), mask=column < 3 * width)
    tl.store(d_alpha + line * width + pixel, tl.zeros_like(column).to(tl.float32), mask=leads & (column < 3 * width))


@triton.jit(do_not_specialize=["height", "width"], do_not_specialize_on_alignment=_INPUTS)
def _backward(
    rgb, alpha, truth, mask, rect, squared, slopes, pixels, by_l1, by_mask, by_ssim, by_total, l1_weight, mask_weight,
    ssim_weight, d_rgb, d_alpha, height, width,
    COLUMNS: tl.constexpr, ROWS: tl.constexpr, SSIM: tl.constexpr, WHITE: tl.constexpr,
):  # fmt: skip
    """Gradients of render and alpha; all of them are written, zeros outside the rectangle.

    SSIM at q depends on the render at p through the blurred maps: d/dx(p) = G * by_x + 2 x (G * by_squares)
    + y (G * by_product), where G * is the same blur, since the window is symmetric.
    """
    image, row0 = tl.program_id(2).to(tl.int64), tl.program_id(1) * ROWS
    low, high, top, bottom, first, last, end = _clip(rect, image, row0, height, width, COLUMNS, ROWS)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    pixel = column // 3
    leads = column == 3 * pixel
    columns = (column >= low) & (column < high)
    above = row0
    while above < first:
        _clear(d_rgb, d_alpha, image * height + above, width, column, pixel, leads)
        above += 1
    images = tl.num_programs(2)
    plane = images * height.to(tl.int64) * width * 3
    count = tl.load(pixels + image) * images
    w, h = tl.load(rect + 4 * image + 2), tl.load(rect + 4 * image + 3)
    area = tl.maximum((w * h).to(tl.float32), 1.0) * images
    weight = _weight(squared, image)
    l1_scale = _gradient(by_l1, by_total, l1_weight) / (3 * count)
    mask_scale = 2 * _gradient(by_mask, by_total, mask_weight) / count
    ssim_scale = -_gradient(by_ssim, by_total, ssim_weight) / (3 * area)
    zero = tl.zeros([COLUMNS], tl.float32)
    x0, x1, x2, x3, x4, x5, x6, x7, x8, x9 = zero, zero, zero, zero, zero, zero, zero, zero, zero, zero
    s0, s1, s2, s3, s4, s5, s6, s7, s8, s9 = zero, zero, zero, zero, zero, zero, zero, zero, zero, zero
    p0, p1, p2, p3, p4, p5, p6, p7, p8, p9 = zero, zero, zero, zero, zero, zero, zero, zero, zero, zero
    entering, stop = first - 5, tl.where(first < last, last + 5, first - 5)
    while entering < stop:
        row = entering - 5
        line = image * height + row
        colours, inside = line * width * 3 + column, columns & (row + tl.zeros_like(column) >= first)
        bits = tl.load(mask + line * width + pixel, mask=inside, other=0).to(tl.int32)
        bound, person = (bits & _BOUND) != 0, tl.where((bits & _PERSON) != 0, 1.0, 0.0)
        x = tl.load(rgb + colours, mask=inside, other=0.0)
        y = _truth(truth, mask, colours, line * width + pixel, inside, WHITE)
        sign = tl.where(x > y, 1.0, 0.0) - tl.where(x < y, 1.0, 0.0)
        slope = tl.where(weight > 0, 2 * weight * (x - y), sign)
        gradient = tl.where(bound, l1_scale * slope, 0.0)
        if SSIM:
            right = tl.where((entering >= top) & (entering < bottom), high, low)
            x_row, s_row, p_row = zero, zero, zero
            ahead = (image * height + entering) * width * 3 + column
            for k in tl.static_range(-5, 6):
                tap, valid = _tap(k), (column + 3 * k >= low) & (column + 3 * k < right)
                x_row += tap * tl.load(slopes + ahead + 3 * k, mask=valid, other=0.0)
                s_row += tap * tl.load(slopes + plane + ahead + 3 * k, mask=valid, other=0.0)
                p_row += tap * tl.load(slopes + 2 * plane + ahead + 3 * k, mask=valid, other=0.0)
            bx, x0, x1, x2, x3, x4, x5, x6, x7, x8, x9 = _push(x_row, x0, x1, x2, x3, x4, x5, x6, x7, x8, x9)
            bs, s0, s1, s2, s3, s4, s5, s6, s7, s8, s9 = _push(s_row, s0, s1, s2, s3, s4, s5, s6, s7, s8, s9)
            bp, p0, p1, p2, p3, p4, p5, p6, p7, p8, p9 = _push(p_row, p0, p1, p2, p3, p4, p5, p6, p7, p8, p9)
            gradient += ssim_scale * (bx + 2 * x * bs + y * bp)
        wanted = (column < 3 * width) & (row + tl.zeros_like(column) >= first)
        tl.store(d_rgb + colours, tl.where(inside, gradient, 0.0), mask=wanted)
        at = line * width + pixel
        difference = tl.load(alpha + at, mask=bound & leads, other=0.0) - person
        tl.store(d_alpha + at, tl.where(bound, mask_scale * difference, 0.0), mask=wanted & leads)
        entering += 1
    below = last
    while below < end:
        _clear(d_rgb, d_alpha, image * height + below, width, column, pixel, leads)
        below += 1
