"""CPU kernels of what follows the blended matrices in skinning: places, linear maps and covariances, with gradients.

One pass over the Gaussians each way, where PyTorch makes some hundred over arrays of small matrices. Everything is a
Gaussian's own but the normals' gradient, which is a sum over frames: results do not depend on the number of threads.
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


def place(
    points: Tensor, offsets: Tensor, to_big: Tensor, to_posed: Tensor, R: Tensor, Th: Tensor, scale: Tensor,
    rotation: Tensor, normals: Tensor | None = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Means [F, N, 3] and covariances [F, N, 6] in the world, with normals also these [F, N, 3], not of unit length.

    Args:
        points: [F, N, 3] of the big pose; offsets: [F, N, 3] of the nearest vertex, added in the rest pose; metres.
        to_big, to_posed: [F, N, 3, 4] blended maps from the rest pose, of which the first is undone.
        R: [F, 3, 3], Th: [F, 3]: to the world; ValueError if they ask for a gradient, which only the torch twin gives.
        scale: [F, N, 3] metres; rotation: [F, N, 4] quaternions (w, x, y, z) of any length.
        normals: [N, 3] of the big pose; their gradient goes no further than to themselves.
    """
    if torch.is_grad_enabled() and (R.requires_grad or Th.requires_grad):
        raise ValueError("skinning's CPU kernels give R and Th no gradient; take avatar.backend=torch to optimise them")
    found = _Place.apply(points, offsets, to_big, to_posed, R, Th, scale, rotation, normals)
    return found if normals is not None else found[:2]


class _Place(torch.autograd.Function):
    @staticmethod
    def forward(ctx, points, offsets, to_big, to_posed, R, Th, scale, rotation, normals):
        inputs = points, offsets, to_big, to_posed, R, Th, scale, rotation
        F, N = points.shape[:2]
        means, covariances = points.new_empty(F, N, 3), points.new_empty(F, N, 6)
        turned = points.new_empty(F, N if normals is not None else 0, 3)
        own = points.new_empty(0, 3) if normals is None else normals
        run_tasks(_forward, chunks(N), *arrays(*inputs, own), *arrays(means, covariances, turned))
        ctx.save_for_backward(*inputs, own)
        ctx.mark_non_differentiable(*([turned] if normals is None else []))
        return means, covariances, turned

    @staticmethod
    @once_differentiable
    def backward(ctx, d_means, d_covariances, d_turned):
        *inputs, normals = ctx.saved_tensors
        learned = *inputs[:4], *inputs[6:], normals
        grads = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in learned]
        given = *inputs, normals, d_means, d_covariances, d_turned
        run_tasks(_backward, chunks(d_means.shape[1]), *arrays(*given), *arrays(*grads))
        *others, d_scale, d_rotation, d_normals = grads
        return *others, None, None, d_scale, d_rotation, d_normals if ctx.needs_input_grad[8] else None


@njit(fastmath=FAST, cache=True, nogil=True)
def _product(a, b, out):
    for i in range(3):
        for j in range(3):
            out[i, j] = a[i, 0] * b[0, j] + a[i, 1] * b[1, j] + a[i, 2] * b[2, j]


@njit(fastmath=FAST, cache=True, nogil=True)
def _rows(a, i, b, j):
    """An entry of a b^T."""
    return a[i, 0] * b[j, 0] + a[i, 1] * b[j, 1] + a[i, 2] * b[j, 2]


@njit(fastmath=FAST, cache=True, nogil=True)
def _columns(a, i, b, j):
    """An entry of a^T b."""
    return a[0, i] * b[0, j] + a[1, i] * b[1, j] + a[2, i] * b[2, j]


@njit(fastmath=FAST, cache=True, nogil=True)
def _invert(m, out):
    """Inverse of the left 3 x 3 of m, by cofactors."""
    out[0, 0] = m[1, 1] * m[2, 2] - m[1, 2] * m[2, 1]
    out[0, 1] = m[0, 2] * m[2, 1] - m[0, 1] * m[2, 2]
    out[0, 2] = m[0, 1] * m[1, 2] - m[0, 2] * m[1, 1]
    out[1, 0] = m[1, 2] * m[2, 0] - m[1, 0] * m[2, 2]
    out[1, 1] = m[0, 0] * m[2, 2] - m[0, 2] * m[2, 0]
    out[1, 2] = m[0, 2] * m[1, 0] - m[0, 0] * m[1, 2]
    out[2, 0] = m[1, 0] * m[2, 1] - m[1, 1] * m[2, 0]
    out[2, 1] = m[0, 1] * m[2, 0] - m[0, 0] * m[2, 1]
    out[2, 2] = m[0, 0] * m[1, 1] - m[0, 1] * m[1, 0]
    scale = 1 / (m[0, 0] * out[0, 0] + m[0, 1] * out[1, 0] + m[0, 2] * out[2, 0])
    for i in range(3):
        for j in range(3):
            out[i, j] *= scale


@njit(fastmath=FAST, cache=True, nogil=True)
def _axes(q, out):
    """A quaternion of any length as a rotation matrix; returns the inverse of its length."""
    inverse = 1 / np.sqrt(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3])
    w, x, y, z = q[0] * inverse, q[1] * inverse, q[2] * inverse, q[3] * inverse
    out[0, 0], out[0, 1], out[0, 2] = 1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)
    out[1, 0], out[1, 1], out[1, 2] = 2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)
    out[2, 0], out[2, 1], out[2, 2] = 2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)
    return inverse


@njit(fastmath=FAST, cache=True, nogil=True)
def _go(p, d, big, posed, R, undone, turned, linear, rest, place):
    """A point p with offset d: `undone` the inverse of big's 3 x 3, `turned` R times posed's, `linear` their product,
    the points in the rest pose (before the offset) and in the world (without Th)."""
    _invert(big, undone)
    _product(R, posed, turned)
    _product(turned, undone, linear)
    x, y, z = p[0] - big[0, 3], p[1] - big[1, 3], p[2] - big[2, 3]
    for i in range(3):
        rest[i] = undone[i, 0] * x + undone[i, 1] * y + undone[i, 2] * z
    a, b, c = rest[0] + d[0], rest[1] + d[1], rest[2] + d[2]
    for i in range(3):
        place[i] = (
            turned[i, 0] * a + turned[i, 1] * b + turned[i, 2] * c
            + R[i, 0] * posed[0, 3] + R[i, 1] * posed[1, 3] + R[i, 2] * posed[2, 3]
        )  # fmt: skip


@njit(fastmath=FAST, cache=True, nogil=True)
def _forward(
    counter, tasks, points, offsets, to_big, to_posed, R, Th, scale, rotation, normals,
    means, covariances, turned_normals,
):  # fmt: skip
    F, N = points.shape[:2]
    task = next_task(counter)
    while task < tasks:
        small = np.empty((5, 3, 3), points.dtype)
        undone, turned, linear, axes, shape = small[0], small[1], small[2], small[3], small[4]
        rest, world = np.empty(3, points.dtype), np.empty(3, points.dtype)
        for n in range(task * CHUNK, min(N, (task + 1) * CHUNK)):
            for f in range(F):
                big, posed = to_big[f, n], to_posed[f, n]
                _go(points[f, n], offsets[f, n], big, posed, R[f], undone, turned, linear, rest, world)
                _axes(rotation[f, n], axes)
                _product(linear, axes, shape)
                for i in range(3):
                    means[f, n, i] = world[i] + Th[f, i]
                    for k in range(3):
                        shape[i, k] *= scale[f, n, k]
                entry = 0
                for i in range(3):
                    for j in range(i, 3):
                        covariances[f, n, entry] = _rows(shape, i, shape, j)
                        entry += 1
                if len(normals):
                    for i in range(3):
                        turned_normals[f, n, i] = (
                            linear[i, 0] * normals[n, 0] + linear[i, 1] * normals[n, 1] + linear[i, 2] * normals[n, 2]
                        )
        task = next_task(counter)


@njit(fastmath=FAST, cache=True, nogil=True)
def _backward(
    counter, tasks, points, offsets, to_big, to_posed, R, Th, scale, rotation, normals,
    d_means, d_covariances, d_turned,
    d_points, d_offsets, d_big, d_posed, d_scale, d_rotation, d_normals,
):  # fmt: skip
    F, N = points.shape[:2]
    task = next_task(counter)
    while task < tasks:
        small = np.empty((10, 3, 3), points.dtype)
        undone, turned, linear, axes, shape = small[0], small[1], small[2], small[3], small[4]
        d_shape, d_local, d_linear, d_undone, spare = small[5], small[6], small[7], small[8], small[9]
        rest, world, d_rest = np.empty(3, points.dtype), np.empty(3, points.dtype), np.empty(3, points.dtype)
        for n in range(task * CHUNK, min(N, (task + 1) * CHUNK)):
            if len(normals):
                d_normals[n] = 0
            for f in range(F):
                big, posed, own = to_big[f, n], to_posed[f, n], scale[f, n]
                _go(points[f, n], offsets[f, n], big, posed, R[f], undone, turned, linear, rest, world)
                inverse = _axes(rotation[f, n], axes)
                _product(linear, axes, shape)
                # Covariance = S S^T with S = linear axes diag(scale): d S = 2 G S, G symmetric.
                g = d_covariances[f, n]
                for k in range(3):
                    x, y, z = shape[0, k] * own[k], shape[1, k] * own[k], shape[2, k] * own[k]
                    d_shape[0, k] = 2 * g[0] * x + g[1] * y + g[2] * z
                    d_shape[1, k] = g[1] * x + 2 * g[3] * y + g[4] * z
                    d_shape[2, k] = g[2] * x + g[4] * y + 2 * g[5] * z
                for k in range(3):  # linear^T d S = d (axes diag(scale))
                    for i in range(3):
                        d_local[i, k] = _columns(linear, i, d_shape, k)
                    d_scale[f, n, k] = _columns(axes, k, d_local, k)
                    for i in range(3):
                        d_local[i, k] *= own[k]  # now of the axes
                        d_shape[i, k] *= own[k]
                for i in range(3):
                    for j in range(3):
                        d_linear[i, j] = _rows(d_shape, i, axes, j)
                _turn_back(rotation[f, n], inverse, d_local, d_rotation[f, n])
                if len(normals):
                    for i in range(3):
                        d_normals[n, i] += (
                            linear[0, i] * d_turned[f, n, 0]
                            + linear[1, i] * d_turned[f, n, 1]
                            + linear[2, i] * d_turned[f, n, 2]
                        )
                # world = turned (rest + offset) + R posed's last column; linear = turned undone.
                for i in range(3):
                    a, b, c = R[f, 0, i], R[f, 1, i], R[f, 2, i]
                    d_posed[f, n, i, 3] = a * d_means[f, n, 0] + b * d_means[f, n, 1] + c * d_means[f, n, 2]
                    d_rest[i] = (
                        turned[0, i] * d_means[f, n, 0]
                        + turned[1, i] * d_means[f, n, 1]
                        + turned[2, i] * d_means[f, n, 2]
                    )
                    d_offsets[f, n, i] = d_rest[i]
                for i in range(3):
                    moved = rest[i] + offsets[f, n, i]
                    for k in range(3):  # d turned [k, i]
                        spare[k, i] = _rows(d_linear, k, undone, i) + d_means[f, n, k] * moved
                for k in range(3):
                    for i in range(3):
                        d_posed[f, n, k, i] = _columns(R[f], k, spare, i)
                # rest = undone (point - big's last column).
                for i in range(3):
                    d_points[f, n, i] = undone[0, i] * d_rest[0] + undone[1, i] * d_rest[1] + undone[2, i] * d_rest[2]
                    d_big[f, n, i, 3] = -d_points[f, n, i]
                for i in range(3):
                    for j in range(3):
                        d_undone[i, j] = _columns(turned, i, d_linear, j) + d_rest[i] * (points[f, n, j] - big[j, 3])
                # d of the inverse: -undone^T d_undone undone^T.
                for i in range(3):
                    for j in range(3):
                        spare[i, j] = _rows(d_undone, i, undone, j)
                for i in range(3):
                    for j in range(3):
                        d_big[f, n, i, j] = -_columns(undone, i, spare, j)
        task = next_task(counter)


@njit(fastmath=FAST, cache=True, nogil=True)
def _turn_back(q, inverse, g, out):
    """The gradient of a quaternion of any length, of that of its rotation matrix."""
    w, x, y, z = q[0] * inverse, q[1] * inverse, q[2] * inverse, q[3] * inverse
    dw = 2 * (z * (g[1, 0] - g[0, 1]) + y * (g[0, 2] - g[2, 0]) + x * (g[2, 1] - g[1, 2]))
    dx = 2 * (
        y * (g[0, 1] + g[1, 0]) + z * (g[0, 2] + g[2, 0]) + w * (g[2, 1] - g[1, 2]) - 2 * x * (g[1, 1] + g[2, 2])
    )
    dy = 2 * (
        x * (g[0, 1] + g[1, 0]) + z * (g[1, 2] + g[2, 1]) + w * (g[0, 2] - g[2, 0]) - 2 * y * (g[0, 0] + g[2, 2])
    )
    dz = 2 * (
        x * (g[0, 2] + g[2, 0]) + y * (g[1, 2] + g[2, 1]) + w * (g[1, 0] - g[0, 1]) - 2 * z * (g[0, 0] + g[1, 1])
    )
    along = w * dw + x * dx + y * dy + z * dz
    out[0], out[1] = (dw - w * along) * inverse, (dx - x * along) * inverse
    out[2], out[3] = (dy - y * along) * inverse, (dz - z * along) * inverse


follow(_forward, numba_threads)
