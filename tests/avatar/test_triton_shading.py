"""The shading kernels against their torch twin: values and gradients; on a GPU also in a graph."""

import pytest
import torch

from r3avatar.avatar.shading import Shading

kernels = pytest.importorskip("r3avatar.avatar.triton_shading", reason="Triton is not installed")
CPU = pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels are compiled here, not interpreted")
GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def _case(device, frames, gaussians, degree, colour, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(device, dtype).requires_grad_()

    K = (degree + 1) ** 2
    return [normal(gaussians, K, 3), normal(frames, gaussians, 3) if colour else None, normal(frames, gaussians, 3),
            normal(9, 3)]  # fmt: skip


def _twin(sh, colour, directions, light):
    return torch.func.functional_call(Shading(backend="torch").to(light), {"light": light}, (sh, colour, directions))


def _compare(case, tolerance, twin_case=None):
    found, expected = kernels.shaded(*case), _twin(*(twin_case or case))
    slopes = torch.randn(found.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    pairs = [(found, expected)]
    for output, inputs in ((found, case), (expected, twin_case or case)):
        leaves = [x for x in inputs if x is not None]
        pairs.append(torch.autograd.grad(output, leaves, slopes.to(output)))
    pairs = [pairs[0], *zip(*pairs[1:])]
    for a, b in pairs:
        assert (a.double() - b.double()).abs().max() < tolerance * b.double().abs().max()


@CPU
@pytest.mark.parametrize("degree", [0, 1, 3])
@pytest.mark.parametrize("colour", [True, False])
def test_interpreted_kernels_equal_the_twin(degree, colour):
    _compare(_case("cpu", 2, 41, degree, colour), 2e-7)  # constants are float32


@CPU
def test_a_normal_of_no_length_has_no_infinite_gradient():
    case = _case("cpu", 1, 3, 1, True)
    with torch.no_grad():
        case[2][0, 1] = 0
    found = torch.autograd.grad(kernels.shaded(*case).sum(), case)
    assert all(x.isfinite().all() for x in found)


class TestOnTheGpu:
    pytestmark = GPU

    @pytest.mark.parametrize(("frames", "gaussians", "degree"), [(2, 11_003, 3), (8, 20_001, 2), (1, 7, 0)])
    @pytest.mark.parametrize("colour", [True, False])
    def test_kernels_equal_the_twin_in_double(self, frames, gaussians, degree, colour):
        case = _case("cuda", frames, gaussians, degree, colour, torch.float32)
        double = [None if x is None else x.detach().double().requires_grad_() for x in case]
        _compare(case, 1e-4, double)

    def test_graph_capture(self):
        case = _case("cuda", 2, 5_001, 3, True, torch.float32)

        def step():
            out = kernels.shaded(*case)
            return [out, *torch.autograd.grad(out.square().sum(), case)]

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            replayed = step()
        with torch.no_grad():
            case[2].add_(0.1)
        graph.replay()
        for a, b in zip(replayed, step()):
            torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-4)
