"""Playback gives the pictures of the plain path; on CUDA from replayed graphs."""

import math

import pytest
import torch

from r3avatar.avatar import Playback, TemporalCodebook, build_avatar
from r3avatar.body import load_body
from r3avatar.cuda_graphs import tensors_of
from r3avatar.rasterizer import make_rasterizer
from r3avatar.retrieval import Retrieved
from r3avatar.types import BodyPose, Cameras

DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device")])]  # fmt: skip


def _avatar(device):
    torch.manual_seed(0)
    codebook = lambda **kwargs: TemporalCodebook(spatial_resolutions=(8,), time_resolution=4, channels=16, **kwargs)  # noqa: E731
    avatar = build_avatar(load_body("demo"), 10, codebook=codebook, initial_scale=0.01, initial_opacity=0.8).to(device)
    with torch.no_grad():
        avatar.codebook.planes.add_(0.3 * torch.randn_like(avatar.codebook.planes))
        avatar.gaussians.sh_dc.add_(torch.randn_like(avatar.gaussians.sh_dc))
    return avatar.eval()


def _pose(seed):
    body, random = load_body("demo"), torch.Generator().manual_seed(seed)
    theta = 0.2 * torch.randn(1, body.num_joints, 3, generator=random)
    zero = torch.zeros(1, 3)
    betas, expression = torch.zeros(1, body.num_betas), torch.zeros(1, body.num_expression)
    return BodyPose(theta, betas, expression, torch.eye(3)[None], zero)


def _cameras(views, angle=0.0):
    K = torch.tensor([[90.0, 0.0, 32.0], [0.0, 90.0, 40.0], [0.0, 0.0, 1.0]])
    w2c = torch.eye(4).repeat(1, views, 1, 1)
    for v in range(views):
        c, s = math.cos(angle + v), math.sin(angle + v)
        w2c[0, v] = torch.tensor([[c, 0, s, 0], [0, -1, 0, 0.2], [-s, 0, c, 2.6], [0, 0, 0, 1.0]])
    return Cameras(K.expand(1, views, 3, 3).clone(), w2c, 64, 80)


def _retrieved(times, previous=None):
    times = torch.tensor([times])
    before = torch.full_like(times, torch.nan) if previous is None else torch.tensor([previous])
    return Retrieved(times, before, torch.zeros_like(times), torch.zeros_like(times, dtype=torch.int64))


@pytest.mark.parametrize("device", DEVICES)
@torch.no_grad()
def test_pictures_are_those_of_the_plain_path(device):
    avatar = _avatar(device)
    rasterizer = make_rasterizer("triton" if device == "cuda" else "numba")
    playback = Playback(avatar, rasterizer)
    nan = torch.nan
    seen = []
    for turn in range(4):  # the first of a kind runs plainly, the second is recorded, the others are replayed
        pose, cameras = _pose(turn), _cameras(2, 0.4 * turn)
        there, views = pose.to(device), cameras.to(device)
        times = torch.tensor([1.5 * turn])
        seen.append((playback.recorded(pose, times, cameras), rasterizer(avatar(there, times.to(device)), views)))
        for retrieved in (
            _retrieved([2.0 + turn] * 5),
            _retrieved([0.5, 1.0, 2.0 + turn, 3.0, 3.0]),
            _retrieved([0.5, 1.0, 2.0, 3.0, 3.0 + turn], [nan, 7.0, nan, nan, 4.0]),
        ):
            plain = rasterizer(avatar.animate(there, retrieved), views)
            seen.append((playback.retrieved(pose, retrieved, cameras), plain))
    for number, (ours, plain) in enumerate(seen):  # compared at the end: a picture is not overwritten by later ones
        for a, b in zip(tensors_of(ours), tensors_of(plain)):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4, msg=lambda m, n=number: f"picture {n}: {m}")
        assert ours.alpha.max() > 0.5
    assert len({tuple(ours.rgb.flatten()[::97].tolist()) for ours, _ in seen}) == len(seen)


def test_distinct_times_are_padded_to_what_could_be():
    avatar = _avatar("cpu")
    times, current, _, fades = avatar.distinct_times(_retrieved([3.0] * 5))
    assert times.tolist() == [3.0] and not fades and (times[current] == 3).all()
    times, current, _, fades = avatar.distinct_times(_retrieved([3.0, 1.0, 3.0, 3.0, 2.5]))
    assert len(times) == 5 and not fades and times[current].tolist() == [[3.0, 1.0, 3.0, 3.0, 2.5]]
    nan = torch.nan
    times, current, previous, fades = avatar.distinct_times(_retrieved([3.0, 1.0, 3.0, 3.0, 2.5], [nan, 4, nan, nan, 3]))
    assert len(times) == 10 and fades
    assert times[current].tolist() == [[3.0, 1.0, 3.0, 3.0, 2.5]]
    assert times[previous].tolist() == [[3.0, 4.0, 3.0, 3.0, 3.0]]
