"""Regularisers of the codebook's planes: their values, their gradients, and their part in a training step."""

import functools

import pytest
import torch

from r3avatar.avatar import TemporalCodebook, build_avatar
from r3avatar.avatar.codebook import PAIRS
from r3avatar.body import load_body
from r3avatar.cuda_graphs import RecordedFunction
from r3avatar.rasterizer import make_rasterizer
from r3avatar.training.losses import AvatarLoss
from r3avatar.training.module import AvatarModule, Budget
from r3avatar.training.optimizer import LearningRates, make_optimizer
from r3avatar.training.plane_regularizer import PLANE_TERMS, plane_terms
from r3avatar.types import Batch, BodyPose, Cameras

BOX = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])
WEIGHTS = {"plane_tv": 2e-4, "time_smoothness": 1e-3, "time_sparsity": 1e-4}


def _codebook(resolutions=(3, 5), time_resolution=4, channels=2, **options):
    codebook = TemporalCodebook(BOX, 20, resolutions, time_resolution, channels, **options).double()
    codebook.planes.data.normal_(generator=torch.Generator().manual_seed(0))
    return codebook


def _twin(codebook):
    """The same by PyTorch's own graph."""
    result = {name: codebook.planes.new_zeros(()) for name in PLANE_TERMS}
    for scale in range(codebook.scales):
        for pair, (_, b) in enumerate(PAIRS):
            plane = codebook.plane(scale, pair)
            if b == 3 and not codebook.temporal:
                continue
            if b == 3:
                plane = plane[: codebook.recorded_texels]
                result["time_smoothness"] = result["time_smoothness"] + plane.diff(n=2, dim=0).square().mean()
                result["time_sparsity"] = result["time_sparsity"] + (plane - 1).abs().mean()
            else:
                slopes = plane.diff(dim=0).square().mean() + plane.diff(dim=1).square().mean()
                result["plane_tv"] = result["plane_tv"] + slopes
    return result


def test_values_by_hand():
    codebook = TemporalCodebook(BOX, 20, (2,), 3, 1)
    with torch.no_grad():
        codebook.plane(0, 0)[:, :, 0] = torch.tensor([[1.0, 3], [4, 8]])
        codebook.plane(0, 5)[:, :, 0] = torch.tensor([[1.0, 0], [2, 0], [5, 0]])  # rows are moments
    terms = plane_terms(codebook)
    assert tuple(terms) == PLANE_TERMS
    assert terms["plane_tv"].item() == pytest.approx((3**2 + 5**2) / 2 + (2**2 + 4**2) / 2)
    assert terms["time_smoothness"].item() == pytest.approx((1 - 2 * 2 + 5) ** 2 / 2)
    assert terms["time_sparsity"].item() == pytest.approx((0 + 1 + 4 + 3 * 1) / 6)


def test_the_start_costs_nothing():
    codebook = TemporalCodebook(BOX, 20, (3, 4), 4, 2)  # all ones
    terms = plane_terms(codebook)
    sum(terms.values()).backward()
    assert all(value.item() == 0 for value in terms.values()) and codebook.planes.grad.abs().max() == 0


@pytest.mark.parametrize("options", [{}, {"temporal": False}, {"general": True}])
def test_terms_equal_their_twin_in_value_and_gradient(options):
    codebook = _codebook(**options)
    found, plain = plane_terms(codebook), _twin(codebook)
    for name in PLANE_TERMS:
        torch.testing.assert_close(found[name], plain[name], rtol=1e-12, atol=1e-14)
        assert codebook.temporal or name == "plane_tv" or found[name].item() == 0
    gradients = [torch.autograd.grad(sum((k + 1) * x[n] for k, n in enumerate(PLANE_TERMS)), codebook.planes)[0]
                 for x in (found, plain)]  # fmt: skip
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("names", [*((name,) for name in PLANE_TERMS), PLANE_TERMS, PLANE_TERMS[::-2]])
def test_gradcheck(names):
    codebook = _codebook((2, 3), 4, 1)

    def terms(planes):
        return torch.func.functional_call(_Terms(codebook, names), {"codebook.planes": planes})

    assert torch.autograd.gradcheck(terms, [codebook.planes.detach().clone().requires_grad_()])


class _Terms(torch.nn.Module):
    def __init__(self, codebook, names):
        super().__init__()
        self.codebook, self.names = codebook, names

    def forward(self):
        terms = plane_terms(self.codebook, self.names)
        assert tuple(terms) == self.names
        return tuple(terms.values())


def test_planes_with_too_few_texels_add_nothing():
    codebook = _codebook((1,), 2, 2)
    terms = plane_terms(codebook)
    assert terms["plane_tv"].item() == terms["time_smoothness"].item() == 0 < terms["time_sparsity"].item()
    (terms["plane_tv"] + terms["time_smoothness"]).backward()
    assert codebook.planes.grad.abs().max() == 0


def test_unknown_terms_are_refused():
    assert plane_terms(_codebook(), ()) == {}
    with pytest.raises(ValueError, match="plane_l2; there are plane_tv"):
        plane_terms(_codebook(), ("plane_tv", "plane_l2"))


def _module(loss):
    torch.manual_seed(0)
    codebook = functools.partial(TemporalCodebook, spatial_resolutions=(8, 16), time_resolution=4, channels=4)
    avatar = build_avatar(load_body("demo"), 20, codebook=codebook, initial_scale=0.02, initial_opacity=0.8)
    avatar.codebook.planes.data.uniform_(0.5, 1.5)
    rates = LearningRates({})
    return AvatarModule(avatar, make_rasterizer("numba"), loss, make_optimizer, rates, Budget(8, None), 2.0)


def _batch(H=40, W=32):
    body, random = load_body("demo"), torch.Generator().manual_seed(0)
    theta = 0.2 * torch.randn(1, body.num_joints, 3, generator=random)
    pose = BodyPose(theta, torch.zeros(1, body.num_betas), torch.zeros(1, body.num_expression), torch.eye(3)[None],
                    torch.zeros(1, 3))  # fmt: skip
    w2c = torch.tensor([[1.0, 0, 0, 0], [0, -1, 0, 0.2], [0, 0, -1, 2.6], [0, 0, 0, 1]])[None, None]
    K = torch.tensor([[45.0, 0, W / 2], [0, 45.0, H / 2], [0, 0, 1]])[None, None]
    rgb = torch.randint(0, 255, (1, 1, H, W, 3), generator=random, dtype=torch.uint8)
    mask, rect = torch.full((1, 1, H, W), 3, dtype=torch.uint8), torch.tensor([[[0, 0, W, H]]])
    return Batch(torch.tensor([7]), torch.tensor([7.0]), pose, Cameras(K, w2c, W, H), rgb, mask, rect)


def test_a_step_adds_their_gradients_to_all_planes_and_to_nothing_else():
    plain, regularised = _module(AvatarLoss(perceptual=0)), _module(AvatarLoss(perceptual=0, **WEIGHTS))
    before, _, _ = plain.forward_backward(_batch())
    terms, _, _ = regularised.forward_backward(_batch())
    assert set(terms) - set(before) == set(PLANE_TERMS)
    expected = _twin(plain.avatar.codebook)
    for name in PLANE_TERMS:
        torch.testing.assert_close(terms[name], expected[name])
    added = sum(WEIGHTS[name] * expected[name] for name in PLANE_TERMS)
    torch.testing.assert_close(terms["total"], before["total"] + added)
    slope = torch.autograd.grad(added, plain.avatar.codebook.planes)[0]
    others = dict(plain.avatar.named_parameters())
    for name, parameter in regularised.avatar.named_parameters():
        gradient = others[name].grad
        assert (gradient is None) == (parameter.grad is None), name
        if gradient is None:
            continue
        if name == "codebook.planes":
            assert (gradient == 0).all(1).any()  # one image at one time reaches few texels
            assert all((plane != 0).any(-1).all() for plane in regularised.avatar.codebook.views(parameter.grad))
            gradient = gradient + slope
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-4 * gradient.abs().max().item())


def test_weights_of_planes():
    module = _module(AvatarLoss(perceptual=0, time_smoothness=1e-3))
    batch = _batch()
    assert set(module.forward_backward(batch)[0]) == {"l1", "mask", "ssim", "time_smoothness", "total"}
    render = module.rasterizer(module.avatar(batch.pose, batch.time), batch.cameras)
    with pytest.raises(ValueError, match="codebook for time_smoothness"):
        module.loss(render, batch)
    with pytest.raises(ValueError, match="negative: plane_tv, time_sparsity"):
        AvatarLoss(perceptual=0, plane_tv=-1, time_sparsity=-1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_they_are_recorded_and_never_wait():
    codebook = _codebook().float().cuda()
    reference = _codebook()
    result = torch.zeros_like(codebook.planes)

    def function(weight):
        terms = plane_terms(codebook)
        gradient = torch.autograd.grad(weight * sum(terms.values()), codebook.planes)[0]
        result.copy_(gradient)
        # As in training: with its graph alive the recording would wait for the plain call's stream.
        return {name: value.detach() for name, value in terms.items()}

    weight, recorded = torch.tensor(2.0, device="cuda"), RecordedFunction()
    torch.cuda.set_sync_debug_mode("error")
    try:
        function(weight)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for _ in range(3):  # as it is, recorded, replayed
        found = recorded(function, (weight,))
    expected = plane_terms(reference)
    slope = 2 * torch.autograd.grad(sum(expected.values()), reference.planes)[0]
    for name in PLANE_TERMS:
        torch.testing.assert_close(found[name].double().cpu(), expected[name], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(result.double().cpu(), slope, rtol=1e-5, atol=1e-6)
