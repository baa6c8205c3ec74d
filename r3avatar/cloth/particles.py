"""Cloth with inertia: extended position-based dynamics with small steps.

A garment is a grid of particles joined by distance constraints: threads along rows and columns (stiff), diagonals
(shear) and every second particle (bending); tethers bound each particle's distance from where its column is sewn to the
body. One sweep over the constraints a step, in a fixed order, and many steps a frame (Macklin et al., Small Steps in
Physics Simulation, 2019; Macklin et al., XPBD, 2016). The air resists motion across the cloth, and the body's surface
pushes particles out, with friction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numba
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MARGIN = 0.010  # metres that the cloth keeps from the skin
THICKNESS = 0.016  # metres that particles keep from each other, unless they are closer when the cloth lies flat
_CELL = 0.05  # metres; edge of the cells in which the nearest skin is looked for
_GRAVITY = 9.81
_AIR = 1.2  # kg / m^3


@dataclass
class Fabric:
    """What a garment is made of."""

    density: float = 0.22  # kg / m^2
    shear: float = 1.0  # compliance of the diagonals, m / N
    bending: float = 30.0  # compliance of every second particle's distance, m / N
    drag: float = 1.3  # coefficient of the air's resistance across the cloth
    friction: float = 0.35  # on the skin
    damping: float = 0.6  # share of a particle's speed lost in a second, beside the air


@dataclass
class Grid:
    """A garment's shape: rows from the sewn edge down, columns around; closed joins the last column to the first.

    tubes: the columns fall into so many equal groups, each a cloth of its own (the legs of trousers).
    """

    rows: int
    columns: int
    closed: bool
    flat: Array  # [rows * columns, 3] an unstretched shape, metres
    start: Array  # [rows * columns, 3] where the simulation begins, metres, the body at rest
    pinned: int  # the first rows, which are sewn to the body
    area: float  # m^2, of all tubes
    tubes: int = 1

    def beside(self, row: int, column: int, down: int, along: int) -> int:
        """The particle (down, along) of the one in a row and column; wraps where the grid is closed, -1 outside."""
        width = self.columns // self.tubes
        first, place = column - column % width, column % width + along
        if self.closed:
            place %= width
        inside = 0 <= row + down < self.rows and 0 <= place < width
        return (row + down) * self.columns + first + place if inside else -1

    def triangles(self) -> NDArray[np.int32]:
        """[T, 3], counter-clockwise seen from the side that faces away from the body."""
        faces = []
        for i in range(self.rows - 1):
            for j in range(self.columns if self.closed else self.columns - 1):
                a, b, c, d = (self.beside(i, j, k, m) for k, m in ((0, 0), (0, 1), (1, 0), (1, 1)))
                faces += [(a, c, b), (b, c, d)] if (i + j) % 2 == 0 else [(a, c, d), (a, d, b)]
        return np.array(faces, np.int32)

    def pairs(self, steps: list[tuple[int, int]]) -> NDArray[np.int32]:
        """Pairs of particles apart by (rows, columns) of each step, top row first, [P, 2]."""
        found = []
        for i in range(self.rows):
            for j in range(self.columns):
                for down, along in steps:
                    other = self.beside(i, j, down, along)
                    if other >= 0:
                        found.append((i * self.columns + j, other))
        return np.array(found, np.int32)


@dataclass
class Collider:
    """The body at one moment: surface points and outward unit normals, [C, 3] each."""

    points: Array
    normals: Array


@dataclass
class Cloth:
    """A garment in motion."""

    grid: Grid
    fabric: Fabric
    position: Array = field(init=False)
    velocity: Array = field(init=False)

    def __post_init__(self):
        grid, fabric = self.grid, self.fabric
        self.position, self.velocity = grid.start.copy(), np.zeros_like(grid.start)
        pinned = grid.pinned * grid.columns
        mass = fabric.density * grid.area / (grid.rows * grid.columns)
        self._inverse_mass = np.full(len(self.position), 1.0 / mass)
        self._inverse_mass[:pinned] = 0.0
        self._resistance = 0.5 * _AIR * fabric.drag * grid.area / (grid.rows * grid.columns) / mass
        kinds = [([(0, 1), (1, 0)], 0.0), ([(1, 1), (1, -1)], fabric.shear), ([(0, 2), (2, 0)], fabric.bending)]
        pairs = [grid.pairs(steps) for steps, _ in kinds]
        self._pairs = np.concatenate(pairs)
        self._compliance = np.concatenate([np.full(len(p), c) for p, (_, c) in zip(pairs, kinds)])
        self._rest = _distances(grid.flat, self._pairs)
        tethers = np.arange(pinned, len(self.position), dtype=np.int32)
        self._tethers = np.stack([tethers, pinned - grid.columns + tethers % grid.columns], 1).astype(np.int32)
        self._tether_rest = 1.01 * _distances(grid.flat, self._tethers)
        self._triangles = grid.triangles()
        self._nearest = np.full(len(self.position), -1, np.int32)

    def advance(
        self, before: Collider, after: Collider, pins_before: Array, pins_after: Array, seconds: float, steps: int
    ):
        """Simulate `seconds` in `steps` steps while the collider and the sewn particles [P, 3] move linearly."""
        _advance(
            self.position,
            self.velocity,
            self._inverse_mass,
            self._pairs,
            self._rest,
            self._compliance,
            self._tethers,
            self._tether_rest,
            self._triangles,
            self._nearest,
            self.grid.flat,
            before.points,
            after.points,
            before.normals,
            after.normals,
            pins_before,
            pins_after,
            seconds / steps,
            steps,
            self._resistance,
            self.fabric.friction,
            self.fabric.damping,
        )


@numba.njit(cache=True)
def _distances(points, pairs):
    out = np.empty(len(pairs))
    for k in range(len(pairs)):
        a, b = points[pairs[k, 0]], points[pairs[k, 1]]
        out[k] = math.sqrt((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2 + (a[2] - b[2]) ** 2)
    return out


@numba.njit(cache=True, nogil=True)
def _find_nearest(points, skin, reach, nearest):
    """For every point, the closest skin point within about `reach` metres, or -1."""
    low = np.empty(3)
    size = np.empty(3, np.int64)
    for d in range(3):
        low[d] = skin[:, d].min() - 1e-6
        size[d] = int((skin[:, d].max() - low[d]) / _CELL) + 1
    cell = np.empty(len(skin), np.int64)
    start = np.zeros(size[0] * size[1] * size[2] + 1, np.int64)
    for s in range(len(skin)):
        i, j, k = (
            int((skin[s, 0] - low[0]) / _CELL),
            int((skin[s, 1] - low[1]) / _CELL),
            int((skin[s, 2] - low[2]) / _CELL),
        )
        cell[s] = (i * size[1] + j) * size[2] + k
        start[cell[s] + 1] += 1
    for c in range(1, len(start)):
        start[c] += start[c - 1]
    order = np.empty(len(skin), np.int64)
    filled = start[:-1].copy()
    for s in range(len(skin)):
        order[filled[cell[s]]] = s
        filled[cell[s]] += 1
    around = math.ceil(reach / _CELL)
    for p in range(len(points)):
        x, y, z = points[p, 0], points[p, 1], points[p, 2]
        i = math.floor((x - low[0]) / _CELL)
        j = math.floor((y - low[1]) / _CELL)
        k = math.floor((z - low[2]) / _CELL)
        best, found = (around * _CELL) ** 2, -1
        for ii in range(max(i - around, 0), min(i + around + 1, size[0])):
            for jj in range(max(j - around, 0), min(j + around + 1, size[1])):
                for kk in range(max(k - around, 0), min(k + around + 1, size[2])):
                    c = (ii * size[1] + jj) * size[2] + kk
                    for o in range(start[c], start[c + 1]):
                        s = order[o]
                        dx, dy, dz = skin[s, 0] - x, skin[s, 1] - y, skin[s, 2] - z
                        distance = dx * dx + dy * dy + dz * dz
                        if distance < best:
                            best, found = distance, s
        nearest[p] = found


@numba.njit(cache=True, nogil=True)
def _find_meetings(position, flat, meetings):
    """Pairs of particles that may touch soon though they lie apart on the flat cloth; returns how many."""
    reach, apart = 1.4 * THICKNESS, 1.4 * THICKNESS
    count = len(position)
    buckets = 1 << 13
    head = np.full(buckets, -1, np.int32)
    following = np.empty(count, np.int32)
    key = np.empty((count, 3), np.int64)
    met = 0
    for p in range(count):
        for d in range(3):
            key[p, d] = math.floor(position[p, d] / reach)
        for i in range(key[p, 0] - 1, key[p, 0] + 2):
            for j in range(key[p, 1] - 1, key[p, 1] + 2):
                for k in range(key[p, 2] - 1, key[p, 2] + 2):
                    other = head[(i * 73856093 ^ j * 19349663 ^ k * 83492791) & (buckets - 1)]
                    while other >= 0:
                        if key[other, 0] == i and key[other, 1] == j and key[other, 2] == k:
                            x = position[p, 0] - position[other, 0]
                            y = position[p, 1] - position[other, 1]
                            z = position[p, 2] - position[other, 2]
                            near = x * x + y * y + z * z < reach * reach
                            x, y, z = (
                                flat[p, 0] - flat[other, 0],
                                flat[p, 1] - flat[other, 1],
                                flat[p, 2] - flat[other, 2],
                            )
                            if near and x * x + y * y + z * z > apart * apart and met < len(meetings):
                                meetings[met, 0], meetings[met, 1] = other, p
                                met += 1
                        other = following[other]
        bucket = (key[p, 0] * 73856093 ^ key[p, 1] * 19349663 ^ key[p, 2] * 83492791) & (buckets - 1)
        following[p], head[bucket] = head[bucket], p
    return met


@numba.njit(cache=True, nogil=True)
def _push_apart(position, inverse_mass, meetings):
    for k in range(len(meetings)):
        a, b = meetings[k, 0], meetings[k, 1]
        weight = inverse_mass[a] + inverse_mass[b]
        dx, dy, dz = position[b, 0] - position[a, 0], position[b, 1] - position[a, 1], position[b, 2] - position[a, 2]
        square = dx * dx + dy * dy + dz * dz
        if weight == 0.0 or square >= THICKNESS * THICKNESS or square < 1e-12:
            continue
        length = math.sqrt(square)
        push = 0.5 * (THICKNESS - length) / (length * weight)
        for d, gap in ((0, dx), (1, dy), (2, dz)):
            position[a, d] -= inverse_mass[a] * push * gap
            position[b, d] += inverse_mass[b] * push * gap


@numba.njit(cache=True, nogil=True)
def _advance(
    position, velocity, inverse_mass, pairs, rest, compliance, tethers, tether_rest, triangles, nearest, flat,
    skin_a, skin_b, normal_a, normal_b, pins_a, pins_b, dt, steps, resistance, friction, damping,
):  # fmt: skip
    count, pinned = len(position), len(pins_a)
    previous = position.copy()
    skin = np.empty_like(skin_a)
    normals = np.empty_like(position)
    meetings = np.empty((16 * count, 2), np.int32)
    met = 0
    for step in range(steps):
        t0, t1 = step / steps, (step + 1) / steps
        _particle_normals(position, triangles, normals)
        for p in range(count):
            for d in range(3):
                previous[p, d] = position[p, d]
        for p in range(pinned):
            for d in range(3):
                position[p, d] = pins_a[p, d] + t1 * (pins_b[p, d] - pins_a[p, d])
        for p in range(pinned, count):
            nx, ny, nz = normals[p, 0], normals[p, 1], normals[p, 2]
            velocity[p, 1] -= _GRAVITY * dt
            across = velocity[p, 0] * nx + velocity[p, 1] * ny + velocity[p, 2] * nz
            # Implicit in the speed, so that strong wind cannot reverse it.
            lost = across - across / (1.0 + resistance * abs(across) * dt)
            keep = 1.0 - damping * dt
            velocity[p, 0] = (velocity[p, 0] - lost * nx) * keep
            velocity[p, 1] = (velocity[p, 1] - lost * ny) * keep
            velocity[p, 2] = (velocity[p, 2] - lost * nz) * keep
            for d in range(3):
                position[p, d] += dt * velocity[p, d]
        for k in range(len(pairs)):
            a, b = pairs[k, 0], pairs[k, 1]
            wa, wb = inverse_mass[a], inverse_mass[b]
            if wa + wb == 0.0:
                continue
            dx = position[b, 0] - position[a, 0]
            dy = position[b, 1] - position[a, 1]
            dz = position[b, 2] - position[a, 2]
            length = math.sqrt(dx * dx + dy * dy + dz * dz)
            if length < 1e-9:
                continue
            pull = (length - rest[k]) / ((wa + wb + compliance[k] / (dt * dt)) * length)
            position[a, 0] += wa * pull * dx
            position[a, 1] += wa * pull * dy
            position[a, 2] += wa * pull * dz
            position[b, 0] -= wb * pull * dx
            position[b, 1] -= wb * pull * dy
            position[b, 2] -= wb * pull * dz
        for k in range(len(tethers)):
            p, anchor = tethers[k, 0], tethers[k, 1]
            dx = position[p, 0] - position[anchor, 0]
            dy = position[p, 1] - position[anchor, 1]
            dz = position[p, 2] - position[anchor, 2]
            length = math.sqrt(dx * dx + dy * dy + dz * dz)
            if length > tether_rest[k]:
                shrink = tether_rest[k] / length - 1.0
                position[p, 0] += shrink * dx
                position[p, 1] += shrink * dy
                position[p, 2] += shrink * dz
        if step % 4 == 0:
            for s in range(len(skin)):
                for d in range(3):
                    skin[s, d] = skin_a[s, d] + t1 * (skin_b[s, d] - skin_a[s, d])
            _find_nearest(position, skin, 2.0 * _CELL, nearest)
            met = _find_meetings(position, flat, meetings)
        _push_apart(position, inverse_mass, meetings[:met])
        _push_out(position, previous, nearest, pinned, skin_a, skin_b, normal_a, normal_b, t0, t1, friction)
        for p in range(pinned, count):
            for d in range(3):
                velocity[p, d] = (position[p, d] - previous[p, d]) / dt


@numba.njit(cache=True, nogil=True)
def _particle_normals(position, triangles, normals):
    normals[:] = 0.0
    for t in range(len(triangles)):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        ux, uy, uz = position[b, 0] - position[a, 0], position[b, 1] - position[a, 1], position[b, 2] - position[a, 2]
        vx, vy, vz = position[c, 0] - position[a, 0], position[c, 1] - position[a, 1], position[c, 2] - position[a, 2]
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        for corner in (a, b, c):
            normals[corner, 0] += nx
            normals[corner, 1] += ny
            normals[corner, 2] += nz
    for p in range(len(normals)):
        x, y, z = normals[p, 0], normals[p, 1], normals[p, 2]
        length = max(math.sqrt(x * x + y * y + z * z), 1e-12)
        normals[p, 0], normals[p, 1], normals[p, 2] = x / length, y / length, z / length


@numba.njit(cache=True, nogil=True)
def _push_out(position, previous, nearest, pinned, skin_a, skin_b, normal_a, normal_b, t0, t1, friction):
    """Keep every particle MARGIN in front of the plane of its nearest skin point, and let that skin drag it along."""
    for p in range(pinned, len(position)):
        s = nearest[p]
        if s < 0:
            continue
        nx = normal_a[s, 0] + t1 * (normal_b[s, 0] - normal_a[s, 0])
        ny = normal_a[s, 1] + t1 * (normal_b[s, 1] - normal_a[s, 1])
        nz = normal_a[s, 2] + t1 * (normal_b[s, 2] - normal_a[s, 2])
        sx = skin_a[s, 0] + t1 * (skin_b[s, 0] - skin_a[s, 0])
        sy = skin_a[s, 1] + t1 * (skin_b[s, 1] - skin_a[s, 1])
        sz = skin_a[s, 2] + t1 * (skin_b[s, 2] - skin_a[s, 2])
        depth = MARGIN - ((position[p, 0] - sx) * nx + (position[p, 1] - sy) * ny + (position[p, 2] - sz) * nz)
        if depth <= 0.0:
            continue
        position[p, 0] += depth * nx
        position[p, 1] += depth * ny
        position[p, 2] += depth * nz
        # How far the particle slid over the skin in this step; friction takes back up to `friction * depth` of it.
        mx = position[p, 0] - previous[p, 0] - (t1 - t0) * (skin_b[s, 0] - skin_a[s, 0])
        my = position[p, 1] - previous[p, 1] - (t1 - t0) * (skin_b[s, 1] - skin_a[s, 1])
        mz = position[p, 2] - previous[p, 2] - (t1 - t0) * (skin_b[s, 2] - skin_a[s, 2])
        along = mx * nx + my * ny + mz * nz
        mx, my, mz = mx - along * nx, my - along * ny, mz - along * nz
        slid = math.sqrt(mx * mx + my * my + mz * mz)
        if slid > 0.0:
            back = min(friction * depth / slid, 1.0)
            position[p, 0] -= back * mx
            position[p, 1] -= back * my
            position[p, 2] -= back * mz
