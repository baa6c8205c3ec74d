"""torch's Adam, whose update on CUDA is one launch for all parameters of all groups."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from r3avatar.light_imports import without_dynamo
from r3avatar.triton_support import use_triton

_STOCK = 64  # captures that a piece of pinned memory serves


class FusedAdam(torch.optim.Adam):
    """Adam (Kingma & Ba 2015) with torch's state and state dict; checkpoints of either continue in the other.

    Where Triton runs, a step is one launch, in a CUDA graph too; a rate that is a tensor is read at every step. What
    the kernel does not cover (other types than float32, parameters on several devices, weight decay set on a group, a
    gradient scaler) takes torch's own way, as the CPU does.

    Where `found_inf` (a float32 number on the device, or None) is not 0, a step changes nothing.

    A captured step finds its addresses in pinned memory that the optimizer keeps: no graph of its steps may be
    replayed once the optimizer is gone.
    """

    # torch's would import torch._dynamo before a training's first step.
    add_param_group = without_dynamo(torch.optim.Adam.add_param_group)
    zero_grad = without_dynamo(torch.optim.Adam.zero_grad)
    state_dict = without_dynamo(torch.optim.Adam.state_dict)
    load_state_dict = without_dynamo(torch.optim.Adam.load_state_dict)

    def __init__(
        self,
        params: Iterable,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        backend: str = "auto",
    ):
        """params: as torch's Adam takes them; backend: see `triton_support.use_triton`."""
        super().__init__(params, lr=lr, betas=betas, eps=eps, fused=True)
        self.backend = backend
        self.found_inf: Tensor | None = None  # torch's name for it
        self._zero: Tensor | None = None  # a 0 for the kernel to find
        self._key: tuple = ()  # what the table of the last eager step holds
        self._table: Tensor | None = None
        self._programs = 0
        self._pinned: list[Tensor] = []  # every piece: graphs read them at each replay
        self._spare: list[Tensor] = []  # rows of them that no graph reads

    def step(self, closure: Callable | None = None):
        """Update every parameter that has a gradient; returns what `closure` (called before, with gradients) gave."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        parameters = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        if not parameters:
            if self._table is not None:
                self._restock(self._table)
        elif self._covers(parameters):
            with torch.no_grad():
                self._update()
        else:
            self._step_as_torch()
        return loss

    def _step_as_torch(self) -> None:
        """`super().step()`; where torch._dynamo is not loaded, without the wrapper that imports it to break graphs."""
        step = torch.optim.Adam.step
        wrapped = getattr(getattr(step, "__code__", None), "co_name", None) == "_use_grad"
        if not wrapped or "torch._dynamo" in sys.modules:
            super().step()
            return
        with torch.set_grad_enabled(self.defaults["differentiable"]):  # the wrapper's other purpose
            step.__wrapped__(self)

    def _covers(self, parameters: list[Tensor]) -> bool:
        device = parameters[0].device
        if not use_triton(self.backend, device):
            return False
        plain = not any(
            group["weight_decay"]
            or group["amsgrad"]
            or group["maximize"]
            or isinstance(group["betas"][0], Tensor)
            or (isinstance(group["lr"], Tensor) and group["lr"].dtype != torch.float32)
            for group in self.param_groups
        )
        found = self.found_inf
        scaled = getattr(self, "grad_scale", None) is not None or (
            found is not None and (found.dtype != torch.float32 or found.device != device)
        )
        return (
            plain
            and not scaled
            and all(
                x.dtype == torch.float32 and x.device == device and x.layout == torch.strided
                for p in parameters
                for x in (p, p.grad)
            )
            and all(p.is_contiguous() for p in parameters)
        )

    def _update(self) -> None:
        from r3avatar.training import triton_adam

        key, held = self._entries()
        if not key:
            return
        device = held[0].device
        skip = self.found_inf
        if skip is None:
            if self._zero is None or self._zero.device != device:
                self._zero = torch.zeros((), device=device)
            skip = self._zero
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            values, programs = triton_adam.table_of(key)
            # The pinned row is read at every replay, so that it is never written again.
            row = self._pin(len(values), device).copy_(torch.tensor(values))
            table = torch.empty(len(values), dtype=torch.int64, device=device)
            table.copy_(row, non_blocking=True)
            triton_adam.update(table, programs, skip)
            return
        if key != self._key or self._table is None or self._table.device != device:
            values, self._programs = triton_adam.table_of(key)
            self._table, self._key = torch.tensor(values).to(device, non_blocking=True), key
        self._restock(self._table)
        triton_adam.update(self._table, self._programs, skip)

    def _entries(self) -> tuple[tuple, list[Tensor]]:
        """The table's entries (see `triton_adam.table_of`), and the tensors that they point to."""
        entries, held = [], []
        for group in self.param_groups:
            lists: list[list[Tensor]] = [[] for _ in range(6)]
            self._init_group(group, *lists)  # torch's state, made where a parameter has none
            rate, (beta1, beta2) = group["lr"], group["betas"]
            parameters, gradients, means, squares, _, steps = lists
            for p, gradient, mean, square, step in zip(parameters, gradients, means, squares, steps):
                if not p.numel():
                    step += 1
                    continue
                on_device = isinstance(rate, Tensor) and rate.device == p.device and rate.dtype == torch.float32
                rates = (rate.data_ptr(), 0.0) if on_device else (0, float(rate))
                tensors = (p, gradient.contiguous(), self._own(p, "exp_avg", mean), self._own(p, "exp_avg_sq", square))
                addresses = (x.data_ptr() for x in tensors)
                if step.device != p.device or step.dtype != torch.float32:  # of a checkpoint of an unfused Adam
                    step = self.state[p]["step"] = step.to(p.device, torch.float32)
                entries.append((*addresses, p.numel(), step.data_ptr(), *rates, beta1, beta2, group["eps"]))
                held += tensors
        return tuple(entries), held

    def _own(self, p: Tensor, name: str, value: Tensor) -> Tensor:
        """The parameter's average as the kernel needs it: contiguous."""
        if not value.is_contiguous():
            value = self.state[p][name] = value.contiguous()
        return value

    def _pin(self, length: int, device: torch.device) -> Tensor:
        """Pinned int64 [length] that nobody else reads."""
        if not self._spare or len(self._spare[-1]) < length:
            self._refill(length)
        return self._spare.pop()[:length]

    def _restock(self, table: Tensor) -> None:
        """Have pinned memory ready: its allocation is better left out of a capture."""
        if table.device.type == "cuda" and (len(self._spare) < 2 or len(self._spare[-1]) < len(table)):
            self._refill(len(table))

    def _refill(self, length: int) -> None:
        piece = torch.empty(_STOCK, length, dtype=torch.int64, pin_memory=True)
        self._pinned.append(piece)
        self._spare = list(piece)
