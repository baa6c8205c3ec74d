"""Time the training loss, and the Gaussian blur under its SSIM against the other ways PyTorch has to write it.

python tools/bench_losses.py --height 256 --width 144 --images 1 --threads 1
python tools/bench_losses.py --height 592 --width 400 --images 8 --device cuda
python tools/bench_losses.py --height 592 --width 400 --images 8 --device cuda --filled 0.5
"""

from __future__ import annotations

import argparse
import time

import numba
import torch
import torch.nn.functional as F
from torch import Tensor

from r3avatar.evaluation.metrics import SIGMA, WINDOW, _blur, ssim_map
from r3avatar.training.losses import BOUND, PERSON, AvatarLoss
from r3avatar.triton_support import installed
from r3avatar.types import Batch, BodyPose, Cameras, RenderOutput

R = WINDOW // 2


def weights() -> Tensor:
    w = torch.exp(-(torch.arange(WINDOW) - R).square() / (2 * SIGMA**2))
    return w / w.sum()


def slices(x: Tensor) -> Tensor:
    """Two 1-D passes of shifted slices, the symmetric taps added first."""
    g, (H, W) = weights().tolist(), x.shape[-2:]
    p = F.pad(x, (R, R))
    x = g[R] * p[..., R : R + W]
    for k in range(R):
        x = x + g[k] * (p[..., k : k + W] + p[..., 2 * R - k : 2 * R - k + W])
    p = F.pad(x, (0, 0, R, R))
    x = g[R] * p[..., R : R + H, :]
    for k in range(R):
        x = x + g[k] * (p[..., k : k + H, :] + p[..., 2 * R - k : 2 * R - k + H, :])
    return x


def banded(x: Tensor) -> Tensor:
    """Two products with a banded matrix."""

    def band(n: int) -> Tensor:
        distance = (torch.arange(n)[:, None] - torch.arange(n)).abs()
        return torch.where(distance <= R, weights()[(R - distance).clamp_min(0)], 0.0).to(x)

    return band(x.shape[-2]) @ (x @ band(x.shape[-1]))


def window_2d(x: Tensor) -> Tensor:
    """One grouped convolution with the 11x11 window."""
    C, w = x.shape[1], weights().to(x)
    return F.conv2d(x, torch.outer(w, w).expand(C, 1, WINDOW, WINDOW), padding=R, groups=C)


def timed(function, leaf: Tensor, repeats: int) -> tuple[float, float]:
    """Median milliseconds of the forward pass, and of forward and backward."""

    def wait() -> float:
        if leaf.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    forward, both = [], []
    for _ in range(repeats + 2):
        leaf.grad = None
        start = wait()
        value = function(leaf)
        middle = wait()
        value.backward(torch.ones_like(value))
        forward.append(middle - start)
        both.append(wait() - start)
    return 1e3 * sorted(forward[2:])[repeats // 2], 1e3 * sorted(both[2:])[repeats // 2]


def recorded(function, image: Tensor, alpha: Tensor, replays: int = 100) -> tuple[float, float]:
    """Mean milliseconds of a CUDA graph of the forward pass, and of one of forward and backward: no launches' cost."""

    def both() -> tuple[Tensor, ...]:
        return torch.autograd.grad(function(image), (image, alpha))

    def milliseconds(step) -> float:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            kept = step()  # its memory stays the graph's
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        graph.replay()
        start.record()
        for _ in range(replays):
            graph.replay()
        end.record()
        torch.cuda.synchronize()
        del kept
        return start.elapsed_time(end) / replays

    return milliseconds(lambda: function(image)), milliseconds(both)


def scene(B: int, H: int, W: int, filled: float, device: str) -> tuple[Tensor, Tensor, Batch]:
    zeros = torch.zeros(1, 24, 3)
    pose = BodyPose(zeros, torch.zeros(1, 10), torch.zeros(1, 0), torch.eye(3)[None], torch.zeros(1, 3))
    cameras = Cameras(torch.eye(3).expand(1, B, 3, 3), torch.eye(4).expand(1, B, 4, 4), W, H)
    h, w = (round(filled**0.5 * size) for size in (H, W))
    mask = torch.zeros((1, B, H, W), dtype=torch.uint8)
    mask[..., :h, :w] = PERSON | BOUND
    rect = torch.tensor([0, 0, w, h]).expand(1, B, 4)
    rgb = torch.randint(0, 256, (1, B, H, W, 3), dtype=torch.uint8)
    batch = Batch(torch.zeros(1).long(), torch.zeros(1), pose, cameras, rgb, mask, rect).to(device)
    return torch.rand(1, B, H, W, 3, device=device), torch.rand(1, B, H, W, device=device), batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--width", type=int, default=144)
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--filled", type=float, default=1.0, help="share of the crop inside the bound rectangle")
    parser.add_argument("--device", default="cpu")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    numba.set_num_threads(a.threads)
    rgb, alpha, batch = scene(a.images, a.height, a.width, a.filled, a.device)
    print(f"{a.images} image(s) {a.height}x{a.width}, {a.device}, {a.threads} thread(s), torch {torch.__version__}")
    print(f"{'milliseconds (median)':34} {'forward':>9} {'+ backward':>11}")
    maps = torch.rand(a.images, 15, a.height, a.width, device=a.device, requires_grad=True)
    reference = _blur(maps)
    for name, blur in {
        "blur: grouped separable (used)": _blur,
        "blur: grouped 11x11": window_2d,
        "blur: shifted slices": slices,
        "blur: banded matrices": banded,
    }.items():
        torch.testing.assert_close(blur(maps), reference, rtol=1e-3, atol=1e-3)
        print("{:34} {:9.2f} {:11.2f}".format(name, *timed(blur, maps, a.repeats)))
    truth = batch.rgb[0].float() / 255
    radii, means2d = torch.zeros(1, a.images, 0), torch.zeros(1, a.images, 0, 2)
    image = rgb.requires_grad_()
    print("{:34} {:9.2f} {:11.2f}".format("SSIM map", *timed(lambda x: ssim_map(x[0], truth), image, a.repeats)))

    alpha.requires_grad_()
    for backend in ("torch", *(("triton",) if installed() else ())) if image.is_cuda else ("torch", "numba"):
        loss = AvatarLoss(perceptual=0, backend=backend)

        def total(x: Tensor, loss: AvatarLoss = loss) -> Tensor:
            return loss(RenderOutput(x, alpha, radii, means2d), batch)["total"]

        name = f"AvatarLoss without LPIPS, {backend}"
        print("{:34} {:9.2f} {:11.2f}".format(name, *timed(total, image, a.repeats)))
        if image.is_cuda:
            print("{:34} {:9.3f} {:11.3f}".format("  recorded as a CUDA graph", *recorded(total, image, alpha)))


if __name__ == "__main__":
    main()
