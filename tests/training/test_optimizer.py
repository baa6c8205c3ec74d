"""Budget, learning rates, parameter groups."""

import pytest
import torch

from r3avatar.avatar import TemporalCodebook, build_avatar
from r3avatar.body import load_body
from r3avatar.training.module import Budget
from r3avatar.training.optimizer import GROUPS, PARTS, LearningRates, make_optimizer


def _codebook(**kwargs):
    return TemporalCodebook(spatial_resolutions=(4,), time_resolution=2, channels=2, **kwargs)


def test_budget_ends_by_images_or_minutes_whichever_comes_first():
    budget = Budget(images=100, minutes=2)
    assert budget.progress(50, 12) == 0.5 and budget.progress(10, 60) == 0.5
    assert budget.progress(100, 0) == budget.progress(0, 120) == budget.progress(500, 500) == 1
    assert Budget(None, 1).progress(10**6, 30) == 0.5
    with pytest.raises(ValueError, match=r"budget\.images=N or budget\.minutes=M"):
        Budget(None, None)
    with pytest.raises(ValueError, match=r"budget\.images must be positive"):
        Budget(0, None)


def test_groups_cover_every_parameter_once():
    switches = dict(static_residual=True, shading=True, cloth_bone=True)
    avatar = build_avatar(load_body("demo"), 10, codebook=_codebook, **switches)
    optimizer = make_optimizer(avatar, extent=3.0)
    assert [g["name"] for g in optimizer.param_groups] == list(GROUPS)
    held = [p for g in optimizer.param_groups for p in g["params"]]
    assert len(held) == len({id(p) for p in held})
    assert {id(p) for p in held} == {id(p) for p in avatar.parameters() if p.requires_grad}
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1.6e-4 * 3)


def test_ablations_have_no_group():
    avatar = build_avatar(load_body("demo"), 10, codebook=_codebook, skinning=None, pose_refinement=None)
    names = [g["name"] for g in make_optimizer(avatar, 1.0).param_groups]
    assert names == [n for n in PARTS if n not in ("skinning", "pose_refinement")]


def _optimizer():
    group = {"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 1.0, "initial_lr": 1.0}
    return torch.optim.Adam([{**group, "name": "positions"}, {**group, "params": [], "name": "planes"}])


def test_rates_fall_log_linearly_over_the_budget():
    optimizer = _optimizer()
    rates = LearningRates({"positions": 0.01}, batch_rule="none")
    for progress, expected in ((0, 1.0), (0.5, 0.1), (1.0, 0.01), (2.0, 0.01)):
        rates.apply(optimizer, progress, 0, 8)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected)
        assert optimizer.param_groups[1]["lr"] == 1.0


@pytest.mark.parametrize(("rule", "factor"), [("none", 1), ("sqrt", 3), ("linear", 9)])
def test_rule_for_larger_steps(rule, factor):
    optimizer = _optimizer()
    LearningRates({}, batch_rule=rule).apply(optimizer, 0.3, 0, 9)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(factor)


def test_a_group_may_have_a_rule_of_its_own():
    optimizer = _optimizer()
    first, second = (group["name"] for group in optimizer.param_groups[:2])
    rates = LearningRates({}, batch_rule={"default": "linear", second: "none"})
    rates.apply(optimizer, 0.3, 0, 9)
    assert [group["lr"] for group in optimizer.param_groups[:2]] == pytest.approx([9, 1])
    LearningRates({}, batch_rule={second: "linear"}).apply(optimizer, 0.3, 0, 9)
    assert optimizer.param_groups[0]["name"] == first and optimizer.param_groups[0]["lr"] == pytest.approx(3)


def test_published_schedule_counts_images():
    optimizer = _optimizer()
    LearningRates({"positions": 0.01}, decay_images=30000, batch_rule="none").apply(optimizer, 0.9, 15000, 1)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)


def test_unknown_groups_and_rules_are_refused():
    with pytest.raises(ValueError, match="unknown groups"):
        LearningRates({"plane": 0.1})
    with pytest.raises(ValueError, match="unknown groups"):
        LearningRates({}, batch_rule={"plane": "sqrt"})
    with pytest.raises(ValueError, match="none, sqrt, linear"):
        LearningRates({}, batch_rule="cubic")
