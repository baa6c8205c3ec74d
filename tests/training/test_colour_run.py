"""A run of lit colours that change with time: gone on with from its checkpoint, loaded again, shown in any pose."""

import signal

import pytest
import torch

pytestmark = pytest.mark.slow

RUN = [
    "avatar.colour_residual=true", "avatar.shading=true", "batch.views=1", "validation.every_images=8",
    "validation.frames=1",
    "density.start=2", "density.every=3", "density.grad_threshold=1e-6", "density.max_gaussians=13000",
    "sh_degree_every=3", "evaluate=false", "media=false", "logger=none",
]  # fmt: skip


def _checkpoint(runs, name):
    return torch.load(runs.folder(name) / "checkpoints" / "last.ckpt", weights_only=True)


def test_resumed_it_ends_with_the_same_bits(runs):
    runs("colour_whole", *RUN, "budget.images=8", "checkpoint.every_images=4")
    accident = {"accident": "kill", "where": "step", "images": 6}
    runs("colour", *RUN, "budget.images=8", "checkpoint.every_images=4", accidents=[accident], code=-signal.SIGKILL)
    runs("colour", *RUN, "budget.images=8", "checkpoint.every_images=4", "resume=true")
    whole, again = (_checkpoint(runs, name)["state_dict"] for name in ("colour_whole", "colour"))
    assert whole.keys() == again.keys() and all(torch.equal(whole[name], again[name]) for name in whole)
    assert whole["avatar.colour_residual.weight"].abs().min() > 0
    assert whole["avatar.shading.light"][1:].abs().min() > 0
    assert len(whole["avatar.gaussians.normals"]) == len(whole["avatar.gaussians.positions"]) != 12868


def test_loaded_it_shows_what_playback_draws(runs):
    from r3avatar import Avatar

    avatar = Avatar.load(runs.folder("colour_whole"), device="cpu", retrieval="mixture")
    assert avatar.model.colour_residual is not None
    avatar.model.colour_residual.weight.data.normal_(std=0.2, generator=torch.Generator().manual_seed(0))
    theta, transl = avatar.motion("builtin:walk", end=0.2)
    camera, playback, pose = avatar.cameras["4"], avatar.playback(), avatar._body_pose(theta, transl)
    retrieved = avatar._retriever.retrieve(theta)
    images = {None: avatar.pose(theta, transl), 3.0: avatar.pose(theta, transl, time=3.0)}
    for time, posed in images.items():
        images[time] = posed.render(camera)
        for f in range(len(theta)):
            if time is None:
                drawn = playback.retrieved(pose[f : f + 1], retrieved[[f]], camera[None, None])
            else:
                drawn = playback.recorded(pose[f : f + 1], torch.tensor([time]), camera[None, None])
            torch.testing.assert_close(images[time][f], drawn.rgb[0, 0].clamp(0, 1), atol=2e-3, rtol=0)
        if time is None:
            assert not torch.equal(posed.sh[0], posed.sh[-1])
    avatar.model.colour_residual = None
    assert (avatar.pose(theta, transl, time=3.0).render(camera) - images[3.0]).abs().max() > 0.05
