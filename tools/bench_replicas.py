"""What several processes of one avatar wait for, alone: milliseconds of each exchange of a step and of an edit.

    torchrun --nproc-per-node=2 tools/bench_replicas.py                      # two GPUs, about 15 s
    torchrun --nproc-per-node=2 tools/bench_replicas.py --cpu --planes 1000  # to try the tool itself

Of a step: copying the gradients to the flat buffer and their average, each in a recording of its own, as in training;
and the same average in bfloat16, both conversions included. Of an edit: statistics, the comparison of the replicas, one
agreement of the hosts, and the recording of ten small kernels with and without an average. A time is the slowest
rank's. `tools/bench_multi_gpu.py` measures whole runs.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from r3avatar.benchmarks.clock import rate, synchronize
from r3avatar.benchmarks.machine import machine, software
from r3avatar.captures.shard import Shard
from r3avatar.cuda_graphs import GraphMemory
from r3avatar.training.density_statistics import DensityStatistics
from r3avatar.training.fused_adam import FusedAdam
from r3avatar.training.processes import Processes
from r3avatar.training.replicas import Replicas

SMALL = [(128, 96), (128,)] * 15  # the networks', about


def parameters(gaussians: int, planes: int, device: torch.device) -> list[nn.Parameter]:
    """Of the sizes that an avatar has."""
    shapes = [(gaussians, 3), (gaussians, 1, 3), (gaussians, 15, 3), (planes, 32), *SMALL]
    return [nn.Parameter(torch.zeros(shape, device=device)) for shape in shapes]


def recorded(work: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """`work`, on CUDA as the replay of its recording."""
    work()
    return GraphMemory().record(work, device)[0].replay if device.type == "cuda" else work


def average_as(flat: Tensor, dtype: torch.dtype) -> None:
    """The average of a float32 buffer, sent as `dtype`."""
    sent = flat.to(dtype)
    dist.all_reduce(sent)
    flat.copy_(sent).div_(dist.get_world_size())


def measure(replicas: Replicas, gaussians: int, planes: int, seconds: float) -> dict[str, float]:
    """Milliseconds of each exchange on this rank."""
    device, found = replicas.device, {}
    optimizer = FusedAdam([{"params": parameters(gaussians, planes, device), "name": "all"}])
    replicas.reserve(optimizer)
    (own,) = (group["params"] for group in optimizer.param_groups)
    gradients = [torch.full_like(p, 1e-3) for p in own]

    def collect() -> None:
        for p, gradient in zip(own, gradients):
            p.grad = gradient
        replicas.collect(optimizer)

    flat = torch.zeros(sum(p.numel() for p in own), device=device)
    for name, work in {
        "step: collect": collect,
        "step: average": replicas.average,
        "step: average as bfloat16": lambda: average_as(flat, torch.bfloat16),
    }.items():
        found[name] = repeat(recorded(work, device), device, seconds)
    statistics = DensityStatistics(400)
    statistics.interval = statistics._empty(gaussians, device)
    sizes = {"opacity_logits": 1, "scales": 3, "quaternions": 4}
    statistics.last = {name: torch.zeros(gaussians, size, device=device) for name, size in sizes.items()}
    for name, work in {
        "edit: statistics": statistics.all_reduce,
        "edit: comparison": lambda: replicas.check(optimizer, "here"),
        "host: agreement": lambda: replicas.agree(False),
    }.items():
        found[name] = repeat(work, device, seconds)
    if device.type == "cuda":
        memory, x = GraphMemory(), torch.zeros(1000, device=device)

        def plain() -> None:
            for _ in range(10):
                x.add_(1)

        def both() -> None:
            plain()
            replicas.average()

        def record(work: Callable[[], object]) -> None:
            graph, _ = memory.record(work, device)
            graph.replay()
            synchronize(device)

        for name, work in {"edit: record, replay": plain, "the same with an average": both}.items():
            found[name] = repeat(lambda work=work: record(work), device, seconds)
    return found


def repeat(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Milliseconds of a call, of as many on each rank as fill about so many seconds on the first."""
    once = torch.tensor(rate(lambda: (work(), synchronize(device)), device, 0.0))
    dist.broadcast(once, src=0)
    count = max(3, int(1e3 * seconds / float(once)))
    synchronize(device)
    dist.all_reduce(torch.zeros(1))  # the hosts meet, beside the devices' queues
    start = time.perf_counter()
    for _ in range(count):
        work()
    synchronize(device)
    return 1e3 * (time.perf_counter() - start) / count


def main() -> None:
    """Measure on all ranks, print the slowest rank's table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gaussians", type=int, default=20000)
    parser.add_argument("--planes", type=int, default=315000, help="texels of the codebook, of 32 channels each")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each row")
    parser.add_argument("--cpu", action="store_true", help="processes of this machine, to try the tool itself")
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    processes = Processes.started()
    if processes is None:
        parser.error("start it with torchrun --nproc-per-node=2")
    device = processes.join(cuda=not options.cpu)
    shard = Shard.of(processes.count, 1, processes.rank, processes.count)
    replicas = Replicas(shard, processes.rank, processes.local_rank, processes.count, device)
    found = measure(replicas, options.gaussians, options.planes, options.seconds)
    slowest = torch.tensor(list(found.values()))
    dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
    found = dict(zip(found, slowest.tolist()))
    if processes.rank == 0:
        print("\n".join(["| | ms |", "|---|---|", *(f"| {name} | {ms:.3f} |" for name, ms in found.items())]))
        if options.out:
            report = {"machine": machine(), "versions": software(), "processes": processes.count, "ms": found}
            options.out.write_text(json.dumps(report, indent=1) + "\n")
    replicas.leave()


if __name__ == "__main__":
    main()
