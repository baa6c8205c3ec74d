"""Milliseconds of a training step and of its stages, each recorded as a CUDA graph: no launch costs, no data.

    python tools/bench_step.py --gaussians 12868 100000 --rasterizer triton

The scene is the demo body in random poses, 8 images of 320 x 480 unless told. On the CPU the stages run plainly.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import torch
from torch import nn

from r3avatar.avatar import Attributes, build_avatar
from r3avatar.body import load_body
from r3avatar.cuda_graphs import RecordedFunction
from r3avatar.rasterizer import make_rasterizer
from r3avatar.training.losses import AvatarLoss
from r3avatar.training.optimizer import make_optimizer, place_rates
from r3avatar.types import Batch, BodyPose, Cameras, Gaussians, RenderOutput

Stage = Callable[[], object]


def scene(gaussians: int, frames: int, views: int, width: int, height: int, device: torch.device):
    """An avatar with so many Gaussians on the body's surface, and a batch whose pictures are noise."""
    torch.manual_seed(0)
    body = load_body("demo")
    avatar = build_avatar(
        body, 100, initial_scale=0.006 * math.sqrt(body.num_vertices / gaussians), initial_opacity=0.9
    )
    canonical, rows = avatar.gaussians, torch.randint(body.num_vertices, (gaussians,))
    canonical.positions = nn.Parameter(canonical.positions.detach()[rows] + 0.003 * torch.randn(gaussians, 3))
    canonical.sh_dc = nn.Parameter(0.3 * torch.randn(gaussians, 1, 3))
    canonical.sh_rest = nn.Parameter(0.05 * torch.randn(gaussians, 15, 3))
    canonical.active_sh_degree = 3
    pose = BodyPose(
        0.2 * torch.randn(frames, body.num_joints, 3), torch.zeros(frames, body.num_betas),
        torch.zeros(frames, body.num_expression), torch.eye(3).repeat(frames, 1, 1), torch.zeros(frames, 3),
    )  # fmt: skip
    w2c = torch.eye(4).repeat(frames, views, 1, 1)
    for v in range(views):
        c, s = math.cos(1.3 * v), math.sin(1.3 * v)
        w2c[:, v] = torch.tensor([[c, 0, s, 0], [0, -1, 0, 0], [-s, 0, c, 3.0], [0, 0, 0, 1.0]])
    focal = 1.575 * height  # the person fills the height
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]).expand(frames, views, 3, 3).clone()
    mask = torch.zeros(frames, views, height, width, dtype=torch.uint8)
    mask[:, :, 10:-10, 20:-20] = 2
    mask[:, :, 30:-30, width // 3 : -width // 3] = 3
    rgb = torch.randint(0, 255, (frames, views, height, width, 3), dtype=torch.uint8)
    rect = torch.tensor([20, 10, width - 40, height - 20]).expand(frames, views, 4).contiguous()
    ids = torch.arange(frames)
    batch = Batch(ids, ids + 3.3, pose, Cameras(K, w2c, width, height), rgb, mask, rect)
    return avatar.to(device), batch.to(device)


def stages(avatar, batch: Batch, rasterizer) -> dict[str, Stage]:
    """A step's stages as functions without arguments; those with gradients clear them again."""
    loss = AvatarLoss(perceptual=0)
    optimizer = make_optimizer(avatar, 2.0)
    place_rates(optimizer, batch.rgb.device)
    names = ("offset", "opacity_logit", "scale", "rotation")
    with torch.no_grad():
        recorded = avatar.record(batch.time)
        posed = avatar.reconstruct(recorded, batch.pose)
        render = rasterizer(posed, batch.cameras)
    attributes = Attributes(*(getattr(recorded, n).clone().requires_grad_() for n in names))
    fields = [posed.means, posed.covariances, posed.opacities, posed.sh]
    drawn = Gaussians(*(x.detach().clone().requires_grad_() for x in fields))
    rgb, alpha = render.rgb.clone().requires_grad_(), render.alpha.clone().requires_grad_()
    slopes = torch.randn_like(rgb), torch.randn_like(alpha)
    leaves = [*avatar.parameters(), *(getattr(attributes, n) for n in names), rgb, alpha]
    leaves += [drawn.means, drawn.covariances, drawn.opacities, drawn.sh]

    def backward(outputs, gradients) -> None:
        torch.autograd.backward(outputs, gradients)
        for leaf in leaves:
            leaf.grad = None

    def record() -> None:
        out = avatar.record(batch.time)
        outputs = [getattr(out, n) for n in names]
        backward(outputs, [torch.ones_like(x) for x in outputs])

    def reconstruct() -> None:
        out = avatar.reconstruct(attributes, batch.pose)
        outputs = [out.means, out.covariances, out.opacities]
        backward(outputs, [torch.ones_like(x) for x in outputs])

    def rasterize() -> None:
        out = rasterizer(drawn, batch.cameras)
        backward([out.rgb, out.alpha], slopes)

    def measure_loss() -> None:
        backward([loss(RenderOutput(rgb, alpha, render.radii, render.means2d), batch)["total"]], None)

    def step() -> None:
        posed = avatar.reconstruct(avatar.record(batch.time), batch.pose)
        loss(rasterizer(posed, batch.cameras), batch)["total"].backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return {
        "record": record, "reconstruct": reconstruct, "rasterize": rasterize, "loss": measure_loss, "step": step,
    }  # fmt: skip


def milliseconds(stage: Stage, device: torch.device, repeat: int, record: bool) -> float:
    """Of one call, of `repeat` in a row."""
    if device.type != "cuda":
        stage()
        start = time.perf_counter()
        for _ in range(repeat):
            stage()
        return 1e3 * (time.perf_counter() - start) / repeat
    recorded = RecordedFunction()
    anything = torch.zeros(1, device=device)
    run = (lambda: recorded(lambda x: stage(), (anything,))) if record else stage
    for _ in range(5):
        run()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(repeat):
        run()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / repeat


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gaussians", type=int, nargs="+", default=[12868])
    parser.add_argument("--rasterizer", default="auto")
    parser.add_argument("--frames", type=int, default=2)
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--repeat", type=int, default=50)
    a = parser.parse_args()
    rasterizer = make_rasterizer(a.rasterizer)
    device = torch.device("cuda" if torch.cuda.is_available() and a.rasterizer != "numba" else "cpu")
    print(f"{rasterizer} on {device}, {a.frames} frames x {a.views} views of {a.width} x {a.height}; ms, both ways")
    for count in a.gaussians:
        avatar, batch = scene(count, a.frames, a.views, a.width, a.height, device)
        record = rasterizer.capturable
        times = {n: milliseconds(f, device, a.repeat, record) for n, f in stages(avatar, batch, rasterizer).items()}
        rate = 1e3 * a.frames * a.views / times["step"]
        cells = ", ".join(f"{name} {ms:.3f}" for name, ms in times.items())
        print(f"{count} Gaussians: {cells}: {rate:.0f} images/s")


if __name__ == "__main__":
    main()
