"""AMASS and SMPL-X parameter files on the avatar's body."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from r3avatar.body.model import rodrigues
from r3avatar.motion.amass import read_amass, read_smplx_parameters
from r3avatar.motion.load import load_motion
from r3avatar.motion.motion import MotionError
from r3avatar.types import BodyPose

Z_UP_TO_Y_UP = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])


def _amass(path, width, frames=3, rate="mocap_framerate", **arrays):
    rng = np.random.default_rng(1)
    values = {"poses": 0.3 * rng.normal(size=(frames, width)), "trans": rng.normal(size=(frames, 3)), rate: 120.0}
    values |= {"betas": np.zeros(16), "gender": np.array("male", dtype=object), **arrays}
    np.savez(path, **{k: v for k, v in values.items() if v is not None})
    return values


def _vertices(body, like, theta, Th):
    F = len(theta)
    return body.vertices(
        BodyPose(torch.tensor(theta).float(), like.betas[:1].expand(F, -1), like.expression[:1].expand(F, -1),
                 torch.eye(3).expand(F, 3, 3), torch.tensor(Th).float())
    )  # fmt: skip


@pytest.mark.parametrize(("width", "rate"), [(156, "mocap_framerate"), (165, "mocap_frame_rate"), (72, "fps")])
def test_the_body_is_the_files_turned_to_y_up(tmp_path, body, like, width, rate):
    values = _amass(tmp_path / "m.npz", width, rate=rate)
    motion = read_amass(tmp_path / "m.npz", body, like)
    assert motion.fps == 120 and motion.name == "m"
    joints = values["poses"].reshape(3, -1, 3)
    theta = np.zeros((3, 55, 3))
    theta[:, :22] = joints[:, :22]
    theta[:, 25:] = body.big_pose()[25:].numpy() if width == 72 else joints[:, -30:]
    if width == 165:
        theta[:, 22:25] = joints[:, 22:25]
    expected = _vertices(body, like, theta, values["trans"]) @ torch.tensor(Z_UP_TO_Y_UP.T).float()
    torch.testing.assert_close(body.vertices(motion.pose), expected, atol=1e-5, rtol=0)


def test_an_smpl_body_takes_root_and_21_joints(tmp_path, smpl_body, like_of):
    values = _amass(tmp_path / "m.npz", 156)
    motion = read_amass(tmp_path / "m.npz", smpl_body, like_of(smpl_body), up="y")
    np.testing.assert_allclose(motion.pose.theta[:, 1:22], values["poses"][:, 3:66].reshape(3, 21, 3), atol=1e-6)
    assert not motion.pose.theta[:, 22:].any()


def test_smpl_captures_have_the_roots_turn_in_R(tmp_path, smpl_body, like_of):
    _amass(tmp_path / "m.npz", 156)
    turned = Rotation.from_rotvec([0, 0.7, 0]).as_matrix()
    like = like_of(smpl_body, R=turned)
    plain = load_motion(tmp_path / "m.npz", body=smpl_body, like=like_of(smpl_body), place=False)
    motion = load_motion(tmp_path / "m.npz", body=smpl_body, like=like, place=False)
    assert not motion.pose.theta[:, 0].any() and motion.pose.R.std() > 0
    torch.testing.assert_close(motion.pose.R, rodrigues(plain.pose.theta[:, 0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(smpl_body.vertices(motion.pose), smpl_body.vertices(plain.pose), atol=1e-5, rtol=0)


def test_it_stands_where_the_capture_stands(tmp_path, body, like):
    """The first pose: over the same spot, facing the same way, on the same floor, for captures of any up."""
    _amass(tmp_path / "m.npz", 165, frames=4)
    for up, turn in ((np.array([0, 1.0, 0]), np.eye(3)), (np.array([0, 0, 1.0]), Z_UP_TO_Y_UP.T)):
        there = BodyPose(like.theta.clone(), like.betas, like.expression, like.R, like.Th)
        there.theta[:, 0] = torch.tensor((Rotation.from_matrix(turn) * Rotation.from_rotvec([0, 2.0, 0])).as_rotvec())
        motion = load_motion(tmp_path / "m.npz", body=body, like=there, world_up=up)
        ours, theirs = body.vertices(motion.pose[:1])[0].numpy(), body.vertices(there[:1])[0].numpy()
        assert (ours @ up).min() == pytest.approx((theirs @ up).min(), abs=1e-4)
        left = [rodrigues(p.theta[0, 0]).numpy()[:, 0] for p in (motion.pose, there)]
        level = [v - (v @ up) * up for v in left]
        cosine = level[0] @ level[1] / np.linalg.norm(level[0]) / np.linalg.norm(level[1])
        assert cosine == pytest.approx(1, abs=1e-5)
        spot = (motion.pose.Th[0] - there.Th[0]).numpy()
        np.testing.assert_allclose(spot - (spot @ up) * up, 0, atol=1e-5)


def test_in_place_keeps_rising_and_falling(tmp_path, body, like):
    _amass(tmp_path / "m.npz", 165, frames=4)
    keep = load_motion(tmp_path / "m.npz", body=body, like=like)
    still = load_motion(tmp_path / "m.npz", body=body, like=like, root="in_place")
    torch.testing.assert_close(still.pose.Th[:, 1], keep.pose.Th[:, 1])
    assert (still.pose.Th[:, [0, 2]] == keep.pose.Th[:1, [0, 2]]).all() and keep.pose.Th[:, 0].std() > 0.1


def test_smplx_parameters_by_name(tmp_path, body, like):
    rng = np.random.default_rng(2)
    arrays = {n: 0.3 * rng.normal(size=(3, w)) for n, w in {"global_orient": 3, "transl": 3, "jaw_pose": 3}.items()}
    arrays["body_pose"] = 0.3 * rng.normal(size=(3, 21, 3))
    arrays |= {f"{s}_hand_pose": 0.2 * rng.normal(size=(3, 45)) for s in ("left", "right")}
    np.savez(tmp_path / "m.npz", fps=25, **arrays)
    motion = read_smplx_parameters(tmp_path / "m.npz", body, like)
    assert motion.fps == 25
    theta = motion.pose.theta.numpy()
    np.testing.assert_allclose(theta[:, 0], arrays["global_orient"], atol=1e-6)
    np.testing.assert_allclose(theta[:, 1:22], arrays["body_pose"], atol=1e-6)
    np.testing.assert_allclose(theta[:, 22], arrays["jaw_pose"], atol=1e-6)
    np.testing.assert_allclose(theta[:, 25:40].reshape(3, 45), arrays["left_hand_pose"], atol=1e-6)
    np.testing.assert_allclose(motion.pose.Th, arrays["transl"], atol=1e-6)
    np.savez(tmp_path / "m.npz", fps=25, flat_hand_mean=False, **arrays)
    relative = read_smplx_parameters(tmp_path / "m.npz", body, like).pose.theta.numpy()
    np.testing.assert_allclose(relative[:, 25:] - theta[:, 25:], body.big_pose()[None, 25:].expand(3, 30, 3), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"poses": np.zeros((3, 150))}, r"poses is \[3, 150\].*\[F, 156\]"),
        ({"poses": np.zeros((0, 156)), "trans": np.zeros((0, 3))}, "empty motion"),
        ({"trans": None}, "lacks trans"),
        ({"trans": np.zeros((2, 3))}, r"trans is \[2, 3\], but the poses have 3"),
        ({"poses": np.full((3, 156), np.inf)}, "poses of frame 0 is not finite"),
        ({"mocap_framerate": None}, "no frame rate.*motion_fps"),
        ({"mocap_framerate": 0.0}, "positive"),
        ({"poses": np.array([None], dtype=object)}, "never unpickled"),
    ],
)
def test_refusals(tmp_path, body, like, change, message):
    _amass(tmp_path / "walk.npz", 156, **change)
    with pytest.raises(MotionError, match=message) as error:
        load_motion(tmp_path / "walk.npz", body=body, like=like)
    assert "walk.npz" in str(error.value)


def test_smplx_refusals(tmp_path, body, like):
    arrays = {"global_orient": np.zeros((3, 3)), "body_pose": np.zeros((3, 63))}
    for change, message in (
        ({"body_pose": np.zeros((3, 69))}, r"body_pose is \[3, 69\]"),
        ({"body_pose": np.zeros((2, 63))}, "3 frames"),
        ({"left_hand_pose": np.zeros((3, 45)), "right_hand_pose": np.zeros((3, 6))}, "right_hand_pose"),
        ({"left_hand_pose": np.zeros((3, 6)), "right_hand_pose": np.zeros((3, 6))}, "no hand PCA of its own"),
        ({"left_hand_pose": np.zeros((3, 13)), "right_hand_pose": np.zeros((3, 13))}, r"\[F, n <= 12\]"),
    ):
        np.savez(tmp_path / "m.npz", **{**arrays, **change, "fps": 30})
        with pytest.raises(MotionError, match=message):
            load_motion(tmp_path / "m.npz", body=body, like=like)
    np.savez(tmp_path / "m.npz", global_orient=np.zeros((3, 3)), fps=30)
    with pytest.raises(MotionError, match="lacks body_pose"):
        load_motion(tmp_path / "m.npz", body=body, like=like)
