"""Real spherical harmonics and their gradients inside Triton kernels: the twin of spherical_harmonics.sh_basis.

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
def harmonic(k: tl.constexpr, x, y, z):
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
def add_gradient(k: tl.constexpr, g, x, y, z, dx, dy, dz):
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
