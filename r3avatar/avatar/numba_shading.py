"""Shaded harmonics as CPU kernels: `shading.shade` of `Shading`'s factors, one pass over the Gaussians each way.

PyTorch makes a dozen passes over [F, N, K, 3] numbers. The light's gradient is added up in a task's shares: results do
not depend on the number of threads.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable

from r3avatar import numba_threads
from r3avatar.numba_cache import follow
from r3avatar.numba_threads import CHUNK, FAST, arrays, chunks, next_task, run_tasks
from r3avatar.rasterizer import spherical_harmonics
from r3avatar.rasterizer.spherical_harmonics import C0, C1, C2

_EPS = 1e-12  # as torch.nn.functional.normalize
_HALF = 0.5 / C0
_C2A, _C2B, _C2C = C2


def shaded(sh: Tensor, colour: Tensor | None, directions: Tensor, light: Tensor) -> Tensor:
    """Harmonics [F, N, K, 3] of every frame's own: `shade` of `add_colour`, differentiable in all that is given.

    sh: [N, K, 3]; colour: [F, N, 3] added to the constant coefficients, or None; directions: [F, N, 3] normals in the
    world, of any length; light: [9, 3] (`Shading.light`). A normal of no length has no gradient along itself.
    """
    return _Shaded.apply(sh, colour, directions, light)


class _Shaded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, sh, colour, directions, light):
        F, N, _ = directions.shape
        out = sh.new_empty(F, *sh.shape)
        added = sh.new_empty(0, N, 3) if colour is None else colour
        run_tasks(_forward, chunks(N), *arrays(sh, added, directions, light, out))
        ctx.save_for_backward(sh, added, directions, light)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out):
        given = ctx.saved_tensors
        grads = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in given[:3]]
        tasks = chunks(d_out.shape[1])
        shares = given[3].new_zeros(tasks, *given[3].shape)
        run_tasks(_backward, tasks, *arrays(*given, d_out, *grads, shares))
        d_sh, d_colour, d_directions = grads
        return d_sh, d_colour if ctx.needs_input_grad[1] else None, d_directions, shares.sum(0)


@njit(fastmath=FAST, cache=True, nogil=True)
def _basis(direction, out):
    """The nine harmonics of a direction of any length, by its unit vector; returns that and the length."""
    x, y, z = direction[0], direction[1], direction[2]
    length = max(np.sqrt(x * x + y * y + z * z), direction.dtype.type(_EPS))
    x, y, z = x / length, y / length, z / length
    out[0] = C0
    out[1], out[2], out[3] = -C1 * y, C1 * z, -C1 * x
    out[4], out[5], out[7] = _C2A * x * y, -_C2A * y * z, -_C2A * x * z
    out[6], out[8] = _C2B * (2 * z * z - x * x - y * y), _C2C * (x * x - y * y)
    return x, y, z, length


@njit(fastmath=FAST, cache=True, nogil=True)
def _forward(counter, tasks, sh, colour, directions, light, out):
    F, (N, K, _) = directions.shape[0], sh.shape
    half, zero = sh.dtype.type(_HALF), sh.dtype.type(0)
    task = next_task(counter)
    while task < tasks:
        basis, factor = np.empty(9, sh.dtype), np.empty(3, sh.dtype)
        for n in range(task * CHUNK, min(N, (task + 1) * CHUNK)):
            for f in range(F):
                _basis(directions[f, n], basis)
                for c in range(3):
                    total = zero
                    for k in range(9):
                        total += basis[k] * light[k, c]
                    factor[c] = total
                    added = colour[f, n, c] if len(colour) else zero
                    out[f, n, 0, c] = (sh[n, 0, c] + added + half) * total - half
                red, green, blue = factor[0], factor[1], factor[2]
                for k in range(1, K):
                    out[f, n, k, 0] = sh[n, k, 0] * red
                    out[f, n, k, 1] = sh[n, k, 1] * green
                    out[f, n, k, 2] = sh[n, k, 2] * blue
        task = next_task(counter)


@njit(fastmath=FAST, cache=True, nogil=True)
def _backward(
    counter, tasks, sh, colour, directions, light, d_out,
    d_sh, d_colour, d_directions, d_light,
):  # fmt: skip
    F, (N, K, _) = directions.shape[0], sh.shape
    half, zero = sh.dtype.type(_HALF), sh.dtype.type(0)
    task = next_task(counter)
    while task < tasks:
        basis, d_basis = np.empty(9, sh.dtype), np.empty(9, sh.dtype)
        factor, d_factor = np.empty(3, sh.dtype), np.empty(3, sh.dtype)
        share = d_light[task]
        for n in range(task * CHUNK, min(N, (task + 1) * CHUNK)):
            d_sh[n] = 0
            for f in range(F):
                x, y, z, length = _basis(directions[f, n], basis)
                for c in range(3):
                    total = zero
                    for k in range(9):
                        total += basis[k] * light[k, c]
                    factor[c] = total
                    g = d_out[f, n, 0, c]
                    row = sh[n, 0, c] + half
                    if len(colour):
                        row += colour[f, n, c]
                        d_colour[f, n, c] = g * total
                    d_sh[n, 0, c] += g * total
                    d_factor[c] = g * row
                red, green, blue = factor[0], factor[1], factor[2]
                d_red, d_green, d_blue = d_factor[0], d_factor[1], d_factor[2]
                for k in range(1, K):
                    a, b, c = d_out[f, n, k, 0], d_out[f, n, k, 1], d_out[f, n, k, 2]
                    d_red += a * sh[n, k, 0]
                    d_green += b * sh[n, k, 1]
                    d_blue += c * sh[n, k, 2]
                    d_sh[n, k, 0] += a * red
                    d_sh[n, k, 1] += b * green
                    d_sh[n, k, 2] += c * blue
                for k in range(9):
                    share[k, 0] += basis[k] * d_red
                    share[k, 1] += basis[k] * d_green
                    share[k, 2] += basis[k] * d_blue
                    d_basis[k] = d_red * light[k, 0] + d_green * light[k, 1] + d_blue * light[k, 2]
                # Through the harmonics and the normal's length.
                g1, g2, g3 = C1 * d_basis[1], C1 * d_basis[2], C1 * d_basis[3]
                g4, g5, g7 = _C2A * d_basis[4], _C2A * d_basis[5], _C2A * d_basis[7]
                g6, g8 = 2 * _C2B * d_basis[6], 2 * _C2C * d_basis[8]
                dx = y * g4 - z * g7 - g3 - x * g6 + x * g8
                dy = x * g4 - z * g5 - g1 - y * g6 - y * g8
                dz = g2 - y * g5 - x * g7 + 2 * z * g6
                along = dx * x + dy * y + dz * z if length > _EPS else zero
                d_directions[f, n, 0] = (dx - along * x) / length
                d_directions[f, n, 1] = (dy - along * y) / length
                d_directions[f, n, 2] = (dz - along * z) / length
        task = next_task(counter)


follow(_forward, numba_threads, spherical_harmonics)
