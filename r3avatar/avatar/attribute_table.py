"""An avatar's attributes at all of its recorded times, to be averaged by one matrix product a picture."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import normalize

from r3avatar.avatar.decoder import Attributes
from r3avatar.cuda_graphs import tensors_of
from r3avatar.retrieval.blending import part_weights
from r3avatar.retrieval.retrieved import Mixture, RetrievalError

if TYPE_CHECKING:
    from r3avatar.avatar.avatar import Avatar, Constants

_WIDTHS = (3, 1, 3, 4, 3)  # offset, opacity logit, scale, rotation, and colour if it changes
_ROTATION = slice(7, 11)
_CHUNK_POINTS = 1 << 18  # times x Gaussians decoded at once
_FLOAT_BYTES = 1 << 29  # a larger table keeps its differences in half precision


@dataclass
class AttributeTable:
    """What N Gaussians look like at D times, one of which may be the general moment.

    Differences from one of the times are kept: they are small, so that 16 bits hold them about as well as 32 hold the
    attributes. Rotations are unit quaternions on that time's side of the sphere: q and -q are one rotation, whose mean
    would be none, and here no mean with positive weights is.
    """

    reference: Tensor  # [N, W] attributes at one of the times: W = 11, or 14 where colour changes (`_WIDTHS`)
    differences: Tensor  # [D, N * W] from it, float32 or float16
    parts: Tensor  # [N, 5] how much each Gaussian belongs to each part (`part_weights` at its mean recorded place)

    def mix(self, weights: Tensor) -> Attributes:
        """Attributes [F, N, ...] by weights [F, 5, D] of the times (`Mixture.shares`), for each part summing to 1."""
        rows = weights.to(self.differences).flatten(0, 1) @ self.differences
        mixed = rows.view(*weights.shape[:2], *self.reference.shape)
        mean = self.reference + torch.einsum("fpnc,np->fnc", mixed.to(self.reference), self.parts)
        return Attributes(*mean.split(_WIDTHS if mean.shape[-1] == sum(_WIDTHS) else _WIDTHS[:-1], -1))


@torch.no_grad()
def tabulate(avatar: Avatar, mixture: Mixture, constants: Constants | None = None) -> AttributeTable:
    """The table of an avatar at all times of a mixture; it decodes some times at once, on the avatar's device.

    Raises RetrievalError where the mixture counts on a general moment and the avatar has none.
    """
    positions, frames = avatar.gaussians.positions, mixture.frames
    recorded = len(frames)
    if mixture.general is not None:
        general = avatar.codebook.general_time
        if general is None:
            raise RetrievalError("retrieval.general needs an avatar trained with codebook.general=true; set it to 0")
        frames = torch.cat([frames, frames.new_tensor([general])])
    frames, N = frames.to(positions), len(positions)
    D = len(frames)
    reference = _rows(avatar, frames[D // 2 : D // 2 + 1])[0]
    dtype = positions.dtype if D * reference.numel() * 4 <= _FLOAT_BYTES else torch.float16
    differences = torch.empty(D, *reference.shape, dtype=dtype, device=positions.device)
    offsets = torch.zeros_like(positions)  # their sum
    done = 0
    for some in frames.split(max(1, _CHUNK_POINTS // N)):
        rows = _rows(avatar, some)
        rotation = rows[..., _ROTATION]
        turned = (rotation * reference[:, _ROTATION]).sum(-1, keepdim=True) < 0
        rows[..., _ROTATION] = torch.where(turned, -rotation, rotation)
        offsets += rows[: max(0, recorded - done), :, :3].sum(0)
        differences[done : done + len(some)] = rows - reference
        done += len(some)
    logits = avatar.skinning_logits(constants)
    vertex = avatar.skinning.vertex(positions, (positions + offsets / recorded)[None])
    parts = part_weights(avatar.skinning.weights(vertex, logits), avatar.kind)[0]
    return AttributeTable(reference, differences.view(D, -1), parts)


def _rows(avatar: Avatar, times: Tensor) -> Tensor:
    """[D, N, W] attributes at `times`, rotations of unit length."""
    a = avatar.record(times)
    return torch.cat(tensors_of(replace(a, rotation=normalize(a.rotation, dim=-1))), -1)


class KeptTables:
    """The tables of an avatar that no longer changes, each made when it is first asked for."""

    def __init__(self, avatar: Avatar):
        self.avatar = avatar
        self._kept: list[tuple[Tensor, bool, AttributeTable]] = []

    def __call__(self, mixture: Mixture, constants: Constants | None = None) -> tuple[int, AttributeTable]:
        """The number and the table of a mixture's times."""
        frames, general = mixture.frames, mixture.general is not None
        for number, (known, also, table) in enumerate(self._kept):
            same = known is frames or (known.shape == frames.shape and torch.equal(known, frames.to(known)))
            if same and also == general:
                return number, table
        self._kept.append((frames, general, tabulate(self.avatar, mixture, constants)))
        return len(self._kept) - 1, self._kept[-1][-1]
