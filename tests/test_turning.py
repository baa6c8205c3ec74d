"""How a root has been turning: constant turning, low passes, both places of the rotation, gaps, exactness."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from r3avatar.cuda_graphs import Inbox, _rebuilt, tensors_of
from r3avatar.turning import TAUS, root_turning, with_turning
from r3avatar.types import BodyPose

STILL = torch.eye(3).expand(12, 3, 3)


def _constant(step, frames=12, base=(0.4, -2.0, 1.0)):
    """Roots [F, 3] float64 that turn by `step` [3] each frame, in their own axes."""
    turned = [Rotation.from_rotvec(base)]
    for _ in range(frames - 1):
        turned.append(turned[-1] * Rotation.from_rotvec(step))
    return torch.from_numpy(np.stack([r.as_rotvec() for r in turned]))


def _tumbling(frames, seed=0):
    """Rotations with all angles, up to half a circle."""
    return Rotation.random(frames, random_state=seed)


def test_constant_turning_is_the_same_over_all_spans():
    step = torch.tensor([0.1, -0.5, 0.2], dtype=torch.float64)
    found = root_turning(STILL, _constant(step.numpy()))
    assert found.shape == (12, 9) and found.dtype == torch.float32
    torch.testing.assert_close(found, step.repeat(12, 3).float(), atol=1e-7, rtol=1e-6)


def test_steps_of_any_rotation_wherever_it_stands_and_their_low_passes():
    F = 40
    outer, inner = _tumbling(F), _tumbling(F, 1)
    whole = outer * inner
    w = np.zeros((F, 3))
    w[1:] = (whole[:-1].inv() * whole[1:]).as_rotvec()
    w[0] = w[1]
    expected = []
    for tau in TAUS:
        y = w.copy()
        for f in range(1, F):
            y[f] = y[f - 1] + (w[f] - y[f - 1]) / tau
        expected.append(y)
    R, root = torch.from_numpy(outer.as_matrix()), torch.from_numpy(inner.as_rotvec())
    expected = torch.from_numpy(np.concatenate(expected, 1)).float()
    torch.testing.assert_close(root_turning(R, root), expected, atol=1e-6, rtol=1e-6)
    about_origin = torch.from_numpy(whole.as_matrix())  # as ZJU-MoCap has it
    torch.testing.assert_close(root_turning(about_origin, torch.zeros(F, 3)), expected, atol=1e-6, rtol=1e-6)


def test_it_is_computed_in_float64():
    """A step of a millionth of a radian far from the identity, of which float32 would leave nothing."""
    step = np.array([1e-7, -2e-7, 1e-6])
    found = root_turning(STILL, _constant(step))
    torch.testing.assert_close(found[-1, :3].double(), torch.from_numpy(step), rtol=1e-5, atol=0)


@pytest.mark.parametrize("angle", [0.0, np.pi - 1e-9, np.pi])
def test_no_turn_and_half_turns(angle):
    for axis in np.eye(3):
        R = torch.from_numpy(Rotation.from_rotvec(np.stack([0 * axis, angle * axis, angle * axis])).as_matrix())
        found = root_turning(R, torch.zeros(3, 3))[:, :3].double().abs()
        expected = torch.from_numpy(np.stack([angle * axis, angle * axis, 0 * axis]))
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_sequences_begin_anew_at_gaps():
    root = torch.from_numpy(_tumbling(8).as_rotvec())
    R = torch.eye(3).expand(8, 3, 3)
    found = root_turning(R, root, [0, 1, 2, 5, 6, 7, 9, 12])
    assert torch.equal(found[:3], root_turning(R[:3], root[:3]))
    assert torch.equal(found[3:6], root_turning(R[3:6], root[3:6]))
    assert not found[6:].any(), "frames alone"
    assert torch.equal(root_turning(R, root, range(4, 12)), root_turning(R, root))
    assert root_turning(R[:1], root[:1]).shape == (1, 9) and root_turning(R[:0], root[:0]).shape == (0, 9)


def _pose(F=3):
    return BodyPose(torch.randn(F, 24, 3), torch.zeros(F, 10), torch.zeros(F, 0), torch.eye(3).repeat(F, 1, 1),
                    torch.zeros(F, 3))  # fmt: skip


def test_poses_carry_it_and_do_without():
    plain = _pose()
    pose = with_turning(plain)
    assert plain.turning is None and torch.equal(pose.turning, root_turning(plain.R, plain.theta[:, 0]))
    for function in (lambda p: p[1:2], lambda p: p.to(torch.float64), lambda p: _rebuilt(p, torch.clone)):
        assert function(plain).turning is None and len(tensors_of(function(plain))) == 5
        found = function(pose)
        assert len(tensors_of(found)) == 6 and found.turning.shape == (len(found), 9)
    for value in (plain, pose):
        inbox = Inbox((value,), torch.device("cpu"))
        inbox.put(tensors_of(value))
        held = inbox.arguments[0]
        assert (held.turning is None) == (value.turning is None)
        assert all(torch.equal(a, b) for a, b in zip(tensors_of(held), tensors_of(value), strict=True))
    for wrong in (torch.zeros(3, 8), torch.zeros(2, 9)):
        with pytest.raises(AssertionError, match="turning is"):
            dataclasses.replace(plain, turning=wrong)
