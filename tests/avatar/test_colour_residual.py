"""Colour that changes with time: gradients, mixtures, blending, playback, state; and none of it by default."""

import functools
import math
from dataclasses import replace

import pytest
import torch
from hydra.utils import instantiate

from r3avatar.avatar import ColourResidual, Playback, TemporalCodebook, build_avatar
from r3avatar.avatar.attribute_table import tabulate
from r3avatar.avatar.avatar import Constants
from r3avatar.avatar.colour_residual import add_colour
from r3avatar.body import load_body
from r3avatar.cli import check
from r3avatar.cuda_graphs import tensors_of
from r3avatar.rasterizer import make_rasterizer
from r3avatar.rasterizer.spherical_harmonics import view_colours
from r3avatar.retrieval import Mixture, Retrieved, part_weights
from r3avatar.training.optimizer import PARTS, make_optimizer
from r3avatar.types import BodyPose, Cameras

from .blending_backends import blended_by_both

FRAMES = torch.tensor([0.0, 2.0, 3.0, 7.0, 9.0])
CODEBOOK = functools.partial(TemporalCodebook, spatial_resolutions=(8,), time_resolution=10, channels=16)
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device")])]  # fmt: skip


def _avatar(device="cpu", colour_residual=True, every=1, codebook=CODEBOOK, sh_degree=1):
    torch.manual_seed(0)
    avatar = build_avatar(
        load_body("demo"), 10, codebook=codebook, initial_scale=0.01, initial_opacity=0.8, sh_degree=sh_degree,
        colour_residual=colour_residual,
    )  # fmt: skip
    with torch.no_grad():
        avatar.codebook.planes.add_(0.3 * torch.randn_like(avatar.codebook.planes))
        for parameter in (avatar.gaussians.sh_dc, avatar.gaussians.sh_rest):
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        if colour_residual:
            avatar.colour_residual.weight.normal_(generator=torch.Generator().manual_seed(2))
            avatar.colour_residual.bias.normal_(generator=torch.Generator().manual_seed(3))
    for name in ("positions", "sh_dc", "sh_rest"):
        parameter = getattr(avatar.gaussians, name)
        parameter.data = parameter.data[::every].contiguous()
    avatar.gaussians.active_sh_degree = sh_degree
    return avatar.to(device).eval()


def _pose(seed, frames=1):
    body, random = load_body("demo"), torch.Generator().manual_seed(seed)
    theta = 0.2 * torch.randn(frames, body.num_joints, 3, generator=random)
    betas, expression = torch.zeros(frames, body.num_betas), torch.zeros(frames, body.num_expression)
    return BodyPose(theta, betas, expression, torch.eye(3).repeat(frames, 1, 1), torch.zeros(frames, 3))


def _cameras(angle=0.0):
    c, s = math.cos(angle), math.sin(angle)
    K = torch.tensor([[90.0, 0.0, 32.0], [0.0, 90.0, 40.0], [0.0, 0.0, 1.0]])
    w2c = torch.tensor([[c, 0, s, 0], [0, -1, 0, 0.2], [-s, 0, c, 2.6], [0, 0, 0, 1.0]])
    return Cameras(K[None, None], w2c[None, None], 64, 80)


def _retrieved(jumps=True):
    """Parts at times of their own, two of which have just jumped."""
    times = torch.tensor([[3.0, 1.0, 3.0, 3.5, 8.0]])
    previous = torch.tensor([[torch.nan, 6.0, torch.nan, torch.nan, 2.0]])
    previous = previous if jumps else torch.full_like(times, torch.nan)
    return Retrieved(times, previous, torch.zeros_like(times), torch.zeros_like(times, dtype=torch.int64))


def _mixture(frames=1, seed=0):
    weights = torch.rand(frames, 5, len(FRAMES), generator=torch.Generator().manual_seed(seed)) ** 3
    return Mixture(FRAMES, weights / weights.sum(-1, keepdim=True), torch.zeros(frames, 5))


def test_none_by_default_and_nothing_at_first():
    assert build_avatar(load_body("demo"), 10, codebook=CODEBOOK).colour_residual is None
    static, fresh = _avatar(colour_residual=False), _avatar()
    fresh.colour_residual = ColourResidual(fresh.codebook.features)
    pose, times = _pose(0, 2), torch.tensor([1.0, 4.0])
    a, b = static(pose, times), fresh(pose, times)
    assert static.record(times).colour is None and a.sh.stride(0) == 0
    assert all(torch.equal(x, y) for x, y in zip(tensors_of(a), tensors_of(b)))


def test_every_frame_has_its_own_constant_coefficient():
    avatar = _avatar(every=100)
    times = torch.tensor([1.0, 4.0])
    attributes, gaussians = avatar.record(times), avatar(_pose(0, 2), times)
    head, features = avatar.colour_residual, avatar.codebook(avatar.gaussians.positions, times)
    torch.testing.assert_close(attributes.colour, features @ head.weight.T + head.bias)
    for f in range(2):
        expected = avatar.gaussians.sh.clone()
        expected[:, 0] += attributes.colour[f]
        torch.testing.assert_close(gaussians.sh[f], expected)
    assert not torch.equal(gaussians.sh[0], gaussians.sh[1])
    assert attributes[1:].colour.shape == (1, *attributes.colour.shape[1:])
    assert attributes.to(torch.float64).colour.dtype == torch.float64


@pytest.mark.parametrize("degree", [0, 1])
def test_gradcheck(degree):
    """From features, head and canonical colours to what cameras see of the reconstructed Gaussians."""
    codebook = functools.partial(CODEBOOK, channels=2)
    avatar = _avatar(every=6000, sh_degree=degree, codebook=codebook).double()
    times, pose = torch.tensor([1.0, 4.0], dtype=torch.float64), _pose(0, 2).to(torch.float64)
    with torch.no_grad():
        attributes, constants = avatar.record(times), avatar.constants()
        features, centres = torch.rand(2, len(avatar.gaussians), 2).double(), 3 * torch.randn(2, 2, 3).double()
    head = avatar.colour_residual

    def colours(features, weight, bias, sh):
        changed = torch.func.functional_call(head, {"weight": weight, "bias": bias}, features)
        gaussians = avatar.reconstruct(replace(attributes, colour=changed), pose, Constants(constants.logits, sh))
        return gaussians.sh, view_colours(gaussians.sh, gaussians.means.detach(), centres)

    bright = constants.sh + 20 * torch.eye(constants.sh.shape[1])[0, :, None]  # no corner where colours end at black
    given = [x.detach().clone().requires_grad_() for x in (features, head.weight, head.bias, bright)]
    assert torch.autograd.gradcheck(colours, given)


def test_gradients_sum_over_frames():
    sh = torch.randn(7, 4, 3, requires_grad=True)
    colour = torch.randn(3, 7, 3, requires_grad=True)
    slopes = torch.randn(3, 7, 4, 3)
    add_colour(sh, colour).backward(slopes)
    torch.testing.assert_close(sh.grad, slopes.sum(0))
    assert torch.equal(colour.grad, slopes[:, :, 0])


@pytest.mark.parametrize("device", DEVICES)
def test_a_step_reaches_it_and_the_planes_through_it(device):
    avatar = _avatar(device)
    avatar(_pose(0, 2).to(device), torch.tensor([1.0, 4.5], device=device)).sh.square().sum().backward()
    for parameter in (*avatar.colour_residual.parameters(), avatar.codebook.planes):
        assert parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0


@pytest.mark.parametrize("device", DEVICES)
@torch.no_grad()
def test_a_mixture_is_the_mean_of_the_colours(device):
    avatar, given = _avatar(device), _mixture(3)
    table, recorded = tabulate(avatar, given), avatar.record(FRAMES.to(device))
    assert table.reference.shape[1] == 14
    found = avatar.retrieve(given)
    expected = torch.einsum("fpd,np,dnc->fnc", given.weights.to(device), table.parts, recorded.colour)
    torch.testing.assert_close(found.colour, expected, rtol=1e-3, atol=1e-4)
    avatar.colour_residual = None
    plain = avatar.retrieve(given)
    assert plain.colour is None and tabulate(avatar, given).reference.shape[1] == 11
    for name in ("offset", "opacity_logit", "scale", "rotation"):
        torch.testing.assert_close(getattr(found, name), getattr(plain, name), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_parts_are_blended_like_the_other_attributes():
    avatar, retrieved = _avatar(), _retrieved(jumps=False)
    found = avatar.retrieve(retrieved)
    recorded = avatar.record(retrieved.times[0])
    points = avatar.gaussians.positions + recorded.offset.mean(0)
    logits = avatar.skinning.logits(avatar.gaussians.positions)
    parts = part_weights(avatar.skinning.weights(avatar.skinning.nearest(points[None]), logits), avatar.kind)[0]
    torch.testing.assert_close(found.colour[0], torch.einsum("np,pnc->nc", parts, recorded.colour))
    jumped = avatar.retrieve(_retrieved())
    assert (jumped.colour - found.colour).abs().max() > 1e-2
    one = avatar.retrieve(Retrieved(torch.full((1, 5), 4.0), *(getattr(retrieved, n) for n in _rest(retrieved))))
    torch.testing.assert_close(one.colour, avatar.record(torch.tensor([4.0])).colour)


def _rest(retrieved):
    return [name for name in retrieved.__dataclass_fields__ if name != "times"]


@pytest.mark.parametrize("device", DEVICES)
@torch.no_grad()
def test_blending_by_triton_is_blending_by_torch(device):
    pytest.importorskip("triton")
    if device == "cpu" and torch.cuda.is_available():
        pytest.skip("the kernels are interpreted only where there is no CUDA device")
    avatar, retrieved = _avatar(device, every=300 if device == "cpu" else 1), _retrieved()[[0, 0]]
    for results in blended_by_both(avatar, retrieved):
        assert len(tensors_of(results[0])) == 5
        for a, b in zip(*map(tensors_of, results)):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
@torch.no_grad()
def test_pictures_are_those_of_the_plain_path(device):
    avatar = _avatar(device)
    rasterizer = make_rasterizer("triton" if device == "cuda" else "numba")
    playback, seen = Playback(avatar, rasterizer), []
    for turn in range(4 if device == "cuda" else 2):  # of a kind: plainly, recorded, then replayed
        pose, cameras = _pose(turn), _cameras(0.4 * turn)
        there, views = pose.to(device), cameras.to(device)
        times = torch.tensor([1.5 * turn])
        seen.append((playback.recorded(pose, times, cameras), rasterizer(avatar(there, times.to(device)), views)))
        for retrieved in (_retrieved(jumps=turn % 2 == 1), _mixture(seed=turn)):
            plain = rasterizer(avatar.animate(there, retrieved), views)
            seen.append((playback.retrieved(pose, retrieved, cameras), plain))
    for ours, plain in seen:
        torch.testing.assert_close(ours.rgb, plain.rgb, rtol=1e-4, atol=5e-4)
    avatar.colour_residual = None  # and it is seen
    assert (rasterizer(avatar(there, times.to(device)), views).rgb - seen[-3][1].rgb).abs().max() > 0.1


def test_state_goes_to_and_fro():
    avatar, static = _avatar(), _avatar(colour_residual=False)
    names = set(avatar.state_dict()) - set(static.state_dict())
    assert names == {"colour_residual.weight", "colour_residual.bias"}
    fresh = build_avatar(load_body("demo"), 10, codebook=CODEBOOK, sh_degree=1, colour_residual=True)
    fresh.load_state_dict(avatar.state_dict())
    assert torch.equal(fresh.colour_residual.weight, avatar.colour_residual.weight)
    build_avatar(load_body("demo"), 10, codebook=CODEBOOK, sh_degree=1).load_state_dict(static.state_dict())
    for holder, state in ((static, avatar), (avatar, static)):
        with pytest.raises(RuntimeError, match=r"colour_residual\.weight"):
            holder.load_state_dict(state.state_dict())


def test_it_learns_with_the_decoder():
    avatar = _avatar()
    optimizer = make_optimizer(avatar, extent=1.0)
    assert [g["name"] for g in optimizer.param_groups] == list(PARTS)
    held = [id(p) for g in optimizer.param_groups for p in g["params"]]
    assert sorted(held) == sorted(id(p) for p in avatar.parameters())
    decoder = next(g for g in optimizer.param_groups if g["name"] == "decoder")
    assert {id(p) for p in avatar.colour_residual.parameters()} <= {id(p) for p in decoder["params"]}


def test_the_switch_of_the_configuration():
    for given, expected in ((), False), (("avatar.colour_residual=true",), True):
        config = check("train", ["experiment=demo", "avatar=r3", *given])
        avatar = instantiate(config.avatar, body=load_body("demo"), recorded_length=10, codebook=CODEBOOK)
        assert (avatar.colour_residual is not None) is expected


def test_a_codebook_without_time_is_refused():
    with pytest.raises(ValueError, match="codebook=none has none: set it to false"):
        _avatar(codebook=functools.partial(CODEBOOK, temporal=False))
