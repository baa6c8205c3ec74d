"""Adam's update of any number of tensors in one launch, by a table of their addresses that lies on the device.

torch's fused Adam takes a launch for some tensors of a group at a time, and gives large ones too few blocks.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK, WARPS = 2048, 8  # elements and warps of a program

# Rows of the table, one column a parameter: addresses and whole numbers, or the bits of a float64.
_PARAMETER, _GRADIENT, _MEAN, _SQUARE = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)
_LENGTH, _ALIGNED, _FIRST, _BLOCKS = tl.constexpr(4), tl.constexpr(5), tl.constexpr(6), tl.constexpr(7)
_STEP, _DONE = tl.constexpr(8), tl.constexpr(9)  # address of the step's number; blocks that have read it
_RATE_AT, _RATE = tl.constexpr(10), tl.constexpr(11)  # address of the rate or 0, and then its value
_BETA1, _BETA2, _EPS, _LOG_BETA1, _LOG_BETA2 = (tl.constexpr(row) for row in range(12, 17))
ROWS = 17
_NEVER = 2**62  # first program of a column that is not used


@triton.jit
def _number(entry, ROW: tl.constexpr, COLUMNS: tl.constexpr):
    return tl.load(entry + ROW * COLUMNS).to(tl.float64, bitcast=True)


@triton.jit
def _address(entry, ROW: tl.constexpr, COLUMNS: tl.constexpr):
    return tl.load(entry + ROW * COLUMNS).to(tl.pointer_type(tl.float32))


@triton.jit
def _update(parameter, gradient, mean, square, mask, step, entry, COLUMNS: tl.constexpr):
    p = tl.load(parameter, mask=mask)
    g = tl.load(gradient, mask=mask)
    m = tl.load(mean, mask=mask)
    v = tl.load(square, mask=mask)

    # In float64, while the loads are under way: in float32, 1 - beta2^step loses four digits of seven at first.
    beta1, beta2 = _number(entry, _BETA1, COLUMNS), _number(entry, _BETA2, COLUMNS)
    rate_at = tl.load(entry + _RATE_AT * COLUMNS)
    rate = tl.load(rate_at.to(tl.pointer_type(tl.float32)), mask=rate_at != 0, other=0.0).to(tl.float64)
    rate += _number(entry, _RATE, COLUMNS)
    size = (rate / (1.0 - tl.exp(step.to(tl.float64) * _number(entry, _LOG_BETA1, COLUMNS)))).to(tl.float32)
    root = tl.sqrt(1.0 - tl.exp(step.to(tl.float64) * _number(entry, _LOG_BETA2, COLUMNS))).to(tl.float32)
    eps = _number(entry, _EPS, COLUMNS).to(tl.float32)

    m = m * beta1.to(tl.float32) + (1.0 - beta1).to(tl.float32) * g
    v = v * beta2.to(tl.float32) + (1.0 - beta2).to(tl.float32) * g * g
    p -= tl.div_rn(size * m, tl.div_rn(tl.sqrt_rn(v), root) + eps)
    tl.store(parameter, p, mask=mask)
    tl.store(mean, m, mask=mask)
    tl.store(square, v, mask=mask)


@triton.jit
def _block(table, COLUMNS: tl.constexpr, BLOCK: tl.constexpr):
    program = tl.program_id(0).to(tl.int64)
    first = tl.load(table + _FIRST * COLUMNS + tl.arange(0, COLUMNS))
    entry = table + tl.sum((first <= program).to(tl.int32), axis=0) - 1
    step_at = _address(entry, _STEP, COLUMNS)
    step = tl.load(step_at) + 1.0

    start = (program - tl.load(entry + _FIRST * COLUMNS)) * BLOCK
    left = tl.load(entry + _LENGTH * COLUMNS) - start
    parameter = _address(entry, _PARAMETER, COLUMNS) + start
    gradient = _address(entry, _GRADIENT, COLUMNS) + start
    mean = _address(entry, _MEAN, COLUMNS) + start
    square = _address(entry, _SQUARE, COLUMNS) + start
    i = tl.arange(0, BLOCK)
    if (tl.load(entry + _ALIGNED * COLUMNS) != 0) & (left >= BLOCK):  # four floats at a time
        parameter, gradient = tl.multiple_of(parameter, 16), tl.multiple_of(gradient, 16)
        mean, square = tl.multiple_of(mean, 16), tl.multiple_of(square, 16)
        _update(parameter + i, gradient + i, mean + i, square + i, None, step, entry, COLUMNS)
    else:
        _update(parameter + i, gradient + i, mean + i, square + i, i < left, step, entry, COLUMNS)

    # Every program needs the step's number before one of them counts it up: the last that has read it does.
    tl.debug_barrier()  # all threads have read it
    done = tl.atomic_add(entry + _DONE * COLUMNS, 1)
    last = done == tl.load(entry + _BLOCKS * COLUMNS) - 1
    tl.store(step_at, step, mask=last)
    tl.store(entry + _DONE * COLUMNS, 0, mask=last)


@triton.jit
def _adam_kernel(table, skip, COLUMNS: tl.constexpr, BLOCK: tl.constexpr):
    if tl.load(skip) == 0.0:
        _block(table, COLUMNS, BLOCK)


def columns_of(count: int) -> int:
    """Columns of a table of `count` parameters: a power of two, so that few kernels serve all numbers of them."""
    return max(32, triton.next_power_of_2(count))


def table_of(entries: Sequence[tuple]) -> tuple[list[int], int]:
    """The table [ROWS * columns_of(P)] as a flat list, and how many programs it needs.

    entries: P of (parameter, gradient, exp_avg, exp_avg_sq: addresses of contiguous float32; length > 0; address of the
    step's number, float32; address of the rate, float32, or 0; the rate where that is 0; beta1; beta2; eps).
    """
    columns, programs, rows = columns_of(len(entries)), 0, []
    for *addresses, length, step, rate_at, rate, beta1, beta2, eps in entries:
        blocks = triton.cdiv(length, BLOCK)
        aligned = int(all(address % 16 == 0 for address in addresses))
        logs = (math.log(beta) if beta else -math.inf for beta in (beta1, beta2))
        numbers = map(_bits, (rate, beta1, beta2, eps, *logs))
        rows.append((*addresses, length, aligned, programs, blocks, step, 0, rate_at, *numbers))
        programs += blocks
    unused = [0] * ROWS
    unused[_FIRST.value] = _NEVER
    rows += [unused] * (columns - len(rows))
    return [value for row in zip(*rows) for value in row], programs


def _bits(number: float) -> int:
    return struct.unpack("<q", struct.pack("<d", number))[0]


def update(table: Tensor, programs: int, skip: Tensor) -> None:
    """One step of Adam (Kingma & Ba 2015, algorithm 1) for all that `table` holds, the steps' numbers included.

    table: int64 on the device, of `table_of`; its count of finished programs is zero again afterwards. skip: [] float32
    on the device; where it is not 0, nothing is changed.
    """
    with torch.cuda.device_of(table):
        _adam_kernel[(programs,)](table, skip, COLUMNS=len(table) // ROWS, BLOCK=BLOCK, num_warps=WARPS)
