"""Cutting a step's crops out of the packed pixels, one launch: the Triton twin of `gather.gather_torch`."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

BLOCK = 512  # groups of four pixels a program
WARPS = 4


@triton.jit
def _gather(pixels, source, rgb, mask, width, height, BLOCK: tl.constexpr):
    image = tl.program_id(1).to(tl.int64)
    row_of_source = source + image * 5
    offset = tl.load(row_of_source)
    columns = tl.load(row_of_source + 1).to(tl.int32)
    rows = tl.load(row_of_source + 2).to(tl.int32)
    left = tl.load(row_of_source + 3).to(tl.int32)
    top = tl.load(row_of_source + 4).to(tl.int32)
    # Four neighbours at once: their 12 bytes of colour and 4 of mask are whole words, and share a row (16 | width).
    group = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    groups = width * height // 4
    a_row = width // 4
    y = group // a_row + top
    x = (group % a_row) * 4 + left
    in_row = (group < groups) & (y >= 0) & (y < rows)
    start = pixels + (offset + y.to(tl.int64) * columns + x)
    p0 = tl.load(start, mask=in_row & (x >= 0) & (x < columns), other=0)
    p1 = tl.load(start + 1, mask=in_row & (x + 1 >= 0) & (x + 1 < columns), other=0)
    p2 = tl.load(start + 2, mask=in_row & (x + 2 >= 0) & (x + 2 < columns), other=0)
    p3 = tl.load(start + 3, mask=in_row & (x + 3 >= 0) & (x + 3 < columns), other=0)
    # A pixel is red, green, blue, mask from its lowest byte up.
    colour = rgb + (image * groups + group) * 3
    tl.store(colour, (p0 & 0xFFFFFF) | (p1 << 24), mask=group < groups)
    tl.store(colour + 1, ((p1 >> 8) & 0xFFFF) | (p2 << 16), mask=group < groups)
    tl.store(colour + 2, ((p2 >> 16) & 0xFF) | (p3 << 8), mask=group < groups)
    bits = ((p0 >> 24) & 0xFF) | (((p1 >> 24) & 0xFF) << 8) | (((p2 >> 24) & 0xFF) << 16) | ((p3 >> 24) << 24)
    tl.store(mask + image * groups + group, bits, mask=group < groups)


def gather_triton(pixels: Tensor, source: Tensor, rgb: Tensor, mask: Tensor) -> None:
    """See `gather.gather_torch`; width a multiple of 4, rgb and mask contiguous."""
    F, V, H, W = mask.shape
    grid = (triton.cdiv(H * W // 4, BLOCK), F * V)
    words = [part.view(-1).view(pixels.dtype) for part in (rgb, mask)]
    _gather[grid](pixels, source, *words, W, H, BLOCK=BLOCK, num_warps=WARPS)
