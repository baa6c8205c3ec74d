"""What retrieval returns."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Retrieved:
    """Recorded times for each query frame and part (`parts.PARTS` in that order)."""

    times: Tensor  # [Q, 5] float, recorded frames; fractional between two frames
    previous: Tensor  # [Q, 5] float, the time to cross-fade from where the part jumped; NaN = no jump
    distances: Tensor  # [Q, 5] pose distance of the chosen frames, interpolated as the time is
    neighbours: Tensor  # [Q, 5] int64, candidates inside the window; -1 for the first query frame

    def __post_init__(self):
        for name in ("previous", "distances", "neighbours"):
            found = getattr(self, name).shape
            assert found == self.times.shape, f"{name} is {tuple(found)}; times are {tuple(self.times.shape)}"

    def __len__(self) -> int:
        return len(self.times)

    def __getitem__(self, rows) -> Retrieved:
        """Some of the query frames, e.g. those that are evaluated (`slice`, list or tensor: the Q axis stays)."""
        if isinstance(rows, list) and len(rows) == 1:
            rows = rows[0]
        if isinstance(rows, int):  # a view: frame after frame is asked for while an avatar moves
            rows = slice(rows, rows + 1 or None)
        return Retrieved(self.times[rows], self.previous[rows], self.distances[rows], self.neighbours[rows])

    @property
    def jump(self) -> Tensor:
        """[Q, 5] bool: the part left its timeline in this frame."""
        return ~torch.isnan(self.previous)
