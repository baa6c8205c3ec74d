"""GPU kernels of the skinning weights' offsets: one forward, two backward (see `triton_mlp`)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from r3avatar.avatar import triton_mlp as mlp
from r3avatar.avatar.triton_mlp import add_products, back_weights_of, keep, places, rectified, through_relu, weights_of


@triton.jit
def _wave(angle, cosine):
    """sin(angle), or cos where `cosine` is 1: within 2e-7 for |angle| < 3000, without the library's slow path.

    Source: Cody and Waite's reduction to [-pi/4, pi/4] and the polynomials of the Cephes library (sinf, cosf).
    """
    turns = tl.floor(angle * 0.6366197723675814 + 0.5)
    r = ((angle - turns * 1.5703125) - turns * 4.837512969970703125e-4) - turns * 7.54978995489188216e-8
    z = r * r
    sine = ((-1.9515295891e-4 * z + 8.3321608736e-3) * z - 1.6666654611e-1) * z * r + r
    cos = ((2.443315711809948e-5 * z - 1.388731625493765e-3) * z + 4.166664568298827e-2) * z * z - 0.5 * z + 1
    quadrant = turns.to(tl.int32) + cosine
    value = tl.where((quadrant & 1) == 1, cos, sine)
    return tl.where((quadrant & 2) == 2, -value, value)


@triton.jit
def _encoding(points, row, live, INPUTS: tl.constexpr, E: tl.constexpr):
    """[p, sin p, cos p, sin 2p, cos 2p, ...] of rows [ROWS, 1], padded with zeros to [ROWS, E]."""
    e = tl.arange(0, E)[None, :]
    wave = tl.maximum(e - 3, 0)
    p = tl.load(points + row * 3 + e % 3, mask=live & (e < INPUTS), other=0.0)  # both 3 and 6 are multiples of 3
    angle = p * (1 << (wave // 6)).to(tl.float32)
    value = _wave(angle, wave % 6 // 3)
    return tl.where(e < 3, p, tl.where(e < INPUTS, value, 0.0))


@triton.jit(do_not_specialize=["R"], do_not_specialize_on_alignment=["points"])
def _forward_kernel(
    points, w1, b1, w2, b2, w3, b3, w4, b4, w5, b5, out, encoded, h1, h2, h3, h4, R,
    INPUTS: tl.constexpr, E: tl.constexpr, W: tl.constexpr, J: tl.constexpr, JP: tl.constexpr,
    ROWS: tl.constexpr, SAVE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0)
    row = block.to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    live = row < R
    x = _encoding(points, row, live, INPUTS, E)
    w = weights_of(w1, INPUTS, INPUTS, W, E, W)
    h = rectified(tl.dot(x, w, input_precision=PRECISION), b1, W)
    if SAVE:
        keep(x, encoded, block, E, ROWS)
        keep(h, h1, block, W, ROWS)
    h = rectified(tl.dot(h, weights_of(w2, W, W, W, W, W), input_precision=PRECISION), b2, W)
    if SAVE:
        keep(h, h2, block, W, ROWS)
    h = rectified(tl.dot(h, weights_of(w3, W, W, W, W, W), input_precision=PRECISION), b3, W)
    if SAVE:
        keep(h, h3, block, W, ROWS)
    # The larger product first: beside its weights there is no room for another sum.
    product = tl.dot(h, weights_of(w4 + INPUTS, INPUTS + W, W, W, W, W), input_precision=PRECISION)
    if SAVE:  # read what was kept instead of holding it all along: registers are short
        tl.debug_barrier()
        x = tl.load(encoded + places(block, E, ROWS))
    w = weights_of(w4, INPUTS + W, INPUTS, W, E, W)
    h = rectified(tl.dot(x, w, product, input_precision=PRECISION), b4, W)
    if SAVE:
        keep(h, h4, block, W, ROWS)
    j = tl.arange(0, JP)
    logits = tl.dot(h, weights_of(w5, W, W, J, W, JP), input_precision=PRECISION)
    logits += tl.load(b5 + j, mask=j < J, other=0.0)[None, :]
    tl.store(out + row * J + j[None, :], logits, mask=live & (j < J)[None, :])


@triton.jit(do_not_specialize=["R"], do_not_specialize_on_alignment=["gradient"])
def _backward_kernel(
    gradient, w2, w3, w4, w5, h1, h2, h3, h4, d1, d2, d3, d4, d5, d_b1, d_b2, d_b3, d_b4, d_b5, R,
    INPUTS: tl.constexpr, W: tl.constexpr, J: tl.constexpr, JP: tl.constexpr,
    ROWS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0)
    row = block.to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    j = tl.arange(0, JP)
    g = tl.load(gradient + row * J + j[None, :], mask=(row < R) & (j < J)[None, :], other=0.0)
    keep(g, d5, block, JP, ROWS)
    tl.atomic_add(d_b5 + j, tl.sum(g, axis=0), mask=j < J, sem="relaxed")
    w = back_weights_of(w5, W, W, J, JP, W)
    d = through_relu(tl.dot(g, w, input_precision=PRECISION), h4, d4, d_b4, block, W, ROWS)
    w = back_weights_of(w4 + INPUTS, INPUTS + W, W, W, W, W)
    d = through_relu(tl.dot(d, w, input_precision=PRECISION), h3, d3, d_b3, block, W, ROWS)
    w = back_weights_of(w3, W, W, W, W, W)
    d = through_relu(tl.dot(d, w, input_precision=PRECISION), h2, d2, d_b2, block, W, ROWS)
    w = back_weights_of(w2, W, W, W, W, W)
    through_relu(tl.dot(d, w, input_precision=PRECISION), h1, d1, d_b1, block, W, ROWS)


@triton.jit(do_not_specialize=["chunks"])
def _weights_kernel(
    encoded, h1, h2, h3, h4, d1, d2, d3, d4, d5, d_w1, d_w2, d_w3, d_w4, d_w5, chunks,
    INPUTS: tl.constexpr, E: tl.constexpr, W: tl.constexpr, J: tl.constexpr, JP: tl.constexpr,
    ROWS: tl.constexpr, CHUNK: tl.constexpr, STAGES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    job = tl.program_id(1)
    if job == 0:
        add_products(d2, h1, d_w2, chunks, W, 1, W, W, W, ROWS, CHUNK, STAGES, PRECISION)
    elif job == 1:
        add_products(d3, h2, d_w3, chunks, W, 1, W, W, W, ROWS, CHUNK, STAGES, PRECISION)
    elif job == 2:
        add_products(d4, h3, d_w4 + INPUTS, chunks, INPUTS + W, 1, W, W, W, ROWS, CHUNK, STAGES, PRECISION)
    elif job == 3:
        add_products(d4, encoded, d_w4, chunks, INPUTS + W, 1, W, E, INPUTS, ROWS, CHUNK, STAGES, PRECISION)
    elif job == 4:
        add_products(d1, encoded, d_w1, chunks, INPUTS, 1, W, E, INPUTS, ROWS, CHUNK, STAGES, PRECISION)
    else:
        add_products(h4, d5, d_w5, chunks, 1, W, W, JP, J, ROWS, CHUNK, STAGES, PRECISION)


class _Offsets(torch.autograd.Function):
    @staticmethod
    def forward(ctx, points, precision, save, *parameters):
        points = points.contiguous()
        parameters = [p.contiguous() for p in parameters]
        (W, inputs), J, R = parameters[0].shape, parameters[-1].shape[0], points.shape[0]
        E, JP = _padded(inputs), _padded(J)
        rows, warps = (mlp.ROWS, mlp.FORWARD_WARPS) if save else (mlp.PLAYBACK_ROWS, mlp.PLAYBACK_WARPS)
        blocks = triton.cdiv(R, rows)
        out = points.new_empty(R, J)
        encoded = points.new_empty(blocks if save else 0, E, rows)
        hidden = points.new_empty(4, blocks if save else 0, W, rows)
        if R:
            with torch.cuda.device_of(points):
                _forward_kernel[(blocks,)](
                    points, *parameters, out, encoded, *hidden.unbind(), R,
                    INPUTS=inputs, E=E, W=W, J=J, JP=JP, ROWS=rows, SAVE=save, PRECISION=precision, num_warps=warps,
                )  # fmt: skip
        ctx.save_for_backward(encoded, hidden, *parameters)
        ctx.precision, ctx.R = precision, R
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        encoded, hidden, *parameters = ctx.saved_tensors
        weights, biases = parameters[::2], parameters[1::2]
        (W, inputs), J, R = weights[0].shape, weights[-1].shape[0], ctx.R
        E, JP = _padded(inputs), _padded(J)
        buffer = mlp.GradientBuffer([*weights, *biases])
        d_weights, d_biases = buffer.views[:5], buffer.views[5:]
        if R:
            blocks = hidden.shape[1]
            deltas = [*torch.empty_like(hidden).unbind(), hidden.new_empty(blocks, JP, mlp.ROWS)]
            with torch.cuda.device_of(hidden):
                _backward_kernel[(blocks,)](
                    gradient.contiguous(), *weights[1:], *hidden.unbind(), *deltas, *d_biases, R,
                    INPUTS=inputs, W=W, J=J, JP=JP, ROWS=mlp.ROWS, PRECISION=ctx.precision,
                    num_warps=mlp.BACKWARD_WARPS,
                )  # fmt: skip
                _weights_kernel[(mlp.splits(blocks, 6), 6)](
                    encoded, *hidden.unbind(), *deltas, *d_weights, blocks * (mlp.ROWS // mlp.CHUNK),
                    INPUTS=inputs, E=E, W=W, J=J, JP=JP, ROWS=mlp.ROWS, CHUNK=mlp.CHUNK,
                    STAGES=mlp.stages(), PRECISION=ctx.precision, num_warps=mlp.GRADIENT_WARPS,
                )  # fmt: skip
        return None, None, None, *[g for pair in zip(d_weights, d_biases) for g in pair]


def _padded(size: int) -> int:
    return max(16, triton.next_power_of_2(size))


def fits(points: Tensor, width: int, inputs: int, joints: int) -> bool:
    """Whether the kernels take this network: single precision, sizes that tensor cores and registers hold."""
    return points.dtype == torch.float32 and width in mlp.WIDTHS and inputs <= 64 and joints <= 128


def offset_logits(points: Tensor, layers: list[torch.nn.Linear], precision: str) -> Tensor:
    """Logits [N, J] of canonical points [N, 3] (metres).

    layers: hidden1 to hidden4, out, of `WeightOffsets`. precision: 'tf32' or 'tf32x3', see `MATMULS`.
    Differentiable once in weights and biases, not in points. Twin: `WeightOffsets.forward` with backend 'torch'.
    """
    parameters = [p for layer in layers for p in (layer.weight, layer.bias)]
    save = torch.is_grad_enabled() and any(x.requires_grad for x in parameters)
    return _Offsets.apply(points.detach(), precision, save, *parameters)
