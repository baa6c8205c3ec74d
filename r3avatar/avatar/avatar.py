"""The avatar, in the method's three verbs: record, retrieve, reconstruct."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from r3avatar.avatar.canonical import CanonicalGaussians
from r3avatar.avatar.codebook import TemporalCodebook
from r3avatar.avatar.decoder import AttributeDecoder, Attributes
from r3avatar.avatar.pose_refinement import PoseRefinement
from r3avatar.avatar.skinning import Skinning
from r3avatar.retrieval.blending import blend, part_weights
from r3avatar.retrieval.retriever import Retrieved
from r3avatar.types import BodyPose, Gaussians


class Avatar(nn.Module):
    """A person as canonical Gaussians, a temporal codebook and a skinned body.

    Source: Zhan et al., R3-Avatar (arXiv 2503.12751).
    """

    def __init__(
        self,
        gaussians: CanonicalGaussians,
        codebook: TemporalCodebook,
        decoder: AttributeDecoder,
        skinning: Skinning,
        pose_refinement: PoseRefinement | None = None,
        blend_weights_published: bool = False,
    ):
        """blend_weights_published: mix the parts with weights looked up at the right arm's offsets (a published defect)
        instead of each part's own."""
        super().__init__()
        self.gaussians, self.codebook, self.decoder = gaussians, codebook, decoder
        self.skinning, self.pose_refinement = skinning, pose_refinement
        self.blend_weights_published = blend_weights_published

    @property
    def kind(self) -> str:
        """The body's layout: 'smpl' or 'smplx'."""
        return self.skinning.body.kind

    def forward(self, pose: BodyPose, times: Tensor) -> Gaussians:
        """The F frames of `pose` with the appearance recorded at `times` [F] (frames since the first recorded one)."""
        return self.reconstruct(self.record(times), pose)

    def animate(self, pose: BodyPose, retrieved: Retrieved) -> Gaussians:
        """The F frames of a pose never recorded, with the appearance of the retrieved times."""
        return self.reconstruct(self.retrieve(retrieved), pose)

    def record(self, times: Tensor) -> Attributes:
        """What the codebook has recorded for every Gaussian at `times` [F] (frames, fractions allowed)."""
        return self.decoder(self.codebook(self.gaussians.positions, times))

    def retrieve(self, retrieved: Retrieved) -> Attributes:
        """Attributes of the five body parts at their own times, mixed by the parts' skinning weights, [F, N, ...]."""
        times, current, previous, fades = self.distinct_times(retrieved)
        return self.blend_times(times, current, previous if fades else None)

    def distinct_times(self, retrieved: Retrieved) -> tuple[Tensor, Tensor, Tensor, bool]:
        """Every time that is needed, once: times [D], the rows [F, P] of the parts' own times in it and of the times
        that they jumped from, and whether any part jumps. On the avatar's device; decided where `retrieved` is.

        D is 1 if all are the same, else as many as there could be: a recorded CUDA graph then fits every picture.
        """
        jump = retrieved.jump
        fades = bool(jump.any())
        wanted = retrieved.times.flatten()
        if fades:
            wanted = torch.cat([wanted, torch.where(jump, retrieved.previous, retrieved.times).flatten()])
        times, rows = torch.unique(wanted, return_inverse=True)
        if len(times) > 1:
            times = torch.cat([times, times[-1:].expand(len(wanted) - len(times))])
        device = self.gaussians.positions.device
        rows = rows.to(device, non_blocking=True).unflatten(0, (-1, *retrieved.times.shape))
        return times.to(self.gaussians.positions), rows[0], rows[-1], fades

    def blend_times(self, times: Tensor, current: Tensor, previous: Tensor | None = None) -> Attributes:
        """Attributes [F, N, ...] of the five body parts at times[current], mixed by the parts' skinning weights.

        times [D] frames; current [F, P] rows of it; previous [F, P] likewise: the times that parts jumped from, equal
        to `current` for parts that did not jump; None: none did.
        """
        recorded = self.record(times)  # fields [D, N, c]
        now = recorded[current]  # fields [F, P, N, c]
        before = now if previous is None else recorded[previous]
        jump = torch.zeros_like(current, dtype=torch.bool) if previous is None else current != previous
        weights = self._part_weights(now, before, jump)
        names = ("offset", "opacity_logit", "scale", "rotation")
        mixed = blend([getattr(now, n) for n in names], [getattr(before, n) for n in names], jump, weights)
        return Attributes(*mixed)

    def reconstruct(self, attributes: Attributes, pose: BodyPose) -> Gaussians:
        """Skin the Gaussians with the given attributes to the F frames of `pose`."""
        canonical = self.gaussians.positions + attributes.offset  # [F, N, 3]
        corrections = None if self.pose_refinement is None else self.pose_refinement(pose.theta)
        frame = self.skinning.pose(pose, corrections)
        logits = self.skinning.logits(self.gaussians.positions)
        means, covariances = self.skinning.deform(canonical, frame, logits, attributes.scale, attributes.rotation)
        sh = self.gaussians.sh.expand(len(pose), -1, -1, -1)
        return Gaussians(means, covariances, attributes.opacity_logit[..., 0].sigmoid(), sh)

    def _part_weights(self, current: Attributes, before: Attributes, jump: Tensor) -> Tensor:
        """Every part's share of every Gaussian, [F, N, P], from skinning weights where the parts put it."""
        offset = torch.where(jump[..., None, None], (2 * current.offset + before.offset) / 3, current.offset)
        offset = offset[:, -1] if self.blend_weights_published else offset.mean(1)
        positions = self.gaussians.positions
        vertex = self.skinning.nearest(positions + offset)
        return part_weights(self.skinning.weights(vertex, self.skinning.logits(positions)), self.kind)
