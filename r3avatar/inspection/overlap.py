"""How well a body's silhouette and a person's mask agree.

The body wears clothes and hair: a right fit lies inside the mask but need not fill it. What counts is `inside`, the
share of the silhouette that the mask holds. `covered`, the share of the mask that the silhouette fills, only unmasks
bodies that are inside because they are far too small: a wide dress may leave half of it, a body in millimetres leaves
all of it. The usual IoU mixes both and is reported, not judged.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

GOOD, FAIR, POOR = VERDICTS = ("good", "fair", "poor")  # best first
# Least `inside` and least `covered` of a verdict. Inside: fits to real captures lose a pixel or two along limbs, some
# 3 to 5 percent of the body; a body that is a hand's breadth off loses 15 percent and more. Covered: see above.
THRESHOLDS = {GOOD: (0.92, 0.35), FAIR: (0.82, 0.25)}


class Overlap(NamedTuple):
    """Agreement of one silhouette with one mask, each in [0, 1]."""

    inside: float  # share of the silhouette inside the mask (its recall); 0 for an empty silhouette
    covered: float  # share of the mask under the silhouette; 0 for an empty mask
    iou: float  # intersection over union

    @property
    def verdict(self) -> str:
        """'good', 'fair' or 'poor' by THRESHOLDS."""
        for verdict, (inside, covered) in THRESHOLDS.items():
            if self.inside >= inside and self.covered >= covered:
                return verdict
        return POOR


def overlap(body: np.ndarray, mask: np.ndarray) -> Overlap:
    """The overlap of a silhouette and a mask, both [H, W], nonzero = person."""
    body, mask = body != 0, mask != 0
    both, alone, person = int((body & mask).sum()), int(body.sum()), int(mask.sum())
    union = alone + person - both
    return Overlap(both / max(alone, 1), both / max(person, 1), both / max(union, 1))


def median(overlaps: list[Overlap]) -> Overlap:
    """The median of each number; ValueError for none."""
    if not overlaps:
        raise ValueError("no overlap to take the median of")
    return Overlap(*(float(value) for value in np.median(np.array(overlaps), 0)))


def worst(verdicts: list[str]) -> str:
    """The worst of some verdicts; 'good' for none."""
    return max(verdicts, key=VERDICTS.index, default=GOOD)
