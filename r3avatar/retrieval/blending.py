"""Blend what the decoder says at each part's time into one set of Gaussians."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import overload

import torch
from torch import Tensor

from r3avatar.retrieval.parts import BLENDING_JOINTS, JOINTS, PARTS, check_kind


def part_weights(lbs_weights: Tensor, kind: str) -> Tensor:
    """How much each Gaussian belongs to each part: its skinning weights summed over the part's joints.

    `lbs_weights` [..., N, J] of body `kind`, rows summing to 1; returns [..., N, 5], rows summing to 1.
    """
    check_kind(kind)
    if lbs_weights.shape[-1] != JOINTS[kind]:
        raise ValueError(f"skinning weights of {kind} must be [..., N, {JOINTS[kind]}], not {tuple(lbs_weights.shape)}")
    return lbs_weights @ _membership(kind, lbs_weights.device, lbs_weights.dtype)


@functools.lru_cache(maxsize=8)
def _membership(kind: str, device: torch.device, dtype: torch.dtype) -> Tensor:
    """[J, 5], 1 where a joint belongs to a part; kept, or every picture would wait for a copy to the GPU."""
    parts = part_of_joint(kind, torch.device("cpu"))
    return (parts[:, None] == torch.arange(len(PARTS))).to(device, dtype)


@functools.lru_cache(maxsize=8)
def part_of_joint(kind: str, device: torch.device) -> Tensor:
    """[J] int32: the part that each joint of body `kind` belongs to when parts are blended; kept likewise."""
    check_kind(kind)
    parts = torch.zeros(JOINTS[kind], dtype=torch.int32)
    for part, joints in enumerate(BLENDING_JOINTS[kind]):
        parts[list(joints)] = part
    return parts.to(device)


def fade(current: Tensor, previous: Tensor, jump: Tensor, share: Tensor | None = None) -> Tensor:
    """Outputs [F, 5, N, c] with the parts that jumped [F, 5] cross-faded: (1 - share) current + share previous.

    share: [F, 5] in [0, 1), read where `jump`; None = 1/3, as published.
    """
    if share is None:
        mixed = (2 * current + previous) / 3
    else:
        mixed = torch.lerp(current, previous, share.to(current)[:, :, None, None])
    return torch.where(jump[:, :, None, None], mixed, current)


def align_rotations(current: Tensor, previous: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Quaternions [F, 5, N, 4] of unit length, signs turned towards the current one of each Gaussian's main part.

    q and -q are one rotation, and their mean is none. Here every quaternion has a product >= 0 with one that counts for
    more than nothing, so that no mix of them is zero and every covariance made from it stays positive.

    weights: [F, N, 5] of `part_weights`; a Gaussian's main part has the largest.
    """
    current, previous = (torch.nn.functional.normalize(q, dim=-1) for q in (current, previous))
    main = weights.argmax(-1)[:, None, :, None].expand(-1, 1, -1, 4)
    reference = current.gather(1, main)  # [F, 1, N, 4]

    def turned(q: Tensor) -> Tensor:
        return torch.where((q * reference).sum(-1, keepdim=True) < 0, -q, q)

    return turned(current), turned(previous)


@overload
def blend(
    current: Sequence[Tensor],
    previous: Sequence[Tensor] | None,
    jump: Tensor,
    weights: Tensor,
    share: Tensor | None = None,
    align: int | None = None,
) -> tuple[Tensor, ...]: ...
@overload
def blend(
    current: Mapping[str, Tensor],
    previous: Mapping[str, Tensor] | None,
    jump: Tensor,
    weights: Tensor,
    share: Tensor | None = None,
    align: str | None = None,
) -> dict[str, Tensor]: ...
def blend(current, previous, jump, weights, share=None, align=None):
    """Mix the parts' decoder outputs for each Gaussian; linear in every quantity.

    A part that jumped is cross-faded first (`fade`). Logits, scales and raw quaternions are averaged as they are.

    Args:
        current: sequence or mapping of [F, 5, N, c], outputs at each part's time.
        previous: likewise at the times the parts jumped from; read only where `jump`. None = nothing jumped.
        jump: [F, 5] bool.
        weights: [F, N, 5] of `part_weights`.
        share: [F, 5], how much of `previous` there is in the cross-fade; None = 1/3.
        align: the entry (its number or name) that holds quaternions, mixed after `align_rotations`; None = as they are.

    Returns:
        A tuple or dict, as `current` was, of [F, N, c].

    Source: R3-Avatar (arXiv 2503.12751), body-part-wise blending.
    """
    if isinstance(current, Mapping):
        names = list(current)
        before = None if previous is None else tuple(previous[name] for name in names)
        at = None if align is None else names.index(align)
        return dict(zip(names, blend(tuple(current.values()), before, jump, weights, share, at)))
    if previous is None:
        previous = current
    mixed = []
    for i, (now, then) in enumerate(zip(current, previous)):
        if now.ndim != 4 or then.shape != now.shape or now.shape[1] != len(PARTS):
            shapes = f"{tuple(now.shape)} and {tuple(then.shape)}"
            raise ValueError(f"decoder outputs must be [F, 5, N, c], current and previous alike, not {shapes}")
        if i == align:
            now, then = align_rotations(now, then, weights)
        mixed.append(torch.einsum("fpnc,fnp->fnc", fade(now, then, jump, share), weights))
    return tuple(mixed)
