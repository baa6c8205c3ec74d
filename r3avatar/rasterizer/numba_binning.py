"""Which Gaussians each tile draws: depth order, exact ellipse-tile overlap, one list a tile.

A Gaussian reaches a tile when its ellipse {alpha >= 1/255} covers a pixel centre's row span in it (the tile tests of
Speedy-Splat, Hanson et al. 2025, sec. 4, done per row of tiles). Every (Gaussian, tile) pair has a slot, numbered
Gaussian by Gaussian, so that the backward pass needs no atomics: a tile writes to its own slots and the sum over a
Gaussian's slots has a fixed order, whatever the number of threads.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from r3avatar.numba_threads import CHUNK, chunks, next_task, run_tasks

from .numba_tiles import RECORD, TILE

_f = np.float32
_BITS = 11  # of a radix digit: three passes sort a float32


class TileLists(NamedTuple):
    """What each tile of I images draws; `records` holds a copy of the visible Gaussians in depth order."""

    order: np.ndarray  # [I, N] int32: the Gaussian of a record
    counts: np.ndarray  # [I] int64: records, that is visible Gaussians
    records: np.ndarray  # [I, N, RECORD] float32
    slot_start: np.ndarray  # [I, N + 1] int32: a record's slots, within the image
    first: np.ndarray  # [I + 1] int64: an image's part of the two arrays below
    entries: np.ndarray  # int32: record of each entry of the tiles' lists
    slots: np.ndarray  # int32: slot of each entry
    tile_start: np.ndarray  # [I, tiles + 1] int32: a tile's entries, within the image


def build_tile_lists(means2d, conics, weights, colours, depths, radii, width: int, height: int) -> TileLists:
    """Sort the visible Gaussians of I images (arrays [I, N, ...]) by depth and list them by tile."""
    I, N = radii.shape
    tiles_y, tiles_x = -(-height // TILE), -(-width // TILE)
    order, counts = np.empty((I, N), np.int32), np.empty(I, np.int64)
    records, slot_start = np.empty((I, N, RECORD), np.float32), np.zeros((I, N + 1), np.int32)
    run_tasks(_sort_by_depth, I, depths, radii, order, counts)
    given = (means2d, conics, weights, colours, order, counts)
    run_tasks(_write_records, I * chunks(N), *given, radii, tiles_y, tiles_x, records, slot_start)
    np.cumsum(slot_start, axis=1, out=slot_start)
    first = np.zeros(I + 1, np.int64)
    np.cumsum(slot_start[np.arange(I), counts], out=first[1:])
    slot_tile, entries, slots = (np.empty(first[-1], np.int32) for _ in range(3))
    tile_start = np.empty((I, tiles_y * tiles_x + 1), np.int32)
    run_tasks(_write_tiles, I * chunks(N), records, counts, tiles_y, tiles_x, slot_start, first, slot_tile)
    run_tasks(_sort_by_tile, I, counts, slot_start, first, slot_tile, tile_start, entries, slots)
    return TileLists(order, counts, records, slot_start, first, entries, slots, tile_start)


@njit(error_model="numpy")
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


@njit(error_model="numpy")
def write_record(record, mean2d, conic, opacity, colour, radius):
    """Fill a record [16]: x, y, power's dx^2, dx dy, dy^2 factors, opacity, r, g, b, the ellipse's extents.

    The ellipse {alpha >= 1/255} is a dx^2 + 2 b dx dy + c dy^2 <= t with t = 2 ln(255 o). [9]: its half height;
    [10]: how its middle moves with dy; [11] - [12] dy^2: the square of its half width at dy; [13]: its half width;
    [14]: the dy at which it is farthest right.
    """
    a, b, c = float(conic[0]), float(conic[1]), float(conic[2])
    t = 2.0 * math.log(255.0 * float(opacity))
    # A needle's determinant may vanish in float32; the circle about it bounds it then.
    determinant = max(a * c - b * b, 1e-9 * a * c)
    reach = float(radius) / 3.0 * math.sqrt(t)
    record[0], record[1] = mean2d[0], mean2d[1]
    record[2], record[3], record[4] = -0.5 * a, -b, -0.5 * c
    record[5], record[6], record[7], record[8] = opacity, colour[0], colour[1], colour[2]
    record[9] = min(math.sqrt(t * a / determinant), reach)
    record[10] = -b / a
    record[11] = t / a
    record[12] = determinant / (a * a)
    record[13] = min(math.sqrt(t * c / determinant), reach)
    record[14] = -b / c * record[13]
    for k in range(9, 15):
        if not np.isfinite(record[k]):  # a conic beyond float32: the Gaussian reaches no tile
            record[9] = -1.0


@njit(error_model="numpy")
def tile_rows(record, tiles_y):
    """First and past-last row of tiles with a row of pixel centres in the ellipse's height."""
    low = max(0.0, np.ceil(record[1] - record[9] - 0.51))
    high = min(tiles_y * TILE - 1.0, np.floor(record[1] + record[9] - 0.49))
    if not low <= high:
        return 0, 0
    return int(low) // TILE, int(high) // TILE + 1


@njit(error_model="numpy")
def tile_columns(record, row, tiles_x):
    """First and past-last tile of this row of tiles with a column of pixel centres in the ellipse."""
    top = row * TILE + 0.5 - record[1]
    low = max(top, -record[9])
    high = min(top + TILE - 1.0, record[9])
    if not low <= high:
        return 0, 0
    right = min(max(record[14], low), high)
    left = min(max(-record[14], low), high)
    x1 = record[0] + record[10] * right + math.sqrt(max(record[11] - record[12] * right * right, 0.0))
    x0 = record[0] + record[10] * left - math.sqrt(max(record[11] - record[12] * left * left, 0.0))
    first = max(0.0, np.ceil(x0 - 0.51))
    last = min(tiles_x * TILE - 1.0, np.floor(x1 - 0.49))
    if not first <= last:
        return 0, 0
    return int(first) // TILE, int(last) // TILE + 1


@njit(error_model="numpy")
def count_tiles(record, tiles_y, tiles_x):
    """How many tiles the Gaussian reaches."""
    count = 0
    first, last = tile_rows(record, tiles_y)
    for row in range(first, last):
        left, right = tile_columns(record, row, tiles_x)
        count += right - left
    return count


@njit(error_model="numpy")
def write_tiles(record, tiles_y, tiles_x, slot_tile):
    """Write the tiles that the Gaussian reaches, one a slot."""
    slot = 0
    first, last = tile_rows(record, tiles_y)
    for row in range(first, last):
        left, right = tile_columns(record, row, tiles_x)
        for column in range(left, right):
            slot_tile[slot] = row * tiles_x + column
            slot += 1


@njit(error_model="numpy")
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


@njit(nogil=True, cache=True, error_model="numpy")
def _sort_by_depth(counter, tasks, depths, radii, order, counts):
    spare, histogram = np.empty(depths.shape[1], np.int32), np.empty(2**_BITS, np.int32)
    i = next_task(counter)
    while i < tasks:
        counts[i] = depth_order(depths[i], radii[i], order[i], spare, histogram)
        i = next_task(counter)


@njit(nogil=True, cache=True, error_model="numpy")
def _write_records(
    counter, tasks, means2d, conics, weights, colours, order, counts, radii, tiles_y, tiles_x, records, slot_start
):
    task = next_task(counter)
    while task < tasks:
        chunk = task % (tasks // counts.size)
        i = task // (tasks // counts.size)
        for k in range(chunk * CHUNK, min((chunk + 1) * CHUNK, counts[i])):
            n = order[i, k]
            write_record(records[i, k], means2d[i, n], conics[i, n], weights[i, n], colours[i, n], radii[i, n])
            slot_start[i, k + 1] = count_tiles(records[i, k], tiles_y, tiles_x)
        task = next_task(counter)


@njit(nogil=True, cache=True, error_model="numpy")
def _write_tiles(counter, tasks, records, counts, tiles_y, tiles_x, slot_start, first, slot_tile):
    task = next_task(counter)
    while task < tasks:
        chunk = task % (tasks // counts.size)
        i = task // (tasks // counts.size)
        for k in range(chunk * CHUNK, min((chunk + 1) * CHUNK, counts[i])):
            a, b = first[i] + slot_start[i, k], first[i] + slot_start[i, k + 1]
            write_tiles(records[i, k], tiles_y, tiles_x, slot_tile[a:b])
        task = next_task(counter)


@njit(nogil=True, cache=True, error_model="numpy")
def _sort_by_tile(counter, tasks, counts, slot_start, first, slot_tile, tile_start, entries, slots):
    i = next_task(counter)
    while i < tasks:
        a, b = first[i], first[i + 1]
        sort_slots(slot_start[i], counts[i], slot_tile[a:b], tile_start[i], entries[a:b], slots[a:b])
        i = next_task(counter)
