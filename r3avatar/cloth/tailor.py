"""Cut a garment for a body: a tube around the waist or around each thigh, or a sheet from the shoulders."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, cKDTree

from r3avatar.cloth.particles import Grid

Array = NDArray[np.float64]

KINDS = ("skirt", "trousers", "cape")
EASE = 0.012  # metres between the sewn edge and the body
SLICE = 0.025  # metres above and below a height from which the body's outline there is taken
SEWN_TO = 8  # body vertices whose mean skinning a sewn particle has
MOST_FLARE = 6.0  # metres a metre; 2 pi is a flat disc
_SLANTS = 5  # heights between which a trouser leg's slanted edge is interpolated
_WAISTS = 9  # heights at which the waist is looked for
_CROTCH_GAP = 0.008  # metres that the legs' cloth keeps from the middle at first
# Joints, of both layouts.
_PELVIS, _HIPS, _KNEES, _SPINE, _CHEST, _NECK, _SHOULDERS = 0, (1, 2), (4, 5), 3, 6, 12, (16, 17)
_ARMS = (16, 17, 18, 19)
_TOP_DOWN = np.array([0.0, -0.9, -0.436])  # a cape begins as a sheet that slants backwards: of length 1


@dataclass(frozen=True)
class Cut:
    """The measures of a garment."""

    kind: str  # one of KINDS
    length: float  # metres from the sewn edge to the hem
    flare: float  # metres that it is wider a metre of length further down


@dataclass
class Garment:
    """A garment made for a body in its rest pose (y up, facing +z)."""

    cut: Cut
    grid: Grid
    sewn_to: NDArray[np.int64]  # [sewn particles, SEWN_TO] body vertices


def tailor(cut: Cut, vertices: Array, joints: Array, weights: Array, rows: int, columns: int) -> Garment:
    """Cut a garment of rows x columns particles (trousers: half of the columns a leg).

    vertices [V, 3], joints [J, 3]: the body at rest in T, metres; weights [V, J] of its skinning.
    ValueError for a kind that is none, measures out of range, or a body that lacks what it is sewn to.
    """
    if cut.kind not in KINDS:
        raise ValueError(f"garment '{cut.kind}' is none of {', '.join(KINDS)}")
    if not 0 < cut.length < 3 or not 0 <= cut.flare <= MOST_FLARE:
        raise ValueError(f"{cut}: expected a length below 3 metres, and a flare of 0 to {MOST_FLARE}")
    make = {"skirt": _skirt, "trousers": _trousers, "cape": _cape}[cut.kind]
    grid = make(cut, vertices, joints, weights, rows, columns)
    _, sewn_to = cKDTree(vertices).query(grid.start[: grid.pinned * grid.columns], k=SEWN_TO)
    return Garment(cut, grid, sewn_to)


def size_of(kind: str, coarse: bool) -> tuple[int, int]:
    """Rows and columns of particles: enough for the folds that masks show, or coarse ones for trying on.

    A cape is narrow where it is sewn: more columns would touch each other there.
    """
    rows, columns = {"skirt": (24, 64), "trousers": (28, 64), "cape": (36, 32)}[kind]
    return (rows // 2, columns // 2) if coarse else (rows, columns)


def longest(kind: str, joints: Array) -> float:
    """Metres from a kind's sewn edge to the ankle, which no hem is below."""
    ankle = float(joints[7, 1])
    top = {"skirt": joints[_SPINE, 1], "trousers": joints[_HIPS[0], 1], "cape": joints[_SHOULDERS[0], 1]}
    return float(top[kind]) - ankle


def _skirt(cut: Cut, vertices: Array, joints: Array, weights: Array, rows: int, columns: int) -> Grid:
    edge = _waist(vertices, joints, weights, columns)
    flat, area = _tube(edge, np.full(columns, cut.length), cut.flare, rows)
    return Grid(rows, columns, True, flat.reshape(-1, 3), flat.reshape(-1, 3).copy(), 1, area)


def _waist(vertices: Array, joints: Array, weights: Array, columns: int) -> Array:
    """The ring around the trunk where it is narrowest."""
    trunk = vertices[weights[:, _ARMS[0] :].sum(1) < 0.1]
    centre, rings = joints[_PELVIS].copy(), []
    for height in np.linspace(joints[_SPINE, 1], joints[_CHEST, 1], _WAISTS):
        centre[1] = height
        rings.append(_ring(trunk, centre, columns))
    return min(rings, key=_girth)


def _trousers(cut: Cut, vertices: Array, joints: Array, weights: Array, rows: int, columns: int) -> Grid:
    bottom = _crotch(vertices, joints) - 0.01
    flats, starts, area = [], [], 0.0
    for number, (hip, knee) in enumerate(zip(_HIPS, _KNEES)):
        leg = weights[:, [0, hip, knee]].sum(1) > 0.5
        sign = 1.0 if joints[hip, 0] > 0 else -1.0
        centre = joints[hip].copy()
        edges = []
        for height in np.linspace(bottom, max(bottom, joints[hip, 1]), _SLANTS):
            centre[1] = height
            edges.append(_ring(vertices[leg & (sign * vertices[:, 0] > 0)], centre, columns // 2))
        edge = _slanted(np.stack(edges), sign)
        lengths = cut.length + edge[:, 1] - edge[:, 1].max()  # to a level hem
        tube, more = _tube(edge, np.maximum(lengths, 0.2 * cut.length), cut.flare, rows)
        area += more
        flats.append(tube + np.array([10.0 * number, 0.0, 0.0]))  # metres apart: never neighbours
        start = tube.copy()
        start[1:, :, 0] = sign * np.maximum(sign * start[1:, :, 0], _CROTCH_GAP)
        starts.append(start)
    flat, start = (np.concatenate(x, 1).reshape(-1, 3) for x in (flats, starts))
    return Grid(rows, 2 * (columns // 2), True, flat, start, 1, area, tubes=2)


def _cape(cut: Cut, vertices: Array, joints: Array, weights: Array, rows: int, columns: int) -> Grid:
    half = 0.92 * abs(float(joints[_SHOULDERS[0], 0]))
    across = np.linspace(half, -half, columns)  # from the left shoulder: rightwards seen from behind
    low, high = joints[_SPINE, 1], joints[_NECK, 1] + 0.03
    top = vertices[(vertices[:, 1] > low) & (vertices[:, 1] < high) & (weights[:, 18:].sum(1) < 0.1)]
    edge = np.empty((columns, 3))
    for c, x in enumerate(across):
        near = top[np.abs(top[:, 0] - x) < SLICE]
        if not len(near):
            raise ValueError(f"the body has no shoulder {x:.2f} m from its middle for a cape to be sewn to")
        edge[c] = near[(near[:, 1] - near[:, 2]).argmax()]  # up and backwards
    edge[:, 0] = across
    edge[:, 1:] = _smoothed(edge[:, 1:], across) + EASE * np.array([0.7, -0.7])
    along = np.append(0.0, np.linalg.norm(np.diff(edge, axis=0), axis=1).cumsum())
    width = along[-1]
    down = np.linspace(0.0, cut.length, rows)
    share = 1 - 2 * along / width
    wide = 0.5 * (width + cut.flare * down)[:, None] * share
    flat = np.stack([wide, np.broadcast_to(-down[:, None], wide.shape), np.zeros_like(wide)], -1)
    drop = np.broadcast_to(_TOP_DOWN, (columns, 3)) + 0.5 * cut.flare * share[:, None] * np.array([1.0, 0.0, 0.0])
    start = edge + down[:, None, None] * drop
    area = cut.length * (width + 0.5 * cut.flare * cut.length)
    return Grid(rows, columns, False, flat.reshape(-1, 3), start.reshape(-1, 3), 1, area)


def _tube(edge: Array, length: Array, flare: float, rows: int) -> tuple[Array, float]:
    """A cone from a ring [C, 3]: points [rows, C, 3], and its area."""
    columns = len(edge)
    angle = np.arange(columns) * (2 * math.pi / columns)
    spoke = np.stack([np.sin(angle), np.zeros(columns), np.cos(angle)], -1)
    out = flare / (2 * math.pi)
    slope = out * spoke - math.sqrt(1 - out * out) * np.array([0.0, 1.0, 0.0])
    down = np.linspace(0.0, 1.0, rows)[:, None, None] * length[:, None]
    mean = float(length.mean())
    return edge + down * slope, mean * (_girth(edge) + 0.5 * flare * mean)


def _girth(ring: Array) -> float:
    return float(np.linalg.norm(np.roll(ring, -1, 0) - ring, axis=1).sum())


def _ring(vertices: Array, centre: Array, columns: int) -> Array:
    """The outline of vertices at a height, [columns, 3], EASE away: where rays from `centre` leave its hull."""
    near = vertices[np.abs(vertices[:, 1] - centre[1]) < SLICE][:, [2, 0]] - centre[[2, 0]]  # angle 0 is +z
    if len(near) < 3:
        raise ValueError(f"the body has no outline {centre[1]:.2f} m above its origin for a garment to be sewn to")
    corners = near[ConvexHull(near).vertices]
    following = np.roll(corners, -1, 0)
    angle = np.arange(columns) * (2 * math.pi / columns)
    ray = np.stack([np.cos(angle), np.sin(angle)], -1)  # [C, 2]
    along = following - corners
    # centre + t ray = corner + s along: of all edges the one that is hit ahead.
    cross = ray[:, None, 0] * along[None, :, 1] - ray[:, None, 1] * along[None, :, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (corners[:, 0] * along[:, 1] - corners[:, 1] * along[:, 0])[None] / cross
        s = (corners[None, :, 0] * ray[:, None, 1] - corners[None, :, 1] * ray[:, None, 0]) / cross
    hit = np.where((t > 0) & (s >= -1e-9) & (s <= 1 + 1e-9), t, 0.0).max(1)
    radius = hit + EASE
    return centre + radius[:, None] * np.stack([ray[:, 1], np.zeros(columns), ray[:, 0]], -1)


def _slanted(edges: Array, sign: float) -> Array:
    """Of rings [K, C, 3] at rising heights one that is the first between the legs and the last outside."""
    columns = edges.shape[1]
    outward = 0.5 + 0.5 * sign * np.sin(np.arange(columns) * (2 * math.pi / columns))  # angle 0 is +z, ahead
    place = outward * (len(edges) - 1)
    lower = np.minimum(place.astype(int), len(edges) - 2)
    share = (place - lower)[:, None]
    column = np.arange(columns)
    return (1 - share) * edges[lower, column] + share * edges[lower + 1, column]


def _crotch(vertices: Array, joints: Array) -> float:
    """The height at which the legs part."""
    low, high = joints[_KNEES[0], 1], joints[_PELVIS, 1]
    middle = vertices[(np.abs(vertices[:, 0]) < 0.02) & (vertices[:, 1] > low) & (vertices[:, 1] < high)]
    return float(middle[:, 1].min()) if len(middle) else float(joints[_HIPS[0], 1]) - 0.09


def _smoothed(values: Array, places: Array) -> Array:
    """Means of values [C, k] at places [C] (metres) over their neighbours within about SLICE."""
    near = np.exp(-0.5 * ((places[:, None] - places) / SLICE) ** 2)
    return near @ values / near.sum(1, keepdims=True)
