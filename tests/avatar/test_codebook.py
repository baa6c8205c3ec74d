"""The codebook's CPU kernels against their torch twin, and its edges."""

import pytest
import torch

from r3avatar.avatar.codebook import TemporalCodebook

BOX = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])


def _codebook(**kwargs):
    codebook = TemporalCodebook(BOX, 100, (5, 9), 4, 3, **kwargs).double()
    codebook.planes.data.normal_(generator=torch.Generator().manual_seed(0))
    return codebook


@pytest.mark.parametrize("temporal", [True, False])
def test_kernels_equal_their_twin_in_value_and_gradient(temporal):
    codebook = _codebook(temporal=temporal)
    generator = torch.Generator().manual_seed(1)
    points = (torch.rand(70, 3, generator=generator, dtype=torch.float64) * 2.6 - 1.3).requires_grad_()
    taus = torch.tensor([-1.2, -1.0, 0.31, 1.0], dtype=torch.float64)
    fast, plain = codebook.sample(points, taus), codebook.sample_torch(points, taus)
    torch.testing.assert_close(fast, plain, rtol=1e-12, atol=1e-12)
    weight = torch.randn(fast.shape, generator=generator, dtype=torch.float64)
    for a, b in zip(*(torch.autograd.grad((x * weight).sum(), [points, codebook.planes]) for x in (fast, plain))):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_gradcheck():
    codebook = _codebook()
    points = torch.tensor([[0.11, -0.37, 0.52], [0.4, 0.93, -0.81]], dtype=torch.float64, requires_grad=True)
    taus = torch.tensor([0.21, -0.4], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda p: codebook.sample(p, taus), [points])


def test_no_points_and_unknown_backend():
    assert _codebook().sample(torch.zeros(0, 3, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)).shape == (
        2,
        0,
        6,
    )
    with pytest.raises(ValueError, match="auto, numba, torch, triton"):
        _codebook(backend="fast")


def test_one_texel_planes_are_constant():
    codebook = TemporalCodebook(BOX, 10, (1,), 1, 2)
    features = codebook(torch.rand(4, 3), torch.tensor([0.0, 5.0]))
    assert torch.equal(features, torch.ones(2, 4, 2))


def test_time_does_not_matter_without_time_planes():
    codebook = _codebook(temporal=False)
    features = codebook.sample(torch.rand(6, 3, dtype=torch.float64), torch.tensor([-1.0, 0.7], dtype=torch.float64))
    assert torch.equal(features[0], features[1])
