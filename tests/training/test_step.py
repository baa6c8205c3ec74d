"""The training step under the real trainer: counted, seen by the density control, and on CUDA recorded as a graph."""

import dataclasses
import functools
import math

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from r3avatar.avatar import TemporalCodebook, build_avatar
from r3avatar.body import load_body
from r3avatar.rasterizer import make_rasterizer
from r3avatar.training.callbacks import DensityCallback
from r3avatar.training.density import DensityControl, NoDensityControl
from r3avatar.training.losses import AvatarLoss
from r3avatar.training.module import AvatarModule, Budget
from r3avatar.training.optimizer import LearningRates, make_optimizer
from r3avatar.types import Batch, BodyPose, Cameras

H, W = 80, 64
gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
DEVICES = ["cpu", pytest.param("cuda", marks=gpu)]


def _batches(count, device, frames=2, views=2):
    body, random = load_body("demo"), torch.Generator().manual_seed(0)
    batches = []
    for step in range(count):
        theta = 0.2 * torch.randn(frames, body.num_joints, 3, generator=random)
        zero = torch.zeros(frames, 0)
        pose = BodyPose(
            theta, torch.zeros(frames, body.num_betas), zero.new_zeros(frames, body.num_expression),
            torch.eye(3).repeat(frames, 1, 1), torch.zeros(frames, 3),
        )  # fmt: skip
        w2c = torch.eye(4).repeat(frames, views, 1, 1)
        for v in range(views):
            c, s = math.cos(step + v), math.sin(step + v)
            w2c[:, v] = torch.tensor([[c, 0, s, 0], [0, -1, 0, 0.2], [-s, 0, c, 2.6], [0, 0, 0, 1.0]])
        K = torch.tensor([[90.0, 0, W / 2], [0, 90.0, H / 2], [0, 0, 1]]).expand(frames, views, 3, 3).clone()
        mask = torch.zeros(frames, views, H, W, dtype=torch.uint8)
        mask[:, :, 5:75, 10:50] = 2
        mask[:, :, 10:70, 20:40] = 3
        noise = torch.randint(0, 20, (frames, views, H, W, 3), generator=random, dtype=torch.uint8)
        rgb = (noise + torch.tensor([200, 60, 30], dtype=torch.uint8)) * (mask & 1)[..., None]
        rect = torch.tensor([10, 5, 40, 70]).expand(frames, views, 4).clone()
        ids = torch.arange(frames) + step
        batches.append(Batch(ids, ids.float(), pose, Cameras(K, w2c, W, H), rgb, mask, rect).to(device))
    return batches


class _NoSynchronisation(pl.Callback):
    """Errors where anything between the start and the end of a step waits for the device."""

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if batch_idx > 3:  # the first ones compile, create state and settle sizes
            torch.cuda.set_sync_debug_mode("error")

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        torch.cuda.set_sync_debug_mode("default")

    def on_exception(self, trainer, module, exception):
        torch.cuda.set_sync_debug_mode("default")


def _train(device, steps, density, cuda_graph=None, extra=(), rasterizer=None, general=0.0):
    torch.manual_seed(0)
    codebook = functools.partial(
        TemporalCodebook, spatial_resolutions=(8, 16), time_resolution=4, channels=16, general=general > 0
    )
    avatar = build_avatar(load_body("demo"), 20, codebook=codebook, initial_scale=0.01, initial_opacity=0.8)
    rasterizer = rasterizer or make_rasterizer("triton" if device == "cuda" else "numba")
    module = AvatarModule(
        avatar, rasterizer, AvatarLoss(perceptual=0), functools.partial(make_optimizer, sh_dc=0.05),
        LearningRates({"positions": 0.1}), Budget(4 * steps, None), 2.0, sh_degree_every=24, cuda_graph=cuda_graph,
        general=general,
    )  # fmt: skip
    trainer = pl.Trainer(
        accelerator="gpu" if device == "cuda" else "cpu", devices=1, max_steps=steps, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[DensityCallback(density, 200, 200), *extra],
    )  # fmt: skip
    trainer.fit(module, train_dataloaders=DataLoader(_batches(steps, device), batch_size=None))
    return module, trainer


@pytest.mark.parametrize("device", DEVICES)
def test_a_step_updates_counts_and_is_observed(device):
    density = DensityControl(start=4, stop=24, every=8, grad_threshold=1e-9, max_gaussians=13000)
    module, trainer = _train(device, 8, density)
    assert trainer.global_step == 8 and module.images == 32
    assert 12868 != len(module.avatar.gaussians) <= 13000
    assert module.avatar.gaussians.active_sh_degree == 28 // 24
    assert not density.collecting(24) and module.render.rgb.shape == (2, 2, H, W, 3)
    assert module.learning_rates.current["positions"] < 1.6e-4 * 2 * 2
    assert all(p.grad is None for p in module.parameters())


@pytest.mark.parametrize("device", DEVICES)
def test_a_share_of_the_frames_trains_the_general_moment(device):
    times = []

    class Watch(DensityCallback):
        """What the module steps on."""

        def on_train_start(self, trainer, module):
            record = module.avatar.record
            module.avatar.record = lambda t: (times.append(t.tolist()), record(t))[1]
            super().on_train_start(trainer, module)

    watch = Watch(NoDensityControl(), 200, 200)
    module, _ = _train(device, 8, NoDensityControl(), cuda_graph=False, extra=[watch], general=0.4)
    general = module.avatar.codebook.general_time
    drawn = [t == pytest.approx(general) for step in times for t in step]
    assert 0.2 <= sum(drawn) / len(drawn) <= 0.6
    offset, height, width = module.avatar.codebook.layout[0, 2].tolist()
    row = module.avatar.codebook.planes[offset + width * (height - 1) : offset + width * height]
    assert (row != 1).any()
    again = []
    frames = torch.arange(20, device=device)
    batch = next(iter(_batches(1, device)))
    for images in (8, 12, 12):
        module.images = images
        again.append(module._some_general(dataclasses.replace(batch, frame=frames, time=frames.float())).time)
    assert torch.equal(again[1], again[2]) and not torch.equal(again[0], again[1])


@pytest.mark.parametrize("device", DEVICES)
def test_the_loss_falls(device):
    class Keep(pl.Callback):
        losses = ()

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            self.losses += (float(outputs["loss"]),)

    keep = Keep()
    _train(device, 8, NoDensityControl(), extra=[keep])
    assert keep.losses[-1] < keep.losses[0] and len(keep.losses) == 8


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("edits", [False, True])
def test_replayed_steps_equal_plain_ones(edits):
    results = []
    for cuda_graph in (False, True):
        density = DensityControl(start=8, stop=60, every=16, grad_threshold=2e-3) if edits else NoDensityControl()
        module, _ = _train("cuda", 20, density, cuda_graph)
        results.append(module)
    plain, replayed = results
    sizes = [len(m.avatar.gaussians) for m in results]
    # Atomic additions come in any order: what a threshold decides may differ for a few Gaussians.
    assert abs(sizes[0] - sizes[1]) <= 0.01 * sizes[0], sizes
    if edits:
        assert sizes[0] != load_body("demo").num_vertices
    names = [n for n, _ in plain.avatar.named_parameters() if edits is False or not n.startswith("gaussians")]
    for name in names:
        a, b = plain.avatar.get_parameter(name), replayed.avatar.get_parameter(name)
        start = (a - b).norm() / a.norm().clamp_min(1e-6)
        assert start < (0.05 if edits else 0.01), f"{name}: {float(start):.3g}"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("cuda_graph", [False, True])
def test_no_step_synchronises(cuda_graph):
    _train("cuda", 12, NoDensityControl(), cuda_graph, extra=[_NoSynchronisation()])
    density = DensityControl(start=10**6, stop=10**7)  # it looks at every step, and never acts
    _train("cuda", 12, density, cuda_graph, extra=[_NoSynchronisation()])


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_graph_that_cannot_be_recorded_is_refused():
    with pytest.raises(ValueError, match="set cuda_graph=null"):
        _train("cpu", 1, NoDensityControl(), cuda_graph=True)
