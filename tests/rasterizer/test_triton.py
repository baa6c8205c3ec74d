"""The Triton rasterizer agrees with the reference on every scene: on the GPU, and interpreted on the CPU."""

import logging

import pytest
import torch

from r3avatar.rasterizer import TorchRasterizer, TritonRasterizer, make_rasterizer, triton_gpu
from r3avatar.triton_support import installed, interpreting
from r3avatar.types import Gaussians

from .conformance import SCENES, Scene, check, cloud, ring, run

HERE = "cpu" if interpreting() else "cuda"
RUNS = installed() and (HERE == "cpu" or torch.cuda.is_available())
pytestmark = pytest.mark.skipif(not RUNS, reason="needs Triton, and CUDA or TRITON_INTERPRET=1")
interpreted = pytest.mark.skipif(HERE != "cpu", reason="more of the same runs on the GPU")
needs_cuda = pytest.mark.skipif(HERE != "cuda", reason="needs a CUDA device")
FLOAT = torch.zeros((), device=HERE)


def smaller(scene: Scene) -> Scene:
    """For the interpreter: fewer Gaussians and views, all else as it is."""
    gaussians, cameras = scene.gaussians, scene.cameras
    if gaussians.means.shape[1] > 100:
        gaussians = gaussians[:, ::4]
    return Scene(gaussians, cameras[:, : 2 if cameras.width == 75 else 1], scene.background, scene.options)


@interpreted
@pytest.mark.parametrize("name", [name for name in SCENES if name not in ("1 harmonics", "9 harmonics", "crowd")])
def test_agrees_with_the_reference(name):
    check(TritonRasterizer, smaller(SCENES[name]()), "cpu")


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("name", SCENES)
def test_agrees_with_the_reference_on_cuda(name):
    check(TritonRasterizer, SCENES[name](), "cuda")


def test_by_name():
    assert isinstance(make_rasterizer("triton", eps2d=0.1), TritonRasterizer)
    assert TritonRasterizer.capturable


def test_lists_grow_where_it_is_looked():
    """Without gradients, and in the first call, nothing is ever missing."""
    scene = SCENES["one"]() if HERE == "cpu" else SCENES["crowd"]()
    small, large = TritonRasterizer(capacity=0.01), TritonRasterizer()
    generation = small.generation
    with torch.no_grad():
        expected = large(scene.gaussians.to(FLOAT), scene.cameras.to(FLOAT))
        output = small(scene.gaussians.to(FLOAT), scene.cameras.to(FLOAT))
    torch.testing.assert_close(output.rgb, expected.rgb)
    assert output.alpha.max() > 0.1 and small.capacity > 0.01 and small.generation > generation
    assert not large.check_capacity() and not small.check_capacity()
    again = TritonRasterizer(capacity=0.01)
    output, _ = run(again, scene, FLOAT)
    torch.testing.assert_close(output.rgb.detach(), expected.rgb if scene.background is None else output.rgb.detach())
    assert again.capacity > 0.01


def test_lists_grow_when_told(caplog):
    """With gradients no call looks; `check_capacity` does, says what was dropped and makes room."""
    scene = SCENES["one"]() if HERE == "cpu" else SCENES["crowd"]()
    rasterizer = TritonRasterizer()
    complete, _ = run(rasterizer, scene, FLOAT)
    assert not rasterizer.check_capacity()
    rasterizer.capacity = 0.5
    generation = rasterizer.generation
    cut, _ = run(rasterizer, scene, FLOAT)
    assert cut.alpha.sum() < complete.alpha.sum()
    with caplog.at_level(logging.WARNING):
        assert rasterizer.check_capacity()
    assert "was not drawn" in caplog.text and rasterizer.generation > generation
    for _ in range(3):  # where the first look sees only the coarser lists' need
        output, _ = run(rasterizer, scene, FLOAT)
        rasterizer.check_capacity()
    torch.testing.assert_close(output.rgb, complete.rgb)


def test_lists_grow_before_they_overflow(caplog):
    scene = SCENES["one"]() if HERE == "cpu" else SCENES["crowd"]()
    rasterizer = TritonRasterizer()
    run(rasterizer, scene, FLOAT)
    full, before = triton_gpu._NEARLY + 50, rasterizer.capacity
    rasterizer.fullness.fill_(full)
    assert rasterizer.check_capacity() and rasterizer.capacity == pytest.approx(before * 1.5 * full / 1000)
    assert not caplog.text and not rasterizer.check_capacity()


def test_nothing_to_draw_on():
    gaussians, cameras = cloud(1, 4, 0).to(FLOAT), ring(1, 2, 0, 20).to(FLOAT)
    output = TritonRasterizer()(gaussians, cameras)
    assert output.rgb.shape == (1, 2, 20, 0, 3) and output.alpha.shape == (1, 2, 20, 0)


def test_refusals():
    gaussians, cameras = cloud(1, 5, 0).to(FLOAT), ring(1, 1).to(FLOAT)
    with pytest.raises(TypeError, match=r"means is torch\.float64"):
        TritonRasterizer()(gaussians.to(torch.float64), cameras)
    cameras.w2c.requires_grad_()
    with pytest.raises(ValueError, match="cameras no gradient"):
        TritonRasterizer()(gaussians, cameras)
    with pytest.raises(ValueError, match="capacity must be above 0"):
        TritonRasterizer(capacity=0)


def test_names_the_fix(monkeypatch):
    monkeypatch.setattr(triton_gpu, "interpreting", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match=r"needs a CUDA device.*rasterizer=numba"):
        TritonRasterizer()
    monkeypatch.setattr(triton_gpu, "installed", lambda: False)
    with pytest.raises(RuntimeError, match="pip install triton"):
        TritonRasterizer()


def crowded(N: int, F: int = 2, V: int = 4, width: int = 397, height: int = 590):
    """What a training step draws, and leaves for its gradients."""
    given = cloud(F, N, 0, size=0.012, opacity=(0.05, 1.0)).to(FLOAT)
    cameras = ring(F, V, width, height).to(FLOAT)
    cameras.K[..., :2, :2] *= 6.0
    leaves = {k: getattr(given, k).requires_grad_() for k in ("means", "covariances", "opacities", "sh")}
    return leaves, cameras


def slopes(rasterizer, leaves, cameras, weight, background):
    output = rasterizer(Gaussians(**leaves), cameras, background)
    loss = (output.rgb * weight[..., :3]).sum() + (output.alpha * weight[..., 3]).sum()
    return output, torch.autograd.grad(loss, [*leaves.values(), output.means2d])


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("N", [3001, 8000])
def test_a_training_step_agrees_with_the_reference(N):
    leaves, cameras = crowded(N, 1, 2)
    weight, background = torch.randn(1, 2, 590, 397, 4, device=HERE), torch.rand(3, device=HERE)
    with torch.no_grad():
        output = TritonRasterizer()(Gaussians(**leaves), cameras, background)
    double = {k: x.detach().double().requires_grad_() for k, x in leaves.items()}
    reference = TorchRasterizer(pairs=1 << 26)
    expected, wanted = slopes(reference, double, cameras.to(torch.float64), weight.double(), background.double())
    error = (output.rgb - expected.rgb).abs()
    assert error.max() < 1e-2 and (error > 1e-4).double().mean() < 2e-3
    _, found = slopes(TritonRasterizer(), leaves, cameras, weight, background)
    for a, b in zip(found, wanted):
        assert (a - b).norm() <= 3e-3 * b.norm()


@pytest.mark.gpu
@needs_cuda
def test_does_not_synchronise():
    leaves, cameras = crowded(11000)
    weight, background = torch.randn(2, 4, 590, 397, 4, device=HERE), torch.rand(3, device=HERE)
    rasterizer = TritonRasterizer()
    slopes(rasterizer, leaves, cameras, weight, background)
    torch.cuda.set_sync_debug_mode("error")
    try:
        slopes(rasterizer, leaves, cameras, weight, background)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not rasterizer.check_capacity()


@pytest.mark.gpu
@needs_cuda
def test_replays_as_a_graph(monkeypatch):
    leaves, cameras = crowded(11000)
    weight, background = torch.randn(2, 4, 590, 397, 4, device=HERE), torch.rand(3, device=HERE)
    rasterizer = TritonRasterizer()
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        with pytest.raises(RuntimeError, match="render once before"):
            slopes(rasterizer, leaves, cameras, weight, background)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        slopes(rasterizer, leaves, cameras, weight, background)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output, found = slopes(rasterizer, leaves, cameras, weight, background)
    with torch.no_grad():
        leaves["means"] += 0.05
    graph.replay()
    expected, wanted = slopes(rasterizer, leaves, cameras, weight, background)
    assert torch.equal(output.rgb, expected.rgb) and torch.equal(output.alpha, expected.alpha)
    for a, b in zip(found, wanted):
        assert (a - b).norm() <= 1e-4 * b.norm()


@pytest.mark.gpu
@needs_cuda
def test_a_changing_number_of_gaussians_compiles_nothing_anew():
    from r3avatar.rasterizer import triton_binning, triton_composite

    kernels = [triton_binning._pack, triton_binning._list_bins, triton_binning._list_tiles]
    kernels += [triton_composite._composite, triton_composite._composite_backward, triton_composite._spread]
    rasterizer, weight = TritonRasterizer(), torch.randn(2, 4, 590, 397, 4, device=HERE)
    background, compiled = torch.zeros(3, device=HERE), []
    for N in (1000, 1024, 1, 3333):
        slopes(rasterizer, *crowded(N), weight, background)
        compiled.append([len(kernel.device_caches[torch.cuda.current_device()][0]) for kernel in kernels])
    assert all(counts == compiled[0] for counts in compiled)
