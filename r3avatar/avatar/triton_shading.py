"""Shaded harmonics as Triton kernels: `shading.shade` of `Shading`'s factors, one kernel forward and one backward.

A program takes a block of Gaussians through all frames: a row of harmonics is read once, and what every frame asks of
it, of the light and of normals that stay is added up in registers.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from r3avatar.rasterizer.spherical_harmonics import C0, C1, C2
from r3avatar.triton_matrices import EPS, load_vector, store_vector

BLOCK, WARPS = 32, 4  # Gaussians of a program
BACKWARD_BLOCK, BACKWARD_WARPS = 32, 4

_C0, _C1, _HALF = tl.constexpr(C0), tl.constexpr(C1), tl.constexpr(0.5 / C0)
_C2A, _C2B, _C2C = (tl.constexpr(c) for c in C2)


@triton.jit
def _unit(directions, at, mask):
    x, y, z = load_vector(directions, at, mask)
    length = tl.maximum(tl.sqrt(x * x + y * y + z * z), EPS)
    return x / length, y / length, z / length, length


@triton.jit
def _factor(light, c: tl.constexpr, x, y, z):
    """The factor of colour c at unit normals."""
    return (
        tl.load(light + c) * _C0 - y * tl.load(light + 3 + c) * _C1 + z * tl.load(light + 6 + c) * _C1
        - x * tl.load(light + 9 + c) * _C1 + x * y * tl.load(light + 12 + c) * _C2A
        - y * z * tl.load(light + 15 + c) * _C2A + (2 * z * z - x * x - y * y) * tl.load(light + 18 + c) * _C2B
        - x * z * tl.load(light + 21 + c) * _C2A + (x * x - y * y) * tl.load(light + 24 + c) * _C2C
    )  # fmt: skip


@triton.jit
def _by_colour(channel, first, second, third):
    """[BLOCK, entries] of which each entry has its colour's of three numbers a Gaussian."""
    return tl.where(channel == 0, first[:, None], tl.where(channel == 1, second[:, None], third[:, None]))


@triton.jit(do_not_specialize=["N", "F"])
def _shade(sh, colour, directions, light, out, N, F, E: tl.constexpr, EP: tl.constexpr, COLOUR: tl.constexpr,
           BLOCK: tl.constexpr):  # fmt: skip
    """Harmonics [F, N, E] of a block of Gaussians; E = 3 K numbers each."""
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    frame = tl.program_id(1).to(tl.int64)
    e = tl.arange(0, EP)[None, :]
    channel, live = e % 3, n < N
    mask = live[:, None] & (e < E)
    row = tl.load(sh + n[:, None] * E + e, mask=mask, other=0.0)
    at = frame * N + n
    x, y, z, _ = _unit(directions, at * 3, live)
    if COLOUR:
        red, green, blue = load_vector(colour, at * 3, live)
        row += tl.where(e < 3, _by_colour(channel, red, green, blue), 0.0)
    factor = _by_colour(channel, _factor(light, 0, x, y, z), _factor(light, 1, x, y, z), _factor(light, 2, x, y, z))
    shift = tl.where(e < 3, _HALF, 0.0)
    tl.store(out + at[:, None] * E + e, (row + shift) * factor - shift, mask=mask)


@triton.jit(do_not_specialize=["N", "F"])
def _shade_backward(
    sh, colour, directions, light, g_out, d_sh, d_colour, d_directions, d_light, N, F,
    E: tl.constexpr, EP: tl.constexpr, COLOUR: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradients of all four; of the light this block's share, [27]."""
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    e = tl.arange(0, EP)[None, :]
    channel, live = e % 3, n < N
    mask = live[:, None] & (e < E)
    constant = tl.load(sh + n[:, None] * E + e, mask=mask, other=0.0) + tl.where(e < 3, _HALF, 0.0)
    d_row = tl.zeros([BLOCK, EP], sh.dtype.element_ty)
    lights = tl.arange(0, 32)[None, :]
    d_lights = tl.zeros([BLOCK, 32], sh.dtype.element_ty)
    for f in range(F):
        at = tl.cast(N, tl.int64) * f + n
        x, y, z, length = _unit(directions, at * 3, live)
        g = tl.load(g_out + at[:, None] * E + e, mask=mask, other=0.0)
        row = constant
        factor = _by_colour(channel, _factor(light, 0, x, y, z), _factor(light, 1, x, y, z), _factor(light, 2, x, y, z))
        if COLOUR:
            red, green, blue = load_vector(colour, at * 3, live)
            row += tl.where(e < 3, _by_colour(channel, red, green, blue), 0.0)
            tl.store(d_colour + at[:, None] * 3 + e, g * factor, mask=live[:, None] & (e < 3))
        d_row += g * factor
        of = g * row  # the factors' gradient, of each entry
        d0 = tl.sum(tl.where(channel == 0, of, 0.0), 1)
        d1 = tl.sum(tl.where(channel == 1, of, 0.0), 1)
        d2 = tl.sum(tl.where(channel == 2, of, 0.0), 1)
        k = lights // 3
        X, Y, Z = x[:, None], y[:, None], z[:, None]
        basis = tl.where(k == 1, -Y * _C1, tl.where(k == 2, Z * _C1, tl.where(k == 3, -X * _C1, 0.0)))
        basis += tl.where(k == 4, X * Y * _C2A, tl.where(k == 5, -Y * Z * _C2A, tl.where(k == 7, -X * Z * _C2A, 0.0)))
        basis += tl.where(k == 6, (2 * Z * Z - X * X - Y * Y) * _C2B, tl.where(k == 8, (X * X - Y * Y) * _C2C, 0.0))
        basis += tl.where(k == 0, _C0, 0.0)
        d_lights += basis * _by_colour(lights % 3, d0, d1, d2)
        # Through the harmonics and the normal's length.
        g1 = d0 * tl.load(light + 3) + d1 * tl.load(light + 4) + d2 * tl.load(light + 5)
        g2 = d0 * tl.load(light + 6) + d1 * tl.load(light + 7) + d2 * tl.load(light + 8)
        g3 = d0 * tl.load(light + 9) + d1 * tl.load(light + 10) + d2 * tl.load(light + 11)
        g4 = d0 * tl.load(light + 12) + d1 * tl.load(light + 13) + d2 * tl.load(light + 14)
        g5 = d0 * tl.load(light + 15) + d1 * tl.load(light + 16) + d2 * tl.load(light + 17)
        g6 = d0 * tl.load(light + 18) + d1 * tl.load(light + 19) + d2 * tl.load(light + 20)
        g7 = d0 * tl.load(light + 21) + d1 * tl.load(light + 22) + d2 * tl.load(light + 23)
        g8 = d0 * tl.load(light + 24) + d1 * tl.load(light + 25) + d2 * tl.load(light + 26)
        dx = (y * g4 - z * g7) * _C2A - g3 * _C1 - 2 * x * g6 * _C2B + 2 * x * g8 * _C2C
        dy = (x * g4 - z * g5) * _C2A - g1 * _C1 - 2 * y * g6 * _C2B - 2 * y * g8 * _C2C
        dz = g2 * _C1 - (y * g5 + x * g7) * _C2A + 4 * z * g6 * _C2B
        along = tl.where(length > EPS, dx * x + dy * y + dz * z, 0.0)
        store_vector(
            d_directions, at * 3, (dx - along * x) / length, (dy - along * y) / length, (dz - along * z) / length, live
        )
    tl.store(d_sh + n[:, None] * E + e, d_row, mask=mask)
    total = tl.sum(d_lights, 0)
    i = tl.arange(0, 32)
    tl.store(d_light + tl.program_id(0) * 27 + i, total, mask=i < 27)


class _Shaded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, sh, colour, directions, light):
        sh, colour, directions, light = (None if x is None else x.contiguous() for x in (sh, colour, directions, light))
        (F, N, _), K = directions.shape, sh.shape[1]
        out = sh.new_empty(F, N, K, 3)
        ctx.sizes = {"E": 3 * K, "EP": triton.next_power_of_2(3 * K), "COLOUR": colour is not None}
        with torch.cuda.device_of(sh):
            _shade[(triton.cdiv(N, BLOCK), F)](
                sh, colour, directions, light, out, N, F, **ctx.sizes, BLOCK=BLOCK, num_warps=WARPS
            )
        ctx.save_for_backward(sh, colour, directions, light)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g_out):
        sh, colour, directions, light = ctx.saved_tensors
        F, N, _ = directions.shape
        blocks = triton.cdiv(N, BACKWARD_BLOCK)
        d_sh, d_directions = torch.empty_like(sh), torch.empty_like(directions)
        d_colour = None if colour is None else torch.empty_like(colour)
        shares = light.new_empty(blocks, *light.shape)
        with torch.cuda.device_of(sh):
            _shade_backward[(blocks,)](
                sh, colour, directions, light, g_out.contiguous(), d_sh, d_colour, d_directions, shares, N, F,
                **ctx.sizes, BLOCK=BACKWARD_BLOCK, num_warps=BACKWARD_WARPS,
            )  # fmt: skip
        return d_sh, d_colour, d_directions, shares.sum(0)


def shaded(sh: Tensor, colour: Tensor | None, directions: Tensor, light: Tensor) -> Tensor:
    """Harmonics [F, N, K, 3] of every frame's own: `shade` of `add_colour`, differentiable in all that is given.

    sh: [N, K, 3]; colour: [F, N, 3] added to the constant coefficients, or None; directions: [F, N, 3] normals in the
    world, of any length; light: [9, 3] (`Shading.light`). A normal of no length has no gradient along itself.
    """
    return _Shaded.apply(sh, colour, directions, light)
