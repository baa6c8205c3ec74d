"""Replicas of one avatar, each with its share of every step: gradients, statistics and decisions become one."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from r3avatar.captures.shard import Shard
from r3avatar.cuda_graphs import GraphMemory

if TYPE_CHECKING:
    import pytorch_lightning as pl

T = TypeVar("T")
log = logging.getLogger(__name__)

_ALIGNMENT = 32  # floats; where gradients begin, so that kernels may read them four at a time
_SPARE = 1.25  # room for Gaussians to come


class Replicas:
    """The processes that train one avatar together, seen from one of them.

    Every replica takes the same steps with the same parameters, each on its shard of the step's images. Gradients lie
    in one flat buffer, which one all-reduce averages: shards are of equal size and the loss is a mean over images, so
    that the average is the gradient of one process with all of them. What hosts say to each other (`agree`, `check`,
    `first_only`, statistics) goes by gloo, beside the device's queue.

    Every method but `collect` and `hand_out` waits for the other ranks: all must call it, in the same order.
    """

    def __init__(self, shard: Shard, rank: int, local_rank: int, count: int, device: torch.device, record: bool = True):
        """record: make the all-reduce a part of recorded steps (CUDA), if that works here."""
        self.shard, self.rank, self.local_rank, self.count, self.device = shard, rank, local_rank, count, device
        self.inside = record
        """Whether the all-reduce belongs to a step that is recorded; else it is called between two recorded parts."""
        self._record = record
        self._flat: Tensor | None = None
        self._used = 0
        self._views: list[tuple[nn.Parameter, Tensor]] = []

    def start(self, module: nn.Module, optimizer: torch.optim.Optimizer, recording: bool) -> None:
        """Give all replicas rank 0's parameters and buffers, and see whether an all-reduce can be recorded.

        recording: steps will be recorded. RuntimeError if the optimizers' states are not the same (other checkpoints).
        """
        with torch.no_grad():
            for value in (x for x in [*module.parameters(), *module.buffers()] if x.numel()):
                held = value.detach().contiguous()
                dist.broadcast(held, src=0)
                if held.data_ptr() != value.data_ptr():
                    value.copy_(held)
        self.inside = not recording or (self._record and self._recordable())
        self.check(optimizer, "at the start: do all ranks read the same checkpoint?", averages=True)

    def _recordable(self) -> bool:
        """Whether an all-reduce works in a CUDA graph, on every rank; says so if not."""
        ones, graph, why = torch.ones(_ALIGNMENT, device=self.device), None, None
        dist.all_reduce(ones)  # makes the communicator, which cannot be done in a recording
        torch.cuda.synchronize(self.device)
        try:
            graph, _ = GraphMemory().record(lambda: dist.all_reduce(ones), self.device)
        except RuntimeError as error:
            why = str(error).splitlines()[0]
        if not self.agree(graph is None):  # a replay waits for those of all ranks
            graph.replay()
            torch.cuda.synchronize(self.device)
            if not bool((ones == self.count**2).all()):
                why = "its result was wrong"
        if why is not None:
            log.warning("rank %d cannot record an all-reduce as a CUDA graph: %s", self.rank, why)
        if self.agree(why is not None):
            log.warning("gradients are averaged between two recorded parts of a step, not within one recording")
            return False
        return True

    # The step: reserve, then in the recorded part collect and average; or average after it, and hand_out.

    def reserve(self, optimizer: torch.optim.Optimizer) -> int:
        """Have room for all gradients, before a step is recorded; the buffer's address. Waits for nobody."""
        parameters = _parameters(optimizer)
        size = sum(_aligned(p.numel()) for p in parameters)
        if self._flat is None or len(self._flat) < size:
            self._flat = torch.zeros(int(_SPARE * size), device=self.device)
        return self._flat.data_ptr()

    def collect(self, optimizer: torch.optim.Optimizer) -> None:
        """Copy the gradients there are to the flat buffer, and make them views of it; can be recorded."""
        assert self._flat is not None, "reserve comes first"
        parameters = [p for p in _parameters(optimizer) if p.grad is not None]
        self._views, self._used = [], 0
        for p in parameters:
            if p.grad.dtype != torch.float32:
                raise TypeError(f"replicas average float32 gradients, not {p.grad.dtype}; trainer.precision=32-true")
            self._views.append((p, self._flat[self._used : self._used + p.numel()].view(p.shape)))
            self._used += _aligned(p.numel())
        torch._foreach_copy_([view for _, view in self._views], [p.grad for p in parameters])
        self.hand_out()

    def hand_out(self) -> None:
        """Give the parameters their gradients in the flat buffer, as the last `collect` laid them out."""
        for p, view in self._views:
            p.grad = view

    def average(self) -> None:
        """Average the collected gradients over all replicas; can be recorded."""
        assert self._flat is not None
        flat = self._flat[: self._used]
        if flat.is_cuda:
            dist.all_reduce(flat, op=dist.ReduceOp.AVG)
        else:  # gloo has no averages
            dist.all_reduce(flat)
            flat /= self.count

    # Between steps.

    def check(self, optimizer: torch.optim.Optimizer, when: str, averages: bool = False) -> None:
        """RuntimeError naming the first parameter (averages: or average of Adam's) that differs between replicas.

        By exact sums of the values' bits: of all parameters together, as every edit of the density control waits for
        it, and of each one where those differ (or averages are asked for).
        """
        if not averages:
            together = torch.cat([p.detach().flatten() for p in _parameters(optimizer)]).view(torch.int32)
            if not _spread(torch.tensor([int(together.sum(dtype=torch.int64)), len(together)])).any():
                return
        named = []
        for group in optimizer.param_groups:
            for number, p in enumerate(group["params"]):
                values = {"": p.detach(), **(optimizer.state.get(p, {}) if averages else {})}
                for key, value in values.items():
                    if isinstance(value, Tensor) and value.dtype == torch.float32:
                        named.append((" ".join(["parameter", group.get("name", "?"), str(number), key]).strip(), value))
        sums = [x.contiguous().view(torch.int32).sum(dtype=torch.int64).to(self.device) for _, x in named]
        found = torch.stack(sums).cpu() + torch.tensor([x.numel() for _, x in named])
        if _spread(torch.tensor([len(named)])).any():
            raise RuntimeError(f"the replicas hold different tensors {when}; rank {self.rank} has {len(named)}")
        which = [name for (name, _), spread in zip(named, _spread(found).tolist()) if spread]
        if which:
            raise RuntimeError(f"the replicas' {which[0]} differs {when} ({len(which)} of {len(named)} tensors do)")

    def agree(self, flag: bool) -> bool:
        """Whether any replica says so."""
        said = torch.tensor(int(flag))
        dist.all_reduce(said, op=dist.ReduceOp.MAX)
        return bool(said)

    def of_first(self, number: float) -> float:
        """Rank 0's number."""
        said = torch.tensor(number, dtype=torch.float64)
        dist.broadcast(said, src=0)
        return float(said)

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """The replicas' means of values that all of them have."""
        said = torch.tensor(list(values.values()), dtype=torch.float64)
        dist.all_reduce(said)
        return dict(zip(values, (said / self.count).tolist()))

    def share(self, value: T) -> T:
        """Rank 0's value: None, a bool, a number, a text, or lists and dictionaries of those."""
        text = json.dumps(value).encode() if self.rank == 0 else b""
        length = torch.tensor(len(text))
        dist.broadcast(length, src=0)
        said = torch.tensor(list(text) or [0] * int(length), dtype=torch.uint8)
        dist.broadcast(said, src=0)
        return json.loads(bytes(said.tolist()))

    def first_only(self, function: Callable[[], None], errors: tuple[type[Exception], ...]) -> None:
        """Rank 0 calls the function; the others wait, and get its error of these types as one of the first type."""
        caught: Exception | None = None
        if self.rank == 0:
            try:
                function()
            except errors as error:
                caught = error
        said = self.share(None if caught is None else str(caught))
        if caught is not None:
            raise caught
        if said is not None:
            raise errors[0](said)

    def barrier(self) -> None:
        """Wait until all are here; the devices may be behind."""
        dist.all_reduce(torch.zeros(1))

    def leave(self) -> None:
        """Part from the others. Recordings that hold an all-reduce must be gone: NCCL waits for their end."""
        self.barrier()
        dist.destroy_process_group()


def replicas_of(trainer: pl.Trainer) -> Replicas | None:
    """The replicas that a trainer's process belongs to, None if it trains alone."""
    return getattr(trainer.strategy, "replicas", None)


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _aligned(count: int) -> int:
    return -(-count // _ALIGNMENT) * _ALIGNMENT


def _spread(values: Tensor) -> Tensor:
    """Highest minus lowest over the ranks, of each integer."""
    both = torch.stack([values, -values])
    dist.all_reduce(both, op=dist.ReduceOp.MAX)
    return both.sum(dim=0)

