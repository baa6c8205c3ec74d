"""The two ways a rendered image is compared with the truth; a table names its protocol, and they are never mixed.

`paper`, the published evaluation: the full frame on black; PSNR averaged over channels; SSIM; LPIPS-VGG fed [0, 1].
`standard`: the person's box; PSNR over all its pixels and channels; SSIM there; LPIPS-VGG on [-1, 1]; and the IoU of
the silhouette (alpha > 0.5) with the person's mask. Larger figures under `paper` say mostly that the frame is black.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from r3avatar.evaluation.metrics import mask_iou, psnr, psnr_pooled, ssim
from r3avatar.evaluation.perceptual import Perceptual

Box = tuple[int, int, int, int]

BOX_MARGIN = 0.05


def person_box(mask: Tensor, margin: float = BOX_MARGIN) -> Box:
    """The person's bounding rectangle (x, y, width, height), grown on every side by `margin` times its longer side
    (rounded up to pixels) and cut at the frame; `mask` [H, W], nonzero = person."""
    rows, columns = mask.ne(0).any(dim=1).nonzero(), mask.ne(0).any(dim=0).nonzero()
    if len(rows) == 0:
        raise ValueError("the person's mask is empty: the image has no box, and the frame cannot be evaluated")
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    grow = math.ceil(margin * max(bottom - top, right - left))
    x, y = max(0, left - grow), max(0, top - grow)
    return x, y, min(mask.shape[1], right + grow) - x, min(mask.shape[0], bottom + grow) - y


@torch.no_grad()
def evaluate_image(
    rgb: Tensor,
    alpha: Tensor,
    gt_rgb: Tensor,
    gt_mask: Tensor,
    box: Box | None = None,
    lpips: Perceptual | None = None,
) -> dict[str, dict[str, float | None]]:
    """One image under both protocols.

    Args:
        rgb: [H, W, 3] rendered full frame on black, float; clamped to [0, 1], as it would be in a file.
        alpha: [H, W] rendered opacity.
        gt_rgb: [H, W, 3] the truth, black outside the person; float in [0, 1] or uint8.
        gt_mask: [H, W] nonzero = person.
        box: (x, y, width, height) of the `standard` crop; `person_box(gt_mask)` unless given.
        lpips: without it the values under "lpips" are None.

    Returns:
        {"paper": {psnr, ssim, lpips}, "standard": {psnr, ssim, lpips, mask_iou}}; PSNR in dB.
    """
    if rgb.shape != gt_rgb.shape or not alpha.shape == gt_mask.shape == rgb.shape[:2]:
        shapes = ", ".join(str(tuple(x.shape)) for x in (rgb, alpha, gt_rgb, gt_mask))
        raise ValueError(f"rgb, alpha, gt_rgb, gt_mask must be [H, W, 3], [H, W], [H, W, 3], [H, W], not {shapes}")
    truth = gt_rgb.float() / 255 if gt_rgb.dtype == torch.uint8 else gt_rgb.float()
    image, truth = rgb.float().clamp(0, 1)[None], truth[None]
    x, y, width, height = person_box(gt_mask) if box is None else box
    crop, crop_truth = (i[:, y : y + height, x : x + width] for i in (image, truth))
    paper = {"psnr": psnr(image, truth), "ssim": ssim(image, truth)}
    standard = {"psnr": psnr_pooled(crop, crop_truth), "ssim": ssim(crop, crop_truth)}
    paper["lpips"] = None if lpips is None else lpips(image, truth, rescale=False)
    standard["lpips"] = None if lpips is None else lpips(crop, crop_truth, rescale=True)
    standard["mask_iou"] = mask_iou(alpha[None] > 0.5, gt_mask[None] != 0)
    return {
        protocol: {name: None if value is None else float(value) for name, value in values.items()}
        for protocol, values in (("paper", paper), ("standard", standard))
    }
