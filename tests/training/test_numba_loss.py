"""The loss's CPU kernels against their torch twin: values, gradients, finite differences, threads."""

import numba
import pytest
import torch

from r3avatar.training.losses import BOUND, PERSON, AvatarLoss
from r3avatar.training.numba_loss import photometric_terms


def scene(H, W, rects, seed=0, dtype=torch.float64):
    """Render, alpha with gradients; truth and mask, whose person and bound lie in the rectangles; rectangles."""
    g, B = torch.Generator().manual_seed(seed), len(rects)
    image = torch.rand(B, H, W, 3, generator=g, dtype=torch.float64)
    truth = torch.randint(0, 256, (B, H, W, 3), generator=g).byte()
    mask = torch.zeros(B, H, W, dtype=torch.uint8)
    for b, (x, y, w, h) in enumerate(rects):
        bound = (torch.rand(h, w, generator=g) < 0.7).byte()
        mask[b, y : y + h, x : x + w] = bound * BOUND + bound * (torch.rand(h, w, generator=g) < 0.6).byte() * PERSON
    truth *= (mask & PERSON).ne(0)[..., None]
    alpha = torch.rand(B, H, W, generator=g, dtype=torch.float64)
    image, alpha = image.to(dtype).requires_grad_(), alpha.to(dtype).requires_grad_()
    return image, alpha, truth, mask, torch.tensor(rects)


def rectangles(H, W):
    """Full, inside, touching two borders, out of sight (x, y, width, height)."""
    return [[0, 0, W, H], [W // 8, H // 6, W // 2, 2 * H // 3], [W - W // 3, 0, W // 3, H // 2], [0, 0, 0, 0]]


@pytest.mark.parametrize("white", [False, True])
@pytest.mark.parametrize("weights", [(1.0, 0.1, 0.01), (0.3, 0.0, 1.0), (1.0, 0.2, 0.0)])
@pytest.mark.parametrize("size", [(37, 53), (7, 9)])
def test_every_term_and_gradient_is_the_twins(size, weights, white):
    inputs = scene(*size, rectangles(*size))
    image, alpha, truth, mask, rect = inputs
    squared = torch.tensor([0.0, 5.0, 2.0, 1.0])
    found = photometric_terms(*inputs, *weights, white, squared)
    names = ("l1", "mask", "ssim")
    twin = AvatarLoss(*(w or 1.0 for w in weights), perceptual=0, white_background=white, backend="torch")
    expected = twin._torch_terms(image, alpha, truth, mask, rect, squared)
    for value, name, weight in zip(found, names, weights):
        if weight or name != "ssim":
            torch.testing.assert_close(value, expected[name], rtol=1e-12, atol=1e-14)
            want = torch.autograd.grad(expected[name], (image, alpha), allow_unused=True, retain_graph=True)
            got = torch.autograd.grad(value, (image, alpha), retain_graph=True)
            for a, b in zip(got, want):
                torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b, rtol=1e-9, atol=1e-13)
    total = sum(w * expected[name] for w, name in zip(weights, names))
    torch.testing.assert_close(found[3], total, rtol=1e-12, atol=1e-14)
    for a, b in zip(*(torch.autograd.grad(x, (image, alpha)) for x in (found[3], total))):
        torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b, rtol=1e-9, atol=1e-13)


def test_gradcheck():
    image, alpha, *rest = scene(9, 8, [[0, 0, 8, 9], [1, 2, 6, 5]])
    squared = torch.tensor([0.0, 3.0])
    assert torch.autograd.gradcheck(
        lambda image, alpha: photometric_terms(image, alpha, *rest, 0.7, 0.1, 0.5, True, squared), (image, alpha)
    )


def test_float32_is_as_exact_as_the_twin():
    exact = scene(64, 48, rectangles(64, 48))
    single = [x.detach().float().requires_grad_() for x in exact[:2]] + list(exact[2:])
    want = torch.autograd.grad(photometric_terms(*exact, 1.0, 0.1, 0.01, False)[3], exact[:2])
    got = torch.autograd.grad(photometric_terms(*single, 1.0, 0.1, 0.01, False)[3], single[:2])
    for a, b in zip(got, want):
        assert a.dtype == torch.float32 and (a.double() - b).norm() < 1e-5 * b.norm()


def test_threads_change_no_bit(monkeypatch):
    inputs, results = scene(140, 41, rectangles(140, 41), dtype=torch.float32), []
    for threads in (1, 3):
        monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", threads)
        terms = photometric_terms(*inputs, 1.0, 0.1, 0.01, False)
        results.append((*terms, *torch.autograd.grad(terms[3], inputs[:2])))
    assert all(torch.equal(a, b) for a, b in zip(*results))


def test_a_render_that_is_the_truth_costs_nothing():
    truth, mask, rect = scene(20, 18, [[2, 3, 12, 14]])[2:]
    exact = (truth.double() / 255).requires_grad_(), (mask & PERSON).ne(0).double().requires_grad_()
    terms = photometric_terms(*exact, truth, mask, rect, 1.0, 0.1, 1.0, False)
    assert max(float(value.detach()) for value in terms) < 1e-14
    assert all(float(g.abs().max()) < 1e-12 for g in torch.autograd.grad(terms[3], exact))


def test_mistakes_are_named():
    image, alpha, truth, mask, rect = scene(8, 8, [[0, 0, 8, 8]])
    with pytest.raises(ValueError, match="expected one"):
        photometric_terms(image, alpha, truth, mask, rect[:, :2], 1.0, 0.1, 0.01, False)
    with pytest.raises(ValueError, match="none of auto, torch, triton, numba"):
        AvatarLoss(perceptual=0, backend="cuda")
    with pytest.raises(ValueError, match="on the CPU, not on cuda"):
        AvatarLoss(perceptual=0, backend="numba")._fused(torch.device("cuda"))
