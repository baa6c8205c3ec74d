"""View-dependent colour and its gradient inside Triton kernels: the twin of spherical_harmonics.evaluate_sh.

Coefficients are numbered at compile time, so that a kernel's unrolled loop over them holds nothing but arithmetic: the
compiler shares the products that several functions use.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .spherical_harmonics import C0, C1, C2, C3

_C0, _C1 = tl.constexpr(C0), tl.constexpr(C1)
_A, _B, _C = tl.constexpr(C2[0]), tl.constexpr(C2[1]), tl.constexpr(C2[2])
_D, _E, _F = tl.constexpr(C3[0]), tl.constexpr(C3[1]), tl.constexpr(C3[2])
_G, _H = tl.constexpr(C3[3]), tl.constexpr(C3[4])


@triton.jit
def _harmonic(k: tl.constexpr, x, y, z):
    """The k-th function (0 to 15) at unit vectors (x, y, z)."""
    if k == 0:
        value = tl.zeros_like(x) + _C0
    elif k == 1:
        value = y * -_C1
    elif k == 2:
        value = z * _C1
    elif k == 3:
        value = x * -_C1
    elif k == 4:
        value = x * y * _A
    elif k == 5:
        value = y * z * -_A
    elif k == 6:
        value = (2.0 * z * z - x * x - y * y) * _B
    elif k == 7:
        value = x * z * -_A
    elif k == 8:
        value = (x * x - y * y) * _C
    elif k == 9:
        value = y * (3.0 * x * x - y * y) * -_D
    elif k == 10:
        value = x * y * z * _E
    elif k == 11:
        value = y * (4.0 * z * z - x * x - y * y) * -_F
    elif k == 12:
        value = z * (2.0 * z * z - 3.0 * x * x - 3.0 * y * y) * _G
    elif k == 13:
        value = x * (4.0 * z * z - x * x - y * y) * -_F
    elif k == 14:
        value = z * (x * x - y * y) * _H
    else:
        value = x * (x * x - 3.0 * y * y) * -_D
    return value


@triton.jit
def _add_gradient(k: tl.constexpr, g, x, y, z, dx, dy, dz):
    """(dx, dy, dz) plus g times the gradient of the k-th function (0 to 15) in (x, y, z), taken as free variables."""
    if k == 1:
        dy -= g * _C1
    elif k == 2:
        dz += g * _C1
    elif k == 3:
        dx -= g * _C1
    elif k == 4:
        dx += g * y * _A
        dy += g * x * _A
    elif k == 5:
        dy -= g * z * _A
        dz -= g * y * _A
    elif k == 6:
        g = g * (2.0 * _B)
        dx -= g * x
        dy -= g * y
        dz += g * z * 2.0
    elif k == 7:
        dx -= g * z * _A
        dz -= g * x * _A
    elif k == 8:
        g = g * (2.0 * _C)
        dx += g * x
        dy -= g * y
    elif k == 9:
        g = g * (3.0 * _D)
        dx -= g * x * y * 2.0
        dy -= g * (x * x - y * y)
    elif k == 10:
        g = g * _E
        dx += g * y * z
        dy += g * x * z
        dz += g * x * y
    elif k == 11:
        g = g * _F
        dx += g * x * y * 2.0
        dy -= g * (4.0 * z * z - x * x - 3.0 * y * y)
        dz -= g * y * z * 8.0
    elif k == 12:
        g = g * (3.0 * _G)
        dx -= g * x * z * 2.0
        dy -= g * y * z * 2.0
        dz += g * (2.0 * z * z - x * x - y * y)
    elif k == 13:
        g = g * _F
        dx -= g * (4.0 * z * z - 3.0 * x * x - y * y)
        dy += g * x * y * 2.0
        dz -= g * x * z * 8.0
    elif k == 14:
        g = g * _H
        dx += g * x * z * 2.0
        dy -= g * y * z * 2.0
        dz += g * (x * x - y * y)
    elif k == 15:
        g = g * (3.0 * _D)
        dx -= g * (x * x - y * y)
        dy += g * x * y * 2.0
    return dx, dy, dz


@triton.jit
def _quad(pointer, owner, gaussian, N, first: tl.constexpr, HARMONICS: tl.constexpr):
    """Pointers [Gaussians, 4] to the coefficients' floats from `first` on, four at a time, and which exist.

    A thread reads four neighbouring floats in one instruction: it has a Gaussian's whole row to read, and the rows of a
    warp lie far apart.
    """
    column = tl.arange(0, 4)[None, :] + first
    mask = (gaussian < N)[:, None]
    if (HARMONICS * 3) % 4 != 0:
        mask = mask & (column < HARMONICS * 3)
    return pointer + (owner + gaussian[:, None]) * (HARMONICS * 3) + column, mask


@triton.jit
def _load4(pointer, owner, gaussian, N, first: tl.constexpr, HARMONICS: tl.constexpr):
    """Four neighbouring floats of a Gaussian's coefficients, each [Gaussians, 1]; 0 past the last."""
    pointers, mask = _quad(pointer, owner, gaussian, N, first, HARMONICS)
    even, odd = tl.split(tl.reshape(tl.load(pointers, mask=mask, other=0.0), [gaussian.shape[0], 2, 2]))
    a, c = tl.split(even)
    b, d = tl.split(odd)
    return a[:, None], b[:, None], c[:, None], d[:, None]


@triton.jit
def _load_coefficients(sh, owner, gaussian, N, k: tl.constexpr, HARMONICS: tl.constexpr):
    """Red, green and blue of the coefficients k to k + 3, each [Gaussians, 1]; 0 past the last."""
    a0, a1, a2, b0 = _load4(sh, owner, gaussian, N, k * 3, HARMONICS)
    b1, b2, c0, c1 = _load4(sh, owner, gaussian, N, k * 3 + 4, HARMONICS)
    c2, d0, d1, d2 = _load4(sh, owner, gaussian, N, k * 3 + 8, HARMONICS)
    return a0, a1, a2, b0, b1, b2, c0, c1, c2, d0, d1, d2


@triton.jit
def _store4(
    pointer, owner, gaussian, N, first: tl.constexpr, HARMONICS: tl.constexpr, a, b, c, d, ADD: tl.constexpr, frame
):
    """Store four neighbouring floats; where ADD, plus what is there unless this is the first frame."""
    pointers, mask = _quad(pointer, owner, gaussian, N, first, HARMONICS)
    BLOCK: tl.constexpr = gaussian.shape[0]
    even, odd = tl.join(a.reshape([BLOCK]), c.reshape([BLOCK])), tl.join(b.reshape([BLOCK]), d.reshape([BLOCK]))
    values = tl.reshape(tl.join(even, odd), [BLOCK, 4])
    if ADD:
        later = tl.zeros([BLOCK, 4], tl.int32) + frame > 0  # all alike; of the mask's own shape
        values += tl.load(pointers, mask=mask & later, other=0.0)
    tl.store(pointers, values, mask=mask)


@triton.jit
def _add_colour(k: tl.constexpr, HARMONICS: tl.constexpr, c0, c1, c2, x, y, z, red, green, blue):
    if k < HARMONICS:
        value = _harmonic(k, x, y, z)
        red += value * c0
        green += value * c1
        blue += value * c2
    return red, green, blue


@triton.jit
def _colour_backward(
    k: tl.constexpr, HARMONICS: tl.constexpr, c0, c1, c2, g_red, g_green, g_blue, share, x, y, z, g0, g1, g2
):
    """The coefficient's gradient, summed over the views, and (g0, g1, g2): the direction's, added up."""
    if (k > 0) & (k < HARMONICS):
        g0, g1, g2 = _add_gradient(k, c0 * g_red + c1 * g_green + c2 * g_blue, x, y, z, g0, g1, g2)
    if k < HARMONICS:
        value = _harmonic(k, x, y, z) * share
        c0 = tl.sum(value * g_red, 1, keep_dims=True)
        c1 = tl.sum(value * g_green, 1, keep_dims=True)
        c2 = tl.sum(value * g_blue, 1, keep_dims=True)
    return c0, c1, c2, g0, g1, g2


@triton.jit
def colours_at(sh, owner, gaussian, N, HARMONICS: tl.constexpr, x, y, z):
    """Red, green and blue [Gaussians, views] of the Gaussians in the directions (x, y, z), plus 0.5, of any sign.

    Gaussian i's coefficients are row owner + i of sh [rows, HARMONICS, 3]; there are those i that are below N.
    """
    red, green, blue = tl.zeros_like(x) + 0.5, tl.zeros_like(x) + 0.5, tl.zeros_like(x) + 0.5
    for k in tl.static_range(0, HARMONICS, 4):
        a0, a1, a2, b0, b1, b2, c0, c1, c2, d0, d1, d2 = _load_coefficients(sh, owner, gaussian, N, k, HARMONICS)
        red, green, blue = _add_colour(k, HARMONICS, a0, a1, a2, x, y, z, red, green, blue)
        red, green, blue = _add_colour(k + 1, HARMONICS, b0, b1, b2, x, y, z, red, green, blue)
        red, green, blue = _add_colour(k + 2, HARMONICS, c0, c1, c2, x, y, z, red, green, blue)
        red, green, blue = _add_colour(k + 3, HARMONICS, d0, d1, d2, x, y, z, red, green, blue)
    return red, green, blue


@triton.jit
def colours_backward(
    sh, d_sh, owner, gaussian, N, HARMONICS: tl.constexpr, x, y, z, red, green, blue,
    share, ADD: tl.constexpr, frame,
):  # fmt: skip
    """Store `share` of the coefficients' gradients, given the colours' (red, green, blue) [Gaussians, views].

    Rows are those of `colours_at`; where ADD, what d_sh holds is added, but for frame 0.

    Returns:
        The gradient in (x, y, z), taken as free variables.
    """
    g0, g1, g2 = tl.zeros_like(x), tl.zeros_like(x), tl.zeros_like(x)
    for k in tl.static_range(0, HARMONICS, 4):
        a0, a1, a2, b0, b1, b2, c0, c1, c2, d0, d1, d2 = _load_coefficients(sh, owner, gaussian, N, k, HARMONICS)
        a0, a1, a2, g0, g1, g2 = _colour_backward(
            k, HARMONICS, a0, a1, a2, red, green, blue, share, x, y, z, g0, g1, g2
        )
        b0, b1, b2, g0, g1, g2 = _colour_backward(
            k + 1, HARMONICS, b0, b1, b2, red, green, blue, share, x, y, z, g0, g1, g2
        )
        c0, c1, c2, g0, g1, g2 = _colour_backward(
            k + 2, HARMONICS, c0, c1, c2, red, green, blue, share, x, y, z, g0, g1, g2
        )
        d0, d1, d2, g0, g1, g2 = _colour_backward(
            k + 3, HARMONICS, d0, d1, d2, red, green, blue, share, x, y, z, g0, g1, g2
        )
        _store4(d_sh, owner, gaussian, N, k * 3, HARMONICS, a0, a1, a2, b0, ADD, frame)
        _store4(d_sh, owner, gaussian, N, k * 3 + 4, HARMONICS, b1, b2, c0, c1, ADD, frame)
        _store4(d_sh, owner, gaussian, N, k * 3 + 8, HARMONICS, c2, d0, d1, d2, ADD, frame)
    return g0, g1, g2
