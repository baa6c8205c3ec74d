"""Compositing of all images of a call and the gradients' way back, tiles in parallel.

A task is a tile of any of the images. The result does not depend on which thread took what: a tile writes its own
pixels and its own slots, and a Gaussian's slots are added in their order.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from r3avatar.numba_threads import CHUNK, chunks, next_task, run_tasks

from .numba_binning import TileLists
from .numba_tiles import BACKWARD_STATE, FORWARD_STATE, SLOT, TILE, composite_tile, composite_tile_backward

_f = np.float32


def composite(lists: TileLists, background: np.ndarray, rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Fill rgb [I, H, W, 3] and alpha [I, H, W]; returns how many entries each tile looked at [I, tiles]."""
    I, tiles = lists.tile_start.shape[0], lists.tile_start.shape[1] - 1
    used = np.empty((I, tiles), np.int32)
    given = (lists.records, lists.first, lists.entries, lists.tile_start, background)
    run_tasks(_composite_tiles, I * tiles, *given, used, rgb, alpha)
    return used


def composite_backward(lists: TileLists, used, background, rgb, alpha, g_rgb, g_alpha):
    """Gradients of `composite`: means2d [I, N, 2], conics [I, N, 3], opacities [I, N], colours [I, N, 3]."""
    I, N = lists.order.shape
    gradients = np.empty((lists.entries.size, SLOT), np.float32)
    given = (lists.records, lists.first, lists.entries, lists.slots, lists.tile_start)
    images = (background, rgb, alpha, g_rgb, g_alpha)
    run_tasks(_composite_tiles_backward, used.size, *given, used, *images, gradients)
    d_means2d, d_conics = np.zeros((I, N, 2), np.float32), np.zeros((I, N, 3), np.float32)
    d_weights, d_colours = np.zeros((I, N), np.float32), np.zeros((I, N, 3), np.float32)
    given = (lists.records, lists.order, lists.counts, lists.slot_start, lists.first, gradients)
    run_tasks(_sum_slots, I * chunks(N), *given, d_means2d, d_conics, d_weights, d_colours)
    return d_means2d, d_conics, d_weights, d_colours


@njit(nogil=True, cache=True, error_model="numpy")
def _composite_tiles(counter, tasks, records, first, entries, tile_start, background, used, rgb, alpha):
    H, W = alpha.shape[1:]
    tiles_x = (W + TILE - 1) // TILE
    tiles = used.shape[1]
    state = np.empty(FORWARD_STATE, np.float32)
    task = next_task(counter)
    while task < tasks:
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
        task = next_task(counter)


@njit(nogil=True, cache=True, error_model="numpy")
def _composite_tiles_backward(
    counter, tasks, records, first, entries, slots, tile_start, used, background, rgb, alpha, g_rgb, g_alpha, gradients
):
    H, W = alpha.shape[1:]
    tiles_x = (W + TILE - 1) // TILE
    tiles = used.shape[1]
    state = np.empty(BACKWARD_STATE, np.float32)
    task = next_task(counter)
    while task < tasks:
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
        task = next_task(counter)


@njit(nogil=True, cache=True, error_model="numpy")
def _sum_slots(
    counter, tasks, records, order, counts, slot_start, first, gradients, d_means2d, d_conics, d_weights, d_colours
):
    task = next_task(counter)
    while task < tasks:
        chunk = task % (tasks // counts.size)
        i = task // (tasks // counts.size)
        for k in range(chunk * CHUNK, min((chunk + 1) * CHUNK, counts[i])):
            _sum_record(
                records[i, k], gradients[first[i] + slot_start[i, k] : first[i] + slot_start[i, k + 1]],
                order[i, k], d_means2d[i], d_conics[i], d_weights[i], d_colours[i],
            )  # fmt: skip
        task = next_task(counter)


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
