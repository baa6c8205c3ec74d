"""Averages over all recorded times: one product with a table is what each time alone would give, averaged."""

import functools

import pytest
import torch

import r3avatar.avatar.attribute_table as attribute_table
from r3avatar.avatar import Playback, TemporalCodebook, build_avatar
from r3avatar.avatar.attribute_table import KeptTables, tabulate
from r3avatar.body import load_body
from r3avatar.rasterizer import make_rasterizer
from r3avatar.retrieval import Mixture, RetrievalError, part_weights
from r3avatar.types import BodyPose, Cameras

FRAMES = torch.tensor([0.0, 2.0, 3.0, 7.0, 9.0])
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device")])]  # fmt: skip


@pytest.fixture(scope="module", params=DEVICES)
def avatar(request):
    torch.manual_seed(0)
    codebook = lambda **kwargs: TemporalCodebook(spatial_resolutions=(8,), time_resolution=10, channels=16, **kwargs)  # noqa: E731
    avatar = build_avatar(load_body("demo"), 10, codebook=codebook, initial_scale=0.01, initial_opacity=0.8)
    with torch.no_grad():
        avatar.codebook.planes.add_(0.3 * torch.randn_like(avatar.codebook.planes))
        avatar.gaussians.sh_dc.add_(torch.randn_like(avatar.gaussians.sh_dc))
    return avatar.to(request.param).eval()


def mixture(frames=3, seed=0):
    weights = torch.rand(frames, 5, len(FRAMES), generator=torch.Generator().manual_seed(seed)) ** 3
    return Mixture(FRAMES, weights / weights.sum(-1, keepdim=True), torch.zeros(frames, 5))


@torch.no_grad()
def test_the_mean_of_what_each_time_gives(avatar):
    given = mixture()
    device = avatar.gaussians.positions.device
    weights = given.weights.to(device)
    found = avatar.retrieve(given)
    recorded = avatar.record(FRAMES.to(device))
    rotation = recorded.rotation / recorded.rotation.norm(dim=-1, keepdim=True)
    sign = (rotation * rotation[2]).sum(-1, keepdim=True).sign()
    points = avatar.gaussians.positions + recorded.offset.mean(0)
    logits = avatar.skinning.logits(avatar.gaussians.positions)
    parts = part_weights(avatar.skinning.weights(avatar.skinning.nearest(points[None]), logits), avatar.kind)[0]
    for name, values in (("offset", recorded.offset), ("opacity_logit", recorded.opacity_logit),
                         ("scale", recorded.scale), ("rotation", rotation * sign)):  # fmt: skip
        expected = torch.einsum("fpd,np,dnc->fnc", weights, parts, values)
        torch.testing.assert_close(getattr(found, name), expected, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: n + m)
    assert found.scale.min() > 0 and found.rotation.norm(dim=-1).min() > 0


@torch.no_grad()
def test_one_time_alone_is_that_time(avatar):
    device, pose = avatar.gaussians.positions.device, _pose(1)
    weights = torch.eye(len(FRAMES))[:, None].expand(-1, 5, -1)
    for d, time in enumerate(FRAMES):
        one = Mixture(FRAMES, weights[d : d + 1], torch.zeros(1, 5))
        found, expected = avatar.animate(pose.to(device), one), avatar(pose.to(device), time[None].to(device))
        torch.testing.assert_close(found.means, expected.means, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.covariances, expected.covariances, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(found.opacities, expected.opacities, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_half_precision_and_chunks_change_little(avatar, monkeypatch):
    weights = mixture().weights.to(avatar.gaussians.positions)
    whole = tabulate(avatar, mixture())
    monkeypatch.setattr(attribute_table, "_CHUNK_POINTS", 1)
    monkeypatch.setattr(attribute_table, "_FLOAT_BYTES", 0)
    half = tabulate(avatar, mixture())
    assert whole.differences.dtype == torch.float32 and half.differences.dtype == torch.float16
    torch.testing.assert_close(half.parts, whole.parts, rtol=1e-4, atol=1e-5)
    for name, error in (("offset", 1e-4), ("opacity_logit", 2e-3), ("scale", 1e-5), ("rotation", 2e-3)):
        torch.testing.assert_close(
            getattr(half.mix(weights), name), getattr(whole.mix(weights), name), rtol=1e-3, atol=error
        )


def test_a_table_is_made_once(avatar, monkeypatch):
    tables, given = KeptTables(avatar), mixture()
    number, table = tables(given)
    copy = Mixture(FRAMES.clone(), given.weights, given.distances)
    assert tables(given) == (number, table) and tables(copy)[1] is table
    less = Mixture(FRAMES[:2], given.weights[..., :2], given.distances)
    assert tables(less)[0] != number and tables(given)[1] is table


@torch.no_grad()
def test_pictures_are_those_of_the_plain_path(avatar):
    device = avatar.gaussians.positions.device
    rasterizer = make_rasterizer("triton" if device.type == "cuda" else "numba")
    playback, given, cameras = Playback(avatar, rasterizer), mixture(8), _cameras()
    other = Mixture(FRAMES[:2], given.weights[..., :2] / given.weights[..., :2].sum(-1, keepdim=True), given.distances)
    seen = []
    for f in range(4):  # the first of a kind runs plainly, the second is recorded, the others are replayed
        for m in (given, other):
            ours = playback.retrieved(_pose(f), m[[f]], cameras)
            seen.append((ours, rasterizer(avatar.animate(_pose(f).to(device), m[[f]]), cameras.to(device))))
    for ours, plain in seen:
        torch.testing.assert_close(ours.rgb, plain.rgb, rtol=1e-4, atol=2e-4)
        torch.testing.assert_close(ours.alpha, plain.alpha, rtol=1e-4, atol=2e-4)
        assert ours.alpha.max() > 0.5
    assert len({tuple(ours.rgb.flatten()[::97].tolist()) for ours, _ in seen}) == len(seen)


def _pose(seed):
    body = load_body("demo")
    theta = 0.2 * torch.randn(1, body.num_joints, 3, generator=torch.Generator().manual_seed(seed))
    betas, expression = torch.zeros(1, body.num_betas), torch.zeros(1, body.num_expression)
    return BodyPose(theta, betas, expression, torch.eye(3)[None], torch.zeros(1, 3))


@torch.no_grad()
def test_the_general_moment_counts_by_its_share():
    torch.manual_seed(0)
    codebook = functools.partial(
        TemporalCodebook, spatial_resolutions=(8,), time_resolution=10, channels=16, general=True
    )
    avatar = build_avatar(load_body("demo"), 10, codebook=codebook, initial_scale=0.01, initial_opacity=0.8)
    avatar.codebook.planes.add_(0.3 * torch.randn_like(avatar.codebook.planes))
    plain = mixture()
    general = avatar.record(torch.tensor([avatar.codebook.general_time]))
    for share in (0.0, 0.3, 1.0):
        given = Mixture(FRAMES, plain.weights, plain.distances, torch.full((3, 5), share))
        torch.testing.assert_close(given.shares.sum(-1), torch.ones(3, 5))
        found, recorded = avatar.retrieve(given), avatar.retrieve(plain)
        for name in ("offset", "opacity_logit", "scale"):
            expected = (1 - share) * getattr(recorded, name) + share * getattr(general, name)
            torch.testing.assert_close(getattr(found, name), expected, rtol=1e-3, atol=1e-4)
        tables = KeptTables(avatar)
        assert tables(given)[0] != tables(plain)[0]
        joined = Mixture.joined([given[:1], given[1:]])
        assert torch.equal(joined.shares, given.shares)


def test_an_avatar_without_a_general_moment_says_so(avatar):
    given = mixture()
    given = Mixture(FRAMES, given.weights, given.distances, torch.full((3, 5), 0.5))
    with pytest.raises(RetrievalError, match=r"codebook\.general=true"):
        avatar.retrieve(given)


def _cameras():
    K = torch.tensor([[90.0, 0.0, 32.0], [0.0, 90.0, 40.0], [0.0, 0.0, 1.0]])
    w2c = torch.tensor([[1.0, 0, 0, 0], [0, -1, 0, 0.2], [0, 0, -1, 2.6], [0, 0, 0, 1]])
    return Cameras(K[None, None], w2c[None, None], 64, 80)
