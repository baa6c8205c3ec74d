"""Cameras for videos."""

import torch

from r3avatar.motion.cameras import look_at, rig_up, still, turntable
from r3avatar.types import Cameras


def _rig():
    K = torch.tensor([[200.0, 0, 70], [0, 200, 60], [0, 0, 1]])
    up, target = torch.tensor([0.0, 1, 0]), torch.tensor([0.1, 1.0, 0.2])
    angles = torch.arange(4) * torch.pi / 2
    return [
        Cameras(K, look_at(target + torch.stack([3 * a.sin(), a * 0, 3 * a.cos()]), target, up), 128, 96)
        for a in angles
    ]


def test_look_at_is_a_rotation_with_the_target_ahead():
    target = torch.tensor([0.3, 0.2, -1.0])
    w2c = look_at(torch.tensor([2.0, 1.0, 0.5]), target, torch.tensor([0.0, 1, 0]))
    torch.testing.assert_close(w2c[:3, :3] @ w2c[:3, :3].T, torch.eye(3), atol=1e-6, rtol=0)
    assert torch.linalg.det(w2c[:3, :3]) > 0.999
    ahead = w2c[:3, :3] @ target + w2c[:3, 3]
    torch.testing.assert_close(ahead[:2], torch.zeros(2), atol=1e-6, rtol=0)
    assert ahead[2] > 0 and (w2c[:3, :3] @ torch.tensor([0.0, 1, 0]))[1] < 0  # y points down


def test_turntable_keeps_distance_height_and_lens():
    rig, target = _rig(), torch.tensor([0.1, 1.0, 0.2])
    torch.testing.assert_close(rig_up(rig), torch.tensor([0.0, 1, 0]), atol=1e-6, rtol=0)
    cameras = turntable(rig, target, 8)
    assert cameras.K.shape == (8, 3, 3) and (cameras.width, cameras.height) == (128, 96)
    offsets = cameras.centres - target
    torch.testing.assert_close(offsets.norm(dim=1), torch.full((8,), 3.0))
    torch.testing.assert_close(offsets[0], -offsets[4], atol=1e-5, rtol=0)
    assert (cameras.K[:, 0, 2] == 64).all() and (cameras.K[:, 0, 0] == 200).all()


def test_still_repeats_one_camera():
    camera = _rig()[1]
    assert torch.equal(still(camera, 3).w2c[2], camera.w2c)
