"""Loose cloth: what hangs on the pelvis."""

import functools

import pytest
import torch

from r3avatar.avatar import TemporalCodebook, build_avatar
from r3avatar.avatar.canonical import CanonicalGaussians
from r3avatar.avatar.cloth_bone import PELVIS, ShownFrame, bone_logits, hangs_on_pelvis, to_big_pose
from r3avatar.avatar.skinning import Skinning
from r3avatar.benchmarks.points import resample
from r3avatar.body import load_body
from r3avatar.training.density import DensityEdit, apply_edit
from r3avatar.training.optimizer import make_optimizer

from .dotted_images import poses_of, smpl_body

BODIES = {"smpl": smpl_body, "smplx": lambda: load_body("demo")}
CODEBOOK = functools.partial(TemporalCodebook, spatial_resolutions=(8,), time_resolution=10, channels=4)


def _walk(body, frames=4):
    """Poses whose thighs swing and whose trunk turns."""
    pose = poses_of(body, frames)
    swing = torch.linspace(-0.7, 0.7, frames)
    pose.theta.zero_()
    pose.theta[:, 1, 0], pose.theta[:, 2, 0] = swing, -swing
    pose.theta[:, 0, 1] = 0.5 * swing
    return pose


@pytest.mark.parametrize("kind", BODIES)
def test_a_bell_hangs_on_the_pelvis_and_leggings_on_the_legs(kind):
    body = BODIES[kind]()
    skinning, pose = Skinning(body, None, "torch"), _walk(body)
    random = torch.Generator().manual_seed(0)
    legs = (body.weights[:, [1, 2, 4, 5]].sum(1) > 0.9).nonzero()[:, 0]
    hips = skinning.big_vertices[body.weights[:, PELVIS] > 0.5].mean(0)
    turn = 6.283 * torch.rand(400, generator=random)
    down = torch.rand(400, generator=random)
    wide = 0.15 + 0.2 * down
    bell = hips + torch.stack([wide * turn.cos(), -0.1 - 0.4 * down, wide * turn.sin()], 1)
    outwards = skinning.big_vertices[legs] - skinning.big_vertices[legs].mean(0)
    leggings = skinning.big_vertices[legs] + 0.03 * torch.nn.functional.normalize(outwards, dim=1)
    of_bell = torch.zeros(len(bell) + len(leggings), dtype=torch.bool)
    of_bell[: len(bell)] = True
    frames = []
    for k in range(len(pose)):
        posed = skinning.pose(pose[k : k + 1])
        points = torch.cat([
            skinning(bell[None], posed, bone_logits(torch.ones(len(bell)), body.num_joints))[0][0],
            skinning(leggings[None], posed, None)[0][0],
        ])  # fmt: skip
        vertices = body.vertices(pose[k : k + 1])[0]
        frames.append(ShownFrame(posed, points, points, torch.cdist(points, vertices).argmin(1)))
    found = hangs_on_pelvis(skinning, frames, 0)
    assert found[of_bell].float().mean() > 0.9
    assert found[~of_bell].float().mean() < 0.35  # but at the hips, where both are one
    logits = bone_logits(torch.ones(len(bell)), body.num_joints)
    back, missed = to_big_pose(skinning, frames[0].pose, frames[0].hull[of_bell], frames[0].vertex[of_bell], logits)
    assert missed.max() < 0.02 and (back - bell).norm(dim=1).median() < 1e-3
    assert not hangs_on_pelvis(skinning, frames[:1], 0).any()  # one frame tells nothing


def test_the_pelvis_alone_carries_what_hangs_on_it():
    body = load_body("demo")
    skinning = Skinning(body)
    vertex = skinning.nearest(skinning.big_vertices[::50])
    pelvis = torch.linspace(0, 1, len(vertex))
    weights = skinning.weights(vertex, bone_logits(pelvis, body.num_joints))
    assert weights[-1, PELVIS] > 0.999
    torch.testing.assert_close(weights[0], body.weights[vertex[0]], atol=1e-6, rtol=0)


def _avatar(**options):
    torch.manual_seed(0)
    avatar = build_avatar(load_body("demo"), 10, codebook=functools.partial(CODEBOOK, general=True), **options)
    if avatar.gaussians.cloth is not None:
        avatar.gaussians.cloth.data[:5] = 1.0
    return avatar


def test_only_cloth_hangs_on_the_pelvis():
    plain, avatar = _avatar(), _avatar(cloth_bone=True)
    hung = avatar.skinning_logits() - plain.skinning_logits()
    assert hung[:5, PELVIS].min() > 30 and not hung[5:].any() and not hung[:, PELVIS + 1 :].any()
    assert torch.equal(avatar.constants().logits, avatar.skinning_logits())


def test_density_control_hands_cloth_on_and_checkpoints_have_it():
    avatar = _avatar(cloth_bone=True)
    N, parents = len(avatar.gaussians), torch.tensor([2, 7])
    new = {name: value[parents] for name, value in avatar.gaussians.named_parameters(recurse=False)}
    apply_edit(make_optimizer(avatar, 1.0), avatar.gaussians, DensityEdit(torch.arange(N), new, parents, 2, 0, 0, 0))
    assert avatar.gaussians.cloth[N:].tolist() == [1, 0] and not avatar.gaussians.cloth.requires_grad
    fresh = _avatar(cloth_bone=True)
    fresh.load_state_dict(avatar.state_dict())
    assert torch.equal(fresh.skinning_logits(), avatar.skinning_logits())
    assert CanonicalGaussians(torch.rand(3, 3)).cloth is None


def test_a_benchmarks_other_gaussians_are_no_cloth():
    avatar = _avatar(cloth_bone=True)
    resample(avatar, 40)
    assert avatar.gaussians.cloth.shape == (40,) and not avatar.gaussians.cloth.any()
    assert avatar.record(torch.tensor([0.0])).offset.shape == (1, 40, 3)


def test_it_needs_gaussians_off_the_body():
    with pytest.raises(ValueError, match="initial_points=hull"):
        build_avatar(load_body("demo"), 10, codebook=CODEBOOK, images=lambda frames: [], cloth_bone=True)
