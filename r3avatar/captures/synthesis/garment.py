"""The loose garments: a skirt around the waist, a cape from the shoulders, or wide trouser legs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from r3avatar.captures.synthesis import arithmetic as am
from r3avatar.captures.synthesis.person import Person
from r3avatar.captures.synthesis.skin import Skin
from r3avatar.cloth.particles import Grid

Array = NDArray[np.float64]

_STAND_OFF = 0.006  # metres between the body and a sewn edge
_EASE = 0.02  # metres by which trouser legs are wider than the thighs, below their edge
_CROTCH_GAP = 0.012  # metres from the middle to either trouser leg as they begin


def skirt(person: Person, *, length: float, fullness: float, rows: int, columns: int, seed: int) -> Grid:
    """A skirt cut from a ring of cloth: `length` metres long, its hem `fullness` metres per metre of length wider.

    fullness: 2 pi is a full circle skirt, pi a half circle.
    """
    sewn_rows = 2
    outline = _outline(person, _waist(person), columns)
    around = np.roll(outline, -1, 0) - outline
    waist = _total(np.sqrt(am.dot(around, around)))
    flare = fullness / (2.0 * am.PI)
    down = np.linspace(0.0, length, rows)
    angle = np.arange(columns) * (2.0 * am.PI / columns)
    spoke = np.stack([am.sin(angle), np.zeros(columns), am.cos(angle)], -1)
    drop = np.array([0.0, -np.sqrt(1.0 - flare * flare), 0.0])
    ring = (waist / (2.0 * am.PI) + flare * down)[:, None, None] * spoke
    flat = ring + down[:, None, None] * drop
    start = outline + down[:, None, None] * (flare * spoke + drop)
    start = start + 0.004 * (am.draws(seed, 3, *start.shape) - 0.5) * (down > 0.0)[:, None, None]
    for row in range(1, sewn_rows):  # the waistband lies on the body
        start[row:] += _outline(person, _waist(person) - down[row], columns) - start[row]
    area = length * (waist + 0.5 * fullness * length)
    return Grid(rows, columns, True, flat.reshape(-1, 3), start.reshape(-1, 3), sewn_rows, area)


def cape(person: Person, *, length: float, fullness: float, rows: int, columns: int, seed: int) -> Grid:
    """A cape sewn over the shoulders and hanging down the back, widening by `fullness` metres per metre of length."""
    marks = person.marks
    across = np.linspace(1.0, -1.0, columns)  # from the left shoulder: rightwards seen from behind
    half = 0.92 * marks.shoulder
    body = person.skin.rest[: len(person.body.rest)]
    top = body[(body[:, 1] > marks.waist) & (body[:, 1] < marks.neck + 0.03)]
    edge = np.zeros((columns, 3))
    for j, s in enumerate(across):
        x = s * half
        near = top[np.abs(top[:, 0] - x) < 0.02]
        back = near[near[:, 2] < np.abs(s) * 0.02 - 0.01]
        high = back[:, 1].max() - 0.015
        edge[j] = x, high, back[back[:, 1] > high - 0.03][:, 2].min() - _STAND_OFF
    for _ in range(4):
        edge[1:-1] = 0.25 * edge[:-2] + 0.5 * edge[1:-1] + 0.25 * edge[2:]
    steps = edge[1:] - edge[:-1]
    width = _total(np.sqrt(am.dot(steps, steps)))
    down = np.linspace(0.0, length, rows)
    wide = 0.5 * (width + fullness * down)[:, None] * across
    flat = np.stack([wide, np.broadcast_to(-down[:, None], wide.shape), np.zeros_like(wide)], -1)
    # It begins as a sheet that slants backwards, unstretched: |(0.9, 0.436)| = 1.
    drop = np.stack([0.5 * fullness * across, np.full(columns, -0.9), np.full(columns, -0.436)], -1)
    start = edge + down[:, None, None] * drop
    start = start + 0.004 * (am.draws(seed, 3, *start.shape) - 0.5) * (down > 0.0)[:, None, None]
    return Grid(
        rows, columns, False, flat.reshape(-1, 3), start.reshape(-1, 3), 1, length * (width + 0.5 * fullness * length)
    )


def trouser_legs(person: Person, *, length: float, fullness: float, rows: int, columns: int, seed: int) -> Grid:
    """Two wide tubes, `columns` around each, sewn around the thighs on a slant: higher outside than between the legs.

    They hang `length` metres below the hips; a hem is `fullness` metres per metre of length wider than its sewn edge.
    """
    hip = float(person.joints[1, 1])
    share = np.linspace(0.0, 1.0, rows)[:, None, None]  # of the way from the sewn edge to the hem
    angle = np.arange(columns) * (2.0 * am.PI / columns)
    spoke = np.stack([am.sin(angle), np.zeros(columns), am.cos(angle)], -1)
    flats, starts, area = [], [], 0.0
    for number, sign in enumerate((1.0, -1.0)):
        edge = _thigh(person, sign, hip, columns)
        around = np.roll(edge, -1, 0) - edge
        girth = _total(np.sqrt(am.dot(around, around)))
        flare = fullness / (2.0 * am.PI)
        drop = edge[:, 1] - (hip - length)  # metres to the hem, column by column
        down = share * (flare * spoke - np.array([0.0, 1.0, 0.0])) * drop[:, None]
        down = down + _EASE * am.smooth(8.0 * share) * spoke
        start = edge + down
        # The tubes begin side by side, not through each other; what is squeezed there unfolds as the cloth settles.
        start[..., 0] = sign * np.maximum(sign * start[..., 0], _CROTCH_GAP)
        starts.append(start)
        flats.append(edge + down + np.array([10.0 * number, 0.0, 0.0]))  # metres apart: never neighbours
        mean = _total(drop) / columns
        area += mean * (girth + 0.5 * fullness * mean)
    start, flat = np.concatenate(starts, 1), np.concatenate(flats, 1)
    start = start + 0.004 * (am.draws(seed, 3, *start.shape) - 0.5) * (share > 0.0)
    return Grid(rows, 2 * columns, True, flat.reshape(-1, 3), start.reshape(-1, 3), 1, area, tubes=2)


def sewn(grid: Grid, person: Person) -> Skin:
    """The sewn particles as skin: each moves with the mean of the nearest eight body points' weights."""
    points = grid.start[: grid.pinned * grid.columns]
    body = person.body
    weights = np.zeros((len(points), len(person.joints)))
    for p, point in enumerate(points):
        gap = person.skin.rest[: len(body.rest)] - point
        for v in np.argsort(am.dot(gap, gap), kind="stable")[:8]:
            for bone, share in zip(body.bones[v], body.shares[v]):
                weights[p, bone] += share / 8.0
    return Skin.of_weights(points, weights)


def worn(grid: Grid, person: Person) -> Skin:
    """All particles as skin, to put the garment around a posed body: rigid with hips or chest, trouser legs as legs."""
    count = len(grid.start)
    if grid.tubes == 1:
        bone = 0 if grid.closed else 9
        return Skin(grid.start, np.full((count, 1), bone, np.int32), np.ones((count, 1)))
    right = np.arange(count) % grid.columns // (grid.columns // 2)
    shin = am.smooth((person.joints[4, 1] + 0.08 - grid.start[:, 1]) / 0.16)
    return Skin(grid.start, np.stack([1 + right, 4 + right], -1).astype(np.int32), np.stack([1.0 - shin, shin], -1))


def pattern(grid: Grid) -> Array:
    """Where each particle's colour is looked up: turns around, metres below the edge, metres above the hem, [N, 3]."""
    i, j = np.divmod(np.arange(grid.rows * grid.columns), grid.columns)
    width = grid.columns // grid.tubes
    column = grid.flat.reshape(grid.rows, grid.columns, 3)[:, 0]
    step = column[1:] - column[:-1]
    down = np.concatenate([[0.0], np.cumsum(np.sqrt(am.dot(step, step)))])
    return np.stack([j % width / width, down[i], down[-1] - down[i]], -1)


def _waist(person: Person) -> float:
    """Height of the waistband on this person's body."""
    joints = person.joints
    return float(joints[3, 1] + 0.45 * (joints[6, 1] - joints[3, 1]))


def _outline(person: Person, height: float, columns: int) -> Array:
    """The body's outline at a height, a little outside it, [columns, 3]; the angle is measured from +z towards +x."""
    body = person.skin.rest[: len(person.body.rest)]
    near = body[(np.abs(body[:, 1] - height) < 0.012) & (np.abs(body[:, 0]) < person.marks.shoulder)]
    centre = 0.5 * (near[:, 2].min() + near[:, 2].max())
    return np.array([0.0, height, 0.0]) + _around(near, np.array([0.0, 0.0, centre]), columns)


def _thigh(person: Person, sign: float, hip: float, columns: int) -> Array:
    """The outline of one thigh (sign 1: the left) on a slant around its top, [columns, 3]; angles as in `_outline`."""
    inner, slope = hip - 0.15, 0.75  # y between the legs, and the rise from there to the outside

    def level(x: Array) -> Array:
        return inner + slope * sign * x

    body = person.skin.rest[: len(person.body.rest)]
    side = sign * body[:, 0]
    near = body[(np.abs(body[:, 1] - level(body[:, 0])) < 0.012) & (side > 0.0) & (side < 0.25)]
    centre = np.array([0.5 * (near[:, 0].min() + near[:, 0].max()), 0.0, 0.5 * (near[:, 2].min() + near[:, 2].max())])
    edge = _around(near, centre, columns)
    edge[:, 0] = sign * np.maximum(sign * edge[:, 0], _CROTCH_GAP)
    edge[:, 1] = level(edge[:, 0])
    return edge


def _around(near: Array, centre: Array, columns: int) -> Array:
    """The outline of points seen from above, a little outside them: [columns, 3] with y that of the centre."""
    angle = np.arange(columns) * (2.0 * am.PI / columns)
    spoke = np.stack([am.sin(angle), np.zeros(columns), am.cos(angle)], -1)
    flat = near - centre
    flat[:, 1] = 0.0
    reach = np.array([am.dot(flat, s)[_ahead(flat, s)].max() for s in spoke]) + _STAND_OFF
    for _ in range(3):
        reach = 0.25 * np.roll(reach, 1) + 0.5 * reach + 0.25 * np.roll(reach, -1)
    return centre + spoke * reach[:, None]


def _ahead(points: Array, direction: Array) -> NDArray[np.bool_]:
    """Points within 12 degrees of a direction."""
    along = am.dot(points, direction)
    return (along > 0.0) & (along * along > 0.9568 * am.dot(points, points))


def _total(values: Array) -> float:
    total = 0.0
    for value in values.tolist():
        total += value
    return total
