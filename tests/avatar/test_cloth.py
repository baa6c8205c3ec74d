"""Loose cloth: what hangs on the pelvis, and how it moves as a whole."""

import functools

import pytest
import torch

from r3avatar.avatar import TemporalCodebook, build_avatar
from r3avatar.avatar.canonical import CanonicalGaussians
from r3avatar.avatar.cloth_bone import PELVIS, ShownFrame, bone_logits, hangs_on_pelvis, to_big_pose
from r3avatar.avatar.cloth_motion import ClothMotion
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


def test_motion_is_any_polynomial_of_the_place_and_linear_in_time():
    points = torch.rand(50, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    motion = ClothMotion(2, 5, points).double()
    assert not motion(points, torch.ones(50), torch.tensor([-1.0, 0.3])).any()  # it begins at rest
    x = (points - motion.middle) / motion.reach
    with torch.no_grad():
        motion.coefficients[1, 1, 2] = 3.0  # z by x
        motion.coefficients[2, 5, 0] = 2.0  # x by x y
    share = torch.linspace(0, 1, 50, dtype=torch.float64)
    quarter, between = motion(points, share, torch.tensor([-0.5, -0.25], dtype=torch.float64))
    torch.testing.assert_close(quarter, torch.stack([0 * share, 0 * share, 3 * share * x[:, 0]], 1))
    expected = torch.stack([share * x[:, 0] * x[:, 1], 0 * share, 1.5 * share * x[:, 0]], 1)
    torch.testing.assert_close(between, expected)
    ends = motion(points, share, torch.tensor([-3.0, 1.0, 7.0], dtype=torch.float64))
    assert torch.equal(ends[1], ends[2]) and not ends[0].any()
    assert [ClothMotion(d, 5, points).coefficients.shape[1] for d in (1, 2, 3)] == [4, 10, 20]
    for degree in (0, 4):
        with pytest.raises(ValueError, match="degree"):
            ClothMotion(degree, 5, points)


@pytest.mark.parametrize("degree", [1, 3])
def test_gradcheck(degree):
    random = torch.Generator().manual_seed(2)
    points = torch.rand(4, 3, generator=random, dtype=torch.float64, requires_grad=True)
    motion = ClothMotion(degree, 3, points.detach()).double()
    coefficients = torch.rand(motion.coefficients.shape, generator=random, dtype=torch.float64, requires_grad=True)
    share, taus = torch.rand(4, generator=random, dtype=torch.float64), torch.tensor([-0.4, 0.6], dtype=torch.float64)

    def function(points, coefficients):
        return torch.func.functional_call(motion, {"coefficients": coefficients}, (points, share, taus))

    assert torch.autograd.gradcheck(function, (points, coefficients))


def _avatar(**options):
    torch.manual_seed(0)
    avatar = build_avatar(load_body("demo"), 10, codebook=functools.partial(CODEBOOK, general=True), **options)
    if avatar.gaussians.cloth is not None:
        avatar.gaussians.cloth.data[:5] = 1.0
    return avatar


def test_only_cloth_moves_and_hangs_and_the_general_moment_by_itself():
    plain, avatar = _avatar(), _avatar(cloth_bone=True, cloth_motion=1)
    times = torch.tensor([0.0, 10.0, avatar.codebook.general_time])
    with torch.no_grad():
        avatar.cloth_motion.coefficients[-1, 0] = torch.tensor([1.0, 2.0, 3.0])
    moved = avatar.record(times).offset - plain.record(times).offset
    assert not moved[:2].any() and not moved[2, 5:].any()
    torch.testing.assert_close(moved[2, :5], torch.tensor([1.0, 2.0, 3.0]).expand(5, 3))
    hung = avatar.skinning_logits() - plain.skinning_logits()
    assert hung[:5, PELVIS].min() > 30 and not hung[5:].any() and not hung[:, PELVIS + 1 :].any()
    assert torch.equal(avatar.constants().logits, avatar.skinning_logits())


def test_density_control_hands_cloth_on_and_checkpoints_have_it():
    avatar = _avatar(cloth_bone=True, cloth_motion=2)
    optimizer = make_optimizer(avatar, 1.0, cloth=0.25)
    assert optimizer.param_groups[-1]["name"] == "cloth" and optimizer.param_groups[-1]["lr"] == 0.25
    N, parents = len(avatar.gaussians), torch.tensor([2, 7])
    new = {name: value[parents] for name, value in avatar.gaussians.named_parameters(recurse=False)}
    apply_edit(optimizer, avatar.gaussians, DensityEdit(torch.arange(N), new, parents, 2, 0, 0, 0))
    assert avatar.gaussians.cloth[N:].tolist() == [[1, 1], [0, 0]] and not avatar.gaussians.cloth.requires_grad
    with torch.no_grad():
        avatar.cloth_motion.coefficients.normal_()
        avatar.cloth_motion.middle.add_(1)
    fresh = _avatar(cloth_bone=True, cloth_motion=2)
    fresh.load_state_dict(avatar.state_dict())
    times = torch.tensor([3.3])
    assert torch.equal(fresh.record(times).offset, avatar.record(times).offset)
    assert CanonicalGaussians(torch.rand(3, 3)).cloth is None


def test_a_benchmarks_other_gaussians_are_no_cloth():
    avatar = _avatar(cloth_bone=True, cloth_motion=1)
    resample(avatar, 40)
    assert avatar.gaussians.cloth.shape == (40, 2) and not avatar.gaussians.cloth.any()
    assert avatar.record(torch.tensor([0.0])).offset.shape == (1, 40, 3)


def test_it_needs_gaussians_off_the_body():
    with pytest.raises(ValueError, match="initial_points=hull"):
        build_avatar(load_body("demo"), 10, codebook=CODEBOOK, images=lambda frames: [], cloth_motion=2)
