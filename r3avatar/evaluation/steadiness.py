"""How a moving picture changes from frame to frame, next to how the truth does."""

from __future__ import annotations

import torch
from torch import Tensor


class Steadiness:
    """Frame-difference error of consecutive frames of a view: flicker and missing motion, and not what stays wrong.

    With renders I and truths G of a view at two consecutive frames, over the pixels P that show the person in either,

        error = sum over pairs and P of |(I_t - I_{t-1}) - (G_t - G_{t-1})| / sum over pairs and P of |G_t - G_{t-1}|

    0 = every change is the truth's, 1 = as wrong as a picture that stands still, more than 1 = flicker. Consecutive are
    frames one step of the split's stride apart; other neighbours (a gap in the split) are no pair. So a value belongs
    to its stride: `stride` says which, and only equal ones compare.
    """

    def __init__(self, stride: int):
        """stride: frames from one evaluated frame to the next, at least 1."""
        if stride < 1:
            raise ValueError(f"the stride between evaluated frames must be at least 1, not {stride}")
        self.stride, self.pairs = stride, 0
        self._wrong = self._truth = 0.0
        self._last: dict[object, tuple[int, Tensor, Tensor, Tensor]] = {}

    @torch.no_grad()
    def add(self, view: object, frame: int, render: Tensor, truth: Tensor, mask: Tensor) -> None:
        """The next frame of a view (any hashable name), in ascending order.

        render, truth: [H, W, 3] in [0, 1], full frames; mask: [H, W] bool, the person.
        """
        last = self._last.get(view)
        self._last[view] = frame, render, truth, mask
        if last is None or frame - last[0] != self.stride:
            return
        if last[1].shape != render.shape:
            raise ValueError(
                f"view {view} is {tuple(last[1].shape)} in frame {last[0]}, {tuple(render.shape)} in {frame}"
            )
        person = mask | last[3]
        change, true_change = (render - last[1])[person], (truth - last[2])[person]
        self._wrong += float((change - true_change).abs().sum())
        self._truth += float(true_change.abs().sum())
        self.pairs += 1

    def result(self) -> dict:
        """{"error", "pairs", "stride"}; error is None without pairs, or where the truth never changes."""
        error = self._wrong / self._truth if self._truth > 0 else None
        return {"error": error, "pairs": self.pairs, "stride": self.stride}
