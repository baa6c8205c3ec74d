"""The kernel of density control against its twin; edits against the rules one by one, and their synchronisations."""

import pytest
import torch
from torch import nn

from r3avatar.training.density import DensityControl, apply_edit
from r3avatar.training.density_rules import (
    clone,
    clone_mask,
    kl_of,
    kl_to_neighbour,
    merge,
    merge_mask,
    nearest_neighbour,
    prune_mask,
    rotate,
    rotation_matrices,
    split,
    split_mask,
)
from r3avatar.training.fused_adam import FusedAdam

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def state_of(N, seed=0, device=DEVICE):
    g = torch.Generator().manual_seed(seed)
    state = {
        "positions": torch.rand(N, 3, generator=g),
        "scales": torch.rand(N, 3, generator=g) * 0.02 + 1e-3,
        "quaternions": torch.randn(N, 4, generator=g),
        "opacity_logits": torch.randn(N, 1, generator=g) * 3,
        "gradients": torch.rand(N, generator=g) * 2e-3,
        "radii": torch.rand(N, generator=g) * 25,
        "sh_dc": torch.rand(N, 1, 3, generator=g),
        "sh_rest": torch.rand(N, 15, 3, generator=g),
        "source": torch.arange(N),
        "born": torch.zeros(N, dtype=torch.bool),
    }
    for name in ("positions", "scales", "quaternions"):
        state[name][1::7] = state[name][::7][: len(state[name][1::7])]  # equal to their neighbours
    state["positions"][1::7] += 1e-5
    return {name: value.to(device) for name, value in state.items()}


@pytest.mark.parametrize("N", [2, 100])
def test_divergence_of_some_as_the_twin_of_all(N):
    state = state_of(N)
    state["scales"][0] = 0  # a decoder may give a scale of zero
    nearest = nearest_neighbour(state["positions"].double()).to(DEVICE)  # of doubles: through the tree
    expected = kl_to_neighbour(state["positions"], state["quaternions"], state["scales"], nearest)
    for ids in (torch.arange(N), torch.arange(0, N, 3), torch.arange(0)):
        ids = ids.to(DEVICE)
        kl, neighbour = kl_of(state, ids, "triton")
        assert len(kl) == N and torch.equal(neighbour[ids], nearest[ids])
        torch.testing.assert_close(kl[ids], expected[ids], rtol=2e-5, atol=2e-5)
        kl, neighbour = kl_of(state, ids, "torch")
        assert torch.equal(neighbour[ids], nearest[ids])
        torch.testing.assert_close(kl[ids], expected[ids])


def test_ties_go_to_the_lowest_id_and_never_to_oneself():
    state = state_of(70)
    state["positions"][:] = 0.5
    ids = torch.tensor([0, 1, 69], device=DEVICE)
    assert kl_of(state, ids, "triton")[1][ids].tolist() == [1, 0, 0]


def test_rotations_are_those_of_the_matrices():
    g = torch.Generator().manual_seed(0)
    q, v = torch.randn(20, 4, generator=g).double(), torch.randn(20, 3, generator=g).double()
    torch.testing.assert_close(rotate(q, v), (rotation_matrices(q) @ v[:, :, None])[:, :, 0])


def plainly(state, control, images, extent, noise):
    """The rules in their order on everything, whether something moves or not."""
    threshold, small = control.grad_threshold, control.percent_dense * extent
    for mask_of, limit in (
        (clone_mask, control.kl_clone),
        (split_mask, control.kl_split),
        (merge_mask, control.kl_merge),
    ):
        kl, neighbour = kl_of(state, backend="torch")
        mask = mask_of(state["gradients"], state["scales"], kl, threshold, small, limit)
        if mask_of is merge_mask:
            state = merge(state, mask, neighbour)
        else:
            state = {clone_mask: clone, split_mask: split}[mask_of](state, mask, noise)
    mask = prune_mask(state["opacity_logits"], state["scales"], state["radii"], control.min_opacity, 20.0, 0.1 * extent)
    return {name: value[~mask] for name, value in state.items()}


@pytest.mark.parametrize("hottest", [2e-3, 1e-4], ids=["moving", "still"])
@pytest.mark.parametrize("N", [200, pytest.param(20000, marks=pytest.mark.gpu)])
def test_edits_are_those_of_the_rules_in_their_order(N, hottest):
    if N > 1000 and DEVICE == "cpu":
        pytest.skip("needs a CUDA device")
    state, control = state_of(N), DensityControl()
    state["gradients"] *= hottest / 2e-3

    def draws():
        g = torch.Generator().manual_seed(5)
        return lambda count: torch.randn(count, 3, generator=g).to(DEVICE)

    expected = plainly(state, control, 5000, 1.0, draws())
    found, counts = control.densify(state, 5000, 1.0, draws())
    assert counts["pruned"] and (all(counts.values()) or hottest < 1e-3)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    assert found["born"].tolist() == sorted(found["born"].tolist())  # the new ones come last


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_an_edit_waits_for_the_device_a_few_times_only(recwarn):
    state = state_of(11000)
    module = nn.Module()
    for name in ("positions", "sh_dc", "sh_rest"):
        setattr(module, name, nn.Parameter(state[name]))
    optimizer, control = FusedAdam(module.parameters()), DensityControl()
    sum(p.sum() for p in module.parameters()).backward()
    optimizer.step()
    s = control.statistics
    s.interval, s.frames = s._empty(11000, torch.device("cuda")), 1
    s.interval["gradient_sum"] += state["gradients"]
    s.interval["opacity_logits"].copy_(state["opacity_logits"])
    s.interval["log_scale_sum"] += state["scales"].log()
    s.interval["frame_count"] += 1
    s.last = {name: state[name] for name in ("opacity_logits", "scales", "quaternions")}
    recwarn.clear()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        edit = control.step(module, 500, 1.0)
        apply_edit(optimizer, module, edit)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert edit.cloned and edit.split and edit.merged and edit.pruned and len(recwarn) <= 20
