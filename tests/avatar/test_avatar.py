"""The avatar's verbs: record, retrieve, reconstruct; its state; its ablations."""

import functools

import pytest
import torch

from r3avatar.avatar import TemporalCodebook, WeightOffsets, build_avatar
from r3avatar.body import load_body
from r3avatar.retrieval import NearestFrame, Retriever
from r3avatar.types import BodyPose


def _codebook(**kwargs):
    return TemporalCodebook(spatial_resolutions=(4, 8), time_resolution=3, channels=4, **kwargs)


@pytest.fixture(scope="module")
def body():
    return load_body("demo")


@pytest.fixture
def avatar(body):
    torch.manual_seed(0)
    return build_avatar(body, recorded_length=10, codebook=_codebook)


def _pose(body, frames, scale=0.1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return BodyPose(
        torch.randn(frames, 55, 3, generator=generator) * scale,
        torch.zeros(frames, body.num_betas),
        torch.zeros(frames, body.num_expression),
        torch.eye(3).expand(frames, 3, 3),
        torch.zeros(frames, 3),
    )


def test_reconstruct_follows_the_body(avatar, body):
    """With no decoder offset, Gaussians sit on the posed body's vertices."""
    avatar.skinning.weight_offsets = avatar.pose_refinement = None
    pose = _pose(body, 2)
    attributes = avatar.record(torch.tensor([1.0, 2.0]))
    attributes.offset = torch.zeros_like(attributes.offset)
    gaussians = avatar.reconstruct(attributes, pose)
    torch.testing.assert_close(gaussians.means, body.vertices(pose), atol=2e-6, rtol=0)
    assert gaussians.sh.shape[2:] == (1, 3) and (gaussians.opacities > 0).all()


def test_covariances_turn_with_the_body(avatar, body):
    pose = _pose(body, 1, scale=0.0)
    turned = BodyPose(pose.theta.clone(), pose.betas, pose.expression, pose.R, pose.Th)
    turned.theta[0, 0] = torch.tensor([0.0, 1.0, 0.0])
    avatar.pose_refinement = None
    a, b = (avatar(p, torch.tensor([3.0])) for p in (pose, turned))
    R = body.rotations(turned.theta)[0, 0]

    def full(c):
        xx, xy, xz, yy, yz, zz = c.unbind(-1)
        return torch.stack([xx, xy, xz, xy, yy, yz, xz, yz, zz], -1).unflatten(-1, (3, 3))

    torch.testing.assert_close(full(b.covariances[0]), R @ full(a.covariances[0]) @ R.T, atol=1e-8, rtol=1e-3)


def test_a_step_reaches_every_parameter(avatar, body):
    gaussians = avatar(_pose(body, 2), torch.tensor([0.0, 4.5]))
    (
        gaussians.means.square().sum() + gaussians.covariances.sum() + gaussians.opacities.sum() + gaussians.sh.sum()
    ).backward()
    for name, parameter in avatar.named_parameters():
        if name != "gaussians.sh_rest":  # degree 0 at the start
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_animating_with_one_time_for_all_parts_is_replaying(avatar, body):
    pose, query = _pose(body, 6), _pose(body, 2, seed=5)
    retrieved = NearestFrame("smplx", backend="torch").fit(pose.theta, torch.arange(6.0)).retrieve(query.theta)
    with torch.no_grad():
        animated, replayed = avatar.animate(query, retrieved), avatar(query, retrieved.times[:, 0])
    torch.testing.assert_close(animated.means, replayed.means, atol=2e-5, rtol=0)
    torch.testing.assert_close(animated.covariances, replayed.covariances, atol=1e-7, rtol=1e-3)


def test_animate_with_jumps_is_finite(avatar, body):
    pose, query = _pose(body, 8), _pose(body, 5, seed=3)
    retrieved = (
        Retriever("smplx", backend="torch", k=1, window=0.5).fit(pose.theta, torch.arange(8.0)).retrieve(query.theta)
    )
    assert retrieved.jump.any()
    with torch.no_grad():
        gaussians = avatar.animate(query, retrieved)
    assert gaussians.means.isfinite().all() and gaussians.covariances.isfinite().all()


def test_state_loads_after_densification(avatar, body):
    g = avatar.gaussians
    g.active_sh_degree = 2
    for name in ("positions", "sh_dc", "sh_rest"):
        old = getattr(g, name)
        setattr(g, name, torch.nn.Parameter(torch.cat([old, old[:7]])))
    fresh = build_avatar(body, recorded_length=10, codebook=_codebook)
    fresh.load_state_dict(avatar.state_dict())
    assert len(fresh.gaussians) == len(g) == body.num_vertices + 7 and fresh.gaussians.active_sh_degree == 2
    assert torch.equal(fresh.gaussians.positions, g.positions)
    with pytest.raises(RuntimeError, match="size mismatch"):
        build_avatar(body, 10, codebook=_codebook, sh_degree=1).load_state_dict(avatar.state_dict())


@pytest.mark.parametrize("without", ["skinning", "pose_refinement"])
def test_ablations(body, without):
    avatar = build_avatar(body, recorded_length=10, codebook=_codebook, **{without: None})
    assert not any(name.startswith(without + ".") for name, _ in avatar.named_parameters())
    assert avatar(_pose(body, 1), torch.tensor([1.0])).means.isfinite().all()


def test_initial_scale_and_opacity(body):
    avatar = build_avatar(body, 10, codebook=_codebook, initial_scale=0.006, initial_opacity=0.9)
    attributes = avatar.record(torch.tensor([2.0]))
    assert 0.003 < attributes.scale.mean() < 0.009 and 0.8 < attributes.opacity_logit.sigmoid().mean() < 0.95


def test_the_vertex_that_is_followed(body):
    """'moved' looks where the offset puts a Gaussian, 'canonical' where it stands, whatever the offset."""
    points = torch.tensor([[0.0, -0.9, 0.0], [0.4, 0.2, 0.0]])
    moved = points + torch.tensor([[[0.0, 0.0, 0.0]], [[0.0, 0.5, 0.0]]])
    found = {}
    for follow in ("moved", "canonical"):
        avatar = build_avatar(body, 10, codebook=_codebook, skinning=functools.partial(WeightOffsets, follow=follow))
        found[follow] = avatar.skinning.vertex(points, moved)
    assert torch.equal(found["canonical"][0], found["canonical"][1])
    assert torch.equal(found["moved"][0], found["canonical"][0]) and not torch.equal(*found["moved"])
    with pytest.raises(ValueError, match="follow"):
        WeightOffsets(55, follow="nowhere")


def test_a_higher_floor_lets_weights_go_to_other_joints(body):
    vertex, logits = torch.tensor([[100]]), torch.zeros(1, 55)
    other = int(body.weights[100].argmin())
    logits[0, other] = 5.0
    weight = {}
    for floor in (1e-9, 1e-2):
        avatar = build_avatar(body, 10, codebook=_codebook, skinning=functools.partial(WeightOffsets, floor=floor))
        weights = avatar.skinning.weights(vertex, logits)[0, 0]
        expected = torch.softmax((body.weights[100] + floor).log() + logits[0], -1)
        torch.testing.assert_close(weights, expected)
        weight[floor] = float(weights[other])
    assert weight[1e-9] < 1e-5 and weight[1e-2] > 0.3
    with pytest.raises(ValueError, match="floor"):
        WeightOffsets(55, floor=0.0)
