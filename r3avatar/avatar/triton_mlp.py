"""Building blocks of the fused MLPs: layers on a block of rows that stays on its multiprocessor, and weight gradients.

A program takes a block of rows through all layers: only the weights are read again, from the cache. For the backward
pass the layers' outputs and the gradients before each ReLU are kept as blocks [blocks, width, ROWS], transposed, so
that a weight's gradient is a product of two matrices with their summed index fastest, as tensor cores want TF32.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from r3avatar.triton_support import interpreting

# Rows of a block and warps of its program: with a backward pass to come, and without (fewer reads of the weights).
ROWS, FORWARD_WARPS, BACKWARD_WARPS = 64, 4, 4
PLAYBACK_ROWS, PLAYBACK_WARPS = 128, 8
# Weight gradients: rows at once, warps, loads in flight, and programs that share all jobs' rows.
CHUNK, GRADIENT_WARPS, GRADIENT_STAGES, GRADIENT_PROGRAMS = 32, 8, 3, 264

WIDTHS = (16, 32, 64, 128)  # hidden units that a program can hold


class GradientBuffer:
    """Zeroed gradients of several parameters in one allocation: one kernel fills them all."""

    def __init__(self, parameters: list[Tensor]):
        starts, end = [], 0
        for p in parameters:
            starts.append(end)
            end += p.numel()
        self.flat = parameters[0].new_zeros(end)
        self.views = [self.flat[a : a + p.numel()].view(p.shape) for a, p in zip(starts, parameters)]


def splits(blocks: int, jobs: int) -> int:
    """Programs that share the rows of one weight's gradient."""
    return max(1, min(GRADIENT_PROGRAMS // jobs, blocks * (ROWS // CHUNK)))


def stages() -> int:
    """Chunks in flight in the products of weight gradients; see `add_products`."""
    return 0 if interpreting() else GRADIENT_STAGES


@triton.jit
def weights_of(weight, STRIDE: tl.constexpr, IN: tl.constexpr, OUT: tl.constexpr, K: tl.constexpr, N: tl.constexpr):
    """A layer's weights [OUT, IN] transposed and padded with zeros to [K, N]; rows STRIDE apart."""
    k = tl.arange(0, K)[:, None]
    n = tl.arange(0, N)[None, :]
    at = weight + (n * STRIDE + k)
    if (K == IN) and (N == OUT):
        w = tl.load(at)
    else:
        w = tl.load(at, mask=(k < IN) & (n < OUT), other=0.0)
    return w


@triton.jit
def back_weights_of(
    weight, STRIDE: tl.constexpr, IN: tl.constexpr, OUT: tl.constexpr, K: tl.constexpr, N: tl.constexpr
):
    """A layer's weights [OUT, IN] as they are, padded with zeros to [K, N]: what gradients are multiplied with."""
    k = tl.arange(0, K)[:, None]
    n = tl.arange(0, N)[None, :]
    at = weight + (k * STRIDE + n)
    if (K == OUT) and (N == IN):
        w = tl.load(at)
    else:
        w = tl.load(at, mask=(k < OUT) & (n < IN), other=0.0)
    return w


@triton.jit
def rectified(product, bias, W: tl.constexpr):
    """ReLU of a product [ROWS, W] and its bias; lets NaN through, as torch's does."""
    total = product + tl.load(bias + tl.arange(0, W))[None, :]
    return tl.where(total < 0, 0.0, total)


@triton.jit
def places(block, W: tl.constexpr, ROWS: tl.constexpr):
    """Where a block [ROWS, W] is kept, transposed."""
    return (block * W + tl.arange(0, W))[None, :] * ROWS + tl.arange(0, ROWS)[:, None]


@triton.jit
def keep(tile, kept, block, W: tl.constexpr, ROWS: tl.constexpr):
    """Keep a block [ROWS, W] for the weights' gradients."""
    tl.store(kept + places(block, W, ROWS), tile)


@triton.jit
def through_relu(gradient, kept, deltas, d_bias, block, W: tl.constexpr, ROWS: tl.constexpr):
    """The gradient [ROWS, W] before a ReLU whose output was kept; keeps it and adds to the bias's gradient."""
    at = places(block, W, ROWS)
    delta = tl.where(tl.load(kept + at) <= 0, 0.0, gradient)
    tl.store(deltas + at, delta)
    tl.atomic_add(d_bias + tl.arange(0, W), tl.sum(delta, axis=0), sem="relaxed")
    return delta


@triton.jit
def _times(left, right, i, total, M: tl.constexpr, N: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr,
           PRECISION: tl.constexpr):  # fmt: skip
    """Add the products of the i-th chunk of rows of two kept blocks [M, ROWS] and [N, ROWS]."""
    m = tl.arange(0, M)[:, None]
    n = tl.arange(0, N)[None, :]
    k = tl.arange(0, CHUNK)
    block = i // (ROWS // CHUNK)
    part = i % (ROWS // CHUNK) * CHUNK
    a = tl.load(left + (block * (M * ROWS) + part) + (m * ROWS + k[None, :]))
    b = tl.load(right + (block * (N * ROWS) + part) + (n * ROWS + k[:, None]))
    return tl.dot(a, b, total, input_precision=PRECISION)


@triton.jit
def _times_input(left, x, i, total, R, M: tl.constexpr, N: tl.constexpr, C: tl.constexpr, ROWS: tl.constexpr,
                 CHUNK: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """As `_times`, of a kept block with the network's input x [R, C] as it lies."""
    m = tl.arange(0, M)[:, None]
    n = tl.arange(0, N)[None, :]
    k = tl.arange(0, CHUNK)
    block = i // (ROWS // CHUNK)
    part = i % (ROWS // CHUNK) * CHUNK
    a = tl.load(left + (block * (M * ROWS) + part) + (m * ROWS + k[None, :]))
    row = (i * CHUNK + k)[:, None]
    b = tl.load(x + (row * C + n), mask=(row < R) & (n < C), other=0.0)
    return tl.dot(a, b, total, input_precision=PRECISION)


@triton.jit
def add_products(
    left, right, target, chunks, TO: tl.constexpr, STEP: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, COLUMNS: tl.constexpr,
    ROWS: tl.constexpr, CHUNK: tl.constexpr, STAGES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add sum_r left[m, r] right[n, r] over this program's chunks of rows to target[m * TO + n * STEP], n < COLUMNS.

    STAGES: chunks in flight; 0: a plain loop (Triton's interpreter takes no range of its own scalars with numpy 2.4).
    """
    total = tl.zeros([M, N], tl.float32)
    if STAGES > 0:
        for i in tl.range(tl.program_id(0), chunks, tl.num_programs(0), num_stages=STAGES):
            total = _times(left, right, i, total, M, N, ROWS, CHUNK, PRECISION)
    else:
        i = tl.program_id(0)
        while i < chunks:
            total = _times(left, right, i, total, M, N, ROWS, CHUNK, PRECISION)
            i += tl.num_programs(0)
    m = tl.arange(0, M)[:, None]
    n = tl.arange(0, N)[None, :]
    tl.atomic_add(target + (m * TO + n * STEP), total, mask=(n < COLUMNS) & (m >= 0), sem="relaxed")


@triton.jit
def add_input_products(
    left, x, target, R, chunks, M: tl.constexpr, N: tl.constexpr, C: tl.constexpr,
    ROWS: tl.constexpr, CHUNK: tl.constexpr, STAGES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """As `add_products`, of kept gradients with the network's input x [R, C] as it lies; target [M, C]."""
    total = tl.zeros([M, N], tl.float32)
    if STAGES > 0:
        for i in tl.range(tl.program_id(0), chunks, tl.num_programs(0), num_stages=STAGES):
            total = _times_input(left, x, i, total, R, M, N, C, ROWS, CHUNK, PRECISION)
    else:
        i = tl.program_id(0)
        while i < chunks:
            total = _times_input(left, x, i, total, R, M, N, C, ROWS, CHUNK, PRECISION)
            i += tl.num_programs(0)
    m = tl.arange(0, M)[:, None]
    n = tl.arange(0, N)[None, :]
    tl.atomic_add(target + (m * C + n), total, mask=(n < C) & (m >= 0), sem="relaxed")
