"""From the canonical big pose to the observed pose: linear blend skinning of Gaussians, with learned weight offsets."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from r3avatar.avatar.decoder import check_matmul
from r3avatar.avatar.nearest import NearestVertex
from r3avatar.avatar.worn_garment import OwnMaps
from r3avatar.body import BodyModel
from r3avatar.rasterizer.projection import covariance_from_scale_rotation
from r3avatar.triton_support import use_triton
from r3avatar.types import BodyPose


def positional_encoding(points: Tensor, frequencies: int = 10) -> Tensor:
    """[p, sin p, cos p, sin 2p, cos 2p, ...] frequencies 2^k, no factor pi: [..., 3] to [..., 3 + 6 K]."""
    angles = (
        points[..., None, :] * (2.0 ** torch.arange(frequencies, device=points.device, dtype=points.dtype))[:, None]
    )
    waves = torch.stack([angles.sin(), angles.cos()], -2)  # [..., frequencies, 2, 3]
    return torch.cat([points, waves.flatten(-3)], -1)


FOLLOW = ("moved", "canonical")


class WeightOffsets(nn.Module):
    """Logits added to the skinning weights' logarithms: MLP 63-128-128-128-(63+128)128-J of the canonical position.

    No gradient flows to the position. Source: R3-Avatar, "skinning"; the skip follows NeRF.
    """

    def __init__(
        self,
        joints: int,
        width: int = 128,
        frequencies: int = 10,
        floor: float = 1e-9,
        follow: str = "moved",
        backend: str = "auto",
        matmul: str = "tf32",
    ):
        """
        floor: added to the body's weights before their logarithm; the larger, the easier a Gaussian takes to joints
            that the nearest vertex does not hang on. Published: 1e-9.
        follow: where the nearest vertex is looked for, which lends weights and shape offsets: 'moved' (where the offset
            puts the Gaussian at that time, as published) or 'canonical' (where it stands, the same at all times).
        backend, matmul: as for `AttributeDecoder`.
        """
        super().__init__()
        if not floor > 0:
            raise ValueError(f"floor = {floor} of the skinning weights must be positive")
        if follow not in FOLLOW:
            raise ValueError(f"follow '{follow}' is none of {', '.join(FOLLOW)}")
        self.floor, self.follow = floor, follow
        self.frequencies, self.backend, self.matmul = frequencies, backend, check_matmul(matmul)
        inputs = 3 + 6 * frequencies
        self.hidden1, self.hidden2 = nn.Linear(inputs, width), nn.Linear(width, width)
        self.hidden3, self.hidden4 = nn.Linear(width, width), nn.Linear(inputs + width, width)
        self.out = nn.Linear(width, joints)

    def forward(self, points: Tensor) -> Tensor:
        """points [N, 3] metres, canonical, to logits [N, J]."""
        if self.matmul != "ieee" and use_triton(self.backend, points.device):
            from r3avatar.avatar.triton_weight_offsets import fits, offset_logits

            if fits(points, *self.hidden1.weight.shape, self.out.out_features):
                layers = [self.hidden1, self.hidden2, self.hidden3, self.hidden4, self.out]
                return offset_logits(points, layers, self.matmul)
        encoded = positional_encoding(points.detach(), self.frequencies)
        h = F.relu(self.hidden3(F.relu(self.hidden2(F.relu(self.hidden1(encoded))))))
        return self.out(F.relu(self.hidden4(torch.cat([encoded, h], -1))))


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """Products of many small matrices [..., 3, 3] x [..., 3, K]; far quicker than batched BLAS at this size."""
    return (a.unsqueeze(-1) * b.unsqueeze(-3)).sum(-2)


def inverse(m: Tensor) -> Tensor:
    """Inverses of many 3 x 3 matrices [..., 3, 3] by cofactors."""
    a, b, c = m.unbind(-2)  # rows
    columns = torch.stack([torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)], -1)
    return columns / (a * columns[..., 0]).sum(-1)[..., None, None]


@dataclass
class PosedFrame:
    """What a frame's pose does to every Gaussian of the body, before the Gaussians' own weights are known."""

    transforms: Tensor  # [F, J, 4, 4] rest to posed, of the subject's own joints
    vertex_offsets: Tensor  # [F, V, 3] metres: shape, expression and pose offsets, less the big pose's
    R: Tensor  # [F, 3, 3]
    Th: Tensor  # [F, 3]


class Skinning(nn.Module):
    """Big pose -> rest -> subject -> posed -> world, for points and for the linear map that carries covariances.

    Source: R3-Avatar "reconstruct"; the inverse-LBS canonicalisation follows HumanNeRF-style big poses.
    """

    def __init__(self, body: BodyModel, weight_offsets: nn.Module | None = None, backend: str = "auto"):
        """backend: 'auto' (Triton on CUDA where it is installed, numba on the CPU), 'torch' or 'triton'; see
        `triton_support`."""
        super().__init__()
        self.body, self.weight_offsets, self.backend = body, weight_offsets, backend
        with torch.no_grad():
            big = body.rotations(body.big_pose()[None])
            zero = body.v_template.new_zeros(1, body.shapedirs.shape[-1])
            none = body.v_template.new_zeros(1, body.expressiondirs.shape[-1])
            transforms = body.skinning_transforms(big, body.joints(zero, none))[0]
            offsets = body.pose_offsets(big)
            offsets = torch.zeros_like(body.v_template) if offsets is None else offsets[0]
            blended = torch.einsum("vj,jab->vab", body.weights, transforms)
            vertices = torch.einsum("vab,vb->va", blended[:, :3, :3], body.v_template + offsets) + blended[:, :3, 3]
        self.register_buffer("big_transforms", transforms, persistent=False)  # [J, 4, 4] rest to big pose
        self.register_buffer("big_offsets", offsets, persistent=False)  # [V, 3] pose offsets in the big pose
        self.register_buffer("big_vertices", vertices, persistent=False)  # [V, 3]
        floor = 1e-9 if weight_offsets is None else weight_offsets.floor
        self.follow = "moved" if weight_offsets is None else weight_offsets.follow
        self.register_buffer("log_weights", (body.weights + floor).log(), persistent=False)  # [V, J]
        self.nearest = NearestVertex(vertices)

    def vertex(self, points: Tensor, moved: Tensor) -> Tensor:
        """The body vertex [F, N] that Gaussians at `points` [N, 3], moved to [F, N, 3], follow; see `follow`."""
        if self.follow == "canonical":
            return self.nearest(points).expand(moved.shape[:-1]).contiguous()
        return self.nearest(moved)

    def pose(self, pose: BodyPose, corrections: Tensor | None = None) -> PosedFrame:
        """The F frames of `pose`, with refinement matrices `corrections` [F, J-1, 3, 3] on the right of each joint."""
        body = self.body
        rotations = body.rotations(pose.theta, self.backend)
        if corrections is not None:
            rotations = torch.cat([rotations[:, :1], rotations[:, 1:] @ corrections], 1)
        joints = body.joints(pose.betas, pose.expression)
        offsets = body.shape_offsets(pose.betas, pose.expression) - self.big_offsets
        bends = body.pose_offsets(rotations)
        if bends is not None:
            offsets = offsets + bends
        transforms = body.skinning_transforms(rotations, joints, self.backend)
        return PosedFrame(transforms, offsets, pose.R, pose.Th)

    def logits(self, points: Tensor) -> Tensor | None:
        """Weight offsets [N, J] at the plain canonical positions [N, 3]; None where there is no network."""
        return None if self.weight_offsets is None else self.weight_offsets(points)

    def weights(self, vertex: Tensor, logits: Tensor | None) -> Tensor:
        """Skinning weights [..., N, J] at the nearest vertices [..., N] with logits [N, J]."""
        if logits is None:
            return self.body.weights[vertex]
        return torch.softmax(self.log_weights[vertex] + logits, -1)

    def forward(
        self,
        points: Tensor,
        frame: PosedFrame,
        logits: Tensor | None,
        vertex: Tensor | None = None,
        own: OwnMaps | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Points [F, N, 3] of the big pose to the world [F, N, 3] and their linear maps [F, N, 3, 3].

        points: canonical positions plus the decoder's offsets, metres.
        logits: [N, J] from `logits`; vertex: [F, N] from `vertex`, None = the nearest of `points`; own: of those that
        do not follow the body.
        """
        vertex = self.nearest(points) if vertex is None else vertex
        offsets, to_big, to_posed = self._blended(vertex, logits, frame, own)
        from_big = inverse(to_big[..., :3])
        rest = multiply(from_big, (points - to_big[..., 3])[..., None])[..., 0] + offsets
        posed = multiply(to_posed[..., :3], rest[..., None])[..., 0] + to_posed[..., 3]
        linear = multiply(to_posed[..., :3], from_big)
        R = frame.R[:, None]
        return multiply(R, posed[..., None])[..., 0] + frame.Th[:, None], multiply(R, linear)

    def _blended(
        self, vertex: Tensor, logits: Tensor | None, frame: PosedFrame, own: OwnMaps | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Offsets [F, N, 3] of the vertices [F, N], metres, in the rest pose, and the maps [F, N, 3, 4] from there to
        the big pose and to the subject's, blended by the weights there; own: maps of some instead."""
        weights = self.weights(vertex, logits)
        to_big = weights @ self.big_transforms[:, :3].flatten(1)
        to_posed = weights @ frame.transforms[:, :, :3].flatten(2)
        offsets = frame.vertex_offsets.gather(1, vertex[..., None].expand(-1, -1, 3))
        to_big, to_posed = to_big.unflatten(-1, (3, 4)), to_posed.unflatten(-1, (3, 4))
        if own is not None:
            follows = own.worn == 0
            offsets = torch.where(follows[:, None], offsets, 0)
            to_big = torch.where(follows[:, None, None], to_big, torch.eye(3, 4).to(to_big))
            to_posed = torch.where(follows[:, None, None], to_posed, own.maps)
        return offsets, to_big, to_posed

    def unpose(self, points: Tensor, frame: PosedFrame, vertex: Tensor, logits: Tensor | None = None) -> Tensor:
        """World points [F, M, 3] to the big pose: `forward` undone, with the weights at `vertex` [F, M]."""
        offsets, to_big, to_posed = self._blended(vertex, logits, frame)
        posed = multiply(frame.R.mT[:, None], (points - frame.Th[:, None])[..., None])
        rest = multiply(inverse(to_posed[..., :3]), posed - to_posed[..., 3:])[..., 0] - offsets
        return multiply(to_big[..., :3], rest[..., None])[..., 0] + to_big[..., 3]

    def deform(
        self,
        points: Tensor,
        frame: PosedFrame,
        logits: Tensor | None,
        scale: Tensor,
        rotation: Tensor,
        vertex: Tensor | None = None,
        normals: Tensor | None = None,
        own: OwnMaps | None = None,
    ) -> tuple[Tensor, ...]:
        """Gaussians of the big pose to the world: means [F, N, 3] and covariances [F, N, 6] (xx, xy, xz, yy, yz, zz);
        with normals also these as they lie in the world [F, N, 3], not of unit length.

        points, logits, vertex, own: as for `forward`.
        scale: [F, N, 3] standard deviations, metres; rotation: [F, N, 4] quaternions (w, x, y, z) of any length.
        normals: [N, 3] of the big pose; their gradient goes no further than to themselves.
        """
        vertex = self.nearest(points) if vertex is None else vertex
        if use_triton(self.backend, points.device):
            from r3avatar.avatar.triton_skinning import skin

            weights = self.body.weights if logits is None else self.log_weights
            return skin(
                points, vertex, logits, weights, self.big_transforms,
                frame.transforms, frame.vertex_offsets, frame.R, frame.Th, scale, rotation, normals,
                *(() if own is None else (own.worn, own.maps)),
            )  # fmt: skip
        if self.backend == "auto" and points.device.type == "cpu":
            from r3avatar.avatar.numba_skinning import place

            blended = self._blended(vertex, logits, frame, own)
            return place(points, *blended, frame.R, frame.Th, scale, rotation, normals)
        means, linear = self(points, frame, logits, vertex, own)
        covariances = covariance_from_scale_rotation(scale, rotation, linear)
        if normals is None:
            return means, covariances
        return means, covariances, multiply(linear.detach(), normals[..., None])[..., 0]
