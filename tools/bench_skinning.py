"""Time the skinning of Gaussians, forward and backward: the torch twin and, on CUDA, the kernels in recorded graphs.

python tools/bench_skinning.py --gaussians 11000 --frames 2 --device cuda
python tools/bench_skinning.py --gaussians 11000 --frames 2 --device cuda --set BLEND_BLOCK=64 BLEND_WARPS=8
python tools/bench_skinning.py --gaussians 2000 --device cpu
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from r3avatar.avatar import PoseRefinement, Skinning
from r3avatar.body import load_body
from r3avatar.types import BodyPose


def seconds(function: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Seconds of one call: the median on the CPU, the mean of a recorded graph's replays on CUDA."""
    if device.type != "cuda":
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
        return sorted(times)[repeats // 2]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    graph.replay()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repeats):
        graph.replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / repeats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gaussians", type=int, default=11_000)
    parser.add_argument("--frames", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="constants of triton_skinning")
    arguments = parser.parse_args()
    device, N, F = torch.device(arguments.device), arguments.gaussians, arguments.frames
    if arguments.set:
        from r3avatar.avatar import triton_skinning

        for name, value in (pair.split("=") for pair in arguments.set):
            if not hasattr(triton_skinning, name):
                raise SystemExit(f"triton_skinning has no constant {name}")
            setattr(triton_skinning, name, int(value))

    torch.manual_seed(0)
    body = load_body("demo")
    skinning, refinement = Skinning(body).to(device), PoseRefinement(body.num_joints).to(device)
    J = body.num_joints
    pick = torch.randint(body.num_vertices, (N,), device=device)
    points = (skinning.big_vertices[pick] + 0.01 * torch.randn(F, N, 3, device=device)).requires_grad_()
    logits = torch.randn(N, J, device=device, requires_grad=True)
    scale = torch.full((F, N, 3), 0.005, device=device, requires_grad=True)
    rotation = torch.randn(F, N, 4, device=device, requires_grad=True)
    zeros = torch.zeros(F, body.num_betas + body.num_expression + 3, device=device)
    pose = BodyPose(
        0.2 * torch.randn(F, J, 3, device=device), zeros[:, : body.num_betas], zeros[:, body.num_betas : -3],
        torch.eye(3, device=device).expand(F, 3, 3), zeros[:, -3:],
    )  # fmt: skip
    with torch.no_grad():
        vertex = skinning.nearest(points)
    skinning.nearest = lambda points: vertex  # timed elsewhere
    for backend in ("torch", "auto") if device.type == "cuda" else ("torch",):
        skinning.backend = refinement.backend = backend

        def posed():
            return skinning.pose(pose, refinement(pose.theta))

        with torch.no_grad():
            still = posed()
        still.transforms.requires_grad_()
        leaves = [points, logits, scale, rotation, still.transforms]

        def deform(frame=still):
            return skinning.deform(points, frame, logits, scale, rotation)

        def deform_backward(leaves=leaves, deform=deform):
            outputs = deform()
            return torch.autograd.grad(outputs, leaves, [torch.ones_like(x) for x in outputs])

        def pose_backward(posed=posed):
            transforms = posed().transforms
            return torch.autograd.grad(transforms, list(refinement.parameters()), torch.ones_like(transforms))

        for name, function in {
            "pose, forward": posed,
            "pose, forward and backward": pose_backward,
            "Gaussians, forward": deform,
            "Gaussians, forward and backward": deform_backward,
        }.items():
            print(f"{backend:6} {name:32} {1e6 * seconds(function, device, arguments.repeats):9.1f} us", flush=True)


if __name__ == "__main__":
    main()
