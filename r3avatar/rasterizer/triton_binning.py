"""Which Gaussians each tile draws, on the GPU: depth order, exact ellipse-tile overlap, one list a tile.

Nothing here waits for the device, and no (Gaussian, tile) pair is ever sorted. Gaussians are sorted by depth once an
image and copied in that order; a program a bin (a square of tiles) keeps, in order, those whose box meets the bin; a
program a tile keeps, in order, those of its bin whose ellipse {alpha >= 1/255} meets the tile (the tile test of
Speedy-Splat, Hanson et al. 2025, sec. 4, as the minimum of a quadratic over a rectangle). Both count first, reserve
room by one atomic addition, and write then.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..triton_support import interpreting

# For tuning. Sizes are powers of two; a bin is 2^BIN_SHIFT tiles wide and high (more where the image is huge). Tiles of
# 8 x 8 pixels are one warp's work and fit Gaussians of some pixels: on an H200 twice as fast as 16 x 16.
TILE = 8
BIN_SHIFT = 2
PACK_BLOCK, PACK_WARPS = 128, 4
BIN_CHUNK, BIN_WARPS = 2048, 8
TILE_CHUNK, TILE_WARPS = 256, 4
if interpreting():  # an operation costs much the same at any length there
    TILE, PACK_BLOCK, BIN_CHUNK = 16, 512, 512

RECORD = 12  # words a Gaussian: x, y, p_xx, p_xy, p_yy, log2(opacity), r, g, b, columns, rows, unused
LOG2E = tl.constexpr(1.4426950408889634)
_RECORD = tl.constexpr(RECORD)
LOG2_255 = tl.constexpr(7.994353436858858)
_NO_BIN = tl.constexpr(0x0000FFFF)  # first bin 255, last bin 0: meets nothing


class TileLists(NamedTuple):
    """What each tile of B images draws. A Gaussian is known by its rank: its place in its image's depth order."""

    order: Tensor  # [B, N] int64: the Gaussian of a rank
    records: Tensor  # [B, N, RECORD] float32: the Gaussians by rank
    ranks: Tensor  # [capacity] int32: the lists, in no particular order
    starts: Tensor  # [B, tiles] int64: where a tile's list begins
    counts: Tensor  # [B, tiles] int32: and how long it is


def tile_grid(width: int, height: int) -> tuple[int, int]:
    """Columns and rows of tiles of an image."""
    return triton.cdiv(width, TILE), triton.cdiv(height, TILE)


def bin_shift(columns: int, rows: int) -> int:
    """Logarithm of a bin's width in tiles: so large that a bin's column and row fit 8 bits each."""
    shift = BIN_SHIFT
    while max(columns, rows) > 256 << shift:
        shift += 1
    return shift


def build_tile_lists(
    means2d: Tensor,
    conics: Tensor,
    weights: Tensor,
    colours: Tensor,
    depths: Tensor,
    boxes: Tensor,
    width: int,
    height: int,
    capacity: int,
    fill: Tensor,
) -> TileLists:
    """Sort the visible Gaussians of B images by depth and list them by tile, without a synchronisation.

    Args:
        means2d: [B, N, 2] pixels; conics: [B, N, 3] inverse covariances (xx, xy, yy); weights: [B, N] opacities;
            colours: [B, N, 3]; depths: [B, N]; all float32 and contiguous, N > 0.
        boxes: [B, N, 4] int32: x0, y0, x1, y1 in tiles, half-open; empty where not visible.
        capacity: room for so many entries in all lists together; what does not fit is dropped.
        fill: [1] int32, raised to 1000 times (entries needed / capacity), above 1000: entries were dropped. It stays
            at 1 or less where the capacity suffices for any scene.
    """
    B, N = depths.shape
    columns, rows = tile_grid(width, height)
    shift = bin_shift(columns, rows)
    bins_x, bins_y = triton.cdiv(columns, 1 << shift), triton.cdiv(rows, 1 << shift)
    tiles, bins, device = columns * rows, bins_x * bins_y, depths.device
    limit = capacity if capacity < B * N * tiles else 1 << 40

    order = torch.sort(depths, dim=1, stable=True).indices  # what is invisible may lie anywhere: its box is empty
    records = torch.empty(B, N, RECORD, dtype=torch.float32, device=device)
    bin_boxes = torch.empty(B, N, dtype=torch.int32, device=device)
    totals = torch.empty(2, dtype=torch.int64, device=device)
    _pack[(triton.cdiv(N, PACK_BLOCK), B)](
        means2d, conics, weights, colours, boxes, order, records, bin_boxes, totals, N, shift,
        BLOCK=PACK_BLOCK, num_warps=PACK_WARPS,
    )  # fmt: skip
    lists, ranks = (torch.empty(capacity, dtype=torch.int32, device=device) for _ in range(2))
    bin_starts, starts = (torch.empty(B, n, dtype=torch.int64, device=device) for n in (bins, tiles))
    bin_counts, counts = (torch.empty(B, n, dtype=torch.int32, device=device) for n in (bins, tiles))
    _list_bins[(bins * B,)](
        bin_boxes, lists, bin_starts, bin_counts, totals, fill, N, B, bins_x, bins, capacity, limit,
        CHUNK=BIN_CHUNK, num_warps=BIN_WARPS,
    )  # fmt: skip
    _list_tiles[(tiles * B,)](
        records, lists, bin_starts, bin_counts, ranks, starts, counts, totals, fill,
        N, B, columns, tiles, bins_x, bins, shift, capacity, limit,
        TILE=TILE, CHUNK=TILE_CHUNK, num_warps=TILE_WARPS,
    )  # fmt: skip
    return TileLists(order, records, ranks, starts, counts)


@triton.jit(do_not_specialize=["means2d", "conics", "weights", "colours", "boxes", "N", "shift"])
def _pack(
    means2d, conics, weights, colours, boxes, order, records, bin_boxes, totals, N, shift, BLOCK: tl.constexpr
):  # fmt: skip
    """Copy Gaussians into depth order: one record each, and the bins that its box meets as four bytes."""
    image = tl.program_id(1).to(tl.int64)
    rank = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    real = rank < N
    row = image * N + rank
    i = image * N + tl.load(order + row, mask=real, other=0)
    x, y = tl.load(means2d + 2 * i, mask=real, other=0.0), tl.load(means2d + 2 * i + 1, mask=real, other=0.0)
    # Powers of two, not of e: p = log2(o) + p_xx dx^2 + p_xy dx dy + p_yy dy^2, alpha = 2^p.
    p_xx = (-0.5 * LOG2E) * tl.load(conics + 3 * i, mask=real, other=0.0)
    p_xy = -LOG2E * tl.load(conics + 3 * i + 1, mask=real, other=0.0)
    p_yy = (-0.5 * LOG2E) * tl.load(conics + 3 * i + 2, mask=real, other=0.0)
    opacity = tl.log2(tl.maximum(tl.load(weights + i, mask=real, other=0.0), 1e-30))
    red = tl.load(colours + 3 * i, mask=real, other=0.0)
    green = tl.load(colours + 3 * i + 1, mask=real, other=0.0)
    blue = tl.load(colours + 3 * i + 2, mask=real, other=0.0)
    x0, y0 = tl.load(boxes + 4 * i, mask=real, other=0), tl.load(boxes + 4 * i + 1, mask=real, other=0)
    x1, y1 = tl.load(boxes + 4 * i + 2, mask=real, other=0), tl.load(boxes + 4 * i + 3, mask=real, other=0)
    columns, rows = (x0 | (x1 << 16)).to(tl.float32, bitcast=True), (y0 | (y1 << 16)).to(tl.float32, bitcast=True)

    corner = tl.arange(0, 4)[None, :]
    to = records + row[:, None] * _RECORD + corner
    write = real[:, None] & (corner < 4)
    tl.store(to, four(x, y, p_xx, p_xy, BLOCK), mask=write)
    tl.store(to + 4, four(p_yy, opacity, red, green, BLOCK), mask=write)
    tl.store(to + 8, four(blue, columns, rows, blue, BLOCK), mask=write)

    first_x, first_y, last_x, last_y = x0 >> shift, y0 >> shift, (x1 - 1) >> shift, (y1 - 1) >> shift
    bins = first_x | (first_y << 8) | (last_x << 16) | (last_y << 24)
    tl.store(bin_boxes + row, tl.where((x0 < x1) & (y0 < y1), bins, _NO_BIN), mask=real)
    if (tl.program_id(0) == 0) & (tl.program_id(1) == 0):
        tl.store(totals + tl.arange(0, 2), tl.zeros([2], tl.int64))


@triton.jit
def four(a, b, c, d, SIZE: tl.constexpr):
    """Four vectors as the columns of a matrix."""
    return tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), (SIZE, 4))


@triton.jit(do_not_specialize=["fill", "N", "B", "bins_x", "bins", "capacity", "limit"])
def _list_bins(
    bin_boxes, lists, starts, counts, totals, fill, N, B, bins_x, bins, capacity, limit, CHUNK: tl.constexpr
):  # fmt: skip
    """A program a bin: the ranks of the Gaussians whose box meets it."""
    image, bin = tl.program_id(0) % B, tl.program_id(0) // B
    column, row = bin % bins_x, bin // bins_x
    boxes = bin_boxes + image.to(tl.int64) * N
    lane = tl.arange(0, CHUNK)
    hits = tl.zeros([CHUNK], tl.int32)
    k = 0
    while k < N:
        hits += _meets(tl.load(boxes + k + lane, mask=k + lane < N, other=_NO_BIN), column, row)
        k += CHUNK
    found = tl.sum(hits, 0)
    start = _reserve(totals, fill, found, limit)
    _note(starts, counts, image.to(tl.int64) * bins + bin, start, found, capacity)
    if found > 0:
        k = 0
        while k < N:
            hit = _meets(tl.load(boxes + k + lane, mask=k + lane < N, other=_NO_BIN), column, row)
            start = _append(lists, start, k + lane, hit, capacity)
            k += CHUNK


@triton.jit(
    do_not_specialize=["fill", "N", "B", "columns", "tiles", "bins_x", "bins", "shift", "capacity", "limit"]
)  # fmt: skip
def _list_tiles(
    records, lists, bin_starts, bin_counts, ranks, starts, counts, totals, fill,
    N, B, columns, tiles, bins_x, bins, shift, capacity, limit,
    TILE: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """A program a tile: the ranks of the Gaussians of its bin whose ellipse meets it."""
    image, tile = tl.program_id(0) % B, tl.program_id(0) // B
    column, row = tile % columns, tile // columns
    bin = image.to(tl.int64) * bins + (row >> shift) * bins_x + (column >> shift)
    given, count = lists + tl.load(bin_starts + bin), tl.load(bin_counts + bin)
    records += image.to(tl.int64) * N * _RECORD
    lane = tl.arange(0, CHUNK)
    hits = tl.zeros([CHUNK], tl.int32)
    k = 0
    while k < count:
        rank = tl.load(given + k + lane, mask=k + lane < count, other=-1)
        hits += _reaches(records, rank, column, row, TILE)
        k += CHUNK
    found = tl.sum(hits, 0)
    start = _reserve(totals + 1, fill, found, limit)
    _note(starts, counts, image.to(tl.int64) * tiles + tile, start, found, capacity)
    if found > 0:
        k = 0
        while k < count:
            rank = tl.load(given + k + lane, mask=k + lane < count, other=-1)
            start = _append(ranks, start, rank, _reaches(records, rank, column, row, TILE), capacity)
            k += CHUNK


@triton.jit
def _meets(box, column, row):
    """1 where a box of bins contains the bin."""
    after = ((box & 255) <= column) & (((box >> 8) & 255) <= row)
    before = (((box >> 16) & 255) >= column) & (((box >> 24) & 255) >= row)
    return (after & before).to(tl.int32)


@triton.jit
def _reaches(records, rank, column, row, TILE: tl.constexpr):
    """1 where alpha meets 1/255 at a point of the rectangle of the tile's pixel centres; 0 where rank is negative.

    Outside of the rectangle the ellipse's centre sees one or two of its sides, and the least power on the rectangle
    is on one of those, at the foot of its own minimum.
    """
    real = rank >= 0
    record = records + rank * _RECORD
    x, y = tl.load(record, mask=real, other=0.0), tl.load(record + 1, mask=real, other=0.0)
    a, b = -tl.load(record + 2, mask=real, other=0.0), -tl.load(record + 3, mask=real, other=0.0)
    c, opacity = -tl.load(record + 4, mask=real, other=0.0), tl.load(record + 5, mask=real, other=0.0)
    wide = tl.load(record + 9, mask=real, other=0.0).to(tl.int32, bitcast=True)
    high = tl.load(record + 10, mask=real, other=0.0).to(tl.int32, bitcast=True)
    inside = ((wide & 0xFFFF) <= column) & ((wide >> 16) > column) & ((high & 0xFFFF) <= row) & ((high >> 16) > row)
    left, top = column * TILE + 0.5 - x, row * TILE + 0.5 - y
    right, bottom = left + (TILE - 1), top + (TILE - 1)
    near_x, near_y = tl.minimum(tl.maximum(left, 0.0), right), tl.minimum(tl.maximum(top, 0.0), bottom)
    foot_y = tl.minimum(tl.maximum(-0.5 * b * near_x / tl.maximum(c, 1e-30), top), bottom)
    foot_x = tl.minimum(tl.maximum(-0.5 * b * near_y / tl.maximum(a, 1e-30), left), right)
    # The large terms of a needle's power cancel: allow for their rounding, so that no pixel is ever lost.
    slack = 1e-2 + 4e-6 * (a * (near_x * near_x + foot_x * foot_x) + c * (near_y * near_y + foot_y * foot_y))
    side_x = a * near_x * near_x + b * near_x * foot_y + c * foot_y * foot_y
    side_y = a * foot_x * foot_x + b * foot_x * near_y + c * near_y * near_y
    least = tl.minimum(side_x, side_y)
    return (real & inside & (least <= opacity + LOG2_255 + slack)).to(tl.int32)


@triton.jit
def _reserve(total, fill, found, limit):
    """Where a list of `found` entries may begin."""
    start = found.to(tl.int64) * 0
    if found > 0:
        start = tl.atomic_add(total, found.to(tl.int64), sem="relaxed")
        share = ((start + found) * 1000 + limit - 1) // limit  # above 1000 if one entry alone is too many
        tl.atomic_max(fill, tl.minimum(share, 1 << 30).to(tl.int32), sem="relaxed")
    return start


@triton.jit
def _note(starts, counts, i, start, found, capacity):
    """Write where list `i` begins and how many of its entries fit."""
    tl.store(starts + i, start)
    room = tl.maximum(capacity - start, 0)
    tl.store(counts + i, tl.minimum(found.to(tl.int64), room).to(tl.int32))


@triton.jit
def _append(lists, start, values, hit, capacity):
    """Write the values that hit from `start` on, in order; returns where the next ones go."""
    place = start + tl.cumsum(hit, 0) - 1
    tl.store(lists + place, values, mask=(hit > 0) & (place < capacity))
    return start + tl.sum(hit, 0)
