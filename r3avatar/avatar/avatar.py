"""The avatar, in the method's three verbs: record, retrieve, reconstruct."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from r3avatar.avatar.attribute_table import tabulate
from r3avatar.avatar.canonical import CanonicalGaussians
from r3avatar.avatar.cloth_bone import bone_logits
from r3avatar.avatar.codebook import TemporalCodebook
from r3avatar.avatar.colour_residual import ColourResidual, add_colour
from r3avatar.avatar.decoder import AttributeDecoder, Attributes
from r3avatar.avatar.pose_refinement import PoseRefinement
from r3avatar.avatar.shading import Shading
from r3avatar.avatar.skinning import Skinning
from r3avatar.avatar.worn_garment import Hold, OwnMaps, WornGarment, dressed
from r3avatar.cuda_graphs import tensors_of
from r3avatar.retrieval.blending import blend, fade, part_of_joint, part_weights
from r3avatar.retrieval.retrieved import Mixture, Retrieved
from r3avatar.triton_support import use_triton
from r3avatar.types import BodyPose, Gaussians


@dataclass
class Constants:
    """What the pictures of an avatar that no longer changes have in common."""

    logits: Tensor | None  # [N, J] added to the logarithms of the skinning weights; None without such a network
    sh: Tensor  # [N, K, 3] spherical harmonics of the active degree
    hold: Hold | None = None  # what of the garment carries them; None without one


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
        colour_residual: ColourResidual | None = None,
        shading: Shading | None = None,
        garment: WornGarment | None = None,
    ):
        """blend_weights_published: mix the parts with weights looked up at the right arm's offsets (a published defect)
        instead of each part's own. colour_residual: lets colours change with time; None: they are static.
        shading: the light on Gaussians that have normals; None: colours are the same however they are turned.
        garment: what carries the Gaussians of `gaussians.worn`; None: an avatar that can wear none."""
        super().__init__()
        self.gaussians, self.codebook, self.decoder = gaussians, codebook, decoder
        self.skinning, self.pose_refinement = skinning, pose_refinement
        self.blend_weights_published, self.colour_residual = blend_weights_published, colour_residual
        self.shading, self.garment = shading, garment

    @property
    def kind(self) -> str:
        """The body's layout: 'smpl' or 'smplx'."""
        return self.skinning.body.kind

    def forward(self, pose: BodyPose, times: Tensor) -> Gaussians:
        """The F frames of `pose` with the appearance recorded at `times` [F] (frames since the first recorded one)."""
        return self.reconstruct(self.record(times), pose)

    def animate(self, pose: BodyPose, retrieved: Retrieved | Mixture) -> Gaussians:
        """The F frames of a pose never recorded, with the appearance of the retrieved times."""
        return self.reconstruct(self.retrieve(retrieved), pose)

    def constants(self) -> Constants:
        """What no picture changes; for whoever makes many of an avatar that is trained."""
        return Constants(self.skinning_logits(), self.gaussians.sh, self._hold())

    def dressed(self, pose: BodyPose, frames: Tensor) -> BodyPose:
        """The pose of recorded frames (ids [F]) with the garment as it hung then; itself if none is worn."""
        if self.garment is None or not self.garment.worn or pose.garment is not None:
            return pose
        return dressed(pose, self.garment.recorded(frames.to(self.garment.rows.device)))

    def dress(self, pose: BodyPose, fps: float | None) -> BodyPose:
        """A new motion's poses with the garment as it follows them, `fps` a second; itself if none is worn."""
        if self.garment is None or not self.garment.worn or pose.garment is not None:
            return pose
        return dressed(pose, self.garment.follow(pose, fps))

    def carried(self, pose: BodyPose, constants: Constants | None = None) -> OwnMaps | None:
        """What the garment of a pose does to the Gaussians that lie on it; None if none is worn."""
        hold = self._hold() if constants is None else constants.hold
        if hold is None:
            return None
        assert self.garment is not None and self.gaussians.worn is not None
        return self.garment.carry(hold, self.gaussians.worn, pose)

    def _hold(self) -> Hold | None:
        if self.garment is None or not self.garment.worn:
            return None
        return self.garment.hold(self.gaussians.positions)

    def skinning_logits(self, constants: Constants | None = None) -> Tensor | None:
        """What is added to the logarithms of the skinning weights, [N, J]: the network's, and the pelvis' for cloth;
        those of `constants` where they are known."""
        if constants is not None:
            return constants.logits
        logits, cloth = self.skinning.logits(self.gaussians.positions), self.gaussians.cloth
        if cloth is None:
            return logits
        hung = bone_logits(cloth, self.skinning.body.num_joints)
        return hung if logits is None else logits + hung

    def record(self, times: Tensor) -> Attributes:
        """What the codebook has recorded for every Gaussian at `times` [F] (frames, fractions allowed)."""
        features = self.codebook(self.gaussians.positions, times)
        attributes = self.gaussians.add_residual(self.decoder(features))
        if self.colour_residual is not None:
            attributes.colour = self.colour_residual(features)
        return attributes

    def retrieve(self, retrieved: Retrieved | Mixture) -> Attributes:
        """Attributes of the five body parts at their own times, mixed by the parts' skinning weights, [F, N, ...].

        Of a `Mixture` all its times are decoded in every call; `attribute_table.KeptTables` keeps them.
        """
        device = self.gaussians.positions.device
        if isinstance(retrieved, Mixture):
            return tabulate(self, retrieved).mix(retrieved.shares.to(device))
        return self.blend_times(*(x.to(device) for x in self.distinct_times(retrieved)), align=retrieved.align)

    def distinct_times(self, retrieved: Retrieved) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Every time that is needed, once: times [D]; the rows [F, P] of the parts' own times; and of the times that
        parts jumped from, their own where they did not; and how much these count, [F, P]. On the host: where
        `retrieved` is elsewhere this waits.

        D is a multiple of F, the last time repeated: at most 2 P kinds of pictures, each a recorded CUDA graph.
        """
        rows: dict[float, int] = {}
        now, before = [], []
        for time, last in zip(retrieved.times.flatten().tolist(), retrieved.previous.flatten().tolist()):
            now.append(rows.setdefault(time, len(rows)))
            before.append(now[-1] if math.isnan(last) else rows.setdefault(last, len(rows)))
        times = list(rows)
        times += times[-1:] * (-len(times) % max(1, len(retrieved)))
        current, previous = torch.tensor([now, before], dtype=torch.int64).reshape(2, *retrieved.times.shape)
        dtype = self.gaussians.positions.dtype
        return torch.tensor(times, dtype=dtype), current, previous, retrieved.fade.to("cpu", dtype)

    def blend_times(
        self,
        times: Tensor,
        current: Tensor,
        previous: Tensor,
        share: Tensor,
        constants: Constants | None = None,
        align: bool = False,
    ) -> Attributes:
        """Attributes [F, N, ...] of the five body parts at times[current], mixed by the parts' skinning weights.

        times [D] frames; current [F, P] rows of it; previous [F, P] likewise: the times that parts jumped from, equal
        to `current` for parts that did not jump; share [F, P] in [0, 1): how much those count (`Retrieved.fade`).
        align: mix rotations as unit quaternions of aligned signs (`blending.align_rotations`).
        """
        recorded = self.record(times)  # fields [D, N, c]
        if len(times) == 1:  # the same for all parts: their shares add up to 1
            return recorded[current[:, 0]]
        fields = tuple(tensors_of(recorded))  # offset, opacity logit, scale, rotation, and colour if it changes
        logits = self.skinning_logits(constants)
        if use_triton(self.skinning.backend, times.device) and not torch.is_grad_enabled():
            return Attributes(*self._blend_on_gpu(fields, current, previous, share, logits, align))
        now = tuple(x[current] for x in fields)  # [F, P, N, c]
        before = tuple(x[previous] for x in fields)
        jump = current != previous
        weights = self._part_weights(fade(now[0], before[0], jump, share), logits)
        return Attributes(*blend(now, before, jump, weights, share, align=3 if align else None))

    def reconstruct(
        self,
        attributes: Attributes,
        pose: BodyPose,
        constants: Constants | None = None,
        vertex: Tensor | None = None,
        carried: OwnMaps | None = None,
    ) -> Gaussians:
        """Skin the Gaussians with the given attributes to the F frames of `pose`.

        vertex: [F, N] the body's vertices that they follow; None: as `Skinning.vertex` finds them.
        carried: what the garment does to those on it; None: as `carried` finds it.
        """
        canonical = self.gaussians.positions + attributes.offset  # [F, N, 3]
        corrections = None if self.pose_refinement is None else self.pose_refinement(pose.theta)
        frame = self.skinning.pose(pose, corrections)
        logits = self.skinning_logits(constants)
        if vertex is None:
            vertex = self.skinning.vertex(self.gaussians.positions, canonical)
        normals = None if self.shading is None else self.gaussians.normals
        if carried is None:
            carried = self.carried(pose, constants)
        means, covariances, *turned = self.skinning.deform(
            canonical, frame, logits, attributes.scale, attributes.rotation, vertex, normals, carried
        )
        sh = self.gaussians.sh if constants is None else constants.sh
        if self.shading is not None:
            sh = self.shading(sh, attributes.colour, *turned)
        elif attributes.colour is not None:
            sh = add_colour(sh, attributes.colour)
        else:
            sh = sh.expand(len(pose), -1, -1, -1)
        opacities = attributes.opacity_logit.squeeze(-1).sigmoid()
        if self.gaussians.alive is not None:
            opacities = opacities * self.gaussians.alive
        return Gaussians(means, covariances, opacities, sh)

    def _part_weights(self, offset: Tensor, logits: Tensor | None) -> Tensor:
        """Every part's share of every Gaussian, [F, N, P], by skinning weights where offsets [F, P, N, 3] put it."""
        offset = offset[:, -1] if self.blend_weights_published else offset.mean(1)
        vertex = self.skinning.vertex(self.gaussians.positions, self.gaussians.positions + offset)
        return part_weights(self.skinning.weights(vertex, logits), self.kind)

    def _blend_on_gpu(
        self, fields: tuple, current: Tensor, previous: Tensor, share: Tensor, logits: Tensor | None, align: bool
    ) -> tuple[Tensor, ...]:
        from r3avatar.retrieval.triton_blending import blend_parts, weight_query_points

        positions, skinning = self.gaussians.positions, self.skinning
        points = weight_query_points(positions, fields[0], current, previous, share, self.blend_weights_published)
        weights = skinning.body.weights if logits is None else skinning.log_weights
        parts = part_of_joint(self.kind, positions.device)
        vertex = skinning.vertex(positions, points)
        mixed = blend_parts(fields[:4], current, previous, share, vertex, weights, logits, parts, align)
        if len(fields) == 4:
            return mixed
        colour = fields[4]  # which the kernel does not know
        shares = part_weights(skinning.weights(vertex, logits), self.kind)
        return *mixed, *blend((colour[current],), (colour[previous],), current != previous, shares, share)
