"""Cloth that swings as the pelvis has been turning: formula, gradients, fit, state, playback, configuration."""

import functools
from dataclasses import replace

import pytest
import torch
from hydra.utils import instantiate

from r3avatar.avatar import Playback, TemporalCodebook, build_avatar
from r3avatar.avatar.swing import Swing
from r3avatar.body import load_body
from r3avatar.cli import check
from r3avatar.rasterizer import make_rasterizer
from r3avatar.retrieval import Mixture
from r3avatar.training.optimizer import make_optimizer
from r3avatar.turning import with_turning
from r3avatar.types import Cameras

from .dotted_images import poses_of

CODEBOOK = functools.partial(TemporalCodebook, spatial_resolutions=(8,), time_resolution=10, channels=4)
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device")])]  # fmt: skip
CLOTH = 5  # the first Gaussians, which hang on the pelvis by 0.2 to 1


def _random(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _recorded():
    return 0.3 * _random(20, 9, seed=4) + 0.1


def _hung(count=400):
    """Points of a tube from the waist at 0.2 m down to -0.4 m."""
    angle, height = 7.0 * torch.arange(count), torch.linspace(0.2, -0.4, count)
    return torch.stack([0.2 * angle.cos(), height, 0.2 * angle.sin()], 1)


def _swing(response=None):
    swing = Swing(_hung(), torch.tensor([0.01, 0.1, -0.02]), _recorded())
    if response is not None:
        swing.response.data.copy_(response)
    return swing


def _avatar(swing=True, every=200, swinging=False):
    torch.manual_seed(0)
    avatar = build_avatar(
        load_body("demo"), 10, codebook=CODEBOOK, initial_scale=0.02, initial_opacity=0.8, cloth_bone=True, swing=swing,
        recorded_turning=_recorded(),
    )  # fmt: skip
    for _, parameter in avatar.gaussians.named_parameters():
        parameter.data = parameter.data[::every].contiguous()
    avatar.gaussians.cloth.data[:CLOTH, 1] = torch.linspace(0.2, 1, CLOTH)
    if swinging:
        avatar.swing.response.data.copy_(0.05 * _random(2, 3, 9))
    return avatar.eval()


def _pose(frames=2, seed=0):
    return with_turning(poses_of(load_body("demo"), frames, seed))


def _fields(gaussians):
    return gaussians.means, gaussians.covariances, gaussians.opacities, gaussians.sh


def test_it_begins_as_no_change_and_without_turning_nothing_changes():
    plain, begun, swinging = _avatar(False), _avatar(), _avatar(swinging=True)
    assert set(begun.state_dict()) - set(plain.state_dict()) == {
        f"swing.{name}" for name in ("mean", "std", "top", "extent", "response")
    }
    pose, times = _pose(), torch.tensor([1.0, 4.5])
    for avatar, given in ((begun, pose), (swinging, replace(pose, turning=None))):
        for a, b in zip(_fields(plain(pose, times)), _fields(avatar(given, times)), strict=True):
            assert torch.equal(a, b)


def test_formula():
    swing, recorded, turning = _swing(0.1 * _random(2, 3, 9)), _recorded(), _random(3, 9, seed=2)
    torch.testing.assert_close(swing.mean, recorded.mean(0))
    torch.testing.assert_close(swing.std, recorded.std(0, correction=0) + 1e-3)
    turning[1, 0] = 100.0  # is no more than 2.5 standard deviations
    top, bottom = 0.2 - 0.6 * 0.1, 0.2 - 0.6 * 0.98  # the highest tenth may lie on the body
    extent = top - bottom
    torch.testing.assert_close(swing.top, torch.tensor([0.01, top + 0.1 * extent, -0.02]), atol=1e-3, rtol=0)
    torch.testing.assert_close(swing.extent, torch.tensor(1.1 * extent), atol=1e-3, rtol=0)
    points = torch.tensor([[0.3, 0.5, 0.1], [0.1, 0.0, -0.2], [0.3, -0.3, 0.4], [0.0, -9.0, 0.1]])
    hung = torch.tensor([1.0, 0.5, 1.0, 1.0])
    found = swing(points, hung, turning)
    assert found.shape == (3, 4, 3) and not found[:, 0].any() and found[:, 1:].abs().amax((1, 2)).min() > 1e-3
    for f in range(3):
        y = ((turning[f] - swing.mean) / swing.std).clamp(-2.5, 2.5)
        for n in range(4):
            x, below, z = points[n] - swing.top
            h = float((-below / swing.extent).clamp(0, 1.3))
            twist, along_x, along_z = hung[n] * (h * swing.response[0] @ y + h * h * swing.response[1] @ y)
            expected = torch.stack([along_x + twist * z, torch.zeros(()), along_z - twist * x])
            torch.testing.assert_close(found[f, n], expected)


def test_a_twist_turns_about_the_upright_with_the_pelvis():
    """A positive response to turning about y moves cloth the way in which a turn about y by that angle does."""
    response = torch.zeros(2, 3, 9)
    response[0, 0, 1] = 1.0
    swing = _swing(response)
    swing.mean.zero_(), swing.std.fill_(1.0)
    angle, point = 1e-3, torch.tensor([[0.2, float(swing.top[1] - swing.extent), 0.1]])  # at the hem
    moved = swing(point, torch.ones(1), angle * torch.eye(9)[1:2])[0, 0]
    turned = torch.linalg.cross(torch.tensor([0.0, angle, 0.0]), point[0] - swing.top)
    torch.testing.assert_close(moved, turned, atol=1e-7, rtol=1e-3)


def test_gradients_in_float64():
    swing = _swing(0.1 * _random(2, 3, 9)).double()
    points, hung, turning = _hung(6).double().requires_grad_(), torch.rand(6).double(), 0.3 * _random(2, 9).double()

    def moved(response):
        return torch.func.functional_call(swing, {"response": response}, (points, hung, turning))

    assert torch.autograd.gradcheck(moved, swing.response.detach().clone().requires_grad_())
    moved(swing.response).sum().backward()
    assert points.grad is None and swing.response.grad.abs().min() > 0


def test_it_is_found_from_where_cloth_was():
    """Least squares by Adam, the optimizer of an avatar, with noise: the response that made the places."""
    truth = 0.1 * _random(2, 3, 9, seed=5)
    points, hung, turning = _hung(200), torch.ones(200), _recorded()
    places = _swing(truth)(points, hung, turning).detach()
    places = places + 0.005 * _random(*places.shape, seed=6)
    swing = _swing()
    optimizer = torch.optim.Adam([swing.response], 5e-3)
    for _ in range(800):
        optimizer.zero_grad()
        (swing(points, hung, turning) - places).square().sum().backward()
        optimizer.step()
    torch.testing.assert_close(swing(points, hung, turning), _swing(truth)(points, hung, turning), atol=4e-3, rtol=0)


def test_only_what_hangs_on_the_pelvis_swings_and_it_keeps_its_vertex():
    still, swinging, pose, times = _avatar(), _avatar(swinging=True), _pose(3), torch.tensor([1.0, 4.5, 7.0])
    attributes = still.record(times)
    offset = attributes.offset.clone()
    before, after = still.reconstruct(attributes, pose), swinging.reconstruct(attributes, pose)
    assert torch.equal(attributes.offset, offset)
    moved = (after.means - before.means).norm(dim=-1)
    assert moved[:, 1:CLOTH].max() > 1e-2 and not moved[:, CLOTH:].any()
    for name in ("covariances", "opacities", "sh"):
        torch.testing.assert_close(getattr(after, name), getattr(before, name))
    # On the pelvis alone all of cloth turns with it, so that lengths are those of the big pose.
    n = CLOTH - 1
    expected = swinging.swing(still.gaussians.positions, still.gaussians.cloth[:, 1], pose.turning)[:, n].norm(dim=-1)
    torch.testing.assert_close(moved[:, n], expected, atol=1e-3, rtol=1e-2)


def test_optimizer_and_state():
    avatar = _avatar(swinging=True)
    optimizer = make_optimizer(avatar, 1.0, swing=0.25)
    assert [(g["name"], g["lr"]) for g in optimizer.param_groups[-1:]] == [("swing", 0.25)]
    assert optimizer.param_groups[-1]["params"] == [avatar.swing.response]
    fresh = build_avatar(load_body("demo"), 10, codebook=CODEBOOK, cloth_bone=True, swing=True).eval()
    fresh.load_state_dict(avatar.state_dict())
    pose, times = _pose(1), torch.tensor([3.3])
    for a, b in zip(_fields(fresh(pose, times)), _fields(avatar(pose, times)), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(RuntimeError, match=r"swing\.response"):
        _avatar(False).load_state_dict(avatar.state_dict())
    assert "swing" not in {g["name"] for g in make_optimizer(_avatar(False), 1.0).param_groups}


@pytest.mark.parametrize("device", DEVICES)
@torch.no_grad()
def test_playback_draws_it(device):
    """Recorded times and a mixture, as graphs on CUDA: every pose's own turning, and poses without, in turn."""
    avatar = _avatar(swinging=True, every=20).to(device)
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
    config = check("train", ["experiment=demo", "avatar.swing=true"])
    assert config.avatar.swing and config.optimizer.swing == 5e-3 and config.learning_rates.final.swing == 0.005
    assert check("train", ["experiment=demo", "avatar=r3"]).avatar.swing is False
    parts = dict(body=load_body("demo"), recorded_length=10, codebook=CODEBOOK, skinning=None, pose_refinement=None)
    overrides = ["experiment=demo", "avatar=r3", "avatar.swing=true", "avatar.cloth_bone=true"]
    avatar = instantiate(check("train", overrides).avatar, **parts, recorded_turning=_recorded())
    torch.testing.assert_close(avatar.swing.mean, _recorded().mean(0))


def test_it_needs_cloth_on_the_pelvis():
    with pytest.raises(ValueError, match=r"avatar\.cloth_bone=true"):
        build_avatar(load_body("demo"), 10, codebook=CODEBOOK, swing=True)
    with pytest.raises(ValueError, match=r"avatar\.initial_points=hull"):
        build_avatar(load_body("demo"), 10, codebook=CODEBOOK, images=lambda frames: [], cloth_bone=True, swing=True)
