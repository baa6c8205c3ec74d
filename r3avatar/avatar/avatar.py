"""The avatar, in the method's three verbs: record, retrieve, reconstruct."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from r3avatar.avatar.canonical import CanonicalGaussians
from r3avatar.avatar.codebook import TemporalCodebook
from r3avatar.avatar.decoder import AttributeDecoder, Attributes
from r3avatar.avatar.pose_refinement import PoseRefinement
from r3avatar.avatar.skinning import Skinning
from r3avatar.rasterizer.projection import covariance_from_scale_rotation
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
        times = retrieved.times.to(self.gaussians.positions)  # [F, P]
        previous = retrieved.previous.to(times)
        jump = retrieved.jump.to(times.device)
        current = self._record_parts(times)  # fields [F, P, N, c]
        before = self._record_parts(torch.where(jump, previous, times)) if bool(jump.any()) else current
        weights = self._part_weights(current, before, jump)
        names = ("offset", "opacity_logit", "scale", "rotation")
        mixed = blend([getattr(current, n) for n in names], [getattr(before, n) for n in names], jump, weights)
        return Attributes(*mixed)

    def reconstruct(self, attributes: Attributes, pose: BodyPose) -> Gaussians:
        """Skin the Gaussians with the given attributes to the F frames of `pose`."""
        canonical = self.gaussians.positions + attributes.offset  # [F, N, 3]
        corrections = None if self.pose_refinement is None else self.pose_refinement(pose.theta)
        frame = self.skinning.pose(pose, corrections)
        means, linear = self.skinning(canonical, frame, self.skinning.logits(self.gaussians.positions))
        covariances = covariance_from_scale_rotation(attributes.scale, attributes.rotation, linear)
        sh = self.gaussians.sh.expand(len(pose), -1, -1, -1)
        return Gaussians(means, covariances, attributes.opacity_logit[..., 0].sigmoid(), sh)

    def _record_parts(self, times: Tensor) -> Attributes:
        """Attributes at times [F, P], with the axes [F, P, N, c]."""
        distinct, where = torch.unique(times, return_inverse=True)
        return self.record(distinct)[where]

    def _part_weights(self, current: Attributes, before: Attributes, jump: Tensor) -> Tensor:
        """Every part's share of every Gaussian, [F, N, P], from skinning weights where the parts put it."""
        offset = torch.where(jump[..., None, None], (2 * current.offset + before.offset) / 3, current.offset)
        offset = offset[:, -1] if self.blend_weights_published else offset.mean(1)
        positions = self.gaussians.positions
        vertex = self.skinning.nearest(positions + offset)
        return part_weights(self.skinning.weights(vertex, self.skinning.logits(positions)), self.kind)
