"""Density rules, one by one and as a full step, against the authors' implementation."""

import numpy as np
import pytest
import torch

from r3avatar.training import density
from r3avatar.training.density import DensityControl
from r3avatar.training.density_rules import (
    clone,
    clone_mask,
    kl_of,
    merge,
    merge_mask,
    merge_removed,
    prune_mask,
    split,
    split_mask,
)


@pytest.fixture
def z(oracle):
    return {name: torch.from_numpy(np.asarray(value)) for name, value in oracle("density").items()}


@pytest.fixture
def state(z):
    return {
        "positions": z["means"],
        "scales": z["scales"],
        "quaternions": z["quaternions"],
        "opacity_logits": z["opacity_logits"],
        "gradients": z["gradients"][:, 0],
        "radii": z["screen_radii"],
        "sh_dc": z["features_dc"],
    }


def error(found, expected) -> float:
    assert found.shape == expected.shape, f"{tuple(found.shape)} instead of {tuple(expected.shape)}"
    return float((found.double() - expected.double()).abs().max())


def stored(*noise):
    """Noise that was stored, handed out in order."""
    draws = iter(noise)

    def take(count):
        drawn = next(draws)
        assert len(drawn) == count
        return drawn

    return take


def masks(z, state):
    kl, neighbour = kl_of(state)
    small = float(z["percent_dense"] * z["extent"])
    common = (state["gradients"], state["scales"], kl, float(z["grad_threshold"]), small)
    return kl, neighbour, common


def test_kl_and_masks(z, state, parity):
    kl, neighbour, common = masks(z, state)
    parity("density", "neighbour", error(neighbour, z["neighbour"]), 0)
    parity("density", "KL, relative to max(1, KL)", float(((kl - z["kl"]).abs() / z["kl"].clamp_min(1)).max()), 1e-4)
    clones, splits, merges = clone_mask(*common, 0.4), split_mask(*common, 0.4), merge_mask(*common, 0.1)
    parity("density", "clone mask", error(clones, z["clone_mask"]), 0)
    parity("density", "split mask", error(splits, z["split_mask"]), 0)
    parity("density", "merge mask", error(merges, z["merge_mask"]), 0)
    parity("density", "merge removed mask", error(merge_removed(merges, neighbour), z["merge_removed_mask"]), 0)
    faint = prune_mask(state["opacity_logits"], state["scales"], state["radii"], 0.005)
    parity("density", "prune mask", error(faint, z["prune_mask"]), 0)
    sizes = (float(z["max_screen_size"]), 0.1 * float(z["extent"]))
    large = prune_mask(state["opacity_logits"], state["scales"], state["radii"], 0.005, *sizes)
    parity("density", "prune mask with size", error(large, z["prune_mask_with_size"]), 0)


def test_clone(z, state, parity):
    after = clone(state, z["clone_mask"], stored(z["clone_noise"]))
    assert torch.equal(after["positions"][:300], state["positions"])
    parity("density", "clone means", error(after["positions"][300:], z["clone_new_means"]), 1e-6)
    assert torch.equal(after["sh_dc"][300:], state["sh_dc"][z["clone_mask"]])


def test_split(z, state, parity):
    after = split(state, z["split_mask"], stored(z["split_noise"]))
    parity("density", "split means", error(after["positions"][-54:], z["split_new_means"]), 1e-6)
    parity("density", "split log scales", error(after["scales"][-54:].log(), z["split_new_log_scales"]), 1e-6)
    parity("density", "split means after", error(after["positions"], z["split_after_means"]), 1e-6)


def test_merge(z, state, parity):
    after = merge(state, z["merge_mask"], kl_of(state)[1], mutual_merges_published=True)
    new = {name: value[-43:] for name, value in after.items()}
    parity("density", "merge means", error(new["positions"], z["merge_new_means"]), 1e-6)
    parity("density", "merge colours", error(new["sh_dc"], z["merge_new_features_dc"]), 1e-6)
    parity("density", "merge opacity logits", error(new["opacity_logits"], z["merge_new_opacity_logits"]), 1e-6)
    parity("density", "merge log scales", error(new["scales"].log(), z["merge_new_log_scales"]), 1e-6)
    parity("density", "merge quaternions", error(new["quaternions"], z["merge_new_quaternions"]), 1e-6)
    parity("density", "merge means after", error(after["positions"], z["merge_after_means"]), 1e-6)
    once = merge(state, z["merge_mask"], kl_of(state)[1])
    assert len(once["positions"]) == 287 - 15  # 15 mutual pairs
    assert len(once["positions"].unique(dim=0)) == len(once["positions"])


def chain_state(z, state):
    gradients = (z["chain_gradient_sum"] / z["chain_gradient_count"]).nan_to_num(0)[:, 0]
    return {**state, "gradients": gradients}


@pytest.fixture
def seen(monkeypatch):
    """The masks a full step computes, by the rule's name."""
    masks = {}

    def recorded(name):
        rule = getattr(density, name)

        def record(*args):
            masks[name] = rule(*args)
            return masks[name]

        return record

    for name in ("clone_mask", "split_mask", "merge_mask", "prune_mask"):
        monkeypatch.setattr(density, name, recorded(name))
    return masks


def test_full_step_as_published(z, state, parity, seen):
    control = DensityControl(
        merge_gradients_published=True, clone_resets_radii_published=True, mutual_merges_published=True
    )
    noise = stored(z["chain_clone_noise"], z["chain_split_noise"])
    after, counts = control.densify(chain_state(z, state), 5000, float(z["extent"]), noise)
    for name, mask in seen.items():
        parity("density", f"full step: {name.replace('_', ' ')}", error(mask, z[f"chain_{name}"]), 0)
    assert counts["cloned"] == z["chain_clone_mask"].sum() and counts["pruned"] == z["chain_prune_mask"].sum()
    parity("density", "full step: means", error(after["positions"], z["chain_final_means"]), 1e-6)
    parity("density", "full step: log scales", error(after["scales"].log(), z["chain_final_log_scales"]), 1e-6)
    parity("density", "full step: quaternions", error(after["quaternions"], z["chain_final_quaternions"]), 1e-6)
    logits = error(after["opacity_logits"], z["chain_final_opacity_logits"])
    parity("density", "full step: opacity logits", logits, 1e-6)


def test_full_step_put_right(z, state, parity, seen):
    """Clones and splits are as published; merges see their own gradients, and the screen size prunes."""
    noise = stored(z["chain_clone_noise"], z["chain_split_noise"])
    after, _ = DensityControl().densify(chain_state(z, state), 5000, float(z["extent"]), noise)
    for name in ("clone_mask", "split_mask"):
        parity("density", f"full step put right: {name.replace('_', ' ')}", error(seen[name], z[f"chain_{name}"]), 0)
    assert not torch.equal(seen["merge_mask"], z["chain_merge_mask"])
    assert after["radii"].max() <= 20
    assert len(after["positions"].unique(dim=0)) == len(after["positions"])
