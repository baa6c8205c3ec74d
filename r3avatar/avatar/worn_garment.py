"""A garment as bones: its simulated particles carry the Gaussians that lie on it, as joints carry those of the body."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from r3avatar.avatar.nearest import NearestVertex
from r3avatar.body import BodyModel
from r3avatar.types import BodyPose

if TYPE_CHECKING:
    from r3avatar.cloth.motion import Wearer
    from r3avatar.cloth.tailor import Garment

_STATE = ("measures", "up", "betas", "expression", "frames", "places")
_AROUND = [(0, 0), (0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)]  # rows down, columns along


@dataclass
class Hold:
    """Which particles carry every Gaussian, and how much."""

    particles: Tensor  # [N, 9] int64
    shares: Tensor  # [N, 9], summing to 1


@dataclass
class OwnMaps:
    """Gaussians that follow no body: which, and what carries each of them in F frames."""

    worn: Tensor  # [N] 1 for them, else 0
    maps: Tensor  # [F, N, 3, 4] canonical to posed, before the pose's R and Th; of the others anything


class WornGarment(nn.Module):
    """The garment that the fit chose, its motion in the recording, and how it moves in new poses; or none.

    Canonical: the garment as it was cut, around the body at rest. Each particle has a rigid map from there to the world
    (`BodyPose.garment`): where the simulation has put it, turned as the threads through it are. A Gaussian blends the
    maps of the particle nearest to it and of those around that one, by their distance. Its recorded offsets are what
    the simulation has wrong.

    The state is all that is needed without the capture: measures, shape of the wearer, motion of its frames.
    """

    def __init__(self, body: BodyModel):
        super().__init__()
        self._body = (body,)  # not a submodule: the skinning's is
        for name in _STATE:
            dtype = torch.int64 if name == "frames" else torch.float32
            self.register_buffer(name, torch.zeros(0, dtype=dtype), persistent=True)
        self.garment: Garment | None = None

    @property
    def worn(self) -> bool:
        return self.garment is not None

    def put_on(self, garment: Garment, wearer: Wearer, frames: Iterable[int], places: np.ndarray) -> None:
        """Wear a garment whose particles were at `places` [F, P, 3] (the world y up) in the frames of those ids."""
        from r3avatar.cloth.tailor import KINDS

        cut = garment.cut
        rows, columns = garment.grid.rows, garment.grid.columns
        measures = [KINDS.index(cut.kind), cut.length, cut.flare, rows, columns]
        self.measures, self.up = torch.tensor(measures, dtype=torch.float64), torch.from_numpy(wearer.turn[1]).float()
        self.betas, self.expression = wearer.like.betas[0].clone(), wearer.like.expression[0].clone()
        self.frames = torch.tensor(list(frames))
        self.places = torch.from_numpy(places @ wearer.turn).float()
        self._cut_again()

    def _cut_again(self) -> None:
        """Everything that follows from the state."""
        from r3avatar.cloth.tailor import KINDS, Cut, tailor

        self._wearer: Wearer | None = None
        if not len(self.measures):
            self.garment = None
            return
        kind, length, flare, rows, columns = self.measures.tolist()
        wearer = self.wearer()
        self.garment = tailor(
            Cut(KINDS[int(kind)], length, flare), wearer.rest_vertices, wearer.rest_joints, wearer.weights, int(rows),
            int(columns),
        )  # fmt: skip
        grid, device = self.garment.grid, self.places.device
        at = [divmod(p, grid.columns) for p in range(len(grid.start))]  # row, column
        around = np.array([[grid.beside(*place, *step) for step in _AROUND] for place in at])
        rest = torch.from_numpy(grid.start).float()
        own = torch.arange(len(rest))[:, None]
        there = torch.from_numpy(around >= 0)
        around = torch.where(there, torch.from_numpy(around), own)
        spacing = (rest[around[:, 1:5]] - rest[:, None]).norm(dim=-1)[there[:, 1:5]].mean()
        values = {"rest": rest, "around": around, "there": there.float(), "spacing": spacing}
        values["rest_axes"] = _axes(rest, around)
        rows_of = torch.full((int(self.frames.max()) + 1,), len(self.frames))  # of ids between them: out of bounds
        rows_of[self.frames.cpu()] = torch.arange(len(self.frames))
        for name, value in {**values, "rows": rows_of}.items():
            self.register_buffer(name, value.to(device), persistent=False)
        self.register_buffer("recorded_maps", self.maps(self.places), persistent=False)
        self.nearest = NearestVertex(rest)

    def wearer(self) -> Wearer:
        """Who wears it."""
        from r3avatar.cloth.motion import Wearer

        if self._wearer is None or self._wearer.device != self._body[0].v_template.device:
            zero = torch.zeros(1, self._body[0].num_joints, 3)
            like = BodyPose(
                zero, self.betas[None].cpu(), self.expression[None].cpu(), torch.eye(3)[None], torch.zeros(1, 3)
            )  # fmt: skip
            self._wearer = Wearer(self._body[0], like, self.up.cpu())
        return self._wearer

    @property
    def normals(self) -> Tensor:
        """[P, 3] unit normals of the particles as cut, away from the body."""
        return self.rest_axes[..., 2]

    def recorded(self, frames: Tensor) -> Tensor:
        """The particles' maps [F, P, 3, 4] in frames (ids [F]) of the capture."""
        return self.recorded_maps[self.rows[frames]]

    def follow(self, poses: BodyPose, fps: float | None) -> Tensor:
        """The particles' maps [F, P, 3, 4] in a motion of F poses, `fps` a second; on the CPU, by simulation."""
        from r3avatar.cloth.motion import dress

        assert self.garment is not None
        places = dress(self.wearer(), self.garment, poses, range(len(poses)), fps) @ self.wearer().turn
        return self.maps(torch.from_numpy(places).float().to(self.places.device))

    def maps(self, places: Tensor) -> Tensor:
        """Rigid maps [F, P, 3, 4] from the garment as cut to particles [F, P, 3] in the world."""
        turn = _axes(places, self.around) @ self.rest_axes.mT
        return torch.cat([turn, (places - (turn @ self.rest[..., None])[..., 0])[..., None]], -1)

    def hold(self, positions: Tensor) -> Hold:
        """What carries canonical points [N, 3]; no gradient."""
        positions = positions.detach()
        nearest = self.nearest(positions)
        particles = self.around[nearest]
        far = (positions[:, None] - self.rest[particles]).square().sum(-1) / self.spacing.square()
        shares = torch.exp(far.amin(1, keepdim=True) / 2 - far / 2) * self.there[nearest]
        return Hold(particles, shares / shares.sum(1, keepdim=True))

    def carry(self, hold: Hold, worn: Tensor, pose: BodyPose) -> OwnMaps:
        """What the garment of `pose` does to the Gaussians that are `worn` [N]."""
        if pose.garment is None:
            raise ValueError(
                "the avatar wears a garment and the pose does not say how it hangs: give it `Avatar.dressed(pose, "
                "frames)` of recorded frames, or `Avatar.dress(pose, fps)` of a new motion"
            )
        back = pose.R.mT[:, None]
        maps = back @ torch.cat([pose.garment[..., :3], pose.garment[..., 3:] - pose.Th[:, None, :, None]], -1)
        if worn.device.type == "cpu":  # only theirs
            rows = worn.nonzero()[:, 0]
            found = _blended(maps, hold.particles[rows], hold.shares[rows])
            return OwnMaps(worn, maps.new_zeros(len(maps), len(worn), 3, 4).index_copy_(1, rows, found))
        return OwnMaps(worn, _blended(maps, hold.particles, hold.shares))

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing, unexpected, errors):
        for name in _STATE:
            stored = state_dict.get(prefix + name)
            if stored is None:
                missing.append(prefix + name)
            else:
                setattr(self, name, stored.detach().clone().to(getattr(self, name).device))
        if all(prefix + name in state_dict for name in _STATE):
            self._cut_again()


def _axes(places: Tensor, around: Tensor) -> Tensor:
    """Orthonormal axes [..., P, 3, 3] (columns: along, down, out) of particles [..., P, 3]."""
    beside = places[..., around[:, 1:5], :]  # along, down, back, up
    along, down = beside[..., 0, :] - beside[..., 2, :], beside[..., 1, :] - beside[..., 3, :]
    out = F.normalize(torch.linalg.cross(down, along, dim=-1), dim=-1)
    down = F.normalize(down - (down * out).sum(-1, keepdim=True) * out, dim=-1)
    return torch.stack([torch.linalg.cross(down, out, dim=-1), down, out], -1)


def _blended(maps: Tensor, particles: Tensor, shares: Tensor) -> Tensor:
    """Maps [F, P, 3, 4] of particles [N, K] mixed by shares [N, K]: [F, N, 3, 4]."""
    flat = maps.flatten(2)  # [F, P, 12]
    mixed = (flat[:, particles] * shares[..., None]).sum(2)
    return mixed.unflatten(-1, (3, 4))


def dressed(pose: BodyPose, maps: Tensor) -> BodyPose:
    """The pose with a garment's maps [F, P, 3, 4]."""
    return replace(pose, garment=maps.to(pose.theta.device))
