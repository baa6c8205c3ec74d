"""Skinning of everything that moves with the body: the body itself, its close clothes, shoes and hair.

Linear blend skinning in double precision with sums in a fixed order, so that its bits do not depend on the machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from r3avatar.captures.synthesis import arithmetic as am

Array = NDArray[np.float64]


@dataclass
class Skin:
    """Vertices at rest with their skinning weights, sparse: `bones` and `shares` are [V, K], shares sum to 1."""

    rest: Array  # [V, 3] metres
    bones: NDArray[np.int32]
    shares: Array

    @classmethod
    def of_weights(cls, rest: Array, weights: Array) -> Skin:
        """From dense weights [V, J]; each vertex keeps all of its non-zero weights."""
        count = int((weights > 0.0).sum(1).max())
        bones = np.argsort(-weights, axis=1, kind="stable")[:, :count].astype(np.int32)
        shares = np.take_along_axis(weights, bones.astype(np.int64), 1)
        return cls(rest, bones, shares)

    def __getitem__(self, index) -> Skin:
        return Skin(self.rest[index], self.bones[index], self.shares[index])

    def at(self, transforms: Array, offsets: Array | None = None) -> Array:
        """Vertices [V, 3] under the joints' transforms [J, 3, 4]; `offsets` [V, 3] are added at rest."""
        out = np.empty_like(self.rest)
        _skin(self.rest if offsets is None else self.rest + offsets, self.bones, self.shares, transforms, out)
        return out

    @staticmethod
    def joined(skins: list[Skin]) -> Skin:
        """One skin with the vertices of all, in order."""
        K = max(s.bones.shape[1] for s in skins)
        pad = [((0, 0), (0, K - s.bones.shape[1])) for s in skins]
        return Skin(
            np.concatenate([s.rest for s in skins]),
            np.concatenate([np.pad(s.bones, p) for s, p in zip(skins, pad)]),
            np.concatenate([np.pad(s.shares, p) for s, p in zip(skins, pad)]),
        )


def joint_transforms(rotations: Array, joints: Array, parents: NDArray[np.int64], pelvis: Array) -> Array:
    """World transforms of skinned points, [..., J, 3, 4], relative to the rest pose.

    rotations [..., J, 4] local; joints [..., J, 3] at rest; pelvis [..., 3] world position of joint 0.
    """
    joints = np.broadcast_to(joints, (*rotations.shape[:-1], 3))
    turns, places = [rotations[..., 0, :]], [pelvis]
    for j in range(1, rotations.shape[-2]):
        parent = parents[j]
        turns.append(am.quaternion_product(turns[parent], rotations[..., j, :]))
        bone = joints[..., j, :] - joints[..., parent, :]
        places.append(places[parent] + am.turned(turns[parent], bone))
    turn, place = np.stack(turns, -2), np.stack(places, -2)
    shift = place - am.turned(turn, joints)
    return np.concatenate([am.matrix(turn), shift[..., None]], -1)


def vertex_normals(vertices: Array, triangles: NDArray[np.int32]) -> Array:
    """Unit normals [V, 3], area-weighted; outward for triangles that wind counter-clockwise seen from outside."""
    normals = np.zeros_like(vertices)
    _add_normals(vertices, triangles, normals)
    length = np.sqrt(am.dot(normals, normals))[:, None]
    return normals / np.maximum(length, 1e-20)


def weighted_sum(weights: Array, values: Array) -> Array:
    """weights [N, M] times values [M, K], added in order: [N, K]."""
    out = np.zeros((weights.shape[0], values.shape[1]))
    _weighted_sum(weights, values, out)
    return out


@numba.njit(cache=True, nogil=True)
def _skin(rest, bones, shares, transforms, out):
    blend = np.empty((3, 4))
    for v in range(rest.shape[0]):
        blend[:] = 0.0
        for k in range(bones.shape[1]):
            share = shares[v, k]
            if share != 0.0:
                for r in range(3):
                    for c in range(4):
                        blend[r, c] += share * transforms[bones[v, k], r, c]
        for r in range(3):
            out[v, r] = blend[r, 0] * rest[v, 0] + blend[r, 1] * rest[v, 1] + blend[r, 2] * rest[v, 2] + blend[r, 3]


@numba.njit(cache=True, nogil=True)
def _add_normals(vertices, triangles, normals):
    for t in range(triangles.shape[0]):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        ux, uy, uz = vertices[b, 0] - vertices[a, 0], vertices[b, 1] - vertices[a, 1], vertices[b, 2] - vertices[a, 2]
        vx, vy, vz = vertices[c, 0] - vertices[a, 0], vertices[c, 1] - vertices[a, 1], vertices[c, 2] - vertices[a, 2]
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        for corner in (a, b, c):
            normals[corner, 0] += nx
            normals[corner, 1] += ny
            normals[corner, 2] += nz


@numba.njit(cache=True, nogil=True)
def _weighted_sum(weights, values, out):
    for n in range(weights.shape[0]):
        for m in range(weights.shape[1]):
            if weights[n, m] != 0.0:
                for k in range(values.shape[1]):
                    out[n, k] += weights[n, m] * values[m, k]
