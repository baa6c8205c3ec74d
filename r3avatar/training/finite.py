"""Steps that are no numbers any more: seen on the device at every step, read by the host now and then."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm


class FiniteWatch:
    """Whether the loss and the gradients of every step so far were finite.

    `found` [] float32 is 0, and 1 from the first step on that was not: an Adam that skips its update where it is 1
    (torch's `found_inf`) leaves the state as it was before that step, however late the host looks.
    """

    def __init__(self, device: torch.device):
        self.found = torch.zeros((), device=device)
        self.steps = torch.zeros((), dtype=torch.float64, device=device)
        """How many steps ago the first one was that was not finite, itself counted; 0: none."""

    def look(self, loss: Tensor, gradients: list[Tensor]) -> None:
        """Take in a step, after its backward pass and before its update: in place, without synchronisation."""
        size = get_total_norm(gradients) + loss.detach()
        self.found.masked_fill_(size - size != 0, 1)  # inf - inf is no number, and unequal to all
        self.steps += self.found

    def lost(self) -> int:
        """`steps`, for which this waits for the device."""
        return int(self.steps)
