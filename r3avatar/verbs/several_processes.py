"""How many processes train one avatar, and starting them: `trainer=multi_gpu`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from r3avatar.captures.shard import Shard
from r3avatar.run import RunError
from r3avatar.training.launch import end_with_launcher, launch
from r3avatar.training.processes import Processes
from r3avatar.training.replicas import Replicas
from r3avatar.verbs.parts import choose_device

_GUIDE = "docs/multi_gpu.md has the commands"


def count_processes(config: DictConfig) -> int:
    """Over all machines, as the configuration wants. RunError where that cannot be."""
    trainer, started = config.trainer, Processes.started()
    if "num_nodes" not in trainer:
        if str(trainer.devices) != "1":
            raise RunError(
                f"trainer.devices={trainer.devices}: several devices train one avatar with trainer=multi_gpu "
                f"trainer.devices={trainer.devices}; a sweep (-m) gives each job one device"
            )
        if started is not None:
            raise RunError(
                f"this is one of {started.count} processes that torchrun or srun started, each of which would train an "
                f"avatar of its own: add trainer=multi_gpu trainer.devices=N (of a machine); {_GUIDE}"
            )
        return 1
    for key in ("devices", "num_nodes"):
        if not isinstance(trainer[key], int) or trainer[key] < 1:
            raise RunError(f"trainer.{key}={trainer[key]}: expected a number, at least 1")
    count = trainer.devices * trainer.num_nodes
    if started is not None and started.count != count:
        raise RunError(
            f"trainer.devices={trainer.devices} x trainer.num_nodes={trainer.num_nodes} are {count} processes, but "
            f"{started.count} were started; {_GUIDE}"
        )
    try:
        Shard.of(config.batch.frames, config.batch.views, 0, count)
    except ValueError as error:
        raise RunError(str(error)) from error
    return count


def start_processes(config: DictConfig, folder: Path) -> int:
    """Run this command in a process for each device of this machine; their exit code. RunError if it has too few."""
    devices, nodes = config.trainer.devices, config.trainer.num_nodes
    if nodes > 1:
        raise RunError(f"trainer.num_nodes={nodes}: torchrun or srun start the processes of several machines; {_GUIDE}")
    found = torch.cuda.device_count()
    if config.trainer.accelerator != "cpu" and found < devices:
        raise RunError(
            f"trainer.devices={devices}: this machine has {found} CUDA devices; set trainer.devices={max(1, found)} "
            "(or trainer.accelerator=cpu to train in as many processes without them)"
        )
    name = config.name.replace("\\", "\\\\").replace("'", "\\'")
    command = [sys.executable, "-m", "r3avatar.cli", "train", *sys.argv[1:], f"name='{name}'"]  # the time in it is now
    return launch(command, devices, folder / "logs")


def meet(config: DictConfig) -> Replicas | None:
    """Join the other processes of this training, if there are any. RunError if they have another run in mind."""
    processes = Processes.started()
    if processes is None:
        return None
    end_with_launcher()
    if processes.rank:
        logging.getLogger("r3avatar").setLevel(logging.WARNING)  # rank 0 says it
    cuda = config.trainer.accelerator != "cpu"
    if cuda and choose_device("auto", instantiate(config.rasterizer)).type != "cuda":
        raise RunError("trainer=multi_gpu has no CUDA device that this rasterizer runs on; set trainer.accelerator=cpu")
    device = processes.join(cuda)
    shard = Shard.of(config.batch.frames, config.batch.views, processes.rank, processes.count)
    replicas = Replicas(
        shard, processes.rank, processes.local_rank, processes.count, device, config.trainer.record_collectives
    )
    name = replicas.share(config.name)
    if replicas.agree(name != config.name):
        raise RunError(f"the processes' runs have different names (rank 0's is {name}); set name=NAME")
    return replicas


def by_first(replicas: Replicas | None, function: Callable[[], None]) -> None:
    """Have one process do what all of them share, such as making the run folder; its RunError becomes everyone's."""
    if replicas is None:
        function()
    else:
        replicas.first_only(function, (RunError, OSError))


def check_same_start(replicas: Replicas | None, gaussians: int) -> None:
    """RunError where the processes begin with other numbers of Gaussians; what they are, rank 0 gives to all."""
    if replicas is None:
        return
    first = int(replicas.of_first(gaussians))
    if replicas.agree(gaussians != first):
        raise RunError(
            f"the processes found different numbers of first Gaussians (rank 0 {first}, rank {replicas.rank} "
            f"{gaussians}): their machines' arithmetic differs; set avatar.initial_points=body"
        )
