"""Opacity, scale and rotation of a Gaussian's own: none by default, formula, density edits, state, training."""

import functools
import math
from types import SimpleNamespace

import pytest
import torch

from r3avatar.avatar import TemporalCodebook, build_avatar
from r3avatar.avatar.canonical import CanonicalGaussians
from r3avatar.avatar.decoder import Attributes
from r3avatar.body import load_body
from r3avatar.training.density import DensityControl, apply_edit
from r3avatar.training.density_rules import MERGE_SHRINK, SPLIT_SHRINK, clone, merge, split
from r3avatar.training.optimizer import PARTS, RESIDUAL, make_optimizer
from r3avatar.types import RenderOutput

CODEBOOK = functools.partial(TemporalCodebook, spatial_resolutions=(8,), time_resolution=10, channels=16)
NAMES = ("opacity_residual", "scale_residual", "rotation_residual")


def _avatar(static_residual=True):
    torch.manual_seed(0)
    return build_avatar(load_body("demo"), 10, codebook=CODEBOOK, initial_scale=0.01, static_residual=static_residual)


def _disturbed(gaussians):
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name in NAMES:
            parameter = getattr(gaussians, name)
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=random))
    return gaussians


def test_it_begins_as_no_change():
    plain, own = _avatar(False), _avatar()
    times = torch.tensor([0.0, 4.5])
    for x, y in zip(vars(plain.record(times)).values(), vars(own.record(times)).values()):
        assert (x is None and y is None) or torch.equal(x, y)
    assert set(own.state_dict()) - set(plain.state_dict()) == {f"gaussians.{name}" for name in NAMES}


def test_formula_and_gradients_in_float64():
    random = torch.Generator().manual_seed(1)
    gaussians = _disturbed(CanonicalGaussians(torch.rand(4, 3, generator=random), 0, static_residual=True)).double()
    given = [torch.rand(2, 4, c, dtype=torch.float64, generator=random, requires_grad=True) for c in (3, 1, 3, 4)]
    found = gaussians.add_residual(Attributes(*given))
    assert found.offset is given[0]
    torch.testing.assert_close(found.opacity_logit[1], given[1][1] + gaussians.opacity_residual)
    torch.testing.assert_close(found.scale[1], given[2][1] * torch.exp(gaussians.scale_residual))
    torch.testing.assert_close(found.rotation[0], given[3][0] + gaussians.rotation_residual)

    own = [getattr(gaussians, name).detach().clone().requires_grad_() for name in NAMES]

    def plain(*values):
        holder = SimpleNamespace(static_residual=True, **dict(zip(NAMES, values[4:])))
        a = CanonicalGaussians.add_residual(holder, Attributes(*values[:4]))
        return a.opacity_logit, a.scale, a.rotation

    assert torch.autograd.gradcheck(plain, (*given, *own))


def _state(N=4):
    random = torch.Generator().manual_seed(2)
    return {
        "positions": torch.rand(N, 3, generator=random), "scales": torch.full((N, 3), 0.01),
        "quaternions": torch.tensor([1.0, 0, 0, 0]).repeat(N, 1), "opacity_logits": torch.zeros(N, 1),
        "gradients": torch.zeros(N), "radii": torch.ones(N), "opacity_residual": torch.rand(N, 1, generator=random),
        "scale_residual": torch.rand(N, 3, generator=random), "rotation_residual": torch.rand(N, 4, generator=random),
    }  # fmt: skip


def _noise(count):
    return torch.zeros(count, 3)


def test_a_split_is_smaller_for_good_and_a_clone_is_alike():
    state, mask = _state(), torch.tensor([False, True, False, False])
    after = split(state, mask, _noise)
    torch.testing.assert_close(
        after["scale_residual"][3:], (state["scale_residual"][1] - math.log(SPLIT_SHRINK)).expand(2, 3)
    )
    torch.testing.assert_close(after["rotation_residual"][3:], state["rotation_residual"][1].expand(2, 4))
    torch.testing.assert_close(after["scale_residual"][:3], state["scale_residual"][[0, 2, 3]])
    after = clone(state, mask, _noise)
    torch.testing.assert_close(after["scale_residual"][4], state["scale_residual"][1])


def test_a_merge_takes_the_firsts_shape_larger_for_good():
    state, mask = _state(), torch.tensor([True, False, False, False])
    after = merge(state, mask, torch.tensor([2, 0, 0, 0]))
    torch.testing.assert_close(after["scale_residual"][-1], state["scale_residual"][0] - math.log(MERGE_SHRINK))
    torch.testing.assert_close(after["rotation_residual"][-1], state["rotation_residual"][0])
    torch.testing.assert_close(after["opacity_residual"][-1], state["opacity_residual"][[0, 2]].mean(0))


def test_density_control_carries_it_and_a_checkpoint_of_another_size_loads():
    avatar = _avatar()
    gaussians = _disturbed(avatar.gaussians)
    optimizer = make_optimizer(avatar, 1.0)
    N = len(gaussians)
    before = gaussians.scale_residual.detach().clone()
    control = DensityControl(grad_threshold=1e-3)
    means2d = torch.zeros(1, 1, N, 2, requires_grad=True)
    means2d.grad = torch.zeros(1, 1, N, 2).index_fill(2, torch.tensor([5]), 1.0)
    render = RenderOutput(torch.zeros(1, 1, 2, 2, 3), torch.zeros(1, 1, 2, 2), torch.ones(1, 1, N), means2d)
    rotation = torch.tensor([1.0, 0, 0, 0]).expand(1, N, 4)
    scale = torch.full((1, N, 3), 0.002).index_fill(1, torch.tensor([5]), 0.05)  # large: it is split
    control.observe(render, Attributes(torch.zeros(1, N, 3), torch.zeros(1, N, 1), scale, rotation), 200, 100)
    edit = control.step(gaussians, 500, 1.0)
    assert edit.split == 1
    apply_edit(optimizer, gaussians, edit)
    assert all(len(getattr(gaussians, name)) == N + 1 for name in NAMES)
    torch.testing.assert_close(gaussians.scale_residual[-1].detach(), before[5] - math.log(SPLIT_SHRINK))
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {id(p) for p in avatar.parameters()}
    fresh = _avatar()
    fresh.load_state_dict(avatar.state_dict())
    assert torch.equal(fresh.gaussians.rotation_residual, gaussians.rotation_residual)
    with pytest.raises(RuntimeError, match="opacity_residual"):
        _avatar(False).load_state_dict(avatar.state_dict())


def test_its_groups_learn_at_their_own_rates():
    optimizer = make_optimizer(_avatar(), 1.0, opacity=0.1, scale=0.2, rotation=0.3)
    assert [g["name"] for g in optimizer.param_groups] == [*PARTS, *RESIDUAL]
    assert [g["lr"] for g in optimizer.param_groups[-3:]] == [0.1, 0.2, 0.3]
