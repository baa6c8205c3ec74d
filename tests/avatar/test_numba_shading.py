"""The light's CPU kernels against their torch twin: values, gradients, finite differences, threads."""

import numba
import pytest
import torch

from r3avatar.avatar import Shading
from r3avatar.avatar.numba_shading import shaded


def case(frames, gaussians, degree, colour, dtype=torch.float64):
    """Random arguments of `shaded`, with gradients."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    K = (degree + 1) ** 2
    return [normal(gaussians, K, 3), normal(frames, gaussians, 3) if colour else None, normal(frames, gaussians, 3),
            normal(9, 3)]  # fmt: skip


def results(function, arguments):
    """Value and every gradient."""
    found, leaves = function(*arguments), [x for x in arguments if x is not None]
    slopes = torch.randn(found.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return found, *torch.autograd.grad(found, leaves, slopes.to(found))


def by_shading(backend):
    def function(sh, colour, directions, light):
        shading = Shading(backend).to(light)
        return torch.func.functional_call(shading, {"light": light}, (sh, colour, directions))

    return function


@pytest.mark.parametrize("colour", [True, False])
def test_gradcheck(colour):
    assert torch.autograd.gradcheck(shaded, case(2, 3, 1, colour))


@pytest.mark.parametrize("degree", [0, 1, 3])
@pytest.mark.parametrize("colour", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_light_is_the_twins(degree, colour, dtype):
    arguments = case(2, 300, degree, colour, dtype)
    for a, b in zip(results(by_shading("auto"), arguments), results(by_shading("torch"), arguments), strict=True):
        assert (a - b).norm() < (1e-13 if dtype == torch.float64 else 3e-6) * b.norm()


def test_a_normal_of_no_length_has_no_infinite_gradient():
    arguments = case(1, 3, 1, True)
    with torch.no_grad():
        arguments[2][0, 1] = 0
    assert all(x.isfinite().all() for x in results(shaded, arguments))


def test_other_layouts_and_no_gradients():
    arguments = [x.detach() for x in case(2, 5, 2, True)]
    turned_about = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in arguments]
    found = shaded(*turned_about)
    assert torch.equal(found, shaded(*arguments)) and not found.requires_grad


def test_threads_change_no_bit(monkeypatch):
    arguments = case(2, 5000, 3, True, torch.float32)
    found = []
    for threads in (1, 3):
        monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", threads)
        found.append(results(shaded, arguments))
    assert all(torch.equal(a, b) for a, b in zip(*found))
