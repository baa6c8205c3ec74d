"""Prepared frames packed into 32-bit pixels, and crops cut out of them on their device."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from r3avatar.captures.prepared_frame import PreparedFrame
from r3avatar.triton_support import use_triton


def pack(frame: PreparedFrame, out: np.ndarray) -> None:
    """Write a prepared frame's pixels into out [h * w] int32: red, green, blue, mask from the lowest byte up."""
    h, w = frame.mask.shape
    if h and w:
        channels = out.view(np.uint8).reshape(h, w, 4)
        cv2.mixChannels([frame.rgb, frame.mask], [channels], [0, 0, 1, 1, 2, 2, 3, 3])


def gather(pixels: Tensor, source: Tensor, rgb: Tensor, mask: Tensor, backend: str = "auto") -> None:
    """Cut crops [F, V] out of packed pixels, into rgb [F, V, H, W, 3] and mask [F, V, H, W] uint8 (contiguous).

    pixels [P] int32 (`pack`); source [F, V, 5] int64: offset in pixels, columns and rows of each window, and the
    crop's first column and row inside of it. What lies outside of the window is 0. Nothing waits for the device.
    backend: as in `triton_support.use_triton`.
    """
    assert mask.shape[-1] % 4 == 0 and rgb.shape == (*mask.shape, 3), f"crops are {tuple(mask.shape)}"
    if use_triton(backend, pixels.device):
        from r3avatar.captures.triton_gather import gather_triton

        gather_triton(pixels, source, rgb, mask)
    else:
        gather_torch(pixels, source, rgb, mask)


def gather_torch(pixels: Tensor, source: Tensor, rgb: Tensor, mask: Tensor) -> None:
    """`gather` in plain torch, on every device."""
    H, W = mask.shape[-2:]
    offset, columns, rows, left, top = source[..., None, None].unbind(2)  # [F, V, 1, 1] each
    y = torch.arange(H, device=pixels.device)[:, None] + top  # [F, V, H, 1]
    x = torch.arange(W, device=pixels.device) + left  # [F, V, 1, W]
    inside = (y >= 0) & (y < rows) & (x >= 0) & (x < columns)
    index = torch.where(inside, offset + y * columns + x, 0)
    words = torch.where(inside, pixels[index], 0)  # [F, V, H, W] int32
    channels = words.view(torch.uint8).view(*words.shape, 4)
    rgb.copy_(channels[..., :3])
    mask.copy_(channels[..., 3])
