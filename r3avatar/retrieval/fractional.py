"""Times between recorded frames: where on the way to a neighbour a recorded pose is most like the query's."""

from __future__ import annotations

import math

import numpy as np
import torch
from numba import njit
from torch import Tensor

from r3avatar.retrieval.index import PartIndex


def fractional_times(index: PartIndex, times: Tensor, query: Tensor, ids: Tensor, gap: float) -> tuple[Tensor, Tensor]:
    """Times [Q] within half a step of the chosen frames', and the pose distances [Q] there.

    The query's embedding is projected on the line from the chosen frame's to each neighbour's. Half way is the limit:
    beyond it the neighbour would have been chosen.

    Args:
        index: of the part; times: [T] its recorded frames, ascending.
        query: [Q, J', C] embeddings; ids: [Q] the chosen frames.
        gap: neighbours farther apart than this (frames) are not neighbours: images are missing between them.
    """
    query = query[:, index.joints].to(index.bank)
    ids = ids.to(index.bank.device)
    here = index.bank[ids]
    best, distance = times[ids].to(index.bank), index.distance(query, here)
    start = best.clone()
    for side in (-1, 1):
        beside = (ids + side).clamp(0, len(index) - 1)
        way = index.bank[beside] - here
        t = times[beside].to(best) - start
        along = ((query - here) * way).sum((1, 2)) / way.square().sum((1, 2)).clamp_min(torch.finfo(way.dtype).tiny)
        along = torch.where(t.abs() <= gap, along, 0).clamp(0, 0.5)
        found = index.distance(query, here + along[:, None, None] * way)
        nearer = found < distance
        best, distance = torch.where(nearer, start + along * t, best), torch.where(nearer, found, distance)
    return best, distance


@njit(cache=True, nogil=True)
def live_times(query, measures, places, starts, rows, times, gap, angles):
    """`fractional_times` of one frame and every part, in float64 on the host: times [P] and distances [P].

    query [S, C]; measures, places, starts as `PrunedSearch` keeps them; rows [P] the chosen frames; gap = 0: the
    frames' own times. angles: `geodesic_distance`.
    """
    P, T = places.shape
    C = query.shape[1]
    found, distances = np.empty(P), np.empty(P)
    for p in range(P):
        row, start = rows[p], times[rows[p]]
        first, joints = starts[p], starts[p + 1] - starts[p]
        here = (T * first + places[p, row] * joints) * C  # where its numbers begin
        found[p], distances[p] = start, _between(query, measures, here, here, 0.0, first, joints, angles)
        for side in (-1, 1):
            beside = min(max(row + side, 0), T - 1)
            if beside == row or abs(times[beside] - start) > gap:
                continue
            there = (T * first + places[p, beside] * joints) * C
            product = length = 0.0
            for s in range(joints):
                for c in range(C):
                    way = np.float64(measures[there + s * C + c]) - measures[here + s * C + c]
                    product += (np.float64(query[first + s, c]) - measures[here + s * C + c]) * way
                    length += way * way
            along = min(max(product / length, 0.0), 0.5) if length > 0 else 0.0
            distance = _between(query, measures, here, there, along, first, joints, angles)
            if distance < distances[p]:
                found[p], distances[p] = start + along * (times[beside] - start), distance
    return found, distances


@njit(cache=True, nogil=True)
def _between(query, measures, here, there, along, first, joints, angles):
    """The mean distance of the query to what lies `along` the way from one frame to the one beside it."""
    total, C = 0.0, query.shape[1]
    for s in range(joints):
        chord = rest = 0.0
        for c in range(C):
            start = np.float64(measures[here + s * C + c])
            square = (query[first + s, c] - start - along * (measures[there + s * C + c] - start)) ** 2
            if c < 9:
                chord += square
            else:
                rest += square
        if angles:
            chord = (2.0 * math.asin(min(1.0, math.sqrt(chord) / 2.0))) ** 2
        total += math.sqrt(chord + rest)
    return total / joints
