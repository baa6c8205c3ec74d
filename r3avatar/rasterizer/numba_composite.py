"""All images of a call at once: depth order and tile lists, compositing, and the gradients' way back, in parallel.

Tiles are handed to threads by an atomic counter, across the images: whichever thread is free takes the next one. The
result does not depend on who took what: a tile writes its own pixels and its own slots.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import get_num_threads, njit, prange

from .numba_binning import count_tiles, depth_order, sort_slots, write_record, write_tiles
from .numba_simd import fetch_add
from .numba_tiles import BACKWARD_STATE, FORWARD_STATE, RECORD, SLOT, TILE, composite_tile, composite_tile_backward

_f = np.float32
_CHUNK = 256  # records a task of the final sums


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
    _sort_by_depth(depths, radii, order, counts)
    _write_records(means2d, conics, weights, colours, order, counts, tiles_y, tiles_x, records, slot_start)
    np.cumsum(slot_start, axis=1, out=slot_start)
    first = np.zeros(I + 1, np.int64)
    np.cumsum(slot_start[np.arange(I), counts], out=first[1:])
    slot_tile, entries, slots = (np.empty(first[-1], np.int32) for _ in range(3))
    tile_start = np.empty((I, tiles_y * tiles_x + 1), np.int32)
    _write_tiles(records, counts, tiles_y, tiles_x, slot_start, first, slot_tile)
    _sort_by_tile(counts, slot_start, first, slot_tile, tile_start, entries, slots)
    return TileLists(order, counts, records, slot_start, first, entries, slots, tile_start)


def composite(lists: TileLists, background: np.ndarray, rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Fill rgb [I, H, W, 3] and alpha [I, H, W]; returns how many entries each tile looked at [I, tiles]."""
    I, tiles = lists.tile_start.shape[0], lists.tile_start.shape[1] - 1
    used = np.empty((I, tiles), np.int32)
    counter = np.zeros(1, np.int64)
    _composite_images(
        get_num_threads(), counter, lists.records, lists.first, lists.entries, lists.tile_start, background,
        used, rgb, alpha,
    )  # fmt: skip
    return used


def composite_backward(lists: TileLists, used, background, rgb, alpha, g_rgb, g_alpha):
    """Gradients of `composite`: means2d [I, N, 2], conics [I, N, 3], opacities [I, N], colours [I, N, 3]."""
    I, N = lists.order.shape
    gradients = np.empty((lists.entries.size, SLOT), np.float32)
    counter = np.zeros(1, np.int64)
    _composite_images_backward(
        get_num_threads(), counter, lists.records, lists.first, lists.entries, lists.slots, lists.tile_start, used,
        background, rgb, alpha, g_rgb, g_alpha, gradients,
    )  # fmt: skip
    d_means2d, d_conics = np.zeros((I, N, 2), np.float32), np.zeros((I, N, 3), np.float32)
    d_weights, d_colours = np.zeros((I, N), np.float32), np.zeros((I, N, 3), np.float32)
    _sum_slots(
        lists.records, lists.order, lists.counts, lists.slot_start, lists.first, gradients,
        d_means2d, d_conics, d_weights, d_colours,
    )  # fmt: skip
    return d_means2d, d_conics, d_weights, d_colours


@njit(parallel=True, cache=True)
def _sort_by_depth(depths, radii, order, counts):
    I, N = radii.shape
    for i in prange(I):
        counts[i] = depth_order(depths[i], radii[i], order[i], np.empty(N, np.int32), np.empty(2048, np.int32))


@njit(parallel=True, cache=True, error_model="numpy")
def _write_records(means2d, conics, weights, colours, order, counts, tiles_y, tiles_x, records, slot_start):
    I, N = order.shape
    chunks = (N + _CHUNK - 1) // _CHUNK
    for task in prange(I * chunks):
        i, begin = task // chunks, task % chunks * _CHUNK
        for k in range(begin, min(begin + _CHUNK, counts[i])):
            n = order[i, k]
            write_record(records[i, k], means2d[i, n], conics[i, n], weights[i, n], colours[i, n])
            slot_start[i, k + 1] = count_tiles(records[i, k], tiles_y, tiles_x)


@njit(parallel=True, cache=True)
def _write_tiles(records, counts, tiles_y, tiles_x, slot_start, first, slot_tile):
    I, N = records.shape[:2]
    chunks = (N + _CHUNK - 1) // _CHUNK
    for task in prange(I * chunks):
        i, begin = task // chunks, task % chunks * _CHUNK
        for k in range(begin, min(begin + _CHUNK, counts[i])):
            a, b = first[i] + slot_start[i, k], first[i] + slot_start[i, k + 1]
            write_tiles(records[i, k], tiles_y, tiles_x, slot_tile[a:b])


@njit(parallel=True, cache=True)
def _sort_by_tile(counts, slot_start, first, slot_tile, tile_start, entries, slots):
    for i in prange(counts.size):
        a, b = first[i], first[i + 1]
        sort_slots(slot_start[i], counts[i], slot_tile[a:b], tile_start[i], entries[a:b], slots[a:b])


@njit(parallel=True, cache=True)
def _composite_images(threads, counter, records, first, entries, tile_start, background, used, rgb, alpha):
    for _ in prange(threads):
        _composite_worker(counter, records, first, entries, tile_start, background, used, rgb, alpha)


@njit(error_model="numpy")
def _composite_worker(counter, records, first, entries, tile_start, background, used, rgb, alpha):
    I, H, W = alpha.shape
    tiles_x = (W + TILE - 1) // TILE
    tiles = used.shape[1]
    state = np.empty(FORWARD_STATE, np.float32)
    task = fetch_add(counter, 1)
    while task < I * tiles:
        i, tile = task // tiles, task % tiles
        x0, y0 = tile % tiles_x * TILE, tile // tiles_x * TILE
        rows, columns = min(TILE, H - y0), min(TILE, W - x0)
        a, b = first[i] + tile_start[i, tile], first[i] + tile_start[i, tile + 1]
        state[:] = _f(0.0)
        lines = state.reshape(TILE, 4, TILE)
        lines[:, 0, :columns] = _f(1.0)
        used[i, tile] = composite_tile(records[i], entries[a:b], _f(x0), _f(y0), rows, state)
        for row in range(rows):
            for column in range(columns):
                T = abs(lines[row, 0, column])
                alpha[i, y0 + row, x0 + column] = _f(1.0) - T
                for c in range(3):
                    rgb[i, y0 + row, x0 + column, c] = lines[row, c + 1, column] + T * background[c]
        task = fetch_add(counter, 1)


@njit(parallel=True, cache=True)
def _composite_images_backward(
    threads, counter, records, first, entries, slots, tile_start, used, background, rgb, alpha, g_rgb, g_alpha,
    gradients,
):  # fmt: skip
    for _ in prange(threads):
        _backward_worker(
            counter, records, first, entries, slots, tile_start, used, background, rgb, alpha, g_rgb, g_alpha, gradients
        )


@njit(error_model="numpy")
def _backward_worker(
    counter, records, first, entries, slots, tile_start, used, background, rgb, alpha, g_rgb, g_alpha, gradients
):
    I, H, W = alpha.shape
    tiles_x = (W + TILE - 1) // TILE
    tiles = used.shape[1]
    state = np.empty(BACKWARD_STATE, np.float32)
    task = fetch_add(counter, 1)
    while task < I * tiles:
        i, tile = task // tiles, task % tiles
        x0, y0 = tile % tiles_x * TILE, tile // tiles_x * TILE
        rows, columns = min(TILE, H - y0), min(TILE, W - x0)
        a, b = first[i] + tile_start[i, tile], first[i] + tile_start[i, tile + 1]
        if b > a:
            state[:] = _f(0.0)
            lines = state.reshape(TILE, 6, TILE)
            for row in range(rows):
                for column in range(columns):
                    y, x = y0 + row, x0 + column
                    # The background shows through 1 - alpha, so that alpha's gradient carries its colour away; what is
                    # behind the first Gaussian is the whole pixel less the background.
                    g = g_alpha[i, y, x]
                    behind = alpha[i, y, x] * g
                    for c in range(3):
                        g_c = g_rgb[i, y, x, c]
                        lines[row, 2 + c, column] = g_c
                        behind += (rgb[i, y, x, c] - background[c]) * g_c
                        g -= background[c] * g_c
                    lines[row, 0, column] = _f(1.0)
                    lines[row, 1, column] = behind
                    lines[row, 5, column] = g
            end = a + used[i, tile]
            base = first[i]
            composite_tile_backward(
                records[i], entries[a:end], slots[a:end], _f(x0), _f(y0), rows, state, gradients[base : first[i + 1]]
            )
            for k in range(end, b):
                gradients[base + slots[k]] = _f(0.0)
        task = fetch_add(counter, 1)


@njit(parallel=True, cache=True, error_model="numpy")
def _sum_slots(records, order, counts, slot_start, first, gradients, d_means2d, d_conics, d_weights, d_colours):
    I, N = order.shape
    chunks = (N + _CHUNK - 1) // _CHUNK
    for task in prange(I * chunks):
        i, begin = task // chunks, task % chunks * _CHUNK
        for k in range(begin, min(begin + _CHUNK, counts[i])):
            _sum_record(
                records[i, k], gradients[first[i] + slot_start[i, k] : first[i] + slot_start[i, k + 1]],
                order[i, k], d_means2d[i], d_conics[i], d_weights[i], d_colours[i],
            )  # fmt: skip


@njit(error_model="numpy")
def _sum_record(record, gradients, n, d_means2d, d_conics, d_weights, d_colours):
    """With q = dL/d(power), power = -(a dx^2 + 2 b dx dy + c dy^2)/2 and dx = pixel - mean: the chain to each input."""
    q, qx, qy, qxx, qxy, qyy = _f(0.0), _f(0.0), _f(0.0), _f(0.0), _f(0.0), _f(0.0)
    red, green, blue = _f(0.0), _f(0.0), _f(0.0)
    for k in range(gradients.shape[0]):
        q += gradients[k, 0]
        qx += gradients[k, 1]
        qy += gradients[k, 2]
        qxx += gradients[k, 3]
        qxy += gradients[k, 4]
        qyy += gradients[k, 5]
        red += gradients[k, 6]
        green += gradients[k, 7]
        blue += gradients[k, 8]
    a, b, c = _f(-2.0) * record[2], -record[3], _f(-2.0) * record[4]
    d_means2d[n, 0] = a * qx + b * qy
    d_means2d[n, 1] = b * qx + c * qy
    d_conics[n, 0], d_conics[n, 1], d_conics[n, 2] = _f(-0.5) * qxx, -qxy, _f(-0.5) * qyy
    d_weights[n] = q / record[5]
    d_colours[n, 0], d_colours[n, 1], d_colours[n, 2] = red, green, blue
