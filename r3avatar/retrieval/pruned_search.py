"""Exact nearest frames without measuring most of them: frames in blocks of similar ones, each block inside a box.

A frame is at least as far from a query as the box around its block is. Blocks are the leaves of a k-d tree cut at
multiples of their size, and `_GROUP` blocks in a row share a box of their own, so that a search looks at few boxes and
then at few blocks; in a block all frames are looked at together, in the lanes of vector registers. A query that moves
begins with where its last neighbours have moved to, which bounds what may still be nearer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numba import njit

from r3avatar import numba_threads
from r3avatar.numba_cache import follow
from r3avatar.numba_threads import FAST

Array = np.ndarray

_LANES = 32  # frames of a block
_GROUP = 16  # blocks of a group
_AXES = 4  # principal axes of a joint that are looked at; boxes and blocks hold one number more
_ROUNDING = 1e-5  # relative; what float32 loses in boxes and blocks is less


class PrunedSearch:
    """The k nearest recorded frames of every body part, for one query after the other, on one core.

    Distances are means over a part's joints of Euclidean norms (`index.pose_distance`), or with `angles` of
    `rotation_embedding.geodesic_distance`; ids are those of measuring every frame in float64.

    A joint's numbers are turned to their principal axes; the first `_AXES` and the length of the rest stand for them in
    boxes and blocks. Two frames are never farther apart in these than they are, and hardly less far: what is left after
    them is measured as it is.
    """

    def __init__(self, bank: Array, parts: Sequence[int], angles: bool = False, advance: int = 1):
        """
        Args:
            bank: [T, S, C] float32, finite, C >= 9: the parts' joints one after the other.
            parts: joints of each part, which add up to S.
            angles: a joint's first nine numbers are a rotation matrix / sqrt(2).
            advance: rows by which neighbours move on from one query to the next; a guess that only time depends on.
        """
        T, S, C = bank.shape
        if T == 0:
            raise ValueError("no recorded frames: a search needs at least one")
        if sum(parts) != S or C < 9:
            raise ValueError(f"the bank is [T, {S}, {C}], but its parts have {list(parts)} joints of 9 numbers or more")
        self.frames, self.angles, self.advance = T, angles, advance
        self.starts = np.cumsum([0, *parts])
        sample = np.asarray(bank[:: max(1, T // 4096)], np.float64)
        self._mean = sample.mean(0)
        moved = (sample - self._mean).transpose(1, 2, 0)
        axes = np.linalg.eigh(moved @ moved.transpose(0, 2, 1))[1][:, :, ::-1]  # [S, C, C], the widest first
        self._axes = np.ascontiguousarray(axes[:, :, :_AXES])
        B = -(-T // _LANES)
        G = -(-B // _GROUP)
        self._ids = np.full((len(parts), B * _LANES), -1, np.int32)  # the frame at each place of the blocks
        self.places = np.zeros((len(parts), T), np.int32)  # and the other way round
        # The frames as they are, part after part in the order of places: near ones lie together.
        self.measures = np.empty(T * S * C, np.float32)
        self._blocks = np.full((B, S, _AXES + 1, _LANES), np.inf, np.float32)  # what is missing is infinitely far
        self._low = np.full((G, S, _AXES + 1, _GROUP), np.inf, np.float32)
        self._high = np.full((G, S, _AXES + 1, _GROUP), -np.inf, np.float32)
        largest = 0.0
        for p, (start, end) in enumerate(zip(self.starts, self.starts[1:])):
            points = _shortened(bank[:, start:end], self._mean[start:end], self._axes[start:end])
            largest = max(largest, float(np.abs(points).max()))
            order = np.arange(T)
            _arrange(points.reshape(T, -1), order)
            self._ids[p, :T], self.places[p, order] = order, np.arange(T)
            own = self.measures[T * C * start : T * C * end].reshape(T, end - start, C)
            np.take(bank[:, start:end], order, 0, own)
            _fill(points, order, start, self._blocks, self._low, self._high)
        self._slack = _ROUNDING * max(parts) * (1 + largest)
        self._group_low = np.ascontiguousarray(self._low.min(-1).transpose(1, 2, 0))[None]
        self._group_high = np.ascontiguousarray(self._high.max(-1).transpose(1, 2, 0))[None]
        self._seen = np.zeros((len(parts), T), np.int32)  # the query that last measured a place
        self._queries = 0
        self._last = np.zeros((len(parts), 0), np.int64)
        self._looked_at = np.zeros(2, np.int64)

    @property
    def nbytes(self) -> int:
        """Memory of the search, bytes."""
        arrays = (self._ids, self.places, self.measures, self._blocks, self._low, self._high, self._seen)
        return sum(x.nbytes for x in arrays)

    @property
    def measured(self) -> float:
        """The share of frames (of all parts) that the last search measured as they are."""
        return self._looked_at[1] / self._seen.size

    def search(self, query: Array, k: int) -> tuple[Array, Array]:
        """Distances [P, k'] float64 ascending and rows [P, k'] int64 of the k' = min(k, T) nearest to `query` [S, C].

        Equal distances: the lower row first. The nearer the query is to the one before, the faster.
        """
        k = min(k, self.frames)
        distances, rows = np.empty((len(self.starts) - 1, k)), np.empty((len(self.starts) - 1, k), np.int64)
        self._queries += 1
        _search(
            np.ascontiguousarray(query, np.float32), self.measures, self.places, self.starts, self._mean, self._axes,
            self.angles, self._slack, self._blocks, self._ids, self._low, self._high, self._group_low,
            self._group_high, self._last, self.advance, self._seen, self._queries, distances, rows, self._looked_at,
        )  # fmt: skip
        self._last = rows
        return distances, rows


@njit(cache=True, nogil=True)
def _shortened(bank, mean, axes):
    """Coordinates on the axes [S, C, A] and the length of what they leave out: [T, S, A + 1] float32."""
    T, S, C = bank.shape
    A = axes.shape[2]
    points = np.empty((T, S, A + 1), np.float32)
    for t in range(T):
        for s in range(S):
            rest = 0.0
            for c in range(C):
                rest += (bank[t, s, c] - mean[s, c]) ** 2
            for a in range(A):
                along = 0.0
                for c in range(C):
                    along += (bank[t, s, c] - mean[s, c]) * axes[s, c, a]
                points[t, s, a] = along
                rest -= along * along
            points[t, s, A] = math.sqrt(max(0.0, rest))
    return points


@njit(cache=True, nogil=True)
def _fill(points, order, first, blocks, low, high):
    """Write one part's points [T, P, A] into its joints (from `first`) of the blocks and their boxes."""
    T, P, A = points.shape
    for row in range(T):
        b, lane = row // _LANES, row % _LANES
        g, s = b // _GROUP, b % _GROUP
        for p in range(P):
            for a in range(A):
                x = points[order[row], p, a]
                blocks[b, first + p, a, lane] = x
                low[g, first + p, a, s] = min(low[g, first + p, a, s], x)
                high[g, first + p, a, s] = max(high[g, first + p, a, s], x)


@njit(cache=True, nogil=True)
def _arrange(points, order):
    """Reorder `order` so that each run of a block's length, and each of a group's, holds frames that lie together."""
    T, D = points.shape
    stack = np.empty((128, 2), np.int64)
    stack[0, 0], stack[0, 1] = 0, T
    depth = 1
    mean, square = np.empty(D), np.empty(D)
    while depth:
        depth -= 1
        start, end = stack[depth]
        count = end - start
        if count <= _LANES:
            continue
        unit = _LANES * _GROUP if count > _LANES * _GROUP else _LANES
        half = start + (-(-count // unit) // 2) * unit
        mean[:], square[:] = 0.0, 0.0
        n = 0
        for i in range(start, end, max(1, count // 1024)):  # the axis along which a sample varies most
            n += 1
            for d in range(D):
                x = points[order[i], d]
                mean[d] += x
                square[d] += x * x
        widest, most = 0, -1.0
        for d in range(D):
            variance = square[d] / n - (mean[d] / n) ** 2
            if variance > most:
                widest, most = d, variance
        _select(points, widest, order, start, end - 1, half)
        stack[depth, 0], stack[depth, 1] = start, half
        stack[depth + 1, 0], stack[depth + 1, 1] = half, end
        depth += 2


@njit(cache=True, nogil=True)
def _select(points, axis, order, left, right, at):
    """Hoare's selection: afterwards order[left:at] are not above, and order[at:right + 1] not below, order[at]."""
    while left < right:
        pivot = points[order[(left + right) // 2], axis]
        i, j = left, right
        while i <= j:
            while points[order[i], axis] < pivot:
                i += 1
            while points[order[j], axis] > pivot:
                j -= 1
            if i <= j:
                order[i], order[j] = order[j], order[i]
                i += 1
                j -= 1
        if at <= j:
            right = j
        elif at >= i:
            left = i
        else:
            return


# No slices in what follows: making one counts references, which costs more than a block.


@njit(cache=True, nogil=True, fastmath=FAST)
def _search(
    query, measures, places, starts, mean, axes, angles, slack, blocks, ids, low, high, group_low, group_high, last,
    advance, seen, now, distances, rows, looked_at,
):  # fmt: skip
    """Fills `distances` and `rows` [P, k], and `looked_at`: blocks, and frames that were measured as they are."""
    P, k = distances.shape
    G, B, T = len(low), len(blocks), places.shape[1]
    point = _shortened(query.reshape(1, *query.shape), mean, axes)
    group_bound, bound, sums = np.empty(G, np.float32), np.empty(_GROUP, np.float32), np.empty(_LANES, np.float32)
    looked_at[:] = 0
    for p in range(P):
        start, end = starts[p], starts[p + 1]
        count, limit = 0, np.inf
        for i in range(last.shape[1]):
            row = min(last[p, i] + advance, T - 1)
            place = places[p, row]
            if seen[p, place] != now and count < k:
                seen[p, place] = now
                looked_at[1] += 1
                distance = _distance(query, measures, T, place, start, end, angles)
                count = _insert(distance, row, distances, rows, p, count)
        if count == k:
            limit = distances[p, k - 1] * (1 + _ROUNDING) + slack
        _bound(point, start, end, group_low, group_high, 0, group_bound)
        first = np.argmin(group_bound)
        for turn in range(G + 1):  # the nearest group, then all in turn
            g = first if turn == 0 else turn - 1
            if (turn > 0 and g == first) or group_bound[g] > limit:
                continue
            _bound(point, start, end, low, high, g, bound)
            for s in range(min(_GROUP, B - g * _GROUP)):
                if bound[s] > limit:
                    continue
                b = g * _GROUP + s
                looked_at[0] += 1
                if _look(point, start, end, blocks, b, sums) > limit:
                    continue
                for i in range(_LANES):
                    if sums[i] > limit:
                        continue
                    place = b * _LANES + i
                    if place >= T or seen[p, place] == now:
                        continue
                    looked_at[1] += 1
                    distance = _distance(query, measures, T, place, start, end, angles)
                    count = _insert(distance, ids[p, place], distances, rows, p, count)
                    if count == k:
                        limit = distances[p, k - 1] * (1 + _ROUNDING) + slack
        for i in range(k):
            distances[p, i] /= end - start


@njit(cache=True, nogil=True, fastmath=FAST)
def _bound(point, start, end, low, high, g, bound):
    """The sums over joints of the distances to boxes with corners [.., S, A, n]: no frame inside is nearer."""
    n = low.shape[3]
    bound[:n] = 0.0
    zero = np.float32(0.0)
    for s in range(start, end):
        x0, x1, x2, x3, x4 = point[0, s, 0], point[0, s, 1], point[0, s, 2], point[0, s, 3], point[0, s, 4]
        for i in range(n):
            d0 = _outside(low[g, s, 0, i] - x0, x0 - high[g, s, 0, i], zero)
            d1 = _outside(low[g, s, 1, i] - x1, x1 - high[g, s, 1, i], zero)
            d2 = _outside(low[g, s, 2, i] - x2, x2 - high[g, s, 2, i], zero)
            d3 = _outside(low[g, s, 3, i] - x3, x3 - high[g, s, 3, i], zero)
            d4 = _outside(low[g, s, 4, i] - x4, x4 - high[g, s, 4, i], zero)
            bound[i] += math.sqrt(d0 * d0 + d1 * d1 + d2 * d2 + d3 * d3 + d4 * d4)


@njit(inline="always")
def _outside(below, above, zero):
    d = below if below > above else above
    return d if d > zero else zero


@njit(cache=True, nogil=True, fastmath=FAST)
def _look(point, start, end, blocks, b, sums):
    """The sums over joints of the distances in a block [S, A, L], by what it holds of them; returns the least."""
    for i in range(_LANES):
        sums[i] = 0.0
    for s in range(start, end):
        x0, x1, x2, x3, x4 = point[0, s, 0], point[0, s, 1], point[0, s, 2], point[0, s, 3], point[0, s, 4]
        for i in range(_LANES):
            d0, d1, d2 = blocks[b, s, 0, i] - x0, blocks[b, s, 1, i] - x1, blocks[b, s, 2, i] - x2
            d3, d4 = blocks[b, s, 3, i] - x3, blocks[b, s, 4, i] - x4
            sums[i] += math.sqrt(d0 * d0 + d1 * d1 + d2 * d2 + d3 * d3 + d4 * d4)
    least = sums[0]
    for i in range(_LANES):
        least = min(least, sums[i])
    return least


@njit(cache=True, nogil=True)
def _insert(distance, row, distances, rows, p, count):
    """Keep a frame if it is among the nearest of part p so far, `count` of them in order; returns their new number."""
    k = distances.shape[1]
    if count == k:
        if distance > distances[p, k - 1] or (distance == distances[p, k - 1] and row > rows[p, k - 1]):
            return count
    else:
        count += 1
    at = count - 1
    while at > 0 and (distances[p, at - 1] > distance or (distances[p, at - 1] == distance and rows[p, at - 1] > row)):
        distances[p, at], rows[p, at] = distances[p, at - 1], rows[p, at - 1]
        at -= 1
    distances[p, at], rows[p, at] = distance, row
    return count


@njit(cache=True, nogil=True, fastmath=FAST)
def _distance(query, measures, frames, place, start, end, angles):
    """The sum over a part's joints of the distance of the query to the frame at a place of `PrunedSearch.measures`."""
    total, C = 0.0, query.shape[1]
    at = (frames * start + place * (end - start)) * C
    for s in range(start, end):
        chord = rest = 0.0
        for c in range(9):
            d = np.float64(query[s, c]) - measures[at + c]
            chord += d * d
        for c in range(9, C):
            d = np.float64(query[s, c]) - measures[at + c]
            rest += d * d
        at += C
        if angles:
            chord = _squared_angle(chord)
        total += math.sqrt(chord + rest)
    return total


@njit(inline="always")
def _squared_angle(chord):
    """(2 asin(c / 2))^2 of a squared chord c^2, by the series where it is exact to float64's rounding."""
    if chord > 0.08:
        return (2.0 * math.asin(min(1.0, math.sqrt(chord) / 2.0))) ** 2
    # 4 asin(x)^2 = 2 sum over n of (2 x)^(2 n) / (n^2 binomial(2 n, n)), with (2 x)^2 = chord
    c = chord
    return c * (1 + c * (1 / 12 + c * (1 / 90 + c * (1 / 560 + c * (1 / 3150 + c * (1 / 16632 + c * (1 / 84084)))))))


def nearest_by_hand(query: Array, bank: Array, starts: Array, k: int, angles: bool = False) -> tuple[Array, Array]:
    """`PrunedSearch.search` by measuring every row of `bank` [T, S, C] (memory-mapped, say): [P, k'] twice."""
    every = distances_by_hand(query, bank, starts, angles)
    k = min(k, len(bank))
    rows = np.argsort(every, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(every, rows, 1), rows


@njit(cache=True, nogil=True)
def distances_by_hand(query, bank, starts, angles):
    """Distances [P, T] float64 of a query [S, C] to every row of `bank` [T, S, C]; parts begin at `starts`."""
    T, _, C = bank.shape
    P = len(starts) - 1
    found = np.zeros((P, T))
    for t in range(T):
        for p in range(P):
            for s in range(starts[p], starts[p + 1]):
                chord = rest = 0.0
                for c in range(C):
                    d = np.float64(query[s, c]) - bank[t, s, c]
                    if c < 9:
                        chord += d * d
                    else:
                        rest += d * d
                if angles:
                    chord = (2.0 * math.asin(min(1.0, math.sqrt(chord) / 2.0))) ** 2
                found[p, t] += math.sqrt(chord + rest)
            found[p, t] /= starts[p + 1] - starts[p]
    return found


follow(_search, numba_threads)
