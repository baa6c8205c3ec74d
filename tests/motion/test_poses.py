"""Pose files: what is accepted, and what the refusals say."""

import numpy as np
import pytest
import torch

from r3avatar.motion.poses import MotionError, load_motion
from r3avatar.types import BodyPose


@pytest.fixture
def like():
    return BodyPose(
        torch.zeros(2, 55, 3),
        torch.full((2, 10), 0.5),
        torch.zeros(2, 10),
        torch.eye(3).expand(2, 3, 3),
        torch.zeros(2, 3),
    )


def test_round_trip_in_the_avatars_own_shape(tmp_path, like):
    theta = np.random.default_rng(0).normal(size=(4, 55, 3)).astype(np.float32)
    np.savez(tmp_path / "m.npz", theta=theta, transl=np.ones((4, 3)), fps=24)
    pose, fps = load_motion(tmp_path / "m.npz", like)
    assert fps == 24 and len(pose) == 4
    assert torch.equal(pose.theta, torch.from_numpy(theta)) and (pose.betas == 0.5).all()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"theta": np.zeros((2, 55, 3))}, "lacks transl"),
        ({"theta": np.zeros((2, 24, 3)), "transl": np.zeros((2, 3))}, r"takes \[F, 55, 3\]"),
        ({"theta": np.zeros((0, 55, 3)), "transl": np.zeros((0, 3))}, "F > 0"),
        ({"theta": np.zeros((2, 55, 3)), "transl": np.zeros((3, 3))}, r"expected \[2, 3\]"),
        ({"theta": np.full((2, 55, 3), np.nan), "transl": np.zeros((2, 3))}, "frame 0 is not finite"),
    ],
)
def test_bad_files_name_what_was_found(tmp_path, like, arrays, message):
    np.savez(tmp_path / "m.npz", **arrays)
    with pytest.raises(MotionError, match=message) as error:
        load_motion(tmp_path / "m.npz", like)
    assert "m.npz" in str(error.value)


def test_missing_and_unreadable_files(tmp_path, like):
    with pytest.raises(MotionError, match="does not exist"):
        load_motion(tmp_path / "none.npz", like)
    (tmp_path / "bad.npz").write_bytes(b"no zip")
    with pytest.raises(MotionError, match="not a readable"):
        load_motion(tmp_path / "bad.npz", like)
    np.savez(tmp_path / "pickle.npz", theta=np.array([{}], dtype=object), transl=np.zeros((1, 3)))
    with pytest.raises(MotionError, match="not a readable"):
        load_motion(tmp_path / "pickle.npz", like)
