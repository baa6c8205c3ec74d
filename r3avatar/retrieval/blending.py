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


def fade(current: Tensor, previous: Tensor, jump: Tensor) -> Tensor:
    """Outputs [F, 5, N, c] with the parts that jumped [F, 5] cross-faded for one frame: (2 current + previous) / 3."""
    return torch.where(jump[:, :, None, None], (2 * current + previous) / 3, current)


@overload
def blend(
    current: Sequence[Tensor], previous: Sequence[Tensor] | None, jump: Tensor, weights: Tensor
) -> tuple[Tensor, ...]: ...
@overload
def blend(
    current: Mapping[str, Tensor], previous: Mapping[str, Tensor] | None, jump: Tensor, weights: Tensor
) -> dict[str, Tensor]: ...
def blend(current, previous, jump, weights):
    """Mix the parts' decoder outputs for each Gaussian; linear in every quantity.

    A part that jumped is cross-faded first (`fade`). Logits, scales and raw quaternions are averaged as they are.

    Args:
        current: sequence or mapping of [F, 5, N, c], outputs at each part's time.
        previous: likewise at the times the parts jumped from; read only where `jump`. None = nothing jumped.
        jump: [F, 5] bool.
        weights: [F, N, 5] of `part_weights`.

    Returns:
        A tuple or dict, as `current` was, of [F, N, c].

    Source: R3-Avatar (arXiv 2503.12751), body-part-wise blending.
    """
    if isinstance(current, Mapping):
        names = list(current)
        before = None if previous is None else tuple(previous[name] for name in names)
        return dict(zip(names, blend(tuple(current.values()), before, jump, weights)))
    if previous is None:
        previous = current
    mixed = []
    for now, then in zip(current, previous):
        if now.ndim != 4 or then.shape != now.shape or now.shape[1] != len(PARTS):
            shapes = f"{tuple(now.shape)} and {tuple(then.shape)}"
            raise ValueError(f"decoder outputs must be [F, 5, N, c], current and previous alike, not {shapes}")
        mixed.append(torch.einsum("fpnc,fnp->fnc", fade(now, then, jump), weights))
    return tuple(mixed)
