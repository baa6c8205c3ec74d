"""Metrics and the masked losses against the authors' implementation."""

import numpy as np
import pytest
import torch

from r3avatar.evaluation.metrics import psnr, psnr_per_channel, ssim
from r3avatar.training.losses import BOUND, PERSON, AvatarLoss
from r3avatar.types import Batch, BodyPose, Cameras, RenderOutput


def error(found, expected) -> float:
    assert tuple(found.shape) == expected.shape
    return float(np.abs(found.numpy() - expected).max())


def images(z):
    return tuple(torch.from_numpy(z[name]).movedim(1, -1) for name in ("image_a", "image_b"))


def test_metrics(oracle, parity):
    z = oracle("metrics")
    a, b = images(z)
    parity("metrics", "PSNR per channel, dB", error(psnr_per_channel(a, b), z["psnr_per_channel"]), 1e-4)
    parity("metrics", "PSNR, dB", error(psnr(a, b), z["psnr"]), 1e-4)
    parity("metrics", "SSIM", error(ssim(a, b), z["ssim"]), 1e-5)
    crops = [(slice(y, y + h), slice(x, x + w)) for x, y, w, h in z["crop_xywh"]]
    found = torch.cat([ssim(a[i : i + 1, r, c], b[i : i + 1, r, c]) for i, (r, c) in enumerate(crops)])
    parity("metrics", "SSIM of the crop", error(found, z["ssim_crop"]), 1e-5)


def loss_inputs(z, rows, dtype=torch.float32):
    """Render and batch of some of the three pairs: views of one frame, in uncut images."""
    a, b = images(z)
    n = len(rows)
    alpha, target = (torch.from_numpy(z[name])[rows, 0] for name in ("alpha", "alpha_target"))
    assert ((target == 0) | (target == 1)).all()
    mask = target.to(torch.uint8) * PERSON + torch.from_numpy(z["box_mask"])[rows].ne(0).to(torch.uint8) * BOUND
    render = RenderOutput(a[rows][None].to(dtype), alpha[None].to(dtype), torch.zeros(1, n, 0), torch.zeros(1, n, 0, 2))
    pose = BodyPose(torch.zeros(1, 24, 3), torch.zeros(1, 10), torch.zeros(1, 0), torch.eye(3)[None], torch.zeros(1, 3))
    cameras = Cameras(torch.eye(3).expand(1, n, 3, 3), torch.eye(4).expand(1, n, 4, 4), 48, 64)
    zero = torch.zeros(1)
    rgb = b[rows][None].to(dtype) * 255  # the loss divides what a capture stores by 255
    rect = torch.from_numpy(z["crop_xywh"])[rows][None].long()
    return render, Batch(zero.long(), zero, pose, cameras, rgb, mask[None], rect)


@pytest.mark.parametrize("rows", [[0], [1], [2], [0, 1, 2]])
def test_loss(oracle, parity, rows):
    z = oracle("metrics")
    terms = AvatarLoss(perceptual=0.0)(*loss_inputs(z, rows))
    assert set(terms) == {"l1", "mask", "ssim", "total"}
    expected = {
        "l1": z["l1_in_mask"],
        "mask": z["l2_alpha_in_mask"],
        "total": z["loss_without_perceptual"],
    }
    for name, value in expected.items():
        parity("metrics", f"loss {name}, images {rows}", abs(float(terms[name]) - value[rows].mean()), 1e-6)
    difference = abs(float(terms["ssim"]) - (1 - z["ssim_crop"][rows]).mean())
    parity("metrics", f"loss ssim, images {rows}", difference, 1e-5)
