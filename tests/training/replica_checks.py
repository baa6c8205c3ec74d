"""What one of two processes finds when it talks to the other; prints nothing unless something is wrong."""

import sys
from types import SimpleNamespace

import torch

from r3avatar.captures.shard import Shard
from r3avatar.training.density_statistics import DensityStatistics
from r3avatar.training.fused_adam import FusedAdam
from r3avatar.training.processes import Processes
from r3avatar.training.replicas import Replicas
from r3avatar.types import RenderOutput


def parameters(seed, device):
    g = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(*shape, generator=g).to(device)) for shape in ((5, 3), (7,), (2, 2))]


def average(replicas):
    mine = parameters(0, replicas.device)
    optimizer = FusedAdam([{"params": mine[:2], "name": "a"}, {"params": mine[2:], "name": "b"}])
    address = replicas.reserve(optimizer)
    (mine[0].sum() * (1 + replicas.rank) + mine[2].square().sum() * replicas.rank).backward()
    replicas.collect(optimizer)
    replicas.average()
    assert torch.equal(mine[0].grad, torch.full_like(mine[0], 1.5)) and mine[1].grad is None
    torch.testing.assert_close(mine[2].grad, mine[2].detach())
    optimizer.zero_grad()
    replicas.hand_out()
    assert torch.equal(mine[0].grad, torch.full_like(mine[0], 1.5))
    assert mine[2].grad.data_ptr() % 128 == address % 128  # as aligned as the buffer itself
    optimizer.step()
    replicas.check(optimizer, "after a step")
    assert replicas.reserve(optimizer) == address


def differences(replicas):
    mine = parameters(1, replicas.device)
    optimizer = FusedAdam([{"params": mine, "name": "planes"}])
    replicas.check(optimizer, "now")
    with torch.no_grad():
        mine[1][3] += 1e-6 * replicas.rank
    try:
        replicas.check(optimizer, "now")
    except RuntimeError as error:
        assert "parameter planes 1 differs now (1 of 3" in str(error), error
    else:
        raise AssertionError("a difference of 1e-6 went unseen")
    replicas.start(torch.nn.ParameterList(mine), optimizer, recording=False)  # rank 0's for all
    replicas.check(optimizer, "now")


def talk(replicas):
    rank = replicas.rank
    assert replicas.share({"name": "ü", "rank": rank, "none": None}) == {"name": "ü", "rank": 0, "none": None}
    assert replicas.agree(rank == 1) and not replicas.agree(False)
    assert replicas.of_first(2.5 + rank) == 2.5 and replicas.mean({"a": rank, "b": 1.0}) == {"a": 0.5, "b": 1.0}
    done = []
    replicas.first_only(lambda: done.append(1), (OSError,))
    assert len(done) == (rank == 0)

    def fails():
        raise FileNotFoundError("no such thing")

    try:
        replicas.first_only(fails, (OSError,))
    except OSError as error:
        assert "no such thing" in str(error)
    else:
        raise AssertionError("rank 0's error went unheard")


def statistics(replicas):
    """A frame's two views, one a rank, give the statistics of one process with both."""
    g, device = torch.Generator().manual_seed(2), replicas.device
    gradient = torch.rand(1, 2, 6, 2, generator=g).to(device)
    radii = torch.randint(0, 3, (1, 2, 6), generator=g).float().to(device)
    said = SimpleNamespace(
        opacity_logit=torch.randn(1, 6, 1, generator=g).to(device), scale=torch.rand(1, 6, 3, generator=g).to(device),
        rotation=torch.randn(1, 6, 4, generator=g).to(device),
    )  # fmt: skip

    def observed(views, share):
        means2d = torch.zeros(1, len(views), 6, 2, requires_grad=True, device=device)
        means2d.grad = gradient[:, views] / share  # of a mean over that many images
        found = DensityStatistics(100, backend="torch")
        found.observe(RenderOutput(None, None, radii[:, views], means2d), said, 20, 10)
        return found

    whole, mine = observed([0, 1], 2), observed([replicas.rank], 1)
    if not replicas.rank:
        mine.last["scales"] += 1  # the last rank's frame is the last
    for _ in range(2):  # before an edit; and again after a checkpoint
        mine.all_reduce(seen_elsewhere=not replicas.shard.first_view)
        for name, value in whole.interval.items():
            torch.testing.assert_close(mine.interval[name], value, msg=name)
        for name, value in whole.last.items():
            torch.testing.assert_close(mine.last[name], value, msg=name)
        assert mine.frames == whole.frames == 1
        if replicas.rank:
            mine.forget_interval()


if __name__ == "__main__":
    processes = Processes.started()
    device = processes.join(cuda=sys.argv[1:] == ["cuda"])
    shard = Shard.of(1, 2, processes.rank, processes.count)
    replicas = Replicas(shard, processes.rank, processes.local_rank, processes.count, device)
    for check in (average, differences, talk, statistics):
        check(replicas)
    replicas.leave()
