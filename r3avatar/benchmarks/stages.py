"""Where a training step's time goes, and how fast it could be if it were rasterization alone."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import torch
from torch import Tensor

from r3avatar.benchmarks.clock import Stages, rate
from r3avatar.captures import CaptureDataModule
from r3avatar.rasterizer import Rasterizer
from r3avatar.training.density import DensityControl, NoDensityControl, apply_edit
from r3avatar.training.module import AvatarModule
from r3avatar.training.optimizer import place_rates
from r3avatar.types import Cameras, Gaussians

STAGES = ("batch", "deformation", "rasterizer", "loss", "backward", "statistics", "optimizer", "density_edit")


def stage_times(
    module: AvatarModule,
    data: CaptureDataModule,
    density: DensityControl | NoDensityControl,
    size: tuple[int, int],
    device: torch.device,
    warm_up: int,
    seconds: float,
) -> tuple[dict[str, dict], Gaussians, Cameras]:
    """Milliseconds of each stage of a training step that is launched kernel by kernel (no CUDA graph).

    data: as the trainer has used it, so that batches come from where the trainer's came from. size: width and height
    of the training cameras' whole frames. On CUDA a stage's time is that between two events: of
    its launches, where they take longer than its kernels.

    Returns the stages by name ('ms'; for the density edit 'ms' of one edit and 'edits_per_step'), and the last step's
    posed Gaussians and cameras.
    """
    data.prepare_data()
    module.to(device).train()
    avatar, loss = module.avatar, module.loss
    optimizer = module.configure_optimizers()
    place_rates(optimizer, device)
    batches, stages = iter(data.train_dataloader()), Stages(device)
    steps, edits, begin = 0, 0, time.perf_counter()
    for step in itertools.count():
        if step == warm_up:
            module.rasterizer.check_capacity()
            stages, steps, edits, begin = Stages(device), 0, 0, time.perf_counter()
        stages.begin()
        batch = next(batches).to(device)
        stages.end_of("batch")
        attributes = avatar.record(batch.time)
        gaussians = avatar.reconstruct(attributes, avatar.dressed(batch.pose, batch.frame))
        stages.end_of("deformation")
        render = module.rasterizer(gaussians, batch.cameras)
        stages.end_of("rasterizer")
        total = loss(render, batch, attributes.offset, avatar.codebook)["total"]
        stages.end_of("loss")
        total.backward()
        stages.end_of("backward")
        images = batch.rgb.shape[0] * batch.rgb.shape[1]
        module.images += images
        if density.collecting(module.images):
            density.observe(render, attributes, *size)
            stages.end_of("statistics")
        module.learning_rates.apply(optimizer, module.progress, module.images, images)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        stages.end_of("optimizer")
        if density.due(module.images, images):
            edit = density.step(avatar.gaussians, module.images, module.extent)
            if edit is not None:
                apply_edit(optimizer, avatar.gaussians, edit)
            module.rasterizer.check_capacity()
            stages.end_of("density_edit")
            edits += 1
        stages.finish()
        steps += 1
        if step > warm_up and time.perf_counter() - begin >= seconds:
            break
    batches.close()  # it may own threads
    medians = stages.medians()
    result: dict[str, dict] = {f"stage_{name}": {"ms": medians[name]} for name in STAGES if name in medians}
    if "density_edit" in medians:
        result["stage_density_edit"]["edits_per_step"] = edits / steps
    shares = [value["ms"] * value.get("edits_per_step", 1) for value in result.values()]
    result["stages_together"] = {"ms": sum(shares), "images_per_second": 1e3 * images / sum(shares)}
    return result, gaussians._map(lambda x: x.detach()), batch.cameras._map(torch.clone)


def rasterizer_limit(
    rasterizer: Rasterizer, gaussians: Gaussians, cameras: Cameras, device: torch.device, seconds: float
) -> dict[str, dict]:
    """Images a second of rasterization alone, forward and backward with a given random gradient.

    gaussians [F, N], cameras [F, V]: of a training step. Launched call by call; and as a recorded CUDA graph where the
    rasterizer can be recorded.
    """
    names = ("means", "covariances", "opacities", "sh")
    leaves = {name: getattr(gaussians, name).contiguous().clone().requires_grad_() for name in names}
    (F, V), size = cameras.K.shape[:2], (cameras.height, cameras.width)
    random = torch.Generator(device).manual_seed(0)
    slopes = [torch.randn(F, V, *size, *last, device=device, generator=random) for last in ((3,), ())]

    def once(cameras: Cameras) -> Tensor:
        for leaf in leaves.values():
            leaf.grad = None
        render = rasterizer(Gaussians(**leaves), cameras)
        torch.autograd.backward([render.rgb, render.alpha], slopes)
        return render.rgb.detach()

    once(cameras)
    rasterizer.check_capacity()
    stages = Stages(device)
    for _ in range(8):
        for leaf in leaves.values():
            leaf.grad = None
        stages.begin()
        render = rasterizer(Gaussians(**leaves), cameras)
        stages.end_of("forward")
        torch.autograd.backward([render.rgb, render.alpha], slopes)
        stages.end_of("backward")
        stages.finish()
    del render  # nodes of its graph belong to this stream, and could not be recorded on another
    medians = stages.medians()
    result = {"rasterizer_alone": _rate(lambda: once(cameras), F * V, device, seconds)}
    result["rasterizer_alone"] |= {"forward_ms": medians["forward"], "backward_ms": medians["backward"]}
    if device.type == "cuda" and rasterizer.capturable:
        from r3avatar.cuda_graphs import RecordedFunction

        recorded = RecordedFunction()
        result["rasterizer_alone_graph"] = _rate(
            lambda: recorded(once, (cameras,), addresses=rasterizer.generation), F * V, device, seconds
        )
    return result


def _rate(call: Callable[[], object], images: int, device: torch.device, seconds: float) -> dict:
    ms = rate(call, device, seconds)
    return {"images_per_second": 1e3 * images / ms, "ms": ms}
