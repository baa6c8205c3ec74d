"""Playback gives the pictures of the plain path; on CUDA from replayed graphs."""

import math

import pytest
import torch

from r3avatar.avatar import Playback, TemporalCodebook, build_avatar
from r3avatar.body import load_body
from r3avatar.cuda_graphs import Inbox, tensors_of
from r3avatar.rasterizer import make_rasterizer
from r3avatar.retrieval import Mixture, Retrieved
from r3avatar.types import BodyPose, Cameras

from .blending_backends import blended_by_both

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
    seen = []
    for turn in range(4):  # the first of a kind runs plainly, the second is recorded, the others are replayed
        pose, cameras = _pose(turn), _cameras(2, 0.4 * turn)
        there, views = pose.to(device), cameras.to(device)
        times = torch.tensor([1.5 * turn])
        pairs = [(playback.recorded(pose, times, cameras), rasterizer(avatar(there, times.to(device)), views))]
        for retrieved in _retrievals(turn):
            plain = rasterizer(avatar.animate(there, retrieved), views)
            pairs.append((playback.retrieved(pose, retrieved, cameras), plain))
            for name in ("radii", "means2d"):  # valid until the next call
                torch.testing.assert_close(getattr(pairs[-1][0], name), getattr(plain, name), rtol=1e-4, atol=1e-3)
        seen += pairs
    for number, (ours, plain) in enumerate(seen):  # compared at the end: a picture is not overwritten by later ones
        for name in ("rgb", "alpha"):
            a, b = getattr(ours, name), getattr(plain, name)
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4, msg=lambda m, n=number: f"picture {n}: {m}")
        assert ours.alpha.max() > 0.5
    assert len({tuple(ours.rgb.flatten()[::97].tolist()) for ours, _ in seen}) == len(seen)


@pytest.mark.parametrize("device", DEVICES)
@torch.no_grad()
def test_the_mean_of_a_mixtures_pictures(device):
    """The pictures of its pieces, each drawn by itself; on CUDA the first plainly, the second is recorded."""
    avatar = _avatar(device)
    avatar.skinning.follow = "canonical"  # else the pieces' own vertices may be others than those of their mean
    rasterizer = make_rasterizer("triton" if device == "cuda" else "numba")
    playback = Playback(avatar, rasterizer)
    for turn in range(4 if device == "cuda" else 1):
        pose, cameras = _pose(turn), _cameras(2, 0.4 * turn)
        weights = torch.rand(1, 5, 10, generator=torch.Generator().manual_seed(turn)).square()
        weights /= weights.sum(-1, keepdim=True)
        mixture = Mixture(torch.arange(10.0), weights, torch.zeros(1, 5), pictures=3)
        ours = playback.retrieved(pose, mixture, cameras)
        pictures = []
        for k in range(3):
            piece = Mixture(mixture.frames, mixture.pieces()[0][:, k], mixture.distances)
            pictures.append(rasterizer(avatar.animate(pose.to(device), piece), cameras.to(device)))
        assert (pictures[0].rgb - pictures[2].rgb).abs().max() > 0.02
        for name in ("rgb", "alpha"):
            mean = sum(getattr(p, name) for p in pictures) / 3
            torch.testing.assert_close(getattr(ours, name), mean, rtol=1e-4, atol=1e-4)
        single = playback.retrieved(pose, Mixture(mixture.frames, weights, mixture.distances), cameras)
        assert (single.rgb - ours.rgb).abs().max() > 0.01


def _retrievals(turn):
    nan = torch.nan
    return (
        _retrieved([2.0 + turn] * 5),
        _retrieved([0.5, 1.0, 2.125 + turn, 3.25, 3.0]),
        _retrieved([0.5, 1.0, 2.0, 3.0, 3.25 + turn], [nan, 7.0, nan, nan, 4.0]),
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("host", [True, False])
def test_a_picture_waits_for_the_device_once(host, monkeypatch):
    rasterizer = make_rasterizer("triton")
    playback = Playback(_avatar("cuda"), rasterizer)
    look, looks = rasterizer.check_capacity, []

    def allowed():
        torch.cuda.set_sync_debug_mode("default")
        looks.append(look())
        torch.cuda.set_sync_debug_mode("error")
        return looks[-1]

    for turn in range(5):
        if turn == 2:  # by now all is recorded
            monkeypatch.setattr(rasterizer, "check_capacity", allowed)
            looks.clear()
        pose, cameras, times = _pose(turn), _cameras(2, 0.4 * turn), torch.tensor([1.5 * turn])
        if not host:
            pose, cameras, times = pose.to("cuda"), cameras.to("cuda"), times.to("cuda")
        try:
            if turn >= 2:
                torch.cuda.set_sync_debug_mode("error")
            playback.recorded(pose, times, cameras)
            for retrieved in _retrievals(turn):
                playback.retrieved(pose, retrieved, cameras)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert looks == [False] * 12


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@torch.no_grad()
def test_a_picture_that_overflows_is_drawn_again():
    avatar, rasterizer = _avatar("cuda"), make_rasterizer("triton", capacity=0.01)
    playback, cameras = Playback(avatar, rasterizer), _cameras(2)
    away = Cameras(cameras.K, cameras.w2c.clone(), cameras.width, cameras.height)
    away.w2c[..., 2, 3] = -5.0  # nothing is before the camera: the recording's lists keep their little room
    times = torch.tensor([2.0])
    for _ in range(3):
        playback.recorded(_pose(0), times, away)
    before = rasterizer.generation
    seen = playback.recorded(_pose(0), times, cameras)
    assert rasterizer.generation > before
    plain = make_rasterizer("triton")(avatar(_pose(0).to("cuda"), times.cuda()), cameras.to("cuda"))
    torch.testing.assert_close(seen.rgb, plain.rgb, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
def test_an_inbox_holds_the_latest_values(device):
    first = (_pose(0), torch.tensor([1.5], dtype=torch.float64), torch.tensor([[3, 1]]), _cameras(2))
    inbox = Inbox(first, torch.device(device))
    held = tensors_of(inbox.arguments)
    for seed in range(1, 4):
        rows = torch.tensor([[seed, 7]], device=device)  # not all of it comes from the host
        given = (_pose(seed), torch.tensor([seed / 3], dtype=torch.float64), rows, _cameras(2, seed))
        inbox.put(tensors_of(given))
        for x, y in zip(held, tensors_of(given)):
            assert x.device.type == device and x.shape == y.shape and x.data_ptr() % 16 == 0
            torch.testing.assert_close(x.cpu(), y.cpu().to(x.dtype), rtol=0, atol=0)
    pose, times, rows, cameras = inbox.arguments
    assert isinstance(pose, BodyPose) and cameras.width == 64 and rows.dtype == torch.int64
    assert times.dtype == torch.float32


def test_distinct_times_are_few():
    avatar, nan = _avatar("cpu"), torch.nan
    times, current, previous, _ = avatar.distinct_times(_retrieved([3.0] * 5))
    assert times.tolist() == [3.0] and current.tolist() == previous.tolist() == [[0] * 5]
    times, current, previous, _ = avatar.distinct_times(_retrieved([3.0, 1.0, 3.0, 3.0, 2.5]))
    assert len(times) == 3 and torch.equal(current, previous)
    assert times[current].tolist() == [[3.0, 1.0, 3.0, 3.0, 2.5]]
    jumped = _retrieved([3.0, 1.0, 3.0, 3.0, 2.5], [nan, 4, nan, nan, 3])
    times, current, previous, share = avatar.distinct_times(jumped)
    assert len(times) == 4
    assert times[current].tolist() == [[3.0, 1.0, 3.0, 3.0, 2.5]]
    assert times[previous].tolist() == [[3.0, 4.0, 3.0, 3.0, 3.0]]
    assert (share * 3).tolist() == [[0.0, 1.0, 0.0, 0.0, 1.0]]
    two = _retrieved([3.0, 1.0, 3.0, 3.0, 2.5])[[0, 0]]
    times, current, *_ = avatar.distinct_times(two)
    assert len(times) == 4 and times[current].tolist() == two.times.tolist()  # padded to a multiple of the frames


@torch.no_grad()
def test_blending_by_triton_is_blending_by_torch():
    pytest.importorskip("triton")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    avatar, retrieved = _avatar(device), _retrievals(1)[2][[0, 0]]
    if device == "cpu":  # few Gaussians: the kernels are interpreted
        avatar.gaussians.positions.data = avatar.gaussians.positions.data[::300].contiguous()
    for results in blended_by_both(avatar, retrieved):
        for a, b in zip(*map(tensors_of, results)):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
