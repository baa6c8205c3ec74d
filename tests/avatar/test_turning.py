"""Cloth that answers to how the root has been turning: formula, gradients, edits, state, playback, configuration."""

import functools
from dataclasses import replace

import pytest
import torch
from hydra.utils import instantiate

from r3avatar.avatar import Playback, TemporalCodebook, build_avatar
from r3avatar.avatar.canonical import CanonicalGaussians
from r3avatar.avatar.decoder import Attributes
from r3avatar.benchmarks.points import resample
from r3avatar.body import load_body
from r3avatar.cli import check
from r3avatar.rasterizer import make_rasterizer
from r3avatar.retrieval import Mixture
from r3avatar.training.density import DensityEdit, apply_edit
from r3avatar.training.density_rules import clone, merge, split
from r3avatar.training.optimizer import TURNING, make_optimizer
from r3avatar.turning import with_turning
from r3avatar.types import Cameras

from .dotted_images import poses_of

CODEBOOK = functools.partial(TemporalCodebook, spatial_resolutions=(8,), time_resolution=10, channels=4)
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device")])]  # fmt: skip
CLOTH = 5  # the first Gaussians, with shares of 0.2 to 1


def _recorded():
    return 0.3 * torch.randn(20, 9, generator=torch.Generator().manual_seed(4)) + 0.1


def _avatar(turning=True, every=200, answering=False, **options):
    torch.manual_seed(0)
    avatar = build_avatar(
        load_body("demo"), 10, codebook=CODEBOOK, initial_scale=0.02, initial_opacity=0.8, turning=turning,
        recorded_turning=_recorded() if turning else None, **options,
    )  # fmt: skip
    for _, parameter in avatar.gaussians.named_parameters():
        parameter.data = parameter.data[::every].contiguous()
    if turning:
        avatar.gaussians.cloth.data[:CLOTH, 0] = torch.linspace(0.2, 1, CLOTH)
    if answering:
        random = torch.Generator().manual_seed(1)
        for name, size in (("turning_opacity", 0.5), ("turning_offset", 0.02)):
            parameter = getattr(avatar.gaussians, name)
            parameter.data = size * torch.randn(parameter.shape, generator=random)
    return avatar.eval()


def _pose(frames=2, seed=0):
    return with_turning(poses_of(load_body("demo"), frames, seed))


def _fields(gaussians):
    return gaussians.means, gaussians.covariances, gaussians.opacities, gaussians.sh


def test_it_begins_as_no_change_and_without_turning_nothing_changes():
    plain, begun, answering = _avatar(False), _avatar(), _avatar(answering=True)
    assert set(begun.state_dict()) - set(plain.state_dict()) == {
        "gaussians.cloth", "gaussians.turning_opacity", "gaussians.turning_offset", "turning_mean", "turning_std",
    }  # fmt: skip
    pose, times = _pose(), torch.tensor([1.0, 4.5])
    for avatar, given in ((begun, pose), (answering, replace(pose, turning=None))):
        for a, b in zip(_fields(plain(pose, times)), _fields(avatar(given, times)), strict=True):
            assert torch.equal(a, b)


def test_formula():
    avatar, pose, times = _avatar(answering=True), _pose(3), torch.tensor([1.0, 4.5, 7.0])
    g, recorded = avatar.gaussians, _recorded()
    torch.testing.assert_close(avatar.turning_mean, recorded.mean(0))
    torch.testing.assert_close(avatar.turning_std, recorded.std(0, correction=0) + 1e-3)
    pose.turning[1, 0] = 100.0  # is no more than 2.5 standard deviations
    attributes = avatar.record(times)
    offset, opacity = attributes.offset.clone(), attributes.opacity_logit.clone()
    found = avatar._turned(attributes, pose)
    assert torch.equal(attributes.offset, offset) and torch.equal(attributes.opacity_logit, opacity)
    for f in range(3):
        turning = ((pose.turning[f] - avatar.turning_mean) / avatar.turning_std).clamp(-2.5, 2.5)
        assert (turning[0] == 2.5) or f != 1
        for n in (0, 2, CLOTH - 1, CLOTH, len(g) - 1):
            share = g.cloth[n, 0]
            logit, moved = share * (turning @ g.turning_opacity[n]), share * (turning @ g.turning_offset[n])
            torch.testing.assert_close(found.opacity_logit[f, n, 0], opacity[f, n, 0] + logit)
            torch.testing.assert_close(found.offset[f, n], offset[f, n] + moved)
    assert torch.equal(found.offset[:, CLOTH:], offset[:, CLOTH:]) and found.scale is attributes.scale
    plain = avatar.reconstruct(found, replace(pose, turning=None))
    for a, b in zip(_fields(plain), _fields(avatar.reconstruct(attributes, pose)), strict=True):
        assert torch.equal(a, b)


def test_gradients_reach_both_in_float64():
    avatar, pose = _avatar(answering=True).double(), _pose().to(torch.float64)
    random = torch.Generator().manual_seed(2)
    N, names = len(avatar.gaussians), ["gaussians.turning_opacity", "gaussians.turning_offset"]
    given = [torch.rand(2, N, c, dtype=torch.float64, generator=random) for c in (3, 1, 3, 4)]
    weights = [torch.randn(2, N, *c, dtype=torch.float64, generator=random) for c in ((3,), ())]

    def seen(opacity, offset):
        posed = torch.func.functional_call(_Reconstruct(avatar), dict(zip([f"avatar.{n}" for n in names],
                                           (opacity, offset))), (Attributes(*given), pose))  # fmt: skip
        return (posed.means * weights[0]).sum() + (posed.opacities * weights[1]).sum()

    own = [avatar.get_parameter(name) for name in names]
    gradients = torch.autograd.grad(seen(*own), own)
    for k, gradient in enumerate(gradients):
        assert gradient[:CLOTH].abs().min() > 0 and not gradient[CLOTH:].any()
        way = torch.randn(own[k].shape, dtype=torch.float64, generator=random)
        moved = [[p + (s * 1e-6 * way if i == k else 0) for i, p in enumerate(own)] for s in (1, -1)]
        with torch.no_grad():
            difference = (seen(*moved[0]) - seen(*moved[1])) / 2e-6
        torch.testing.assert_close(difference, (gradient * way).sum(), rtol=1e-6, atol=1e-8)


class _Reconstruct(torch.nn.Module):
    def __init__(self, avatar):
        super().__init__()
        self.avatar = avatar

    def forward(self, attributes, pose):
        return self.avatar.reconstruct(attributes, pose)


def _noise(count):
    return torch.zeros(count, 3)


def test_copies_inherit_it_and_merges_take_the_mean():
    random, N = torch.Generator().manual_seed(3), 4
    shapes = {"turning_opacity": (N, 9), "turning_offset": (N, 9, 3)}
    own = {name: torch.rand(shape, generator=random) for name, shape in shapes.items()}
    state = {
        "positions": torch.rand(N, 3, generator=random), "scales": torch.full((N, 3), 0.01),
        "quaternions": torch.tensor([1.0, 0, 0, 0]).repeat(N, 1), "opacity_logits": torch.zeros(N, 1),
        "gradients": torch.zeros(N), "radii": torch.ones(N), **own,
    }  # fmt: skip
    one = torch.tensor([False, True, False, False])
    cloned, halves = clone(state, one, _noise), split(state, one, _noise)
    merged = merge(state, one, torch.tensor([0, 3, 0, 0]))
    for name, value in own.items():
        assert torch.equal(cloned[name], value[[0, 1, 2, 3, 1]]) and torch.equal(halves[name], value[[0, 2, 3, 1, 1]])
        torch.testing.assert_close(merged[name], torch.cat([value[[0, 2]], value[[1, 3]].mean(0, keepdim=True)]))


def test_density_control_hands_it_on_and_a_checkpoint_of_another_size_loads():
    avatar = _avatar(answering=True)
    optimizer = make_optimizer(avatar, 1.0, turning_opacity=0.25, turning_offset=0.5)
    assert [(g["name"], g["lr"]) for g in optimizer.param_groups[-2:]] == list(zip(TURNING, (0.25, 0.5)))
    g, parents = avatar.gaussians, torch.tensor([2, 7])
    keep = torch.arange(1, len(g))  # the first is pruned
    before = {name: getattr(g, name).detach().clone() for name in TURNING}
    new = {name: value[parents] for name, value in g.named_parameters(recurse=False)}
    apply_edit(optimizer, g, DensityEdit(keep, new, parents, 2, 0, 0, 1))
    for name, value in before.items():
        assert torch.equal(getattr(g, name), value[torch.cat([keep, parents])])
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {
        id(p) for p in avatar.parameters() if p.requires_grad
    }
    fresh = build_avatar(load_body("demo"), 10, codebook=CODEBOOK, turning=True).eval()
    assert len(fresh.gaussians) != len(g)
    fresh.load_state_dict(avatar.state_dict())
    pose, times = _pose(1), torch.tensor([3.3])
    for a, b in zip(_fields(fresh(pose, times)), _fields(avatar(pose, times)), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(RuntimeError, match="turning_offset"):
        _avatar(False).load_state_dict(avatar.state_dict())
    assert not {g["name"] for g in make_optimizer(_avatar(False), 1.0).param_groups} & set(TURNING)


def test_a_benchmarks_other_gaussians_have_none():
    avatar = _avatar(answering=True)
    resample(avatar, 40)
    assert avatar.gaussians.turning_offset.shape == (40, 9, 3) and not avatar.gaussians.turning_offset.any()


@pytest.mark.parametrize("device", DEVICES)
@torch.no_grad()
def test_playback_draws_it(device):
    """Recorded times and a mixture, as graphs on CUDA: every pose's own turning, and poses without, in turn."""
    avatar = _avatar(answering=True, every=20).to(device)
    rasterizer = make_rasterizer("auto" if device == "cuda" else "numba")
    playback = Playback(avatar, rasterizer)
    K = torch.tensor([[90.0, 0.0, 32.0], [0.0, 90.0, 40.0], [0.0, 0.0, 1.0]])
    w2c = torch.tensor([[1, 0, 0, 0], [0, -1, 0, 0.2], [0, 0, -1, 2.6], [0, 0, 0, 1.0]])
    cameras = Cameras(K[None, None], w2c[None, None], 64, 80)
    poses = _pose(4)
    times, shares = torch.arange(10.0), torch.softmax(torch.randn(1, 5, 10), -1)
    for f in range(4):
        for pose in (poses[f : f + 1], replace(poses[f : f + 1], turning=None)):
            there, time = pose.to(device), torch.tensor([2.0 * f])
            expected = rasterizer(avatar(there, time.to(device)), cameras.to(device)).rgb
            torch.testing.assert_close(playback.recorded(pose, time, cameras).rgb, expected, rtol=1e-4, atol=1e-4)
            mixture = Mixture(times, shares, torch.zeros(1, 5))
            expected = rasterizer(avatar.animate(there, mixture), cameras.to(device)).rgb
            found = playback.retrieved(pose, mixture, cameras).rgb
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_configuration():
    config = check("train", ["experiment=demo", "avatar.turning=true"])
    assert config.avatar.turning
    assert (config.optimizer.turning_opacity, config.optimizer.turning_offset) == (0.02, 2e-4)
    assert {"turning_opacity", "turning_offset"} <= set(config.learning_rates.final)
    for avatar in ("r3", "r3_plus"):
        assert check("train", ["experiment=demo", f"avatar={avatar}"]).avatar.turning is False
    parts = dict(body=load_body("demo"), recorded_length=10, codebook=CODEBOOK, skinning=None, pose_refinement=None)
    avatar = instantiate(check("train", ["experiment=demo", "avatar=r3", "avatar.turning=true"]).avatar, **parts,
                         recorded_turning=_recorded())  # fmt: skip
    torch.testing.assert_close(avatar.turning_mean, _recorded().mean(0))


def test_it_needs_gaussians_off_the_body():
    with pytest.raises(ValueError, match=r"avatar\.initial_points=hull"):
        build_avatar(load_body("demo"), 10, codebook=CODEBOOK, images=lambda frames: [], turning=True)
    with pytest.raises(ValueError, match=r"avatar\.initial_points=hull"):
        CanonicalGaussians(torch.rand(3, 3), turning=True)
