"""The codebook's CPU kernels against their torch twin, and its edges."""

import pytest
import torch

from r3avatar.avatar.codebook import PAIRS, TemporalCodebook

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


def test_the_general_moment_lies_beyond_the_recorded_ones():
    torch.manual_seed(0)
    box = torch.tensor([[-1.0, -1, -1], [1, 1, 1]])
    plain = TemporalCodebook(box, 20, (8, 12), 6, 4, backend="torch")
    general = TemporalCodebook(box, 20, (8, 12), 6, 4, general=True, backend="torch")
    assert plain.general_time is None and general.general_time == pytest.approx(20 * 7 / 5)
    with torch.no_grad():
        plain.planes.copy_(torch.rand_like(plain.planes))
        for scale in range(2):
            for pair, (_, b) in enumerate(PAIRS):
                texels = plain.plane(scale, pair)
                general.plane(scale, pair)[: len(texels)] = texels
                if b == 3:
                    assert len(general.plane(scale, pair)) == 8
                    general.plane(scale, pair)[7] = 2.0
    points = torch.rand(30, 3) * 2 - 1
    times = torch.tensor([0.0, 3.7, 11.0, 19.9, 20.0])
    torch.testing.assert_close(general(points, times), plain(points, times), rtol=1e-4, atol=1e-5)
    # No recorded time reads or trains the general moment's texels, nor it theirs.
    general(points, times).sum().backward()
    rows = [general.planes.grad[o + w * (h - 1) : o + w * h] for (o, h, w), (_, b) in zip(
        general.layout.flatten(0, 1).tolist(), PAIRS * 2) if b == 3]  # fmt: skip
    assert all(row.abs().max() == 0 for row in rows)
    general.planes.grad = None
    general(points, torch.tensor([general.general_time])).sum().backward()
    for scale in range(2):
        for pair, (_, b) in enumerate(PAIRS):
            offset, height, width = general.layout[scale, pair].tolist()
            rows = general.planes.grad[offset : offset + height * width].view(height, width, -1).abs().sum((1, 2))
            assert b != 3 or (rows[:7].max() < 1e-4 * rows[7])


@pytest.mark.parametrize("options", [{"temporal": False}, {"time_resolution": 1}])
def test_a_general_moment_needs_time_planes(options):
    with pytest.raises(ValueError, match="general moment"):
        TemporalCodebook(torch.tensor([[-1.0] * 3, [1.0] * 3]), 20, (8,), general=True, **options)
