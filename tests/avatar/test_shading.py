"""The studio's light on the Gaussians: none by default, formula, what it can tell apart, edits, playback, state."""

import functools
import math
from dataclasses import replace

import pytest
import torch
from hydra.utils import instantiate

from r3avatar.avatar import Playback, Shading, TemporalCodebook, build_avatar
from r3avatar.avatar.shading import first_normals, shade
from r3avatar.body import load_body
from r3avatar.cli import check
from r3avatar.rasterizer import make_rasterizer
from r3avatar.rasterizer.spherical_harmonics import C0, evaluate_sh, sh_basis
from r3avatar.retrieval import Mixture
from r3avatar.training.density import DensityControl, apply_edit
from r3avatar.training.optimizer import make_optimizer
from r3avatar.types import BodyPose, Cameras, RenderOutput

CODEBOOK = functools.partial(TemporalCodebook, spatial_resolutions=(8,), time_resolution=10, channels=16)
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device")])]  # fmt: skip


def _avatar(shading=True, lit=False, sh_degree=1, every=1, **switches):
    torch.manual_seed(0)
    avatar = build_avatar(
        load_body("demo"), 10, codebook=CODEBOOK, initial_scale=0.01, initial_opacity=0.8, sh_degree=sh_degree,
        shading=shading, **switches,
    )  # fmt: skip
    with torch.no_grad():
        avatar.codebook.planes.add_(0.3 * torch.randn_like(avatar.codebook.planes))
        avatar.gaussians.sh_dc.add_(torch.randn(avatar.gaussians.sh_dc.shape))
        avatar.gaussians.sh_rest.add_(0.1 * torch.randn(avatar.gaussians.sh_rest.shape))
        if lit:
            avatar.shading.light[1:].normal_(generator=torch.Generator().manual_seed(2))
    for _, parameter in avatar.gaussians.named_parameters():
        parameter.data = parameter.data[::every].contiguous()
    avatar.gaussians.active_sh_degree = sh_degree
    return avatar.eval()


def _pose(seed, frames=1, R=None):
    body, random = load_body("demo"), torch.Generator().manual_seed(seed)
    theta = 0.2 * torch.randn(frames, body.num_joints, 3, generator=random)
    betas, expression = torch.zeros(frames, body.num_betas), torch.zeros(frames, body.num_expression)
    R = torch.eye(3) if R is None else R
    return BodyPose(theta, betas, expression, R.repeat(frames, 1, 1), torch.zeros(frames, 3))


def _turn(angle):
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, 0, s], [0, 1.0, 0], [-s, 0, c]])


def _cameras():
    K = torch.tensor([[90.0, 0.0, 32.0], [0.0, 90.0, 40.0], [0.0, 0.0, 1.0]])
    w2c = torch.tensor([[1, 0, 0, 0], [0, -1, 0, 0.2], [0, 0, -1, 2.6], [0, 0, 0, 1.0]])
    return Cameras(K[None, None], w2c[None, None], 64, 80)


def test_none_by_default_and_nothing_at_first():
    plain, lit = _avatar(shading=False), _avatar()
    assert plain.shading is None and not hasattr(plain.gaussians, "normals")
    pose, times = _pose(0, 2), torch.tensor([1.0, 4.0])
    a, b = plain(pose, times), lit(pose, times)
    assert torch.equal(a.means, b.means) and torch.equal(a.covariances, b.covariances) and a.sh.stride(0) == 0
    torch.testing.assert_close(a.sh.expand_as(b.sh), b.sh, atol=1e-5, rtol=1e-5)
    assert set(lit.state_dict()) - set(plain.state_dict()) == {"gaussians.normals", "shading.light"}


def test_the_whole_colour_is_multiplied():
    sh, factors = torch.randn(7, 9, 3), torch.rand(2, 7, 3)
    direction = torch.nn.functional.normalize(torch.randn(2, 7, 3), dim=-1)
    found = evaluate_sh(shade(sh, factors), direction) + 0.5
    torch.testing.assert_close(found, (evaluate_sh(sh.expand(2, -1, -1, -1), direction) + 0.5) * factors)
    own = torch.randn(2, 7, 9, 3)  # every frame's own
    torch.testing.assert_close(shade(own, factors)[1], shade(own[1], factors[1:])[0])


def test_irradiance_is_that_of_a_distant_light():
    """A lamp's harmonics, folded with the cosine lobe: max(0, n . l) within the one hundredth of degree 2."""
    lamp = torch.nn.functional.normalize(torch.tensor([0.3, 0.8, 0.5]), dim=-1)
    shading = Shading()
    folded = torch.tensor([math.pi] + 3 * [2 * math.pi / 3] + 5 * [math.pi / 4])
    shading.light.data = (folded * sh_basis(lamp, 9))[:, None].repeat(1, 3)
    normals = torch.nn.functional.normalize(torch.randn(500, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    error = (shading.irradiance(2.5 * normals)[:, 0] - (normals @ lamp).clamp_min(0)).detach()
    assert error.square().mean().sqrt() < 0.05 and error.abs().max() < 0.13


def test_gradcheck():
    shading = Shading().double()
    random = torch.Generator().manual_seed(1)
    shape = {"sh": (5, 4, 3), "colour": (2, 5, 3), "normals": (2, 5, 3), "light": (9, 3)}
    given = [torch.randn(s, generator=random, dtype=torch.float64, requires_grad=True) for s in shape.values()]

    def seen(sh, colour, normals, light):
        return torch.func.functional_call(shading, {"light": light}, (sh, colour, normals))

    assert torch.autograd.gradcheck(seen, given)


def test_who_turns_with_the_light_looks_the_same():
    """Turning person and light together changes no factor; turning the person alone does."""
    avatar, turn = _avatar(lit=True, sh_degree=0, every=50), _turn(0.8)
    times = torch.tensor([3.0])
    with torch.no_grad():
        before, turned = avatar(_pose(0), times), avatar(_pose(0, R=turn), times)
        assert (before.sh - turned.sh).abs().max() > 0.1
        directions = torch.nn.functional.normalize(torch.randn(200, 3), dim=-1)
        light = avatar.shading.light.clone()  # as it is seen by who turns: E'(turn n) = E(n)
        avatar.shading.light.copy_(
            torch.linalg.lstsq(sh_basis(directions @ turn.T, 9), sh_basis(directions, 9) @ light)[0]
        )
        together = avatar(_pose(0, R=turn), times)
    torch.testing.assert_close(before.sh, together.sh, atol=1e-4, rtol=1e-4)


def test_first_normals_point_outward():
    body = load_body("demo")
    avatar = build_avatar(body, 10, codebook=CODEBOOK, shading=True)
    vertices, normals = avatar.skinning.big_vertices, avatar.gaussians.normals.detach()
    torch.testing.assert_close(normals.norm(dim=1), torch.ones(len(normals)))
    tip = vertices[:, 1].argmax()  # the top of the head
    assert normals[tip, 1] > 0.7
    points = torch.cat([vertices[:3], vertices[:3] + 0.1])
    found = first_normals(vertices, body.faces, points, torch.tensor([False] * 3 + [True] * 3))
    torch.testing.assert_close(found[:3], normals[:3])
    assert found[3:].isfinite().all()


def test_light_and_albedo_are_told_apart():
    """Grey points of known albedo under one lamp, turned about: light and albedo are found up to a common factor."""
    random = torch.Generator().manual_seed(4)
    normals = torch.nn.functional.normalize(torch.randn(60, 3, generator=random), dim=-1)
    albedo = 0.2 + 0.6 * torch.rand(60, 3, generator=random)
    turned = torch.stack([normals @ _turn(a).T for a in torch.linspace(0, 6, 8).tolist()])
    true = Shading()
    true.light.data[1:] = 0.4 * torch.randn(8, 3, generator=random)
    seen = (albedo * true.irradiance(turned)).detach()
    shading, sh = Shading(), torch.zeros(60, 1, 3, requires_grad=True)
    optimizer = torch.optim.Adam([sh, shading.light], lr=0.05)
    for _ in range(600):
        optimizer.zero_grad()
        loss = (evaluate_sh(shading(sh, None, turned), turned) + 0.5 - seen).square().mean()
        loss.backward()
        optimizer.step()
    assert loss < 1e-4
    ratio = (0.5 + C0 * sh[:, 0].detach()) / albedo
    assert (ratio / ratio.mean(0) - 1).abs().max() < 0.05


def test_a_step_reaches_normals_and_light():
    avatar = _avatar(lit=True)
    avatar(_pose(0, 2), torch.tensor([1.0, 4.5])).sh.square().sum().backward()
    for parameter in (avatar.gaussians.normals, avatar.shading.light, avatar.gaussians.sh_dc):
        assert parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0
    assert avatar.codebook.planes.grad is None or avatar.codebook.planes.grad.abs().sum() == 0  # not through normals


def test_density_control_carries_normals():
    avatar = _avatar()
    gaussians, optimizer = avatar.gaussians, make_optimizer(avatar, 1.0, shading=0.3, normals=0.2)
    groups = {g["name"]: (g["lr"], [id(p) for p in g["params"]]) for g in optimizer.param_groups}
    assert groups["shading"] == (0.3, [id(avatar.shading.light)])
    assert groups["normals"] == (0.2, [id(gaussians.normals)])
    N, before = len(gaussians), gaussians.normals.detach().clone()
    control = DensityControl(grad_threshold=1e-3)
    means2d = torch.zeros(1, 1, N, 2, requires_grad=True)
    means2d.grad = torch.zeros(1, 1, N, 2).index_fill(2, torch.tensor([5]), 1.0)
    render = RenderOutput(torch.zeros(1, 1, 2, 2, 3), torch.zeros(1, 1, 2, 2), torch.ones(1, 1, N), means2d)
    attributes = replace(
        avatar.record(torch.tensor([1.0])), scale=torch.full((1, N, 3), 0.002).index_fill(1, torch.tensor([5]), 0.05)
    )
    control.observe(render, attributes, 200, 100)
    edit = control.step(gaussians, 500, 1.0)
    assert edit.split == 1
    apply_edit(optimizer, gaussians, edit)
    torch.testing.assert_close(gaussians.normals[-2:].detach(), before[5].expand(2, 3))
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {id(p) for p in avatar.parameters()}
    fresh = _avatar()
    fresh.load_state_dict(avatar.state_dict())
    assert torch.equal(fresh.gaussians.normals, gaussians.normals)
    with pytest.raises(RuntimeError, match="normals"):
        _avatar(shading=False).load_state_dict(avatar.state_dict())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("colour_residual", [True, False])
@torch.no_grad()
def test_pictures_are_those_of_the_plain_path(device, colour_residual):
    avatar = _avatar(lit=True, colour_residual=colour_residual).to(device)
    rasterizer = make_rasterizer("triton" if device == "cuda" else "numba")
    playback, views = Playback(avatar, rasterizer), _cameras()
    weights = torch.rand(1, 5, 3, generator=torch.Generator().manual_seed(0))
    mixture = Mixture(torch.tensor([0.0, 4.0, 9.0]), weights / weights.sum(-1, keepdim=True), torch.zeros(1, 5))
    for turn in range(4 if device == "cuda" else 2):  # of a kind: plainly, recorded, then replayed
        pose, times = _pose(turn, R=_turn(turn)), torch.tensor([1.5 * turn])
        plain = rasterizer(avatar(pose.to(device), times.to(device)), views.to(device))
        torch.testing.assert_close(playback.recorded(pose, times, views).rgb, plain.rgb, rtol=1e-4, atol=5e-4)
        plain = rasterizer(avatar.animate(pose.to(device), mixture), views.to(device))
        torch.testing.assert_close(playback.retrieved(pose, mixture, views).rgb, plain.rgb, rtol=1e-4, atol=5e-4)
    avatar.shading = None  # and it is seen
    assert (rasterizer(avatar.animate(pose.to(device), mixture), views.to(device)).rgb - plain.rgb).abs().max() > 0.1


@pytest.mark.parametrize("device", DEVICES)
def test_backends_agree(device):
    pytest.importorskip("triton")
    if device == "cpu" and torch.cuda.is_available():
        pytest.skip("the kernels are interpreted only where there is no CUDA device")
    avatar = _avatar(lit=True, every=300 if device == "cpu" else 1).to(device)
    pose, times, found = _pose(0, 2).to(device), torch.tensor([1.0, 4.5], device=device), []
    for backend in ("triton", "torch"):
        avatar.skinning.backend = avatar.shading.backend = backend
        avatar.zero_grad()
        sh = avatar(pose, times).sh
        sh.square().sum().backward()
        found.append((sh.detach(), avatar.gaussians.normals.grad.clone(), avatar.shading.light.grad.clone()))
    for a, b in zip(*found):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))


def test_the_switch_of_the_configuration():
    for given, expected in ((), False), (("avatar.shading=true",), True):
        config = check("train", ["experiment=demo", "avatar=r3", *given])
        avatar = instantiate(config.avatar, body=load_body("demo"), recorded_length=10, codebook=CODEBOOK)
        assert (avatar.shading is not None) is expected
