"""The dressed person without the loose garment: body, shirt, trousers or shorts, hair, shoes, on one skin.

Close clothes and hair are the body's own surface moved outwards, so bare skin (face, arms, hands, legs) is exactly the
body's. Patterns are painted by position on the body at rest; `marks` holds the places that they are measured from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from r3avatar.body import BodyModel, BodySurface
from r3avatar.captures.synthesis import arithmetic as am
from r3avatar.captures.synthesis.skin import Skin, vertex_normals, weighted_sum

Array = NDArray[np.float64]

# What a triangle is made of; appearance.py paints each kind.
BODY, HEAD, LIPS, MOUTH, EYE, HAIR, SHOE, CLOTH = range(8)
_KIND_OF_PART = {"body": BODY, "hand": BODY, "foot": BODY, "head": HEAD, "scalp": HEAD}
_KIND_OF_PART |= {"lips": LIPS, "mouth": MOUTH, "eye": EYE, "iris": EYE}


@dataclass
class Marks:
    """Places on the body at rest that patterns are measured from, metres."""

    waist: float  # y of the waistband
    crotch: float  # y
    knee: float  # y
    ankle: float  # y
    sole: float  # y of the bare sole
    shoulder: float  # |x| of the shoulder joint
    elbow: float  # |x|
    neck: float  # y of the neck joint
    head: tuple[float, float]  # y, z of the head joint
    eye: tuple[float, float]  # |x|, y of an eye's centre

    @classmethod
    def of_joints(cls, joints: Array, vertices: Array) -> Marks:
        """From the rest joints [55, 3] and the rest vertices [V, 3]."""
        hip, spine = joints[1, 1], joints[3, 1]
        return cls(
            waist=float(spine + 0.45 * (joints[6, 1] - spine)),
            crotch=float(hip - 0.09),
            knee=float(joints[4, 1]),
            ankle=float(joints[7, 1]),
            sole=float(vertices[:, 1].min()),
            shoulder=float(joints[16, 0]),
            elbow=float(joints[18, 0]),
            neck=float(joints[12, 1]),
            head=(float(joints[15, 1]), float(joints[15, 2])),
            eye=(float(joints[23, 0]), float(joints[23, 1])),
        )


@dataclass
class Person:
    """Everything that is skinned; the body's vertices come first, in the body model's order."""

    skin: Skin  # [V] vertices
    triangles: NDArray[np.int32]  # [T, 3] those that are drawn
    kind: NDArray[np.uint8]  # [T]
    pattern: Array  # [V, 3] where a vertex' colour is looked up
    marks: Marks
    joints: Array  # [55, 3] at rest, this person's shape
    parents: NDArray[np.int64]
    body: Skin  # the bare body, [B] vertices
    body_triangles: NDArray[np.int32]
    face: Array  # [B, 3, E] expression offsets
    joint_face: Array  # [55, 3, E] what they do to the joints
    sole: float  # y of the shoe's sole at rest

    def offsets(self, expression: Array) -> tuple[Array, Array]:
        """The rest offsets of an expression [E]: of the drawn vertices [V, 3] and of the joints [55, 3]."""
        moved, joints = np.zeros_like(self.skin.rest), np.zeros_like(self.joints)
        for e, amount in enumerate(expression):
            moved[: len(self.face)] += amount * self.face[..., e]
            joints += amount * self.joint_face[..., e]
        return moved, joints


def dress(model: BodyModel, surface: BodySurface, betas: Array, trousers: bool) -> Person:
    """Dress a body whose faces carry the demo body's parts.

    betas [B]: shape. trousers: long ones; else shorts, socks and bare legs.
    """
    template, basis = _double(model.v_template), _double(model.shapedirs)
    regressor = _double(model.J_regressor)
    triangles = model.faces.numpy().astype(np.int32)
    kind = np.array([_KIND_OF_PART[name] for name in surface.part_names], np.uint8)[surface.part]
    shaped = template.copy()
    for b, amount in enumerate(betas):
        shaped += amount * basis[..., b]
    joints = weighted_sum(regressor, shaped)
    face = _double(model.expressiondirs)
    joint_face = weighted_sum(regressor, face.reshape(len(face), -1)).reshape(len(joints), 3, -1)
    marks = Marks.of_joints(weighted_sum(regressor, template), template)

    body = Skin.of_weights(shaped, _double(model.weights))
    outwards = vertex_normals(shaped, triangles)
    dressed = (
        shaped + outwards * _thickness(template, _touched(kind, triangles, len(template)), marks, trousers)[:, None]
    )
    skins, faces, kinds, patterns = [Skin(dressed, body.bones, body.shares)], [triangles], [kind], [template]
    shoe_top = marks.ankle - 0.012
    for side in (0, 1):
        shoe, shoe_triangles, shoe_pattern = _shoe(shaped, joints, side, float(shaped[:, 1].min()), 0.062)
        _add(skins, faces, kinds, patterns, shoe, shoe_triangles, SHOE, shoe_pattern)
    bun, bun_triangles = _bun(joints)
    _add(skins, faces, kinds, patterns, bun, bun_triangles, HAIR, bun.rest - joints[15])
    triangles_all, kind_all = np.concatenate(faces), np.concatenate(kinds)
    in_shoe = (template[:, 1] < shoe_top - 0.02)[np.minimum(triangles_all, len(template) - 1)].all(1)
    drawn = ~(in_shoe & (kind_all == BODY))
    skin = Skin.joined(skins)
    return Person(
        skin=skin,
        triangles=np.ascontiguousarray(triangles_all[drawn]),
        kind=np.ascontiguousarray(kind_all[drawn]),
        pattern=np.concatenate(patterns),
        marks=marks,
        joints=joints,
        parents=np.array(model.parents, np.int64),
        body=body,
        body_triangles=triangles,
        face=face,
        joint_face=joint_face,
        sole=float(skin.rest[:, 1].min()),
    )


def _double(buffer: Tensor) -> Array:
    return np.ascontiguousarray(buffer.numpy().astype(np.float64))


def _add(skins, faces, kinds, patterns, skin, triangles, kind, pattern) -> None:
    faces.append((triangles + sum(len(s.rest) for s in skins)).astype(np.int32))
    skins.append(skin)
    kinds.append(np.full(len(triangles), kind, np.uint8))
    patterns.append(pattern)


def _touched(kind: NDArray[np.uint8], triangles: NDArray[np.int32], count: int) -> NDArray[np.bool_]:
    """Vertices that belong to body or head triangles only: not eyes, lips or mouth."""
    free = np.ones(count, bool)
    free[triangles[(kind != BODY) & (kind != HEAD)]] = False
    return free


def hairline(x: Array, y: Array, z: Array, marks: Marks) -> Array:
    """Height above the hairline of points on the head at rest, metres; positive is hair."""
    y, z = y - marks.head[0], z - marks.head[1]
    side = np.abs(x)
    # From the forehead (z 0.09) past the temple and over the ear down to the nape (z -0.1).
    places = [-0.10, -0.055, -0.02, 0.012, 0.045, 0.07, 0.09]
    line = am.piecewise(z, places, [-0.05, -0.045, -0.02, 0.048, 0.062, 0.09, 0.098])
    line = np.where((z > -0.06) & (z < 0.05), np.maximum(line, 4.0 * (side - 0.074) + 0.03), line)
    return y - line


def _thickness(p: Array, free: NDArray[np.bool_], marks: Marks, trousers: bool) -> Array:
    """How far clothes and hair stand off the body, [V] metres."""
    x, y, z = p[:, 0], p[:, 1], p[:, 2]
    side = np.abs(x)
    sleeve = marks.shoulder + 0.58 * (marks.elbow - marks.shoulder)
    neck = np.sqrt(x * x + (z - 0.01) ** 2) + 0.55 * (marks.neck - 0.03 - y)
    shirt = np.minimum(np.minimum((sleeve - side) / 0.010, (neck - 0.075) / 0.012), (y - marks.waist) / 0.03)
    shirt = np.where((y < marks.neck + 0.02) & (y > marks.waist), 0.006 * np.clip(shirt, 0.0, 1.0), 0.0)
    legs = (y < marks.waist) & (side < marks.elbow)
    hem = marks.ankle + 0.02 if trousers else marks.crotch - 0.13
    cloth = np.where(legs, (0.007 if trousers else 0.004) * np.clip((y - hem) / 0.012, 0.0, 1.0), 0.0)
    hair = 0.014 * am.smooth(hairline(x, y, z, marks) / 0.035) * (y > marks.neck)
    return np.where(free, shirt + cloth + hair, 0.0)


def _shoe(vertices: Array, joints: Array, side: int, ground: float, height: float):
    """A shoe around one foot: a closed tube of rings from heel to toe, its top open only to the leg inside it."""
    rings, columns = 22, 28
    on_side = vertices[:, 0] * (1.0 - 2.0 * side) > 0.0
    foot = vertices[on_side & (vertices[:, 1] < joints[7 + side, 1])]
    z0, z1 = foot[:, 2].min() - 0.010, foot[:, 2].max() + 0.012
    along = 0.5 - 0.5 * am.cos(np.linspace(0.0, am.PI, rings))
    stations = z0 + (z1 - z0) * along
    left, right, top = np.zeros((3, rings))
    for i, z in enumerate(stations):
        near = foot[np.abs(foot[:, 2] - z) < 0.022]
        left[i], right[i], top[i] = near[:, 0].min(), near[:, 0].max(), near[:, 1].max()
    for values in (left, right, top):
        for _ in range(3):
            values[1:-1] = 0.25 * values[:-2] + 0.5 * values[1:-1] + 0.25 * values[2:]
    centre, width = 0.5 * (left + right), 0.5 * (right - left) + 0.006
    top = np.minimum(top + 0.006, ground + height) - ground
    end = np.minimum(along, 1.0 - along)  # rounded heel and toe
    blunt = np.clip(1.0 - end / 0.15, 0.0, 1.0)
    blunt = blunt * blunt * blunt
    rounding = np.sqrt(1.0 - blunt * blunt)
    low = ground - 0.012
    middle, tall = 0.5 * (top + 0.012), 0.5 * (top + 0.012) * (0.55 + 0.45 * rounding)
    angle = np.arange(columns) * (2.0 * am.PI / columns)
    c, s = am.cos(angle), am.sin(angle)
    boxy_c, boxy_s = np.sign(c) * np.sqrt(np.abs(c)), np.sign(s) * np.sqrt(np.abs(s))
    lower = s < 0.0
    across = np.where(lower, 0.2 * c + 0.8 * boxy_c, 0.55 * c + 0.45 * boxy_c)
    up = np.where(lower, boxy_s, 0.6 * s + 0.4 * boxy_s)
    x = centre[:, None] + (width * rounding)[:, None] * across
    y = low + middle[:, None] + np.where(lower, middle[:, None], tall[:, None]) * up
    z = np.broadcast_to(stations[:, None], x.shape)
    ring_vertices = np.stack([x, y, z], -1).reshape(-1, 3)
    tips = np.array([[centre[i], low + middle[i], stations[i]] for i in (0, -1)])
    rest = np.concatenate([ring_vertices, tips])
    triangles = closed_tube(rings, columns)
    first, last = len(ring_vertices), len(ring_vertices) + 1
    for j in range(columns):
        k = (j + 1) % columns
        triangles.append((first, k, j))
        triangles.append((last, (rings - 1) * columns + j, (rings - 1) * columns + k))
    toe = am.smooth((rest[:, 2] - joints[10 + side, 2] + 0.03) / 0.05)
    bones = np.broadcast_to(np.array([7 + side, 10 + side], np.int32), (len(rest), 2)).copy()
    pattern = np.stack([rest[:, 2] - z0, rest[:, 1] - low, rest[:, 0] - joints[7 + side, 0]], -1)
    return Skin(rest, bones, np.stack([1.0 - toe, toe], -1)), np.array(triangles, np.int32), pattern


def closed_tube(rings: int, columns: int) -> list[tuple[int, int, int]]:
    """Triangles of `rings` rings of `columns` vertices each, joined in order."""
    triangles = []
    for i in range(rings - 1):
        for j in range(columns):
            a, b = i * columns + j, i * columns + (j + 1) % columns
            triangles += [(a, b, a + columns), (b, b + columns, a + columns)]
    return triangles


def _bun(joints: Array):
    """A bun of hair at the back of the head: a ball."""
    rings, columns = 15, 24
    polar = (np.arange(rings) + 0.5) * (am.PI / rings)
    round_ = np.arange(columns) * (2.0 * am.PI / columns)
    x = am.sin(polar)[:, None] * am.cos(round_)
    y = am.cos(polar)[:, None] * np.ones(columns)
    z = am.sin(polar)[:, None] * am.sin(round_)
    ball = np.stack([x, y, -z], -1).reshape(-1, 3)
    rest = joints[15] + np.array([0.0, 0.128, -0.088]) + ball * np.array([0.040, 0.036, 0.036])
    triangles = [(a, c, b) for a, b, c in closed_tube(rings, columns)]
    triangles += [(0, j, j + 1) for j in range(1, columns - 1)]
    base = (rings - 1) * columns
    triangles += [(base, base + j + 1, base + j) for j in range(1, columns - 1)]
    bones = np.full((len(rest), 1), 15, np.int32)
    return Skin(rest, bones, np.ones((len(rest), 1))), np.array(triangles, np.int32)
