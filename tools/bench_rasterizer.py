"""Time the rasterizers on a body-like cloud: forward, backward, images a second, peak memory.

    python tools/bench_rasterizer.py                      # numba and torch (and gsplat on CUDA) side by side
    python tools/bench_rasterizer.py --gaussians 50000 --size 512 --views 4 --threads 2 --json bench.json

The cloud: points on a person of capsules, 1.75 m tall and filling 80 % of the image's height; flat Gaussians of 1-2
pixels (along the surface), opacities 0.5-1, spherical harmonics of degree 3. Each rasterizer runs in a process of its
own, first calls (compilation) not counted; the figure is the median of the repetitions.

torch's OpenMP threads spin after each operation (GOMP_SPINCOUNT iterations, by default for milliseconds) and so hold
the cores that others want; `--spin` sets it for the measured processes.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import time

import torch

from r3avatar.benchmarks.machine import cores, cpu_name
from r3avatar.rasterizer import make_rasterizer
from r3avatar.rasterizer.projection import covariance_from_scale_rotation
from r3avatar.rasterizer.spherical_harmonics import rgb_to_sh
from r3avatar.types import Cameras, Gaussians

# start, end, radius [metres], colour: y up, standing on the ground.
CAPSULES = [
    ((0.0, 0.95, 0.0), (0.0, 1.40, 0.0), 0.16, (0.75, 0.25, 0.2)),  # trunk
    ((0.0, 1.62, 0.0), (0.0, 1.65, 0.0), 0.10, (0.85, 0.65, 0.5)),  # head
    ((0.19, 1.40, 0.0), (0.45, 1.05, 0.0), 0.05, (0.85, 0.65, 0.5)),  # arms
    ((-0.19, 1.40, 0.0), (-0.45, 1.05, 0.0), 0.05, (0.85, 0.65, 0.5)),
    ((0.09, 0.90, 0.0), (0.14, 0.08, 0.0), 0.08, (0.2, 0.3, 0.6)),  # legs
    ((-0.09, 0.90, 0.0), (-0.14, 0.08, 0.0), 0.08, (0.2, 0.3, 0.6)),
]


def body_cloud(F: int, N: int, pixel: float, seed: int = 0) -> Gaussians:
    """Gaussians on the capsules; `pixel`: metres a pixel. Frames differ by a shift of a few centimetres."""
    random = torch.Generator().manual_seed(seed)
    starts, ends, radii, colours = (torch.tensor(column) for column in zip(*CAPSULES))
    area = radii * ((ends - starts).norm(dim=1) + 2 * radii)
    part = torch.multinomial(area, N, replacement=True, generator=random)
    along = torch.rand(N, 1, generator=random)
    outward = torch.nn.functional.normalize(torch.randn(N, 3, generator=random), dim=1)
    means = starts[part] + along * (ends - starts)[part] + outward * radii[part, None]
    scales = pixel * (1 + torch.rand(N, 3, generator=random))
    scales[:, 2] *= 0.2  # flat: the third axis is turned to the normal
    half = torch.stack([1 + outward[:, 2], -outward[:, 1], outward[:, 0], torch.zeros(N)], 1)
    covariances = covariance_from_scale_rotation(scales, half)
    sh = 0.05 * torch.randn(N, 16, 3, generator=random)
    sh[:, 0] = rgb_to_sh((colours[part] + 0.1 * torch.randn(N, 3, generator=random)).clamp(0, 1))
    opacities = 0.5 + 0.5 * torch.rand(N, generator=random)
    shift = 0.02 * torch.randn(F, 1, 3, generator=random)
    return Gaussians(means + shift, covariances.expand(F, N, 6), opacities.expand(F, N), sh.expand(F, N, 16, 3))


def ring_of_cameras(F: int, V: int, size: int, distance: float = 3.0) -> Cameras:
    """[F, V] cameras on a circle, each image `size` x `size`, the person 80 % of its height."""
    focal = 0.8 * size * distance / 1.75
    K = torch.tensor([[focal, 0.0, size / 2], [0.0, focal, size / 2], [0.0, 0.0, 1.0]])
    w2c = torch.eye(4).repeat(V, 1, 1)
    for v in range(V):
        angle = 2 * math.pi * v / V + 0.3
        c, s = math.cos(angle), math.sin(angle)
        w2c[v, :3, :3] = torch.tensor([[c, 0, -s], [0, -1, 0], [-s, 0, -c]])
        w2c[v, :3, 3] = torch.tensor([0, 0.875, distance])
    return Cameras(K.expand(F, V, 3, 3), w2c.expand(F, V, 4, 4), size, size)


def measure(name: str, F: int, V: int, N: int, size: int, repeat: int) -> dict:
    """Median milliseconds of the forward and of the backward pass, for all F x V images of a call."""
    device = "cuda" if name == "gsplat" else "cpu"
    rasterizer = make_rasterizer(name)
    cameras = ring_of_cameras(F, V, size).to(device)
    gaussians = body_cloud(F, N, pixel=1.75 / 0.8 / size).to(device)
    fields = {k: getattr(gaussians, k).clone().requires_grad_() for k in ("means", "covariances", "opacities", "sh")}
    target = torch.rand(F, V, size, size, 3, device=device)

    def once() -> tuple[float, float]:
        _synchronise(device)
        start = time.perf_counter()
        output = rasterizer(Gaussians(**fields), cameras)
        _synchronise(device)
        drawn = time.perf_counter()
        # A given gradient, not a loss: the loss's own time is not the rasterizer's.
        torch.autograd.backward([output.rgb, output.alpha], [target, target[..., 0]])
        _synchronise(device)
        return drawn - start, time.perf_counter() - drawn

    first = sum(once())
    timings = [once() for _ in range(repeat)]
    forward, backward = (1e3 * statistics.median(column) for column in zip(*timings))
    images = F * V
    row = {
        "rasterizer": name,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "forward_ms": forward,
        "backward_ms": backward,
        "ms_an_image": (forward + backward) / images,
        "images_a_second": 1e3 * images / (forward + backward),
        "first_call_s": first,
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    if device == "cuda":
        row["peak_cuda_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return row


def _synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rasterizers", nargs="+", help="numba torch gsplat; default: all that run here")
    parser.add_argument("--gaussians", type=int, default=10_000, help="Gaussians a frame")
    parser.add_argument("--size", type=int, default=256, help="image side, pixels")
    parser.add_argument("--frames", type=int, default=1)
    parser.add_argument("--views", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=30, help="timed repetitions (the torch reference: at most 3)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads, numba's and torch's")
    parser.add_argument("--spin", type=int, default=1000, help="GOMP_SPINCOUNT (OpenMP's own default: 300000)")
    parser.add_argument("--json", metavar="FILE", help="write the table there as well")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    shape = (options.frames, options.views, options.gaussians, options.size)
    if options.one:
        logging.basicConfig(level=logging.INFO, stream=sys.stderr)
        torch.set_num_threads(options.threads)
        repeat = min(options.repeat, 3) if options.one == "torch" else options.repeat
        print(json.dumps(measure(options.one, *shape, repeat)))
        return

    found = torch.cuda.is_available() and importlib.util.find_spec("gsplat")
    names = options.rasterizers or ["numba", "torch"] + ["gsplat"] * bool(found)
    environment = {**os.environ, "NUMBA_NUM_THREADS": str(options.threads), "GOMP_SPINCOUNT": str(options.spin)}
    rows = []
    for name in names:
        child = [sys.executable, __file__, *sys.argv[1:], "--one", name]
        result = subprocess.run(child, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        rows.append(json.loads(result.stdout))
    about = {"cpu": cpu_name(), "cores": cores(), "python": platform.python_version(), "torch": torch.__version__}
    about |= {"threads": options.threads, "gaussians": options.gaussians, "size": options.size}
    about |= {"frames": options.frames, "views": options.views, "repeat": options.repeat, "spin": options.spin}
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    columns = ["forward_ms", "backward_ms", "ms_an_image", "images_a_second", "first_call_s", "peak_rss_mib"]
    print(f"{'rasterizer':12}" + "".join(f"{column:>17}" for column in columns))
    for row in rows:
        print(f"{row['rasterizer']:12}" + "".join(f"{row[column]:17.1f}" for column in columns))
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"machine": about, "rows": rows}, file, indent=2)


if __name__ == "__main__":
    main()
