"""Frame rates: identity, constant angular velocity, stretches of a motion."""

import pytest
import torch
from scipy.spatial.transform import Rotation

from r3avatar.motion.motion import Motion, MotionError
from r3avatar.motion.resample import resample, slerp
from r3avatar.types import BodyPose


def _motion(theta, Th, fps=30.0):
    F = len(theta)
    return Motion(BodyPose(theta, torch.zeros(F, 2), torch.zeros(F, 0), torch.eye(3).expand(F, 3, 3), Th), fps, "m")


def _random(frames=7, fps=30.0):
    generator = torch.Generator().manual_seed(0)
    return _motion(torch.randn(frames, 5, 3, generator=generator), torch.randn(frames, 3, generator=generator), fps)


@pytest.mark.parametrize("fps", [30.0, 120.0, 29.97, 60 / 1.001])
def test_the_same_rate_gives_the_same_frames(fps):
    motion = _random(400, fps)
    again = resample(motion, fps)
    assert torch.equal(again.pose.theta, motion.pose.theta) and torch.equal(again.pose.Th, motion.pose.Th)


def test_an_even_part_of_the_rate_takes_every_nth_frame():
    motion = _random(41, 120.0)
    fewer = resample(motion, 15.0)
    assert len(fewer) == 6 and fewer.fps == 15
    assert torch.equal(fewer.pose.theta, motion.pose.theta[::8]) and torch.equal(fewer.pose.Th, motion.pose.Th[::8])


def test_constant_angular_velocity():
    axis = torch.nn.functional.normalize(torch.tensor([1.0, -2, 0.5]), dim=0)
    base = Rotation.from_rotvec([0.3, 0.2, -1.0])
    step = 0.9  # radians a frame: the angles pass pi, where an axis-angle jumps
    turned = [base * Rotation.from_rotvec(step * f * axis.numpy()) for f in range(12)]
    theta = torch.stack([torch.tensor(r.as_rotvec()) for r in turned]).float()[:, None]
    Th = torch.arange(12.0)[:, None] * torch.tensor([1.0, 0, -2])
    finer = resample(_motion(theta, Th, 10.0), 37.0)
    assert len(finer) == int(1.1 * 37) + 1
    q = Rotation.from_rotvec(finer.pose.theta[:, 0].double().numpy())
    steps = (q[:-1].inv() * q[1:]).as_rotvec()
    torch.testing.assert_close(
        torch.tensor(steps), (step * 10 / 37 * axis).double().expand(len(steps), 3), atol=2e-6, rtol=0
    )
    torch.testing.assert_close(finer.pose.Th.diff(dim=0), torch.tensor([10 / 37, 0, -20 / 37]).expand(len(steps), 3))


def test_slerp_ends_and_middle():
    a, b = torch.tensor([0.0, 0, 3.0]).double(), torch.tensor([0.0, 0, -3.0]).double()  # 0.28 apart, over pi
    torch.testing.assert_close(slerp(a, b, torch.zeros(1).double()), a)
    torch.testing.assert_close(slerp(a, b, torch.ones(1).double()), b)
    assert slerp(a, b, torch.full((1,), 0.5).double())[2].abs() == pytest.approx(torch.pi)


def test_seconds_and_empty_stretches():
    motion = _random(31, 30.0)
    part = resample(motion, 30.0, start=0.2, end=0.5)
    assert torch.equal(part.pose.Th, motion.pose.Th[6:16])
    assert len(resample(motion, 30.0, start=0.5, end=99)) == 16
    assert len(resample(motion, 30.0, start=1.0)) == 1
    for start, end in ((1.1, None), (0.5, 0.4), (-0.1, None)):
        with pytest.raises(MotionError, match=r"it lasts 1 s \(31 frames"):
            resample(motion, 30.0, start=start, end=end)
