"""The body model: its chain against a plain one, its gradients, its shapes."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from r3avatar.body import BodyModel, load_body, rodrigues


@pytest.mark.parametrize("kind", ["smpl", "smplx"])
@pytest.mark.parametrize("seed", range(3))
def test_skinning_transforms_equal_a_joint_by_joint_chain(body_arrays, body_pose, kind, seed):
    body = BodyModel(**body_arrays(kind, seed=seed)).double()
    pose = body_pose(body, seed=seed)
    rotations, joints = body.rotations(pose.theta), body.joints(pose.betas, pose.expression)
    world = torch.zeros(3, body.num_joints, 4, 4, dtype=torch.float64)
    for j, parent in enumerate(body.parents):
        local = torch.eye(4, dtype=torch.float64).repeat(3, 1, 1)
        local[:, :3, :3] = rotations[:, j]
        local[:, :3, 3] = joints[:, j] - (joints[:, parent] if j else 0)
        world[:, j] = world[:, parent] @ local if j else local
    remove = torch.eye(4, dtype=torch.float64).repeat(3, body.num_joints, 1, 1)
    remove[..., :3, 3] = -joints
    torch.testing.assert_close(body.skinning_transforms(rotations, joints), world @ remove, atol=1e-12, rtol=0)


def test_joints_are_the_regressed_shaped_vertices(body_arrays, body_pose):
    body = BodyModel(**body_arrays()).double()
    pose = body_pose(body)
    shaped = body.v_template + body.shape_offsets(pose.betas, pose.expression)
    torch.testing.assert_close(body.joints(pose.betas, pose.expression), body.J_regressor @ shaped, atol=1e-7, rtol=0)


def test_rodrigues_agrees_with_scipy_and_is_identity_at_zero():
    r = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(rodrigues(r), Rotation.from_rotvec(r.numpy()).as_matrix(), atol=1e-7)
    zero = torch.zeros(3, requires_grad=True)
    assert torch.equal(rodrigues(zero), torch.eye(3))
    (gradient,) = torch.autograd.grad(rodrigues(zero)[2, 1], zero)
    torch.testing.assert_close(gradient, torch.tensor([1.0, 0.0, 0.0]))


def test_gradients_of_skinning_transforms(body_arrays, body_pose):
    body = BodyModel(**body_arrays("smpl", vertices=25)).double()
    pose = body_pose(body, frames=1)
    rotations, joints = body.rotations(pose.theta), body.joints(pose.betas, pose.expression)
    inputs = (rotations.requires_grad_(), joints.requires_grad_())
    assert torch.autograd.gradcheck(body.skinning_transforms, inputs, fast_mode=True)


def test_gradients_of_vertices(body_arrays, body_pose):
    body = BodyModel(**body_arrays("smpl", vertices=12)).double()
    pose = body_pose(body, frames=2)
    names = ("theta", "betas", "expression", "R", "Th")
    values = [getattr(pose, name).requires_grad_() for name in names]

    def vertices(*tensors):
        return body.vertices(type(pose)(*tensors))

    assert torch.autograd.gradcheck(vertices, values)


def test_a_global_motion_moves_the_skinned_body(body_arrays, body_pose):
    body = BodyModel(**body_arrays()).double()
    pose = body_pose(body)
    still = type(pose)(pose.theta, pose.betas, pose.expression, torch.eye(3).double().expand(3, 3, 3), 0 * pose.Th)
    moved = body.vertices(still) @ pose.R.mT + pose.Th[:, None]
    torch.testing.assert_close(body.vertices(pose), moved)


def test_a_body_without_correctives_has_no_pose_offsets(body_arrays, body_pose):
    body = BodyModel(**{**body_arrays(), "posedirs": np.zeros((30, 3, 0))})
    assert body.posedirs is None
    assert body.pose_offsets(body.rotations(body_pose(body).theta)) is None


def test_hand_poses_add_the_mean(body_arrays):
    rng = np.random.default_rng(0)
    means, components = (rng.normal(size=45), rng.normal(size=45)), (np.eye(45)[:6], 2 * np.eye(45)[:6])
    body = BodyModel(**body_arrays(), hand_means=means, hand_components=components).double()
    left, right = torch.ones(2, 6, dtype=torch.float64), torch.zeros(2, 6, dtype=torch.float64)
    hands = body.hand_pose(left, right, pca=True)
    assert hands.shape == (2, 30, 3)
    expected = means[0] + np.r_[np.ones(6), np.zeros(39)]
    np.testing.assert_allclose(hands[0, :15].flatten(), expected, atol=1e-6)
    np.testing.assert_allclose(hands[0, 15:].flatten(), means[1], atol=1e-6)
    np.testing.assert_allclose(body.big_pose()[25:].flatten(), np.concatenate(means), atol=1e-6)
    with pytest.raises(ValueError, match=r"left hand: 7 coefficients, but the body has 6"):
        body.hand_pose(torch.ones(1, 7), torch.ones(1, 6), pca=True)


def test_big_pose_entries():
    flat = load_body("demo").big_pose().flatten()
    expected = torch.zeros(165)
    expected[[5, 8, 23, 26]] = torch.tensor([np.pi / 4, -np.pi / 4, -np.pi / 6, np.pi / 6], dtype=torch.float32)
    torch.testing.assert_close(flat, expected)


def test_the_state_dict_holds_no_body_data(body_arrays):
    assert not BodyModel(**body_arrays()).state_dict()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("kind", "mano", "kind is 'mano'"),
        ("v_template", np.zeros((30, 2)), r"v_template is \[30, 2\]; expected \[30, 3\]"),
        ("shapedirs", np.zeros((29, 3, 4)), r"shapedirs is \[29, 3, 4\]; expected \[30, 3, any\]"),
        ("posedirs", np.zeros((30, 3, 207)), r"posedirs is \[30, 3, 207\]; expected \[30, 3, 486\]"),
        ("weights", np.zeros((30, 55)), "weights: rows must sum to 1"),
        ("weights", np.full((30, 55), np.nan), "weights: rows must sum to 1"),
        ("parents", [-1] * 55, "parents must be -1 for the root"),
        ("parents", [-1, 0], "parents has 2 entries; expected 55"),
        ("faces", np.array([[0, 1, 30]]), "faces name vertices 0..30; there are 30"),
    ],
)
def test_wrong_arrays_are_named(body_arrays, name, value, message):
    with pytest.raises(ValueError, match=message):
        BodyModel(**{**body_arrays(), name: value})


def test_wrong_coefficients_are_named(body_arrays, body_pose):
    body = BodyModel(**body_arrays())
    with pytest.raises(ValueError, match=r"betas is \[3, 5\]; this smplx body takes \[F, 4\]"):
        body.joints(torch.zeros(3, 5), torch.zeros(3, 3))
    with pytest.raises(ValueError, match=r"expression is \[3, 2\]"):
        body.shape_offsets(torch.zeros(3, 4), torch.zeros(3, 2))
    smpl = BodyModel(**body_arrays("smpl"))
    with pytest.raises(ValueError, match=r"theta is \[3, 55, 3\]; a smpl body has 24 joints"):
        smpl.vertices(body_pose(body))
