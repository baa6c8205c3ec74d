"""The statistics' kernel against its twin."""

from types import SimpleNamespace

import pytest
import torch

from r3avatar.training.density_statistics import DensityStatistics
from r3avatar.types import RenderOutput

gpu = pytest.mark.gpu
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def step(seed, F, V, N, whole=True):
    """A step's render and what the decoder gave, slices of one tensor or three."""
    g = torch.Generator().manual_seed(seed)
    gradient = torch.randn(F, V, N, 2, generator=g) * 1e-4
    radii = (torch.randn(F, V, N, generator=g) * 9).clamp_min(0)
    values = torch.randn(F, N, 11, generator=g)[:, :, 3:] if whole else torch.randn(F, N, 8, generator=g)
    values[..., 1:4] = values[..., 1:4].abs() * 0.01 - 1e-4  # some below zero
    values = values.to(DEVICE)
    logit, scale, rotation = values.split([1, 3, 4], dim=-1)
    if not whole:
        logit, scale, rotation = logit.contiguous(), scale.contiguous(), rotation.contiguous()
    means2d = torch.zeros_like(gradient).to(DEVICE).requires_grad_()
    means2d.grad = gradient.to(DEVICE)
    empty = torch.zeros(F, V, 1, 1, 3, device=DEVICE)
    render = RenderOutput(empty, empty[..., 0], radii.to(DEVICE), means2d)
    return render, SimpleNamespace(opacity_logit=logit, scale=scale, rotation=rotation)


def check(a, b):
    for found, expected in ((a.interval, b.interval), (a.last, b.last)):
        assert set(found) == set(expected)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)


def two(window):
    return DensityStatistics(window, "triton"), DensityStatistics(window, "torch")


@pytest.mark.parametrize("whole", [True, False])
def test_as_the_twin(whole):
    a, b = two(99)
    for seed, (F, V) in enumerate(((2, 3), (1, 1), (1, 4))):
        for statistics in (a, b):
            statistics.observe(*step(seed, F, V, 70, whole=whole), 512, 600)
    check(a, b)
    a.close()
    b.close()
    for statistics in (a, b):
        statistics.observe(*step(9, 2, 2, 70), 512, 600)
    check(a, b)
    assert len(a.history) == 1 and a.state()["scales"].shape == (70, 3)


def test_not_a_number_is_not_lost():
    a, b = two(9)
    for statistics in (a, b):
        render, said = step(0, 2, 2, 5)
        said.scale[0, 1, 0] = torch.nan
        said.opacity_logit[1, 2] = torch.nan
        statistics.observe(render, said, 10, 10)
    for name in ("log_scale_sum", "opacity_logits"):
        assert torch.equal(a.interval[name].isnan(), b.interval[name].isnan()) and b.interval[name].isnan().any()


def test_a_strided_target_is_refused():
    a, _ = two(9)
    a.observe(*step(0, 1, 1, 5), 10, 10)
    a.interval["log_scale_sum"] = torch.zeros(3, 5, device=DEVICE).T
    with pytest.raises(ValueError, match="contiguous"):
        a.observe(*step(0, 1, 1, 5), 10, 10)


@gpu
@cuda
@pytest.mark.parametrize("N", [10999, 100001])
def test_as_the_twin_on_cuda_without_waiting_and_captured(N):
    a, b = two(99)
    steps = [step(seed, 2, 4, N) for seed in range(3)]
    for statistics in (a, b):
        statistics.observe(*steps[0], 512, 600)
    torch.cuda.set_sync_debug_mode("error")
    try:
        a.observe(*steps[1], 512, 600)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        a.accumulate(*steps[2], 512, 600)
    graph.replay()
    graph.replay()
    for k in (1, 2, 2):
        b.observe(*steps[k], 512, 600)
    check(a, b)


@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_statistics_with_room_are_those_without(backend):
    """Through edits that fit and one that does not, a close without an edit, and a reload."""
    a, b = DensityStatistics(5, backend), DensityStatistics(5, backend)
    count, rows = 20, 32
    for k in range(8):
        b.reserve(count, rows, torch.device(DEVICE))
        places = [x.data_ptr() for x in (*b.interval.values(), *b.last.values())]
        for seed in (2 * k, 2 * k + 1):
            render, said = step(seed, 2, 3, rows)
            b.observe(render, said, 50, 60)
            few = torch.zeros(2, 3, count, 2, device=DEVICE, requires_grad=True)
            few.grad = render.means2d.grad[:, :, :count]
            own = {name: getattr(said, name)[:, :count] for name in ("opacity_logit", "scale", "rotation")}
            a.observe(RenderOutput(render.rgb, render.alpha, render.radii[..., :count], few),
                      SimpleNamespace(**own), 50, 60)  # fmt: skip
        check(b, a)
        for name, value in a.state().items():
            torch.testing.assert_close(b.state()[name], value, rtol=1e-5, atol=1e-6)
        edit = None
        if k != 3:
            keep, parents = torch.arange(1, count, device=DEVICE), torch.arange(2 + 4 * (k == 5), device=DEVICE)
            edit = SimpleNamespace(keep=keep, parents=parents)
            count += 1 + 4 * (k == 5)
        a.close(edit)
        b.close(edit)
        rows = max(rows, 32 if count <= 24 else 48)
        if rows == 32:
            b.reserve(count, rows, torch.device(DEVICE))
            assert [x.data_ptr() for x in (*b.interval.values(), *b.last.values())] == places
        if k == 4:
            saved = b.state_dict()
            assert not saved["last"] and len(saved["interval"]["radii"]) == count
            b = DensityStatistics(5, backend)
            b.load_state_dict(saved)
    assert count == 31 and rows == 48
    with pytest.raises(ValueError, match="of 31 Gaussians, the avatar has 30"):
        b.reserve(30, 32, torch.device(DEVICE))
