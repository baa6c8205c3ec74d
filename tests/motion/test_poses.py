"""This project's pose files: what is accepted, and what the refusals say."""

import numpy as np
import pytest
import torch

from r3avatar.motion.load import load_motion
from r3avatar.motion.poses import MotionError


def test_round_trip_in_the_avatars_own_shape(tmp_path, body, like):
    theta = np.random.default_rng(0).normal(size=(4, 55, 3)).astype(np.float32)
    np.savez(tmp_path / "m.npz", theta=theta, transl=np.ones((4, 3)), fps=24)
    motion = load_motion(tmp_path / "m.npz", body=body, like=like)
    assert motion.fps == 24 and len(motion) == 4 and motion.name == "m"
    assert torch.equal(motion.pose.theta, torch.from_numpy(theta)) and (motion.pose.Th == 1).all()
    assert (motion.pose.betas == 0.5).all()


def test_without_a_rate_it_has_the_captures(tmp_path, body, like):
    np.savez(tmp_path / "m.npz", theta=np.zeros((4, 55, 3)), transl=np.ones((4, 3)))
    assert load_motion(tmp_path / "m.npz", body=body, like=like, fps=15).fps == 15
    with pytest.raises(MotionError, match="states no frame rate"):
        load_motion(tmp_path / "m.npz", body=body, like=like)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"theta": np.zeros((2, 55, 3))}, "lacks transl"),
        ({"theta": np.zeros((2, 24, 3)), "transl": np.zeros((2, 3))}, r"theta is \[2, 24, 3\].*takes \[F, 55, 3\]"),
        ({"theta": np.zeros((0, 55, 3)), "transl": np.zeros((0, 3))}, "F > 0"),
        ({"theta": np.zeros((2, 55, 3)), "transl": np.zeros((3, 3))}, r"transl is \[3, 3\]"),
        ({"theta": np.full((2, 55, 3), np.nan), "transl": np.zeros((2, 3))}, "frame 0 is not finite"),
        ({"theta": np.array([{}], dtype=object), "transl": np.zeros((1, 3))}, "never unpickled"),
        ({"theta": np.array(["a"]), "transl": np.zeros((1, 3))}, "not numbers"),
        ({"other": np.zeros(3)}, "npz with other; accepted are"),
    ],
)
def test_bad_files_name_what_was_found(tmp_path, body, like, arrays, message):
    np.savez(tmp_path / "m.npz", **arrays)
    with pytest.raises(MotionError, match=message) as error:
        load_motion(tmp_path / "m.npz", body=body, like=like, motion_fps=30)
    assert "m.npz" in str(error.value)


def test_missing_unreadable_and_unknown_files(tmp_path, body, like):
    with pytest.raises(MotionError, match=r"does not exist; accepted are a \.bvh"):
        load_motion(tmp_path / "none.npz", body=body, like=like)
    (tmp_path / "bad.npz").write_bytes(b"no zip")
    with pytest.raises(MotionError, match="not a readable"):
        load_motion(tmp_path / "bad.npz", body=body, like=like)
    np.savez(tmp_path / "m.npz", theta=np.zeros((400, 55, 3)), transl=np.ones((400, 3)))
    (tmp_path / "half.npz").write_bytes((tmp_path / "m.npz").read_bytes()[:20000])
    with pytest.raises(MotionError, match=r"not a readable.*truncated"):
        load_motion(tmp_path / "half.npz", body=body, like=like)
    (tmp_path / "m.fbx").write_bytes(b"")
    with pytest.raises(MotionError, match=r"is '\.fbx'; accepted are"):
        load_motion(tmp_path / "m.fbx", body=body, like=like)
    with pytest.raises(MotionError, match="up=x is unknown"):
        load_motion(tmp_path / "m.npz", body=body, like=like, up="x")
    with pytest.raises(MotionError, match="does not apply"):
        load_motion(tmp_path / "m.npz", body=body, like=like, up="z", fps=15)
