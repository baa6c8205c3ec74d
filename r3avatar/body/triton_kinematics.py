"""The kinematic chain as Triton kernels: `BodyModel.skinning_transforms`' twin on the GPU, one kernel each way.

A program takes a frame, a thread a joint: it walks from its joint to the root, W_j = R_root ... R_parent R_j. Backward
needs no walk: with X_k = dW_k W_k^T + dw_k w_k^T summed over a joint's descendants, itself among them,
dR_j = W_parent^T (sum X_k - (sum dw_k) w_j^T) W_j^-T; joint_j - joint_parent has the gradient W_parent^T sum dw_k.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from r3avatar.triton_matrices import (
    apply,
    inverse,
    load_map,
    load_matrices,
    load_vector,
    multiply,
    store_map,
    store_matrices,
    store_vector,
)

WARPS, BACKWARD_WARPS = 2, 2


@triton.jit
def _chain(rotations, joints, parents, transforms, J: tl.constexpr, JP: tl.constexpr, DEPTH: tl.constexpr):
    """Transforms of one frame's joints, DEPTH of them from the root to the farthest."""
    frame = tl.program_id(0) * J
    j = tl.arange(0, JP)
    mask = j < J
    w00, w01, w02, w10, w11, w12, w20, w21, w22 = load_matrices(rotations, (frame + j) * 9, mask)
    jx, jy, jz = load_vector(joints, (frame + j) * 3, mask)
    parent = tl.load(parents + j, mask=mask, other=-1)
    px, py, pz = load_vector(joints, (frame + parent) * 3, parent >= 0)
    tx, ty, tz = jx - px, jy - py, jz - pz
    for _ in range(DEPTH - 1):
        up = parent >= 0
        r00, r01, r02, r10, r11, r12, r20, r21, r22 = load_matrices(rotations, (frame + parent) * 9, up)
        above = tl.load(parents + parent, mask=up, other=-1)
        ax, ay, az = load_vector(joints, (frame + above) * 3, above >= 0)
        tx, ty, tz = apply(r00, r01, r02, r10, r11, r12, r20, r21, r22, tx, ty, tz)
        tx, ty, tz = tx + (px - ax), ty + (py - ay), tz + (pz - az)
        w00, w01, w02, w10, w11, w12, w20, w21, w22 = multiply(
            r00, r01, r02, r10, r11, r12, r20, r21, r22, w00, w01, w02, w10, w11, w12, w20, w21, w22
        )
        parent = above
        px, py, pz = ax, ay, az
    x, y, z = apply(w00, w01, w02, w10, w11, w12, w20, w21, w22, jx, jy, jz)
    to = transforms + (frame + j) * 16
    store_map(to, 1, w00, w01, w02, tx - x, w10, w11, w12, ty - y, w20, w21, w22, tz - z, mask)
    zero = tl.zeros([JP], dtype=joints.dtype.element_ty)
    store_vector(to, 12, zero, zero, zero, mask)
    tl.store(to + 15, zero + 1.0, mask=mask)


@triton.jit
def _chain_backward(
    joints, parents, descends, transforms, d_transforms, shares, d_rotations, d_joints,
    J: tl.constexpr, JP: tl.constexpr, JOINTS: tl.constexpr,
):  # fmt: skip
    """Gradients of one frame's rotations and, with JOINTS, of its rest joints; threads meet in `shares` [F, J, 12]."""
    frame = tl.program_id(0) * J
    j = tl.arange(0, JP)
    mask = j < J
    at = frame + j
    w00, w01, w02, w03, w10, w11, w12, w13, w20, w21, w22, w23 = load_map(transforms, at * 16, 1, mask)
    g00, g01, g02, gx, g10, g11, g12, gy, g20, g21, g22, gz = load_map(d_transforms, at * 16, 1, mask)
    jx, jy, jz = load_vector(joints, at * 3, mask)
    wx, wy, wz = apply(w00, w01, w02, w10, w11, w12, w20, w21, w22, jx, jy, jz)
    wx, wy, wz = wx + w03, wy + w13, wz + w23  # the translation column holds w - W joint
    x00, x01, x02, x10, x11, x12, x20, x21, x22 = multiply(
        g00 - gx * jx, g01 - gx * jy, g02 - gx * jz, g10 - gy * jx, g11 - gy * jy, g12 - gy * jz,
        g20 - gz * jx, g21 - gz * jy, g22 - gz * jz, w00, w10, w20, w01, w11, w21, w02, w12, w22,
    )  # fmt: skip
    store_map(
        shares + at * 12, 1, x00 + gx * wx, x01 + gx * wy, x02 + gx * wz, gx, x10 + gy * wx, x11 + gy * wy,
        x12 + gy * wz, gy, x20 + gz * wx, x21 + gz * wy, x22 + gz * wz, gz, mask,
    )  # fmt: skip
    tl.debug_barrier()
    zero = tl.zeros([JP], dtype=joints.dtype.element_ty)
    x00, x01, x02, x10, x11, x12, x20, x21, x22 = zero, zero, zero, zero, zero, zero, zero, zero, zero
    sx, sy, sz = zero, zero, zero
    for k in range(J):
        below = tl.load(descends + k * J + j, mask=mask, other=0).to(zero.dtype)
        share = shares + (frame + k) * 12
        x00, x01, x02 = x00 + below * tl.load(share), x01 + below * tl.load(share + 1), x02 + below * tl.load(share + 2)
        x10, x11, x12 = (
            x10 + below * tl.load(share + 4), x11 + below * tl.load(share + 5), x12 + below * tl.load(share + 6),
        )  # fmt: skip
        x20, x21, x22 = (
            x20 + below * tl.load(share + 8), x21 + below * tl.load(share + 9), x22 + below * tl.load(share + 10),
        )  # fmt: skip
        sx, sy, sz = sx + below * tl.load(share + 3), sy + below * tl.load(share + 7), sz + below * tl.load(share + 11)
    c00, c01, c02, c10, c11, c12, c20, c21, c22 = inverse(w00, w01, w02, w10, w11, w12, w20, w21, w22)
    x00, x01, x02, x10, x11, x12, x20, x21, x22 = multiply(
        x00 - sx * wx, x01 - sx * wy, x02 - sx * wz, x10 - sy * wx, x11 - sy * wy, x12 - sy * wz,
        x20 - sz * wx, x21 - sz * wy, x22 - sz * wz, c00, c10, c20, c01, c11, c21, c02, c12, c22,
    )  # fmt: skip
    parent = tl.load(parents + j, mask=mask, other=-1)
    p00, p01, p02, _p03, p10, p11, p12, _p13, p20, p21, p22, _p23 = load_map(
        transforms, (frame + parent) * 16, 1, parent >= 0
    )
    x00, x01, x02, x10, x11, x12, x20, x21, x22 = multiply(
        p00, p10, p20, p01, p11, p21, p02, p12, p22, x00, x01, x02, x10, x11, x12, x20, x21, x22
    )
    store_matrices(d_rotations, at * 9, x00, x01, x02, x10, x11, x12, x20, x21, x22, mask)
    if JOINTS:
        tx, ty, tz = apply(p00, p10, p20, p01, p11, p21, p02, p12, p22, sx, sy, sz)
        tl.debug_barrier()  # every sum above is complete
        store_vector(shares, at * 12, tx, ty, tz, mask)
        tl.debug_barrier()
        ox, oy, oz = apply(w00, w10, w20, w01, w11, w21, w02, w12, w22, gx, gy, gz)
        tx, ty, tz = tx - ox, ty - oy, tz - oz
        for k in range(J):
            child = (tl.load(parents + k) == j).to(zero.dtype)
            share = shares + (frame + k) * 12
            tx, ty, tz = tx - child * tl.load(share), ty - child * tl.load(share + 1), tz - child * tl.load(share + 2)
        store_vector(d_joints, at * 3, tx, ty, tz, mask)


class _SkinningTransforms(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rotations, joints, parents, descends, depth):
        rotations, joints = rotations.contiguous(), joints.contiguous()
        F, J, _ = joints.shape
        transforms = joints.new_empty(F, J, 4, 4)
        with torch.cuda.device_of(joints):
            _chain[(F,)](
                rotations, joints, parents, transforms,
                J=J, JP=triton.next_power_of_2(J), DEPTH=depth, num_warps=WARPS,
            )  # fmt: skip
        ctx.save_for_backward(joints, parents, descends, transforms)
        return transforms

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, d_transforms):
        joints, parents, descends, transforms = ctx.saved_tensors
        F, J, _ = joints.shape
        d_rotations = joints.new_empty(F, J, 3, 3)
        shares = joints.new_empty(F, J, 12)
        d_joints = torch.empty_like(joints) if ctx.needs_input_grad[1] else None
        with torch.cuda.device_of(joints):
            _chain_backward[(F,)](
                joints, parents, descends, transforms, d_transforms.contiguous(), shares, d_rotations,
                d_joints, J=J, JP=triton.next_power_of_2(J), JOINTS=d_joints is not None, num_warps=BACKWARD_WARPS,
            )  # fmt: skip
        return d_rotations, d_joints, None, None, None


def skinning_transforms(rotations: Tensor, joints: Tensor, parents: Tensor, descends: Tensor, depth: int) -> Tensor:
    """Transforms [F, J, 4, 4] from the rest pose to the pose; differentiable in rotations and joints.

    Args:
        rotations: [F, J, 3, 3], invertible.
        joints: [F, J, 3] in the rest pose, metres.
        parents: [J] int64, -1 for the root.
        descends: [J, J] int64, 1 where the row's joint is the column's or one of its descendants.
        depth: joints on the longest path from the root, both ends counted.
    """
    return _SkinningTransforms.apply(rotations, joints, parents, descends, depth)
