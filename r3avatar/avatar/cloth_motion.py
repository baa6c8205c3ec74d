"""How loose cloth moves as a whole: a polynomial of the place, recorded for every time."""

from __future__ import annotations

from itertools import combinations_with_replacement

import torch
from torch import Tensor, nn


class ClothMotion(nn.Module):
    """Offsets of cloth [F, N, 3] that are polynomials of the canonical place, with coefficients recorded over time.

    Not in the paper. A skirt swings, turns and flares as a whole: hung on the pelvis, simulated skirts, capes and
    trousers are 3.4 to 8.8 cm from their mean place, and 1.7 to 2.7 cm from the best map of degree 2 for each time. So
    few numbers are found from few images; the codebook records what is left.

    Coefficients lie at `moments` times, evenly spaced from tau = -1 to 1, linear in between. They begin at 0.
    """

    def __init__(self, degree: int, moments: int, points: Tensor):
        """degree: of the polynomials, 1 to 3; points [M, 3]: the cloth's, whose middle and extent give coordinates."""
        super().__init__()
        if not 1 <= degree <= 3:
            raise ValueError(f"cloth_motion = {degree} is the degree of polynomials: 1 to 3, or 0 for none")
        self.degree = degree
        low, high = (points.amin(0), points.amax(0)) if len(points) else (points.new_zeros(3), points.new_ones(3))
        self.register_buffer("middle", (low + high) / 2)
        self.register_buffer("reach", ((high - low) / 2).clamp_min(0.05))
        self.coefficients = nn.Parameter(torch.zeros(moments, len(self.powers(points.new_zeros(1, 3))[0]), 3))

    def powers(self, points: Tensor) -> Tensor:
        """Monomials [N, K] of points [N, 3] up to the degree: K = 4, 10 or 20."""
        x = (points - self.middle) / self.reach
        of_degree = {(): torch.ones_like(x[:, 0])}
        terms = [of_degree[()]]
        for degree in range(1, self.degree + 1):
            axes = combinations_with_replacement(range(3), degree)
            of_degree = {a: of_degree[a[:-1]] * x[:, a[-1]] for a in axes}
            terms += of_degree.values()
        return torch.stack(terms, 1)

    def forward(self, points: Tensor, share: Tensor, taus: Tensor) -> Tensor:
        """points [N, 3] canonical metres, share [N] of the motion that each takes, taus [F] in [-1, 1] to [F, N, 3]."""
        moments = len(self.coefficients)
        at = ((taus + 1) / 2 * (moments - 1)).clamp(0, moments - 1)
        first = at.floor().long().clamp_max(moments - 2)
        late = (at - first)[:, None, None]
        before, after = (self.coefficients.index_select(0, first + k) for k in (0, 1))
        now = before * (1 - late) + after * late  # [F, K, 3]
        return (share[:, None] * self.powers(points)) @ now
