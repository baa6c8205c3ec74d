"""Room for Gaussians to come: a recorded training step that outlives the edits of density control."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from r3avatar.avatar import CanonicalGaussians

_MULTIPLE = 16  # kernels are compiled for numbers that 16 divides


def rows_for(count: int) -> int:
    """Rows that so many Gaussians lie in: at most an eighth more than them, and the same for eight edits or so.

    It depends on nothing else, so that a run that is resumed, and every replica, has the same.
    """
    step = max(_MULTIPLE, 1 << max(0, count.bit_length() - 4))
    return -(-count // step) * step


class Room:
    """The learned tensors of N Gaussians, and Adam's averages, as the first N rows of larger ones that stay in place.

    Between steps the module and the optimizer hold the N rows, and nobody need know of the others. Within `open` they
    hold all rows: shapes and addresses that stay until an edit asks for more rows than there are (`rows`). The rows
    beyond N are copies of Gaussians; `CanonicalGaussians.alive` is 0 for them, so that they are transparent, and no
    gradient reaches them.
    """

    def __init__(self, gaussians: CanonicalGaussians, optimizer: torch.optim.Optimizer):
        """optimizer: torch's own, not a wrapper."""
        self._gaussians, self._optimizer = gaussians, optimizer
        self.count, self.rows = 0, 0
        self._living: dict[str, nn.Parameter] = {}
        self._all: dict[str, nn.Parameter] = {}
        self._averages: dict[str, dict] = {}  # the optimizer's state of all rows
        self._alive = torch.zeros(0)

    @torch.no_grad()
    def settle(self) -> None:
        """Take in the Gaussians as they are now, before a step: nothing to do unless an edit has replaced them."""
        living = dict(self._gaussians.named_parameters(recurse=False))
        if len(self._gaussians) == self.count and all(
            name in self._all and p.data_ptr() == self._all[name].data_ptr() for name, p in living.items()
        ):
            return
        count, device = len(self._gaussians), self._gaussians.positions.device
        if rows_for(count) != self.rows or self._alive.device != device:
            self.rows = rows_for(count)
            self._alive = torch.zeros(self.rows, device=device)
            self._all, self._averages = {}, {}
            for name, p in living.items():
                self._all[name] = nn.Parameter(p.new_zeros(self.rows, *p.shape[1:]), requires_grad=p.requires_grad)
        self._living, self.count = living, count
        self._alive.fill_(1)[count:] = 0
        spare = torch.arange(self.rows - count, device=device) % max(1, count)
        for name, p in living.items():
            whole, averages = self._all[name].detach(), self._averages.setdefault(name, {})
            whole[:count], whole[count:] = p, p.index_select(0, spare)
            for key, value in self._optimizer.state.get(p, {}).items():
                if isinstance(value, Tensor) and value.shape == p.shape:
                    if key not in averages:
                        averages[key] = torch.zeros_like(whole)
                    averages[key][:count], averages[key][count:] = value, 0
                    self._optimizer.state[p][key] = averages[key][:count]
                else:  # Adam's count of steps
                    averages[key] = value
            p.data = whole[:count]

    @contextmanager
    def open(self) -> Iterator[None]:
        """Let module and optimizer hold all rows; gradients of these are gone afterwards. `settle` comes first."""
        state = self._optimizer.state
        for name, p in self._living.items():
            state.pop(p, None)
            if self._averages[name]:
                state[self._all[name]] = self._averages[name]
        self._exchange(self._living, self._all)
        self._gaussians.alive = self._alive
        try:
            yield
        finally:
            self._gaussians.alive = None
            self._exchange(self._all, self._living)
            for name, p in self._living.items():
                whole = self._all[name]
                whole.grad = None
                averages = self._averages[name] = state.pop(whole, {})
                if averages:
                    state[p] = {
                        key: value[: self.count] if isinstance(value, Tensor) and value.shape == whole.shape else value
                        for key, value in averages.items()
                    }

    def _exchange(self, old: dict[str, nn.Parameter], new: dict[str, nn.Parameter]) -> None:
        places = {p: new[name] for name, p in old.items()}
        for name, p in new.items():
            setattr(self._gaussians, name, p)
        for group in self._optimizer.param_groups:
            group["params"] = [places.get(p, p) for p in group["params"]]
