import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from r3avatar.retrieval.embedding import axis_angle_to_quaternion, pose_embedding, quaternion_to_axis_angle


def poses(T=6, J=4, scale=0.6, dtype=torch.float64):
    return (torch.randn(T, J, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * scale).to(dtype)


def test_steps_against_scipy():
    theta = poses()
    found = pose_embedding(theta).numpy()
    for f in range(6):
        for j in range(4):
            R = [Rotation.from_rotvec(theta[max(f - k, 0), j].numpy()) for k in range(3)]
            expected = np.concatenate([
                theta[f, j], (R[0] * R[1].inv()).as_rotvec(), (R[1] * R[2].inv()).as_rotvec()
            ])  # fmt: skip
            np.testing.assert_allclose(found[f, j], expected, atol=1e-12)


def test_history_is_what_the_sequence_would_have_given():
    theta = poses(T=8)
    whole = pose_embedding(theta)
    torch.testing.assert_close(pose_embedding(theta[2:], history=theta[:2]), whole[2:])
    torch.testing.assert_close(pose_embedding(theta[5:], history=theta[:5]), whole[5:])
    torch.testing.assert_close(pose_embedding(theta[1:], history=theta[:1]), whole[1:])
    assert pose_embedding(theta[:0]).shape == (0, 4, 9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_dtypes(dtype):
    theta = poses(dtype=dtype)
    found = pose_embedding(theta)
    assert found.dtype == dtype
    torch.testing.assert_close(found, pose_embedding(theta.double()).to(dtype), atol=1e-6, rtol=1e-2)


def test_zero_and_tiny_rotations():
    theta = torch.zeros(3, 2, 3)
    assert (pose_embedding(theta) == 0).all()
    theta[1, 0, 0] = 1e-12
    found = pose_embedding(theta)
    assert found.isfinite().all()
    assert found[1, 0, 3] == pytest.approx(1e-12)


def test_axis_angle_of_a_long_way_round_is_the_short_one():
    r = torch.tensor([[0.0, 0.0, 2 * torch.pi - 0.5]])
    torch.testing.assert_close(quaternion_to_axis_angle(axis_angle_to_quaternion(r)), torch.tensor([[0.0, 0.0, -0.5]]))


def test_bad_shapes_say_so():
    with pytest.raises(ValueError, match=r"\[T, J, 3\]"):
        pose_embedding(torch.zeros(3, 72))
    with pytest.raises(TypeError, match="floating"):
        pose_embedding(torch.zeros(3, 24, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="history"):
        pose_embedding(torch.zeros(3, 24, 3), history=torch.zeros(2, 23, 3))
