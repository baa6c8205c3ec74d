"""Learning rates over the course of a run."""

from __future__ import annotations

import math


def log_linear(initial: float, final: float, progress: float) -> float:
    """From `initial` (progress 0) to `final` (progress 1), straight in the logarithm; constant beyond both ends.

    Source: 3D Gaussian splatting's position schedule; R3-Avatar: 1.6e-4 to 1.6e-6, progress = step / 30 000.
    """
    if not (initial > 0 and final > 0):
        raise ValueError(f"learning rates must be positive, not {initial} and {final}")
    u = min(max(progress, 0.0), 1.0)
    return math.exp((1 - u) * math.log(initial) + u * math.log(final))
