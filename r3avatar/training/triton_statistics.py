"""What density control remembers of a step, taken in by one kernel: a thread a Gaussian, over frames and views."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

GAUSSIANS, WARPS = 64, 2  # of a program

_TENSORS = [
    "gradient", "radii", "opacity_logit", "scale", "rotation",
    "gradient_sum", "gradient_count", "highest_radii", "highest_logits", "log_scale_sum", "frame_count",
    "last_logits", "last_scales", "last_quaternions",
]  # fmt: skip


@triton.jit
def _highest(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit(
    do_not_specialize=[
        "F", "V", "N", "gf", "gv", "gn", "gc", "rf", "rv", "rn", "of", "on", "sf", "sn", "sc", "qf", "qn", "qc",
        "half_width", "half_height", "smallest",
    ],
    do_not_specialize_on_alignment=_TENSORS,
)  # fmt: skip
def _accumulate_kernel(
    gradient, radii, opacity_logit, scale, rotation,
    gradient_sum, gradient_count, highest_radii, highest_logits, log_scale_sum, frame_count,
    last_logits, last_scales, last_quaternions,
    F, V, N, gf, gv, gn, gc, rf, rv, rn, of, on, sf, sn, sc, qf, qn, qc,
    half_width, half_height, smallest, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < N
    n = i.to(tl.int64)
    total = tl.zeros([BLOCK], tl.float32)
    count = tl.zeros([BLOCK], tl.float32)
    radius = tl.load(highest_radii + n, mask=inside, other=0.0)
    logit = tl.load(highest_logits + n, mask=inside, other=0.0)
    log_x = tl.zeros([BLOCK], tl.float32)
    log_y = tl.zeros([BLOCK], tl.float32)
    log_z = tl.zeros([BLOCK], tl.float32)
    f = 0
    while f < F:
        gradient_at, radii_at = gradient, radii
        v = 0
        while v < V:
            x = tl.load(gradient_at + n * gn, mask=inside, other=0.0).to(tl.float32) * half_width
            y = tl.load(gradient_at + n * gn + gc, mask=inside, other=0.0).to(tl.float32) * half_height
            r = tl.load(radii_at + n * rn, mask=inside, other=0.0).to(tl.float32)
            visible = r > 0
            total += tl.where(visible, tl.sqrt_rn(x * x + y * y), 0.0)
            count += visible.to(tl.float32)
            radius = _highest(radius, r)
            gradient_at += gv
            radii_at += rv
            v += 1
        logit = _highest(logit, tl.load(opacity_logit + n * on, mask=inside, other=0.0))
        at = scale + n * sn
        log_x += tl.log(_highest(tl.load(at, mask=inside, other=1.0), smallest))
        log_y += tl.log(_highest(tl.load(at + sc, mask=inside, other=1.0), smallest))
        log_z += tl.log(_highest(tl.load(at + 2 * sc, mask=inside, other=1.0), smallest))
        gradient += gf
        radii += rf
        opacity_logit += of
        scale += sf
        rotation += qf
        f += 1

    images = (F * V).to(tl.float32)
    at = gradient_sum + n
    tl.store(at, tl.load(at, mask=inside) + images * total, mask=inside)
    at = gradient_count + n
    tl.store(at, tl.load(at, mask=inside) + count, mask=inside)
    tl.store(highest_radii + n, radius, mask=inside)
    tl.store(highest_logits + n, logit, mask=inside)
    at = log_scale_sum + n * 3
    tl.store(at, tl.load(at, mask=inside) + log_x, mask=inside)
    tl.store(at + 1, tl.load(at + 1, mask=inside) + log_y, mask=inside)
    tl.store(at + 2, tl.load(at + 2, mask=inside) + log_z, mask=inside)
    at = frame_count + n
    tl.store(at, tl.load(at, mask=inside) + F.to(tl.float32), mask=inside)

    # The last frame's: the loop has gone one past it.
    tl.store(last_logits + n, tl.load(opacity_logit - of + n * on, mask=inside), mask=inside)
    for c in tl.static_range(3):
        tl.store(last_scales + n * 3 + c, tl.load(scale - sf + n * sn + c * sc, mask=inside), mask=inside)
    for c in tl.static_range(4):
        tl.store(last_quaternions + n * 4 + c, tl.load(rotation - qf + n * qn + c * qc, mask=inside), mask=inside)


def accumulate(
    gradient: Tensor,
    radii: Tensor,
    opacity_logit: Tensor,
    scale: Tensor,
    rotation: Tensor,
    interval: dict[str, Tensor],
    last: dict[str, Tensor],
    width: int,
    height: int,
    smallest_scale: float,
) -> None:
    """Take a step into `interval` and `last`, in place; see `DensityStatistics.accumulate`, the readable twin.

    gradient [F, V, N, 2], radii [F, V, N], opacity_logit [F, N, 1], scale [F, N, 3], rotation [F, N, 4]: of any
    strides. What is written is float32 and contiguous: interval as of `DensityStatistics._empty`; last
    opacity_logits [N, 1], scales [N, 3], quaternions [N, 4].
    """
    F, V, N = radii.shape
    names = ("gradient_sum", "gradient_count", "radii", "opacity_logits", "log_scale_sum", "frame_count")
    written = [
        *(interval[name] for name in names),
        *(last[name] for name in ("opacity_logits", "scales", "quaternions")),
    ]
    if not all(x.is_contiguous() and x.dtype == torch.float32 for x in written):
        raise ValueError("density statistics must be contiguous and float32 where the kernel adds to them")
    if not F or not N:
        return
    with torch.cuda.device_of(gradient):
        _accumulate_kernel[(triton.cdiv(N, GAUSSIANS),)](
            gradient, radii, opacity_logit.detach(), scale.detach(), rotation.detach(), *written,
            F, V, N, *gradient.stride(), *radii.stride(), *opacity_logit.stride()[:2], *scale.stride(),
            *rotation.stride(), width / 2, height / 2, smallest_scale, BLOCK=GAUSSIANS, num_warps=WARPS,
        )  # fmt: skip
