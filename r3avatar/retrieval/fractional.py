"""Times between recorded frames: where on the way to a neighbour a recorded pose is most like the query's."""

from __future__ import annotations

import torch
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
