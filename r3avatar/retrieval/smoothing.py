"""From nearest frames to times: keep each part on its timeline where that is possible."""

from __future__ import annotations

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
    device, dtype = distances.device, distances.dtype
    # A recurrence over tiny rows: on the host, in float64, whatever device searched.
    d, t = distances.double().cpu(), times.double().cpu()
    Q, parts, k = d.shape
    chosen, chosen_distance = t[:, :, 0].clone(), d[:, :, 0].clone()
    previous = torch.full((Q, parts), torch.nan, dtype=torch.float64)
    neighbours = torch.full((Q, parts), -1)
    order = torch.arange(k)
    for q in range(1, Q):
        inside = (t[q] - chosen[q - 1, :, None]).abs() < window  # [5, k]
        count = inside.sum(-1)
        rank = torch.where(inside, order, k).sort(dim=-1).values.clamp_max(k - 1)  # kept candidates, nearest pose first
        first, second = rank[:, :1], rank[:, 1:2] if k > 1 else rank[:, :1]
        d_a, d_b = d[q].gather(-1, first)[:, 0], d[q].gather(-1, second)[:, 0]
        t_a, t_b = t[q].gather(-1, first)[:, 0], t[q].gather(-1, second)[:, 0]
        total = d_a + d_b
        w = torch.where(total > 0, d_b / total.clamp_min(torch.finfo(torch.float64).tiny), 1.0)
        w = torch.where(count >= 2, w, 1.0)
        none = count == 0
        chosen[q] = torch.where(none, t[q, :, 0], w * t_a + (1 - w) * t_b)
        chosen_distance[q] = torch.where(none, d[q, :, 0], w * d_a + (1 - w) * d_b)
        previous[q] = torch.where(none, chosen[q - 1], torch.nan)
        neighbours[q] = count
    floats = (x.to(device, dtype) for x in (chosen, previous, chosen_distance))
    return Retrieved(*floats, neighbours.to(device))
