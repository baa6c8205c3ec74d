"""Training with colour that changes with time, on images whose brightness does."""

import functools

import pytest
import torch

from r3avatar.avatar import TemporalCodebook, build_avatar
from r3avatar.body import load_body
from r3avatar.cuda_graphs import RecordedFunction
from r3avatar.rasterizer import make_rasterizer
from r3avatar.training.losses import AvatarLoss
from r3avatar.training.module import AvatarModule, Budget
from r3avatar.training.optimizer import LearningRates, make_optimizer
from r3avatar.types import Batch, BodyPose, Cameras

H, W, STEPS = 80, 64, 30
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device")])]  # fmt: skip


def _batches(avatar, rasterizer):
    """One still person at two times, as the avatar draws them: by dim light, then by bright."""
    body, frames = load_body("demo"), torch.tensor([0, 19])
    pose = BodyPose(
        torch.zeros(2, body.num_joints, 3), torch.zeros(2, body.num_betas), torch.zeros(2, body.num_expression),
        torch.eye(3).repeat(2, 1, 1), torch.zeros(2, 3),
    )  # fmt: skip
    w2c = torch.tensor([[1.0, 0, 0, 0], [0, -1, 0, 0.2], [0, 0, -1, 2.6], [0, 0, 0, 1]]).repeat(2, 1, 1, 1)
    K = torch.tensor([[90.0, 0, W / 2], [0, 90.0, H / 2], [0, 0, 1]]).repeat(2, 1, 1, 1)
    device = avatar.gaussians.positions.device
    pose, cameras = pose.to(device), Cameras(K, w2c, W, H).to(device)
    with torch.no_grad():
        drawn = rasterizer(avatar(pose, frames.float().to(device)), cameras)
    light = torch.tensor([0.6, 1.4], device=device)[:, None, None, None, None]
    rgb = (drawn.rgb * light * 255).clamp(0, 255).to(torch.uint8)
    mask = 2 + (drawn.alpha > 0.5).to(torch.uint8)
    rect = torch.tensor([0, 0, W, H]).expand(2, 1, 4).clone()
    return Batch(frames, frames.float(), pose, cameras, rgb, mask, rect).to(device)


def _module(device, colour_residual):
    torch.manual_seed(0)
    codebook = functools.partial(TemporalCodebook, spatial_resolutions=(8,), time_resolution=4, channels=16)
    avatar = build_avatar(
        load_body("demo"), 20, codebook=codebook, initial_scale=0.03, initial_opacity=0.9, skinning=None,
        pose_refinement=None, colour_residual=colour_residual,
    )  # fmt: skip
    for name in ("positions", "sh_dc", "sh_rest"):  # few and large: quick
        parameter = getattr(avatar.gaussians, name)
        parameter.data = parameter.data[::8].contiguous()
    avatar.to(device)
    rasterizer = make_rasterizer("triton" if device == "cuda" else "numba")
    batch = _batches(avatar, rasterizer)
    rates = functools.partial(make_optimizer, planes=0.02, decoder=2e-3)
    module = AvatarModule(
        avatar, rasterizer, AvatarLoss(perceptual=0), rates, LearningRates({}), Budget(STEPS, None), 2.0
    )
    return module, batch


def _losses(device, colour_residual):
    module, batch = _module(device, colour_residual)
    optimizer, losses = module.configure_optimizers(), []
    for _ in range(STEPS):
        terms, _, _ = module.forward_backward(batch)
        losses.append(float(terms["total"].detach()))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return losses, module.avatar, batch


@pytest.mark.parametrize("device", DEVICES)
def test_brightness_that_changes_with_time_is_learned(device):
    static, _, _ = _losses(device, False)
    losses, avatar, batch = _losses(device, True)
    assert losses[0] == pytest.approx(static[0], rel=1e-5)  # it begins as none
    assert losses[-1] < 0.5 * losses[0] and losses[-1] < 0.7 * static[-1]
    colour = avatar.record(batch.time).colour
    assert (colour[1].mean(0) > colour[0].mean(0)).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_recorded_step_has_the_gradients_of_a_plain_one():
    module, batch = _module("cuda", True)
    torch.nn.init.normal_(module.avatar.colour_residual.weight, std=0.05)
    recording = RecordedFunction()

    def step(batch):
        module.zero_grad(set_to_none=True)
        module.forward_backward(batch)
        return tuple(p.grad for p in (*module.avatar.colour_residual.parameters(), module.avatar.codebook.planes))

    plain, *replayed = ([g.clone() for g in recording(step, (batch,))] for _ in range(3))  # plain, recorded, replayed
    for gradients in replayed:
        for a, b in zip(gradients, plain):
            assert b.abs().max() > 0
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()))
