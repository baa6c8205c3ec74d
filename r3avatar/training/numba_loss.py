"""The loss's terms that compare pixels, with their gradients, in CPU kernels: a few passes over the body's rectangles.

SSIM's windows are separable and act on rows of interleaved colours, so that every inner loop walks contiguous memory.
Pixels outside an image's rectangle are never read for SSIM: they count as the zeros that surround it. Sums are kept for
each strip of rows, a task, and added in one order: results do not depend on the number of threads.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable

from r3avatar import numba_threads
from r3avatar.evaluation import metrics
from r3avatar.evaluation.metrics import C1, C2, SIGMA, WINDOW
from r3avatar.numba_cache import follow
from r3avatar.numba_threads import FAST, arrays, next_task, run_tasks
from r3avatar.training import losses
from r3avatar.training.losses import BOUND, PERSON

_REACH = WINDOW // 2
_PAD = 3 * _REACH  # values before a row's first: its zero padding
_STRIP = 16  # rows a task: the windows' overlap costs 10 more
_TAPS = np.exp(-0.5 * (np.arange(_REACH + 1) / SIGMA) ** 2)  # from the centre outwards
_TAPS /= _TAPS[0] + 2 * _TAPS[1:].sum()


def photometric_terms(
    image: Tensor, alpha: Tensor, truth: Tensor, mask: Tensor, rect: Tensor, l1: float, silhouette: float, ssim: float,
    white: bool, squared: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Scalars l1, mask, ssim (1 - SSIM) and their weighted sum: means over images, as `AvatarLoss` defines them.

    Args:
        image: [B, H, W, 3] render, float32 or float64, on the CPU; alpha: [B, H, W].
        truth: [B, H, W, 3] uint8; mask: [B, H, W] uint8, bits 1 person and 2 bound; rect: [B, 4] x, y, width, height.
        l1, silhouette, ssim: weights of the three in the sum; SSIM of weight 0 is not computed and comes back as 0.
        white: the truth is put on white.
        squared: [B] weights of the squared error that takes the absolute one's place, 0 where it stays.
    """
    B, H, W = alpha.shape
    if image.shape != (B, H, W, 3) or truth.shape != image.shape or mask.shape != alpha.shape or rect.shape != (B, 4):
        shapes = ", ".join(str(tuple(x.shape)) for x in (image, alpha, truth, mask, rect))
        raise ValueError(f"image, alpha, truth, mask and rect are {shapes}; expected one [B, H, W] and [B, 4]")
    if squared is None:
        squared = torch.zeros(B)
    return _Photometric.apply(image, alpha, truth, mask, rect, squared, (l1, silhouette, ssim), white)


class _Photometric(torch.autograd.Function):
    @staticmethod
    def forward(ctx, image, alpha, truth, mask, rect, squared, weights, white):
        x, a, y, bits, boxes, square = arrays(image, alpha, truth, mask, rect, squared)
        B, H, W = a.shape
        boxes, areas = _clipped(boxes, H, W)
        strips = -(-H // _STRIP)
        sums = np.zeros((B, strips, 4))  # colour error, squared error of alpha, bound pixels, SSIM
        run_tasks(_compare, B * strips, x, a, y, bits, square, white, sums)
        slopes = None
        if weights[2]:
            needed = any(ctx.needs_input_grad[:2])
            slopes = np.empty((3, B, H, 3 * W) if needed else (3, 1, 1, 1), x.dtype)
            taps = _TAPS.astype(x.dtype)
            flat = x.reshape(B, H, -1), y.reshape(B, H, -1)
            run_tasks(_similar, B * strips, *flat, bits, boxes, white, taps, needed, sums, slopes)
        errors, squares, pixels, similarity = sums.sum(1).T
        pixels = np.maximum(pixels, 1)
        means = (errors / (3 * pixels)).mean(), (squares / pixels).mean()
        means = (*means, (1 - similarity / (3 * areas)).mean() if weights[2] else 0.0)
        ctx.save_for_backward(image, alpha, truth, mask, rect, squared)
        ctx.kept = weights, white, slopes, pixels
        return tuple(image.new_tensor(value) for value in (*means, np.dot(weights, means)))

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        x, a, y, bits, boxes, square = arrays(*ctx.saved_tensors)
        weights, white, slopes, pixels = ctx.kept
        B, H, W = a.shape
        boxes, areas = _clipped(boxes, H, W)
        own, total = np.array([float(g) for g in grads[:3]]), float(grads[3])
        l1, silhouette, ssim = (own + total * np.array(weights)) / B
        d_image, d_alpha = np.empty_like(x), np.empty_like(a)
        scale = x.dtype.type
        slope, alpha_slope = (l1 / (3 * pixels)).astype(scale), (silhouette / pixels).astype(scale)
        run_tasks(_compare_backward, B * H, x, a, y, bits, square, white, slope, alpha_slope, d_image, d_alpha)
        if slopes is not None and ssim:
            shares = (-ssim / (3 * areas)).astype(scale)
            x, y, d_flat = (array.reshape(B, H, -1) for array in (x, y, d_image))
            given = x, y, bits, boxes, white, _TAPS.astype(scale), shares, slopes
            run_tasks(_similar_backward, B * -(-H // _STRIP), *given, d_flat)
        return torch.from_numpy(d_image), torch.from_numpy(d_alpha), *(None,) * 6


def _clipped(rect: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Rectangles as left, top, right, bottom within the image [B, 4], and their whole areas [B], at least 1."""
    x, y, w, h = rect.astype(np.int64).T
    left, top = np.clip(x, 0, width), np.clip(y, 0, height)
    right, bottom = np.clip(x + w, left, width), np.clip(y + h, top, height)
    return np.stack([left, top, right, bottom], 1), np.maximum(w * h, 1).astype(np.float64)


@njit(inline="always")
def _true(value, bits, white):
    """A truth's value in [0, 1] on its background."""
    return value / 255 + (1.0 if white and not bits & PERSON else 0.0)


@njit(cache=True, nogil=True)
def _compare(counter, tasks, image, alpha, truth, mask, squared, white, sums):
    H, W = alpha.shape[1:]
    strips = sums.shape[1]
    task = next_task(counter)
    while task < tasks:
        b, strip = task // strips, task % strips
        errors, squares, pixels = 0.0, 0.0, 0.0
        weight = squared[b]
        for i in range(strip * _STRIP, min(H, (strip + 1) * _STRIP)):
            for j in range(W):
                bits = mask[b, i, j]
                if not bits & BOUND:
                    continue
                pixels += 1
                difference = alpha[b, i, j] - (bits & PERSON)
                squares += difference * difference
                for c in range(3):
                    error = image[b, i, j, c] - _true(truth[b, i, j, c], bits, white)
                    errors += weight * error * error if weight > 0 else abs(error)
        sums[b, strip, 0], sums[b, strip, 1], sums[b, strip, 2] = errors, squares, pixels
        task = next_task(counter)


@njit(cache=True, nogil=True)
def _compare_backward(counter, tasks, image, alpha, truth, mask, squared, white, l1, silhouette, d_image, d_alpha):
    H, W = alpha.shape[1:]
    task = next_task(counter)
    while task < tasks:
        b, i = task // H, task % H
        weight = 2 * squared[b]
        for j in range(W):
            bits = mask[b, i, j]
            if not bits & BOUND:
                d_alpha[b, i, j] = 0
                for c in range(3):
                    d_image[b, i, j, c] = 0
                continue
            d_alpha[b, i, j] = 2 * silhouette[b] * (alpha[b, i, j] - (bits & PERSON))
            for c in range(3):
                error = image[b, i, j, c] - _true(truth[b, i, j, c], bits, white)
                slope = weight * error if weight > 0 else (1.0 if error > 0 else -1.0 if error < 0 else 0.0)
                d_image[b, i, j, c] = l1[b] * slope
        task = next_task(counter)


@njit(inline="always")
def _load_truth(truth, mask, b, i, left, count, white, row):
    """A row of the truth from column `left`, `count` values, on its background."""
    inverse = row.dtype.type(1 / 255)
    for k in range(count):
        row[k] = truth[b, i, 3 * left + k] * inverse
    if white:
        for k in range(count):
            if not mask[b, i, left + k // 3] & PERSON:
                row[k] += 1


@njit(fastmath=FAST, cache=True, nogil=True)
def _blur_row(row, taps, out):
    """out[k] = the window's sum about row[k + _PAD], steps of three values."""
    t0, t1, t2, t3, t4, t5 = taps[0], taps[1], taps[2], taps[3], taps[4], taps[5]
    for k in range(len(out)):
        out[k] = (
            t0 * row[k + 15]
            + t1 * (row[k + 12] + row[k + 18])
            + t2 * (row[k + 9] + row[k + 21])
            + t3 * (row[k + 6] + row[k + 24])
            + t4 * (row[k + 3] + row[k + 27])
            + t5 * (row[k] + row[k + 30])
        )


@njit(fastmath=FAST, cache=True, nogil=True)
def _blur_rows(rows, first, taps, out):
    """out = the window's sum over the eleven rows from `first`."""
    t0, t1, t2, t3, t4, t5 = taps[0], taps[1], taps[2], taps[3], taps[4], taps[5]
    a, b, c, d, e, f = rows[first], rows[first + 1], rows[first + 2], rows[first + 3], rows[first + 4], rows[first + 5]
    g, h, i, j, k = rows[first + 6], rows[first + 7], rows[first + 8], rows[first + 9], rows[first + 10]
    for n in range(len(out)):
        out[n] = (
            t0 * f[n]
            + t1 * (e[n] + g[n])
            + t2 * (d[n] + h[n])
            + t3 * (c[n] + i[n])
            + t4 * (b[n] + j[n])
            + t5 * (a[n] + k[n])
        )


@njit(fastmath=FAST, cache=True, nogil=True)
def _ratio(mx, my, squares, product, dx, ds, dp):
    """The sum of a row's SSIM; its slopes by the blurred x, x^2 + y^2 and x y come in dx, ds and dp."""
    c1, c2, total = mx.dtype.type(C1), mx.dtype.type(C2), 0.0
    for k in range(len(mx)):
        both, own = mx[k] * my[k], mx[k] * mx[k] + my[k] * my[k]
        over_mean, over_spread = 2 * both + c1, 2 * (product[k] - both) + c2
        under_mean, under_spread = own + c1, squares[k] - own + c2
        scale = 1 / (under_mean * under_spread)
        value = over_mean * over_spread * scale
        total += value
        dp[k] = 2 * over_mean * scale
        ds[k] = -over_mean * over_spread * scale * scale * under_mean
        dx[k] = 2 * my[k] * (over_spread - over_mean) * scale - 2 * mx[k] * (value * under_spread * scale + ds[k])
    return total


@njit(inline="always")
def _part(box, strip):
    """A rectangle's left, right, top and bottom, and its first row and the one after its last in a strip."""
    left, top, right, bottom = box[0], box[1], box[2], box[3]
    return left, right, top, bottom, max(strip * _STRIP, top), min((strip + 1) * _STRIP, bottom)


@njit(cache=True, nogil=True)
def _similar(counter, tasks, image, truth, mask, boxes, white, taps, needed, sums, slopes):
    strips = sums.shape[1]
    task = next_task(counter)
    while task < tasks:
        b, strip = task // strips, task % strips
        left, right, top, bottom, first, last = _part(boxes[b], strip)
        n = 3 * (right - left)
        if first < last and n > 0:
            rows = np.zeros((4, _STRIP + 2 * _REACH, n), image.dtype)  # blurred along rows: x, y, x^2 + y^2, x y
            padded = np.zeros((4, n + 2 * _PAD), image.dtype)
            x, y = padded[0, _PAD : _PAD + n], padded[1, _PAD : _PAD + n]
            squares, product = padded[2, _PAD : _PAD + n], padded[3, _PAD : _PAD + n]
            for i in range(max(first - _REACH, top), min(last + _REACH, bottom)):
                x[:] = image[b, i, 3 * left : 3 * right]
                _load_truth(truth, mask, b, i, left, n, white, y)
                for k in range(n):
                    squares[k] = x[k] * x[k] + y[k] * y[k]
                    product[k] = x[k] * y[k]
                for m in range(4):
                    _blur_row(padded[m], taps, rows[m, i - first + _REACH])
            means, spare, total = np.empty((4, n), image.dtype), np.empty((3, n), image.dtype), 0.0
            for i in range(first, last):
                for m in range(4):
                    _blur_rows(rows[m], i - first, taps, means[m])
                total += _ratio(means[0], means[1], means[2], means[3], spare[0], spare[1], spare[2])
                if needed:
                    for m in range(3):
                        slopes[m, b, i, 3 * left : 3 * right] = spare[m]
            sums[b, strip, 3] = total
        task = next_task(counter)


@njit(cache=True, nogil=True)
def _similar_backward(counter, tasks, image, truth, mask, boxes, white, taps, shares, slopes, d_image):
    strips = tasks // len(image)
    task = next_task(counter)
    while task < tasks:
        b, strip = task // strips, task % strips
        left, right, top, bottom, first, last = _part(boxes[b], strip)
        n = 3 * (right - left)
        if first < last and n > 0:
            rows = np.zeros((3, _STRIP + 2 * _REACH, n), image.dtype)
            padded, y = np.zeros(n + 2 * _PAD, image.dtype), np.empty(n, image.dtype)
            for i in range(max(first - _REACH, top), min(last + _REACH, bottom)):
                for m in range(3):
                    padded[_PAD : _PAD + n] = slopes[m, b, i, 3 * left : 3 * right]
                    _blur_row(padded, taps, rows[m, i - first + _REACH])
            dx, ds, dp = np.empty(n, image.dtype), np.empty(n, image.dtype), np.empty(n, image.dtype)
            for i in range(first, last):
                _blur_rows(rows[0], i - first, taps, dx)
                _blur_rows(rows[1], i - first, taps, ds)
                _blur_rows(rows[2], i - first, taps, dp)
                _load_truth(truth, mask, b, i, left, n, white, y)
                for k in range(n):
                    d_image[b, i, 3 * left + k] += shares[b] * (
                        dx[k] + 2 * image[b, i, 3 * left + k] * ds[k] + y[k] * dp[k]
                    )
        task = next_task(counter)


follow(_compare, numba_threads, metrics, losses)
