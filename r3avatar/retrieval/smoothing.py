"""From nearest frames to times: keep each part on its timeline where that is possible."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from r3avatar.retrieval.retrieved import Retrieved


def greedy(distances: Tensor, times: Tensor, window: float = 3.0) -> Retrieved:
    """The published rule, frame by frame and for each part on its own.

    Of a part's k candidates those with |t - t_prev| < window stay, t_prev being the time chosen for the frame before.
    Two or more: the two nearest in pose, blended by inverse distance (t is then fractional). One: that one. None: the
    nearest of all, and t_prev is noted as a jump. The first frame takes the nearest of all.

    `window` and `times` count recorded frames, and the rows are every frame of the query in order: whoever evaluates
    each n-th frame retrieves for all of them and picks rows of the result, so that the stride changes nothing.

    Args:
        distances: [Q, 5, k] pose distances of the candidates, ascending.
        times: [Q, 5, k] their recorded times, frames.
        window: half width of the window, recorded frames; exactly this far is outside.

    Source: R3-Avatar (arXiv 2503.12751), retrieval; where both distances are 0 (0/0 as published) the first counts.
    """
    if distances.shape != times.shape or distances.ndim != 3 or distances.shape[-1] == 0:
        shapes = f"{tuple(distances.shape)} and {tuple(times.shape)}"
        raise ValueError(f"distances and times must both be [Q, 5, k] with k > 0, not {shapes}")
    # On the host and in float64, whatever device searched: a recurrence over few candidates, most of them never read.
    d, t = (x.double().tolist() for x in (distances, times))
    rows, last = [], None
    for query in zip(d, t):
        last = [choose(*part, window, None if last is None else last[p][0]) for p, part in enumerate(zip(*query))]
        rows.append(last)
    # [Q, 5, 4]; an empty query has no rows to tell the shape from
    found = torch.tensor(rows, dtype=torch.float64).reshape(*distances.shape[:2], 4)
    floats = (found[..., i].to(distances) for i in range(3))
    return Retrieved(*floats, found[..., 3].to(distances.device, torch.int64))


def choose(
    distances: list[float], times: list[float], window: float, before: float | None
) -> tuple[float, float, float, int]:
    """A part's time in one frame, the time that it jumped from (NaN: it did not), its distance, and its neighbours.

    before: the part's time in the frame before; None in the first one.
    """
    if before is None:
        return times[0], math.nan, distances[0], -1
    inside = [i for i, time in enumerate(times) if abs(time - before) < window]
    if not inside:
        return times[0], before, distances[0], 0
    a = inside[0]
    if len(inside) == 1:
        return times[a], math.nan, distances[a], 1
    b = inside[1]
    total = distances[a] + distances[b]
    w = distances[b] / total if total > 0 else 1.0
    time, distance = (w * x[a] + (1 - w) * x[b] for x in (times, distances))
    return time, math.nan, distance, len(inside)
