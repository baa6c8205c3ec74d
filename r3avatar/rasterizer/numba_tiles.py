"""Compositing of one 16 x 16 tile, forward and backward, eight pixels at a time.

Per pixel, front to back: alpha = min(0.999, o exp(-sigma)), skipped below 1/255; the Gaussian that would take the
transmittance T to 1e-4 or less ends the pixel and is not drawn; colour += T alpha c, T *= 1 - alpha (Kerbl et al. 2023,
eq. 3; thresholds as in gsplat). The backward pass walks front to back as well: with s = c . dL/dcolour + dL/dalpha,
    dL/dalpha_i = T_i s_i - (sum over j > i of w_j s_j) / (1 - alpha_i),
where the sum behind i is the whole pixel's minus what has been passed, so no transmittance is divided back out.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from r3avatar.numba_threads import FAST

from .numba_simd import WIDTH, any_lane, lanes, larger, load, ramp, select, smaller, store, total

TILE = 16
RECORD = 16  # floats a record: one cache line (numba_binning.py writes them)
SLOT = 9  # gradients of a Gaussian in a tile: q, q dx, q dy, q dx^2, q dx dy, q dy^2, red, green, blue
ALPHA_MAX = np.float32(0.999)
ALPHA_MIN = np.float32(1 / 255)
T_MIN = np.float32(1e-4)

_f = np.float32
_ALIVE_EVERY = 8  # Gaussians between two looks at whether the tile is finished
_FORWARD = 4 * TILE  # floats of state a pixel row: light (T; -T once the pixel is finished), r, g, b
_BACKWARD = 6 * TILE  # light, sum still behind, dL/dr, dL/dg, dL/db, dL/dalpha
FORWARD_STATE, BACKWARD_STATE = _FORWARD * TILE, _BACKWARD * TILE


@njit(fastmath=FAST)
def exponential(power):
    """e^power for power in [-5.6, 0], relative error below 3e-6: a polynomial for e^(power/8), its eighth power."""
    # Degree 5, fitted for the least maximal relative error (8e-8) on the interval; powers below it are never drawn.
    e = _f(1.7842895e-07) * power + _f(9.710098e-06)
    e = e * power + _f(3.2416792e-04)
    e = e * power + _f(7.8106653e-03)
    e = e * power + _f(1.2499907e-01)
    e = e * power + _f(9.9999994e-01)
    e = e * e
    e = e * e
    return e * e


@njit(fastmath=FAST)
def _rows(y, half, rows):
    """First and past-last row of the tile in an ellipse of this half height."""
    low = max(_f(0.0), min(y - half + _f(0.49), _f(rows)))
    high = max(_f(0.0), min(y + half + _f(0.51), _f(rows)))
    return int(low), int(high)


@njit(fastmath=FAST)
def _columns(centre, square):
    """The tile's columns in the ellipse on a row, as first and past-last of whole groups of eight (or 0, 0).

    `square`: the square of the ellipse's half width on that row. 0.01 pixels wider than exact, for rounding: every
    pixel still compares its own alpha.
    """
    if not square > _f(0.0):
        return 0, 0
    half = math.sqrt(square)
    first = int(max(_f(0.0), min(centre - half + _f(0.49), _f(TILE))))
    end = int(max(_f(0.0), min(centre + half + _f(0.51), _f(TILE))))
    if first >= end:
        return 0, 0
    covered = (end - first + WIDTH - 1) // WIDTH * WIDTH
    first = min(first, TILE - covered)
    return first, first + covered


@njit(fastmath=FAST)
def _alive(state, stride, rows):
    for row in range(rows):
        for column in range(0, TILE, WIDTH):
            if any_lane(load(state, row * stride + column) > _f(0.0)):
                return True
    return False


@njit(fastmath=FAST)
def composite_tile(records, entries, x0, y0, rows, state):
    """Draw the tile's Gaussians into `state`; returns how many were looked at before every pixel was finished."""
    zero, cap, floor = lanes(_f(0.0)), lanes(ALPHA_MAX), lanes(_f(-6.0))
    for k in range(entries.size):
        if k % _ALIVE_EVERY == 0 and not _alive(state, _FORWARD, rows):
            return k
        record = records[entries[k]]
        # Locals, for `state` could be the same memory as far as the compiler knows.
        x, y, power_xx, power_xy, power_yy = record[0] - x0, record[1] - y0, record[2], record[3], record[4]
        opacity, red, green, blue = record[5], record[6], record[7], record[8]
        slope, width, narrowing = record[10], record[11], record[12]
        first, last = _rows(y, record[9], rows)
        for row in range(first, last):
            dy = _f(row) + _f(0.5) - y
            start, end = _columns(x + slope * dy, width - narrowing * dy * dy)
            power0 = power_yy * dy * dy
            power1 = power_xy * dy
            for column in range(start, end, WIDTH):
                at = row * _FORWARD + column
                light = load(state, at)
                if any_lane(light > zero):
                    dx = ramp() + (_f(column) + _f(0.5) - x)
                    power = power0 + dx * (power1 + power_xx * dx)
                    alpha = smaller(opacity * exponential(smaller(larger(power, floor), zero)), cap)
                    before = larger(light, zero)
                    after = before * (_f(1.0) - alpha)
                    seen = alpha >= ALPHA_MIN
                    drawn = seen & (after > T_MIN)
                    weight = select(drawn, before * alpha, zero)
                    finished = smaller(light, zero - light)
                    store(state, at, select(drawn, after, select(seen, finished, light)))
                    store(state, at + TILE, load(state, at + TILE) + weight * red)
                    store(state, at + 2 * TILE, load(state, at + 2 * TILE) + weight * green)
                    store(state, at + 3 * TILE, load(state, at + 3 * TILE) + weight * blue)
    return entries.size


@njit(fastmath=FAST)
def composite_tile_backward(records, entries, slots, x0, y0, rows, state, gradients):
    """Write each Gaussian's gradient in this tile to its own slot of `gradients` [slots, 9]."""
    zero, cap, floor = lanes(_f(0.0)), lanes(ALPHA_MAX), lanes(_f(-6.0))
    for k in range(entries.size):
        record = records[entries[k]]
        x, y, power_xx, power_xy, power_yy = record[0] - x0, record[1] - y0, record[2], record[3], record[4]
        opacity, red, green, blue = record[5], record[6], record[7], record[8]
        slope, width, narrowing = record[10], record[11], record[12]
        q0, qx, qy, qxx, qxy, qyy = zero, zero, zero, zero, zero, zero
        sum_red, sum_green, sum_blue = zero, zero, zero
        first, last = _rows(y, record[9], rows)
        for row in range(first, last):
            dy = _f(row) + _f(0.5) - y
            start, end = _columns(x + slope * dy, width - narrowing * dy * dy)
            power0 = power_yy * dy * dy
            power1 = power_xy * dy
            for column in range(start, end, WIDTH):
                at = row * _BACKWARD + column
                light = load(state, at)
                if any_lane(light > zero):
                    dx = ramp() + (_f(column) + _f(0.5) - x)
                    power = power0 + dx * (power1 + power_xx * dx)
                    raw = opacity * exponential(smaller(larger(power, floor), zero))
                    alpha = smaller(raw, cap)
                    before = larger(light, zero)
                    through = _f(1.0) - alpha
                    after = before * through
                    seen = alpha >= ALPHA_MIN
                    drawn = seen & (after > T_MIN)
                    weight = select(drawn, before * alpha, zero)
                    finished = smaller(light, zero - light)
                    store(state, at, select(drawn, after, select(seen, finished, light)))
                    g_red, g_green = load(state, at + 2 * TILE), load(state, at + 3 * TILE)
                    g_blue, g_alpha = load(state, at + 4 * TILE), load(state, at + 5 * TILE)
                    s = red * g_red + green * g_green + blue * g_blue + g_alpha
                    behind = load(state, at + TILE) - weight * s
                    store(state, at + TILE, behind)
                    q = select(drawn & (raw <= ALPHA_MAX), weight * s - behind * (alpha / through), zero)
                    sum_red += weight * g_red
                    sum_green += weight * g_green
                    sum_blue += weight * g_blue
                    qdx = q * dx
                    q0 += q
                    qx += qdx
                    qxx += qdx * dx
                    qy += q * dy
                    qxy += qdx * dy
                    qyy += q * (dy * dy)
        out = gradients[slots[k]]
        out[0], out[1], out[2] = total(q0), total(qx), total(qy)
        out[3], out[4], out[5] = total(qxx), total(qxy), total(qyy)
        out[6], out[7], out[8] = total(sum_red), total(sum_green), total(sum_blue)
