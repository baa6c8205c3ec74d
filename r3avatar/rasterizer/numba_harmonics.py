"""View-dependent colour and its gradient on the CPU: the twin of spherical_harmonics.view_colours.

A task is CHUNK Gaussians of a frame; there are F times chunks(N).
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from r3avatar.numba_threads import CHUNK, FAST, next_task

from . import spherical_harmonics as sh_constants

_f = np.float32
_C0, _C1 = _f(sh_constants.C0), _f(sh_constants.C1)
_A, _B, _C = (_f(c) for c in sh_constants.C2)
_D, _E, _F, _G, _H = (_f(c) for c in sh_constants.C3)


@njit(fastmath=FAST)
def _basis(x, y, z, K, values):
    """The first K functions into values [16]."""
    values[0] = _C0
    values[1], values[2], values[3] = -_C1 * y, _C1 * z, -_C1 * x
    if K > 4:
        xx, yy, zz = x * x, y * y, z * z
        values[4], values[5], values[6] = _A * x * y, -_A * y * z, _B * (_f(2) * zz - xx - yy)
        values[7], values[8] = -_A * x * z, _C * (xx - yy)
        if K > 9:
            values[9], values[10] = -_D * y * (_f(3) * xx - yy), _E * x * y * z
            values[11], values[12] = -_F * y * (_f(4) * zz - xx - yy), _G * z * (_f(2) * zz - _f(3) * xx - _f(3) * yy)
            values[13], values[14] = -_F * x * (_f(4) * zz - xx - yy), _H * z * (xx - yy)
            values[15] = -_D * x * (xx - _f(3) * yy)


@njit(fastmath=FAST)
def _basis_gradient(x, y, z, K, g):
    """Sum over k of g[k] times the gradient of function k in (x, y, z)."""
    dx, dy, dz = -_C1 * g[3], -_C1 * g[1], _C1 * g[2]
    if K > 4:
        dx += _A * (y * g[4] - z * g[7]) + _f(2) * x * (_C * g[8] - _B * g[6])
        dy += _A * (x * g[4] - z * g[5]) - _f(2) * y * (_C * g[8] + _B * g[6])
        dz += _f(4) * _B * z * g[6] - _A * (y * g[5] + x * g[7])
        if K > 9:
            xx, yy, zz, xy, yz, xz = x * x, y * y, z * z, x * y, y * z, x * z
            six, two, eight = _f(6), _f(2), _f(8)
            dx += -six * _D * xy * g[9] + _E * yz * g[10] + two * _F * xy * g[11] - six * _G * xz * g[12]
            dx += -_F * (_f(4) * zz - _f(3) * xx - yy) * g[13] + two * _H * xz * g[14] - _f(3) * _D * (xx - yy) * g[15]
            dy += -_f(3) * _D * (xx - yy) * g[9] + _E * xz * g[10] - _F * (_f(4) * zz - xx - _f(3) * yy) * g[11]
            dy += -six * _G * yz * g[12] + two * _F * xy * g[13] - two * _H * yz * g[14] + six * _D * xy * g[15]
            dz += _E * xy * g[10] - eight * _F * yz * g[11] + _G * (six * zz - _f(3) * xx - _f(3) * yy) * g[12]
            dz += -eight * _F * xz * g[13] + _H * (xx - yy) * g[14]
    return dx, dy, dz


@njit(fastmath=FAST)
def _direction(mean, centre):
    x, y, z = mean[0] - centre[0], mean[1] - centre[1], mean[2] - centre[2]
    inverse = _f(1) / max(_f(math.sqrt(x * x + y * y + z * z)), _f(1e-12))
    return x * inverse, y * inverse, z * inverse, inverse


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FAST)
def colours_forward(counter, tasks, sh, means, centres, colours):
    """Fill colours [F, V, N, 3] from sh [F, N, K, 3] (K = 4, 9, 16), means [F, N, 3] and centres [F, V, 3]."""
    F, V, N, _ = colours.shape
    K = sh.shape[2]
    chunks = tasks // F
    values = np.zeros(16, np.float32)
    task = next_task(counter)
    while task < tasks:
        f, begin = task // chunks, task % chunks * CHUNK
        for n in range(begin, min(begin + CHUNK, N)):
            for v in range(V):
                x, y, z, _ = _direction(means[f, n], centres[f, v])
                _basis(x, y, z, K, values)
                red, green, blue = _f(0.5), _f(0.5), _f(0.5)
                for k in range(K):
                    red += values[k] * sh[f, n, k, 0]
                    green += values[k] * sh[f, n, k, 1]
                    blue += values[k] * sh[f, n, k, 2]
                colours[f, v, n, 0] = max(red, _f(0))
                colours[f, v, n, 1] = max(green, _f(0))
                colours[f, v, n, 2] = max(blue, _f(0))
        task = next_task(counter)


@njit(nogil=True, cache=True, error_model="numpy", fastmath=FAST)
def colours_backward(counter, tasks, sh, means, centres, colours, g_colours, d_sh, d_means):
    """Fill d_sh [F, N, K, 3] and d_means [F, N, 3], summed over the views."""
    F, V, N, _ = colours.shape
    K = sh.shape[2]
    chunks = tasks // F
    values, slopes = np.zeros(16, np.float32), np.zeros(16, np.float32)
    task = next_task(counter)
    while task < tasks:
        f, begin = task // chunks, task % chunks * CHUNK
        for n in range(begin, min(begin + CHUNK, N)):
            d_sh[f, n] = _f(0)
            d_means[f, n] = _f(0)
            for v in range(V):
                # The clamp at 0 stops the gradient.
                red = g_colours[f, v, n, 0] if colours[f, v, n, 0] > _f(0) else _f(0)
                green = g_colours[f, v, n, 1] if colours[f, v, n, 1] > _f(0) else _f(0)
                blue = g_colours[f, v, n, 2] if colours[f, v, n, 2] > _f(0) else _f(0)
                if red == _f(0) and green == _f(0) and blue == _f(0):
                    continue
                x, y, z, inverse = _direction(means[f, n], centres[f, v])
                _basis(x, y, z, K, values)
                for k in range(K):
                    d_sh[f, n, k, 0] += values[k] * red
                    d_sh[f, n, k, 1] += values[k] * green
                    d_sh[f, n, k, 2] += values[k] * blue
                    slopes[k] = sh[f, n, k, 0] * red + sh[f, n, k, 1] * green + sh[f, n, k, 2] * blue
                dx, dy, dz = _basis_gradient(x, y, z, K, slopes)
                along = dx * x + dy * y + dz * z
                d_means[f, n, 0] += (dx - along * x) * inverse
                d_means[f, n, 1] += (dy - along * y) * inverse
                d_means[f, n, 2] += (dz - along * z) * inverse
        task = next_task(counter)
