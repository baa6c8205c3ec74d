"""Lightning's part in training replicas: a trainer of one device that knows which of several processes it is in."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor

from r3avatar.training.replicas import Replicas


class ReplicaStrategy(SingleDeviceStrategy):
    """One process of several, each with a trainer of its own; rank 0's writes and logs.

    Lightning's strategies for several processes wrap the module, whose parameters must then keep their sizes, and wait
    for the device at every step. Here Lightning sees a world of one: the module reduces (`Replicas`).
    """

    strategy_name = "replicas"

    def __init__(self, replicas: Replicas, **kwargs):
        super().__init__(device=replicas.device, **kwargs)
        self.replicas = replicas
        self.global_rank, self.local_rank = replicas.rank, replicas.local_rank

    @property
    def is_global_zero(self) -> bool:
        return self.replicas.rank == 0

    def teardown(self) -> None:
        module = self.lightning_module
        if module is not None:
            module.forget_recordings()  # NCCL's communicator waits for recordings that use it
        super().teardown()

    def barrier(self, *args: Any, **kwargs: Any) -> None:
        self.replicas.barrier()

    def broadcast(self, obj, src: int = 0):
        """Rank 0's object; see `Replicas.share`."""
        if src != 0:
            raise ValueError(f"replicas hear rank 0 alone, not rank {src}")
        return self.replicas.share(obj)

    def reduce(self, tensor: Any, group: Any = None, reduce_op: Any = "mean") -> Any:
        """Mean (or 'sum') of a tensor over the replicas."""
        if not isinstance(tensor, Tensor):
            return tensor
        if reduce_op not in ("mean", "avg", "sum", None):
            raise ValueError(f"replicas reduce by 'mean' or 'sum', not {reduce_op}")
        total = tensor.detach().clone().double().cpu()
        dist.all_reduce(total)
        total = total if reduce_op == "sum" else total / self.replicas.count
        return total.to(tensor) if tensor.is_floating_point() else total.to(tensor.device, torch.float32)

    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
        """Whether all replicas decide so, or any."""
        return not self.replicas.agree(not decision) if all else self.replicas.agree(decision)


def multi_gpu_trainer(
    *,
    devices: int,
    num_nodes: int = 1,
    record_collectives: bool = True,
    replicas: Replicas | None = None,
    accelerator: str = "auto",
    **options,
) -> pl.Trainer:
    """The trainer of one of devices x num_nodes processes, which `r3avatar train` has started and made `replicas` of.

    record_collectives: see `Replicas`. options: pl.Trainer's. ValueError if the processes are not there.
    """
    if replicas is None:
        if devices * num_nodes != 1:
            raise ValueError("only `r3avatar train` starts the processes of trainer=multi_gpu; use trainer=default")
        return pl.Trainer(accelerator=accelerator, devices=1, **options)
    cuda = replicas.device.type == "cuda"
    return pl.Trainer(
        accelerator="gpu" if cuda else "cpu",
        devices=[replicas.device.index] if cuda else 1,
        strategy=ReplicaStrategy(replicas),
        **{**options, "plugins": [LightningEnvironment()]},  # SLURM's and torchrun's would count the processes again
    )
