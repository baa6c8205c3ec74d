"""GPU kernels of the attribute decoder: one forward, two backward (see `triton_mlp`)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from r3avatar.avatar import triton_mlp as mlp
from r3avatar.avatar.triton_mlp import (
    add_input_products,
    add_products,
    back_weights_of,
    keep,
    rectified,
    through_relu,
    weights_of,
)

# Columns of the heads: offset 0-2, opacity 3, scale 4-6, rotation 7-10, padded to 16.


@triton.jit
def _of_heads(offset, opacity, scale, rotation, j, rest, mask, STRIDE: tl.constexpr):
    """Rows j of the four heads' weights (STRIDE apart) or biases, one below the other; zero beyond the eleventh."""
    value = tl.load(offset + (j * STRIDE + rest), mask=mask & (j < 3), other=0.0)
    value += tl.load(opacity + ((j - 3) * STRIDE + rest), mask=mask & (j == 3), other=0.0)
    value += tl.load(scale + ((j - 4) * STRIDE + rest), mask=mask & (j > 3) & (j < 7), other=0.0)
    value += tl.load(rotation + ((j - 7) * STRIDE + rest), mask=mask & (j > 6) & (j < 11), other=0.0)
    return value


@triton.jit(do_not_specialize=["R"])
def _forward_kernel(
    x, w1, b1, w2, b2, w_offset, b_offset, w_opacity, b_opacity, w_scale, b_scale, w_rotation, b_rotation,
    offset, opacity, scale, rotation, root, h1, h2, R,
    C: tl.constexpr, K: tl.constexpr, W: tl.constexpr, ROWS: tl.constexpr, SAVE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0)
    row = block.to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    live = row < R
    k = tl.arange(0, K)[None, :]
    total = tl.zeros([ROWS, W], tl.float32)
    for c in tl.static_range(0, C, K):
        features = tl.load(x + row * C + (c + k), mask=live, other=0.0)
        total = tl.dot(features, weights_of(w1 + c, C, K, W, K, W), total, input_precision=PRECISION)
    h = rectified(total, b1, W)
    if SAVE:
        keep(h, h1, block, W, ROWS)
    h = rectified(tl.dot(h, weights_of(w2, W, W, W, W, W), input_precision=PRECISION), b2, W)
    if SAVE:
        keep(h, h2, block, W, ROWS)
    j = tl.arange(0, 16)[None, :]
    m = tl.arange(0, W)[:, None]
    heads = _of_heads(w_offset, w_opacity, w_scale, w_rotation, j, m, m >= 0, W)
    out = tl.dot(h, heads, input_precision=PRECISION)
    out += _of_heads(b_offset, b_opacity, b_scale, b_rotation, j, 0, j >= 0, 1)
    tl.store(offset + row * 3 + j, out, mask=live & (j < 3))
    tl.store(opacity + row + (j - 3), out, mask=live & (j == 3))
    is_scale = live & (j > 3) & (j < 7)
    tl.store(scale + row * 3 + (j - 4), out * out, mask=is_scale)
    if SAVE:
        tl.store(root + row * 3 + (j - 4), out, mask=is_scale)
    tl.store(rotation + row * 4 + (j - 7), out, mask=live & (j > 6) & (j < 11))


@triton.jit(do_not_specialize=["R"], do_not_specialize_on_alignment=["g_offset", "g_opacity", "g_scale", "g_rotation"])
def _backward_kernel(
    g_offset, g_opacity, g_scale, g_rotation, root, w1, w2, w_offset, w_opacity, w_scale, w_rotation,
    h1, h2, d1, d2, d3, d_x, d_b1, d_b2, d_b3, R,
    C: tl.constexpr, K: tl.constexpr, W: tl.constexpr, ROWS: tl.constexpr, INPUT: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0)
    row = block.to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    live = row < R
    j = tl.arange(0, 16)[None, :]
    is_scale = live & (j > 3) & (j < 7)
    g = tl.load(g_offset + row * 3 + j, mask=live & (j < 3), other=0.0)
    g += tl.load(g_opacity + row + (j - 3), mask=live & (j == 3), other=0.0)
    g += tl.load(g_rotation + row * 4 + (j - 7), mask=live & (j > 6) & (j < 11), other=0.0)
    at = row * 3 + (j - 4)
    g += 2 * tl.load(g_scale + at, mask=is_scale, other=0.0) * tl.load(root + at, mask=is_scale, other=0.0)
    keep(g, d3, block, 16, ROWS)
    columns = tl.arange(0, 16)
    tl.atomic_add(d_b3 + columns, tl.sum(g, axis=0), mask=columns < 11, sem="relaxed")
    heads = _of_heads(
        w_offset, w_opacity, w_scale, w_rotation,
        tl.arange(0, 16)[:, None], tl.arange(0, W)[None, :], tl.arange(0, 16)[:, None] >= 0, W,
    )  # fmt: skip
    d = through_relu(tl.dot(g, heads, input_precision=PRECISION), h2, d2, d_b2, block, W, ROWS)
    w = back_weights_of(w2, W, W, W, W, W)
    d = through_relu(tl.dot(d, w, input_precision=PRECISION), h1, d1, d_b1, block, W, ROWS)
    if INPUT:
        for c in tl.static_range(0, C, K):
            part = tl.dot(d, back_weights_of(w1 + c, C, K, W, W, K), input_precision=PRECISION)
            tl.store(d_x + row * C + (c + tl.arange(0, K)[None, :]), part, mask=live)


@triton.jit(do_not_specialize=["R", "chunks"])
def _weights_kernel(
    x, h1, h2, d1, d2, d3, d_w1, d_w2, d_w3, R, chunks,
    C: tl.constexpr, CP: tl.constexpr, W: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr,
    STAGES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    job = tl.program_id(1)
    if job == 0:
        add_input_products(d1, x, d_w1, R, chunks, W, CP, C, ROWS, CHUNK, STAGES, PRECISION)
    elif job == 1:
        add_products(d2, h1, d_w2, chunks, W, 1, W, W, W, ROWS, CHUNK, STAGES, PRECISION)
    else:
        add_products(h2, d3, d_w3, chunks, 1, W, W, 16, 11, ROWS, CHUNK, STAGES, PRECISION)


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features, precision, save, *parameters):
        features = features.contiguous()
        parameters = [p.contiguous() for p in parameters]
        (F, N, C), W, R = features.shape, parameters[0].shape[0], features.shape[0] * features.shape[1]
        outputs = [features.new_empty(F, N, c) for c in (3, 1, 3, 4)]
        rows, warps = (mlp.ROWS, mlp.FORWARD_WARPS) if save else (mlp.PLAYBACK_ROWS, mlp.PLAYBACK_WARPS)
        blocks = triton.cdiv(R, rows)
        h1, h2 = features.new_empty(2, blocks if save else 0, W, rows).unbind()
        root = features.new_empty(R if save else 0, 3)
        if R:
            with torch.cuda.device_of(features):
                _forward_kernel[(blocks,)](
                    features, *parameters, *outputs, root, h1, h2, R,
                    C=C, K=_columns(C), W=W, ROWS=rows, SAVE=save, PRECISION=precision, num_warps=warps,
                )  # fmt: skip
        ctx.save_for_backward(features, root, h1, h2, *parameters)
        ctx.precision = precision
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients):
        features, root, h1, h2, *parameters = ctx.saved_tensors
        w1, b1, w2, b2, *heads = parameters
        W, C = w1.shape
        R = features.shape[0] * features.shape[1]
        weights, biases = heads[::2], heads[1::2]
        # The heads' weights lie one below the other, and so do their biases: each is one target.
        buffer = mlp.GradientBuffer([w1, w2, *weights, b1, b2, *biases])
        d_w1, d_w2, *d_weights = buffer.views[:6]
        d_b1, d_b2, *d_biases = buffer.views[6:]
        d_features = torch.empty_like(features) if ctx.needs_input_grad[0] else None
        if R:
            blocks = h1.shape[0]
            d1, d2 = torch.empty_like(h1), torch.empty_like(h2)
            d3 = h1.new_empty(blocks, 16, mlp.ROWS)
            with torch.cuda.device_of(features):
                _backward_kernel[(blocks,)](
                    *[g.contiguous() for g in gradients], root, w1, w2, *weights,
                    h1, h2, d1, d2, d3, features if d_features is None else d_features, d_b1, d_b2, d_biases[0], R,
                    C=C, K=_columns(C), W=W, ROWS=mlp.ROWS, INPUT=d_features is not None, PRECISION=ctx.precision,
                    num_warps=mlp.BACKWARD_WARPS,
                )  # fmt: skip
                _weights_kernel[(mlp.splits(blocks, 3), 3)](
                    features, h1, h2, d1, d2, d3, d_w1, d_w2, d_weights[0], R, blocks * (mlp.ROWS // mlp.CHUNK),
                    C=C, CP=triton.next_power_of_2(C), W=W, ROWS=mlp.ROWS, CHUNK=mlp.CHUNK,
                    STAGES=mlp.stages(), PRECISION=ctx.precision, num_warps=mlp.GRADIENT_WARPS,
                )  # fmt: skip
        d_heads = [g for pair in zip(d_weights, d_biases) for g in pair]
        return d_features, None, None, d_w1, d_b1, d_w2, d_b2, *d_heads


def _columns(C: int) -> int:
    """Input columns that a product takes at once: the largest power of two up to 64 that divides them."""
    return min(64, C & -C)


def fits(features: Tensor, width: int) -> bool:
    """Whether the kernels take these features: single precision, sizes that tensor cores hold."""
    C = features.shape[-1]
    return features.dtype == torch.float32 and width in mlp.WIDTHS and C % 16 == 0 and C <= 128


def decode(features: Tensor, layers: list[torch.nn.Linear], precision: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Offset [F, N, 3], opacity logit [F, N, 1], scale (squared) [F, N, 3], rotation [F, N, 4] of features [F, N, C].

    layers: hidden1, hidden2, offset, opacity, scale, rotation. precision: 'tf32' or 'tf32x3', see `MATMULS`.
    Differentiable once in features, weights and biases. Twin: `AttributeDecoder.forward` with backend 'torch'.
    """
    parameters = [p for layer in layers for p in (layer.weight, layer.bias)]
    save = torch.is_grad_enabled() and any(x.requires_grad for x in (features, *parameters))
    return _Decode.apply(features, precision, save, *parameters)
