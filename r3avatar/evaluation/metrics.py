"""Image metrics; images are [B, H, W, 3] float in [0, 1], as everywhere in the project."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW = 11
SIGMA = 1.5
C1, C2 = 0.01**2, 0.03**2


def psnr_per_channel(image: Tensor, truth: Tensor) -> Tensor:
    """-10 log10 of each channel's mean squared error over all pixels, dB: [B, H, W, 3] twice gives [B, 3]."""
    _check(image, truth)
    return -10 * torch.log10((image - truth).square().mean(dim=(1, 2)))


def psnr(image: Tensor, truth: Tensor) -> Tensor:
    """The published PSNR, dB: the mean of the three channels' PSNRs, [B]; tenths of a dB from `psnr_pooled`."""
    return psnr_per_channel(image, truth).mean(dim=-1)


def psnr_pooled(image: Tensor, truth: Tensor) -> Tensor:
    """The usual PSNR, dB: of the mean squared error over all pixels and channels, [B]."""
    _check(image, truth)
    return -10 * torch.log10((image - truth).square().mean(dim=(1, 2, 3)))


def ssim(image: Tensor, truth: Tensor) -> Tensor:
    """Mean structural similarity over channels and all pixels, [B]: 11x11 Gaussian, zero padding (see `ssim_map`)."""
    return ssim_map(image, truth).mean(dim=(1, 2, 3))


def ssim_map(image: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity at every pixel and channel, [B, H, W, 3].

    Gaussian window 11x11 with sigma 1.5, zero padding of 5 pixels, C1 = 0.01^2, C2 = 0.03^2, variances E[x^2] - E[x]^2.
    Source: Wang et al., "Image Quality Assessment" (2004), eq. 13; window and padding as in 3D Gaussian splatting.
    """
    _check(image, truth)
    x, y = image.movedim(-1, 1), truth.movedim(-1, 1)
    if x.is_cuda:  # channels first is 2 to 3 times faster there; on the CPU channels last is
        x, y = x.contiguous(), y.contiguous()
    means = _blur(torch.cat([x, y, x * x + y * y, x * y], dim=1))  # [B, 12, H, W]: only the variances' sum is needed
    mx, my, squares, product = means.chunk(4, dim=1)
    mean_product, mean_squares = mx * my, mx * mx + my * my
    covariance, variances = product - mean_product, squares - mean_squares
    ratio = (2 * mean_product + C1) * (2 * covariance + C2) / ((mean_squares + C1) * (variances + C2))
    return ratio.movedim(1, -1)


def mask_iou(mask: Tensor, truth: Tensor) -> Tensor:
    """Intersection over union of bool masks [B, H, W], [B]; 1 where both are empty."""
    if mask.dtype != torch.bool or truth.dtype != torch.bool or mask.shape != truth.shape or mask.ndim != 3:
        raise ValueError(f"masks must be bool [B, H, W] alike, not {mask.dtype} {tuple(mask.shape)}, {truth.dtype} "
                         f"{tuple(truth.shape)}")  # fmt: skip
    union = (mask | truth).sum(dim=(1, 2))
    return torch.where(union > 0, (mask & truth).sum(dim=(1, 2)) / union.clamp_min(1), 1.0)


@functools.lru_cache(maxsize=8)
def _window(channels: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    # Kept between calls: making it anew copies it to the GPU every step. Not an inference tensor, or training could
    # not differentiate through a window that an evaluation made first.
    with torch.inference_mode(False):
        offsets = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
        window = torch.exp(-offsets.square() / (2 * SIGMA**2))
        return (window / window.sum()).to(device, dtype).expand(channels, 1, 1, WINDOW).contiguous()


def _blur(x: Tensor) -> Tensor:
    """The Gaussian window over [B, C, H, W] with zero padding: separable, and a grouped convolution, which is the
    fastest of what PyTorch has for it on the CPU too (tools/bench_losses.py)."""
    C = x.shape[1]
    window = _window(C, x.device, x.dtype)
    x = F.conv2d(x, window, padding=(0, WINDOW // 2), groups=C)
    return F.conv2d(x, window.mT, padding=(WINDOW // 2, 0), groups=C)


def _check(image: Tensor, truth: Tensor) -> None:
    if image.shape != truth.shape or image.ndim != 4 or image.shape[-1] != 3:
        raise ValueError(f"images must be [B, H, W, 3] alike, not {tuple(image.shape)} and {tuple(truth.shape)}")
    if not (image.is_floating_point() and truth.is_floating_point()):
        raise TypeError(f"images must be float in [0, 1], not {image.dtype} and {truth.dtype}")
