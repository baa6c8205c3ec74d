"""Which Gaussians each tile draws: depth order, exact ellipse-tile overlap, one list a tile.

A Gaussian reaches a tile when its ellipse {alpha >= 1/255} covers a pixel centre's row span in it (the tile tests of
Speedy-Splat, Hanson et al. 2025, sec. 4, done per row of tiles). Every (Gaussian, tile) pair has a slot, numbered
Gaussian by Gaussian, so that the backward pass needs no atomics: a tile writes to its own slots and the sum over a
Gaussian's slots has a fixed order, whatever the number of threads.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from .numba_tiles import TILE

_f = np.float32
_BITS = 11  # of a radix digit: three passes sort a float32


@njit
def depth_order(depths, radii, order, spare, histogram):
    """Write the visible Gaussians' numbers, nearest first, to the front of `order`; returns how many there are.

    Positive floats sort as their bits do. Ties keep the Gaussians' order. `spare` [2, N] int32, `histogram` [2048].
    """
    keys = depths.view(np.uint32)
    count = 0
    for n in range(depths.size):
        if radii[n] > _f(0.0):
            order[count] = n
            count += 1
    source, target = order, spare
    for shift in range(0, 33, _BITS):
        histogram[:] = 0
        for i in range(count):
            histogram[(keys[source[i]] >> np.uint32(shift)) & np.uint32(2**_BITS - 1)] += 1
        before = 0
        for digit in range(2**_BITS):
            here = histogram[digit]
            histogram[digit] = before
            before += here
        for i in range(count):
            digit = (keys[source[i]] >> np.uint32(shift)) & np.uint32(2**_BITS - 1)
            target[histogram[digit]] = source[i]
            histogram[digit] += 1
        source, target = target, source
    order[:count] = source[:count]
    return count


@njit
def write_record(record, mean2d, conic, opacity, colour):
    """Fill a record [16]: x, y, power's dx^2, dx dy, dy^2 factors, opacity, r, g, b, the ellipse's extents.

    The ellipse {alpha >= 1/255} is a dx^2 + 2 b dx dy + c dy^2 <= t with t = 2 ln(255 o). [9]: its half height;
    [10]: how its middle moves with dy; [11] - [12] dy^2: the square of its half width at dy; [13]: its half width;
    [14]: the dy at which it is farthest right.
    """
    a, b, c = float(conic[0]), float(conic[1]), float(conic[2])
    t = 2.0 * math.log(255.0 * float(opacity))
    determinant = max(a * c - b * b, 1e-30)
    record[0], record[1] = mean2d[0], mean2d[1]
    record[2], record[3], record[4] = -0.5 * a, -b, -0.5 * c
    record[5], record[6], record[7], record[8] = opacity, colour[0], colour[1], colour[2]
    record[9] = math.sqrt(max(t * a / determinant, 0.0))
    record[10] = -b / a
    record[11] = t / a
    record[12] = determinant / (a * a)
    record[13] = math.sqrt(max(t * c / determinant, 0.0))
    record[14] = -b / c * record[13]


@njit
def tile_rows(record, tiles_y):
    """First and past-last row of tiles with a row of pixel centres in the ellipse's height."""
    low = max(0.0, math.ceil(record[1] - record[9] - 0.51))
    high = min(tiles_y * TILE - 1.0, math.floor(record[1] + record[9] - 0.49))
    if low > high:
        return 0, 0
    return int(low) // TILE, int(high) // TILE + 1


@njit
def tile_columns(record, row, tiles_x):
    """First and past-last tile of this row of tiles with a column of pixel centres in the ellipse."""
    top = row * TILE + 0.5 - record[1]
    low = max(top, -record[9])
    high = min(top + TILE - 1.0, record[9])
    if low > high:
        return 0, 0
    right = min(max(record[14], low), high)
    left = min(max(-record[14], low), high)
    x1 = record[0] + record[10] * right + math.sqrt(max(record[11] - record[12] * right * right, 0.0))
    x0 = record[0] + record[10] * left - math.sqrt(max(record[11] - record[12] * left * left, 0.0))
    first = max(0.0, math.ceil(x0 - 0.51))
    last = min(tiles_x * TILE - 1.0, math.floor(x1 - 0.49))
    if first > last:
        return 0, 0
    return int(first) // TILE, int(last) // TILE + 1


@njit
def count_tiles(record, tiles_y, tiles_x):
    """How many tiles the Gaussian reaches."""
    count = 0
    first, last = tile_rows(record, tiles_y)
    for row in range(first, last):
        left, right = tile_columns(record, row, tiles_x)
        count += right - left
    return count


@njit
def write_tiles(record, tiles_y, tiles_x, slot_tile):
    """Write the tiles that the Gaussian reaches, one a slot."""
    slot = 0
    first, last = tile_rows(record, tiles_y)
    for row in range(first, last):
        left, right = tile_columns(record, row, tiles_x)
        for column in range(left, right):
            slot_tile[slot] = row * tiles_x + column
            slot += 1


@njit
def sort_slots(slot_start, count, slot_tile, tile_start, entries, slots):
    """List every tile's records, nearest first, with their slots: tile t's are at tile_start[t] to tile_start[t + 1].

    A counting sort of the slots by tile; the slots come in depth order, and the sort is stable.
    """
    tile_start[:] = 0
    for slot in range(slot_tile.size):
        tile_start[slot_tile[slot] + 1] += 1
    for tile in range(tile_start.size - 1):
        tile_start[tile + 1] += tile_start[tile]
    for i in range(count):
        for slot in range(slot_start[i], slot_start[i + 1]):
            tile = slot_tile[slot]
            at = tile_start[tile]
            tile_start[tile] = at + 1
            entries[at] = i
            slots[at] = slot
    # Each start has moved to its end, the next tile's start.
    for tile in range(tile_start.size - 1, 0, -1):
        tile_start[tile] = tile_start[tile - 1]
    tile_start[0] = 0
