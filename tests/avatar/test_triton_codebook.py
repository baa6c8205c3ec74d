"""The codebook's Triton kernels against their torch twin: in the interpreter at tiny sizes, on the GPU at real ones."""

import pytest
import torch

from r3avatar.avatar.codebook import TemporalCodebook
from r3avatar.triton_support import installed, interpreting

pytestmark = pytest.mark.skipif(not installed(), reason="triton is not installed")
interpreted = pytest.mark.skipif(not interpreting(), reason="Triton compiles for the GPU here")
on_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

BOX = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.5, 1.0]])


def make(resolutions, time_resolution, channels, device="cpu", **options):
    codebook = TemporalCodebook(BOX, 100, resolutions, time_resolution, channels, backend="triton", **options)
    codebook.planes.data.normal_(generator=torch.Generator().manual_seed(0))
    return codebook.to(device)


def scatter(N, seed=1):
    """Points in metres, some of them outside the box."""
    return torch.rand(N, 3, generator=torch.Generator().manual_seed(seed)) * torch.tensor([2.6, 3.2, 2.6]) - 1.3


def twin(codebook, points, times):
    return codebook.sample_torch(codebook.normalise_points(points), codebook.normalise_times(times))


def gradients(features, weight, points, codebook):
    return torch.autograd.grad((features * weight).sum(), [points, codebook.planes])


@interpreted
@pytest.mark.parametrize(
    "resolutions, time_resolution, channels, temporal",
    [((5, 9), 4, 4, True), ((5, 9), 4, 4, False), ((6,), 3, 3, True), ((1, 4), 1, 2, True)],
    ids=["temporal", "static", "three channels", "one texel"],
)
def test_kernels_equal_their_twin_in_double_precision(resolutions, time_resolution, channels, temporal):
    codebook = make(resolutions, time_resolution, channels, temporal=temporal).double()
    points = scatter(37).double().requires_grad_()
    times = torch.tensor([-3.0, 0.0, 65.5, 65.9, 100.0], dtype=torch.float64)
    fast, plain = codebook(points, times), twin(codebook, points, times)
    torch.testing.assert_close(fast, plain, rtol=1e-11, atol=1e-11)
    weight = torch.randn(fast.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for a, b in zip(gradients(fast, weight, points, codebook), gradients(plain, weight, points, codebook)):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@interpreted
def test_normalised_coordinates_and_single_precision():
    codebook = make((5, 9), 4, 16)
    points, times = scatter(21).requires_grad_(), torch.tensor([12.0, 80.0])
    fast = codebook.sample(codebook.normalise_points(points), codebook.normalise_times(times))
    plain = twin(codebook, points, times)
    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-4)
    weight = torch.randn(fast.shape, generator=torch.Generator().manual_seed(2))
    for a, b in zip(gradients(fast, weight, points, codebook), gradients(plain, weight, points, codebook)):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


@interpreted
def test_no_points_and_no_times():
    codebook = make((4,), 3, 2)
    for N, F in ((0, 2), (3, 0)):
        points = torch.zeros(N, 3, requires_grad=True)
        features = codebook(points, torch.zeros(F))
        features.sum().backward()
        assert features.shape == (F, N, 2) and points.grad.shape == (N, 3)
        assert not codebook.planes.grad.any()


@interpreted
def test_layouts_of_uneven_planes():
    """Planes need not be square: an imported layout may give every axis its own resolution."""
    codebook = make((4,), 3, 2).double()
    sizes, layout, offset = (5, 3, 7, 4), [], 0
    for a, b in ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)):
        layout.append((offset, sizes[b], sizes[a]))
        offset += sizes[b] * sizes[a]
    codebook.layout = torch.tensor(layout).reshape(1, 6, 3)
    codebook._shapes = [(h, w) for _, h, w in layout]
    values = torch.randn(offset, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    codebook.planes = torch.nn.Parameter(values)
    points, times = scatter(30).double(), torch.tensor([0.0, 40.0], dtype=torch.float64)
    torch.testing.assert_close(codebook(points, times), twin(codebook, points, times), rtol=1e-11, atol=1e-11)


def test_mixed_precisions_are_refused():
    codebook = make((4,), 3, 2, "cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ValueError, match="one precision"):
        codebook(scatter(3).to(codebook.planes.device).double(), torch.zeros(1, device=codebook.planes.device))


class TestOnTheGPU:
    pytestmark = on_gpu

    @pytest.mark.parametrize("N, F, channels, temporal", [
        (11_000, 2, 32, True), (11_003, 4, 16, True), (5_000, 2, 32, False), (700, 40, 32, True)
    ])  # fmt: skip
    def test_equals_its_twin_in_double_precision(self, N, F, channels, temporal):
        codebook = make((64, 128, 256), 50, channels, "cuda", temporal=temporal)
        points = scatter(N).cuda().requires_grad_()
        times = torch.rand(F, generator=torch.Generator().manual_seed(4)).cuda() * 104 - 2
        exact = make((64, 128, 256), 50, channels, "cuda", temporal=temporal).double()
        precise = points.detach().double().requires_grad_()
        fast, plain = codebook(points, times), twin(exact, precise, times.double())
        torch.testing.assert_close(fast.double(), plain, rtol=1e-3, atol=2e-3)
        weight = torch.randn(fast.shape, generator=torch.Generator().manual_seed(2)).cuda()
        d_points, d_planes = gradients(fast, weight, points, codebook)
        p_points, p_planes = gradients(plain, weight.double(), precise, exact)
        # In single precision a few points fall into the cell beside their own, where the slope is another one.
        wrong = ((d_points.double() - p_points).abs() > 1e-3 * p_points.abs() + 0.05 * p_points.std()).any(1)
        assert wrong.float().mean() < 1e-3
        assert (d_planes.double() - p_planes).norm() < 1e-3 * p_planes.norm()

    def test_double_precision_compiles_to_the_twins_values(self):
        codebook = make((16, 32), 10, 8, "cuda").double()
        points = scatter(500).double().cuda().requires_grad_()
        times = torch.tensor([0.5, 70.0], dtype=torch.float64, device="cuda")
        fast, plain = codebook(points, times), twin(codebook, points, times)
        torch.testing.assert_close(fast, plain, rtol=1e-10, atol=1e-10)
        weight = torch.ones_like(fast)
        for a, b in zip(gradients(fast, weight, points, codebook), gradients(plain, weight, points, codebook)):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)

    def test_neither_synchronises_nor_depends_on_the_number_of_points(self):
        codebook, times = make((64, 128), 50, 32, "cuda"), torch.tensor([3.0, 50.0], device="cuda")
        clouds = [scatter(N).cuda().requires_grad_() for N in (1_000, 1_024, 1, 1_777)]
        codebook(clouds[0], times).sum().backward()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for points in clouds:
                codebook(points, times).sum().backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def test_a_graph_replays_to_the_same_values(self):
        codebook = make((64, 128, 256), 50, 32, "cuda")
        points, times = scatter(4_000).cuda().requires_grad_(), torch.tensor([3.0, 50.0], device="cuda")
        weight = torch.randn(2, 4_000, 96, generator=torch.Generator().manual_seed(2)).cuda()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            gradients(codebook(points, times), weight, points, codebook)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            features = codebook(points, times)
            found = gradients(features, weight, points, codebook)
        with torch.no_grad():  # the same graph, other contents
            points.copy_(scatter(4_000, seed=5))
            times.copy_(torch.tensor([99.0, 20.5]))
        graph.replay()
        expected = codebook(points, times)
        torch.testing.assert_close(features, expected, rtol=0, atol=0)
        for a, b in zip(found, gradients(expected, weight, points, codebook)):
            assert (a - b).norm() < 1e-4 * b.norm()  # atomic additions come in any order
