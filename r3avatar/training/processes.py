"""The processes that train one avatar: which one this is, and how they meet."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from pytorch_lightning.plugins.environments import SLURMEnvironment
from pytorch_lightning.utilities.rank_zero import rank_zero_only

_PATIENCE = timedelta(minutes=60)  # one prepares the frame cache while the others wait
_SLURM_PORTS = 15000, 10000  # the first, and how many: one a job step


@dataclass(frozen=True)
class Processes:
    """This process among `count`, numbered by `rank` over all machines and by `local_rank` on its own.

    address, port: where rank 0 waits for the others.
    """

    rank: int
    count: int
    local_rank: int
    address: str
    port: int

    @classmethod
    def started(cls, environment: Mapping[str, str] = os.environ) -> Processes | None:
        """What torchrun, SLURM's srun or `launch` says in the environment; None if this process was started alone."""
        e = environment
        found = None
        if "RANK" in e and "WORLD_SIZE" in e:
            place = e.get("MASTER_ADDR", "127.0.0.1"), int(e.get("MASTER_PORT", 29500))
            found = cls(int(e["RANK"]), int(e["WORLD_SIZE"]), int(e.get("LOCAL_RANK", 0)), *place)
        elif "SLURM_STEP_NUM_TASKS" in e:  # SLURM_NTASKS is there in a batch script too, which is one process
            first = SLURMEnvironment.resolve_root_node_address(e.get("SLURM_STEP_NODELIST", "127.0.0.1"))
            base, ports = _SLURM_PORTS
            port = base + (int(e.get("SLURM_JOB_ID", 0)) + int(e.get("SLURM_STEP_ID", 0))) % ports
            place = e.get("MASTER_ADDR", first), int(e.get("MASTER_PORT", port))
            numbers = (int(e[f"SLURM_{name}"]) for name in ("PROCID", "STEP_NUM_TASKS", "LOCALID"))
            found = cls(*numbers, *place)
        return found if found is not None and found.count > 1 else None

    def join(self, cuda: bool) -> torch.device:
        """Meet the other processes; returns this one's device. Host tensors' collectives go by gloo, CUDA's by NCCL.

        RuntimeError if this process sees fewer CUDA devices than the machine has processes.
        """
        device = torch.device("cpu")
        if cuda:
            if self.local_rank >= torch.cuda.device_count():
                raise RuntimeError(
                    f"process {self.local_rank} of this machine (rank {self.rank} of {self.count}) needs CUDA device "
                    f"{self.local_rank}, and sees {torch.cuda.device_count()} of them: one process a device, every one "
                    "of which sees all of the machine's (SLURM: --gpus-per-node or --gres, not --gpus-per-task)"
                )
            device = torch.device("cuda", self.local_rank)
            torch.cuda.set_device(device)
        os.environ.update(MASTER_ADDR=self.address, MASTER_PORT=str(self.port))
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo", rank=self.rank, world_size=self.count, timeout=_PATIENCE
        )
        rank_zero_only.rank = self.rank  # whom Lightning's loggers and messages are for
        return device
