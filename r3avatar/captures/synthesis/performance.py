"""One performance: the dressed person's surface, cloth included, in every frame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from r3avatar.captures.synthesis import arithmetic as am
from r3avatar.captures.synthesis import garment as garments
from r3avatar.captures.synthesis.person import CLOTH, SHOE, Person
from r3avatar.captures.synthesis.score import Score
from r3avatar.captures.synthesis.skin import joint_transforms, vertex_normals
from r3avatar.cloth.particles import Cloth, Collider, Fabric, Grid

Array = NDArray[np.float64]

_SAMPLE_SECONDS = 1 / 60  # the body is skinned this often for the cloth, and moves linearly in between
_STEPS = 12  # cloth steps a sample
_LEAD_SECONDS = 1.6  # danced before frame 0, for the cloth to settle


@dataclass
class Surface:
    """The drawn mesh, the same in all frames but for its vertices."""

    triangles: NDArray[np.int32]  # [T, 3]
    kind: NDArray[np.uint8]  # [T] what a triangle is made of
    two_sided: NDArray[np.bool_]  # [T]
    pattern: Array  # [V, 3]


@dataclass
class Performance:
    """Poses and vertices of F frames."""

    surface: Surface
    vertices: Array  # [F, V, 3] metres
    fullpose: Array  # [F, 55, 3] radians
    transl: Array  # [F, 3] metres
    expression: Array  # [F, E]
    cloth: Array  # [F, N, 3] the garment's particles; N = 0 without one


def perform(
    person: Person,
    score: Score,
    frames: int,
    grid: Grid | None,
    fabric: Fabric,
    collider: NDArray[np.bool_],
    progress: Callable[[int], None],
) -> Performance:
    """Dance `frames` frames and let the garment follow; collider [B]: the body's vertices that push it.

    progress is called with the number of frames done.
    """
    per_frame = max(round(1.0 / (score.fps * _SAMPLE_SECONDS)), 1)
    lead = round(_LEAD_SECONDS * score.fps)
    moments = np.arange(-lead * per_frame, (frames - 1) * per_frame + 1) / per_frame  # [S] frames
    motion = score(moments)
    expression = _expressions(moments / score.fps, person.face.shape[2], score.dance.phase)
    joints = person.joints + _scaled_sum(expression, person.joint_face)
    shoes = person.skin[_shoes(person)]
    # The feet may not sink or float: the person stands on whatever point of the shoes is lowest.
    transforms = joint_transforms(motion.rotations, joints, person.parents, motion.pelvis)
    lowest = np.array([shoes.at(t)[:, 1].min() for t in transforms])
    motion.pelvis[:, 1] -= lowest
    transforms[..., 1, 3] -= lowest[:, None]

    keep = slice(lead * per_frame, None, per_frame)
    bare = np.stack([person.skin.at(t, person.offsets(e)[0]) for t, e in zip(transforms[keep], expression[keep])])
    fullpose = am.rotation_vector(motion.rotations[keep])
    transl = motion.pelvis[keep] - joints[keep][:, 0]
    surface = Surface(person.triangles, person.kind, np.zeros(len(person.triangles), bool), person.pattern)
    if grid is None:
        progress(frames)
        return Performance(surface, bare, fullpose, transl, expression[keep], np.zeros((frames, 0, 3)))

    particles = _simulate(person, grid, fabric, collider, transforms, lead * per_frame, per_frame, score.fps, progress)
    fine = [_refined(p, grid) for p in particles]
    fine_grid, fine_pattern = _refined_grid(grid)
    faces = fine_grid.triangles() + len(person.skin.rest)
    surface = Surface(
        triangles=np.concatenate([person.triangles, faces.astype(np.int32)]),
        kind=np.concatenate([person.kind, np.full(len(faces), CLOTH, np.uint8)]),
        two_sided=np.concatenate([surface.two_sided, np.ones(len(faces), bool)]),
        pattern=np.concatenate([person.pattern, fine_pattern]),
    )
    vertices = np.concatenate([bare, np.stack(fine)], 1)
    return Performance(surface, vertices, fullpose, transl, expression[keep], particles)


def _simulate(person, grid, fabric, collider, transforms, lead, per_frame, fps, progress) -> Array:
    """Particles of every frame, [F, N, 3]; transforms [S, 55, 3, 4], of which frame 0 is number `lead`."""
    body = person.skin[: len(person.body.rest)]
    pins = garments.sewn(grid, person)
    touched = np.flatnonzero(collider)

    def moment(transform: Array) -> tuple[Collider, Array]:
        points = body.at(transform)
        normals = vertex_normals(points, person.body_triangles)
        return Collider(points[touched], normals[touched]), pins.at(transform)

    cloth = Cloth(grid, fabric)
    cloth.position = garments.worn(grid, person).at(transforms[0])  # around the body as it stands at the first moment
    before, pins_before = moment(transforms[0])
    found = [cloth.position.copy()] if lead == 0 else []
    for number, transform in enumerate(transforms[1:], start=1):
        after, pins_after = moment(transform)
        cloth.advance(before, after, pins_before, pins_after, 1.0 / (fps * per_frame), _STEPS)
        before, pins_before = after, pins_after
        if number >= lead and (number - lead) % per_frame == 0:
            found.append(cloth.position.copy())
            progress(len(found))
    return np.stack(found)


def _expressions(time: Array, count: int, phase: Array) -> Array:
    """Smiling, more or less, and raising the brows, [T, E]; the coefficients are the demo body's."""
    expression = np.zeros((len(time), count))
    expression[:, 1] = 1.6 + 0.4 * am.sin(1.9 * time + phase[22])
    expression[:, 5] = 0.3 + 0.4 * am.sin(2.7 * time + phase[23])
    return expression


def _scaled_sum(amounts: Array, directions: Array) -> Array:
    """amounts [T, E] times directions [J, 3, E], added in order: [T, J, 3]."""
    total = np.zeros((len(amounts), *directions.shape[:2]))
    for e in range(directions.shape[2]):
        total += amounts[:, e, None, None] * directions[..., e]
    return total


def _shoes(person: Person) -> NDArray[np.int64]:
    return np.unique(person.triangles[person.kind == SHOE])


def _refined(particles: Array, grid: Grid) -> Array:
    """The grid with a point between every two, on the curve through four neighbours (Catmull-Rom), flattened."""
    rows = _halved(particles.reshape(grid.rows, grid.columns, 3), closed=False)
    tubes = np.split(np.swapaxes(rows, 0, 1), grid.tubes)
    columns = np.concatenate([_halved(tube, closed=grid.closed) for tube in tubes])
    return np.swapaxes(columns, 0, 1).reshape(-1, 3)


def _halved(points: Array, closed: bool) -> Array:
    if closed:
        padded = np.concatenate([points[-1:], points, points[:2]])
    else:
        padded = np.concatenate([2.0 * points[:1] - points[1:2], points, 2.0 * points[-1:] - points[-2:-1]])
    middle = (9.0 * (padded[1:-2] + padded[2:-1]) - (padded[:-3] + padded[3:])) / 16.0
    out = np.empty((len(points) + len(middle), *points.shape[1:]))
    out[0::2], out[1::2] = points, middle
    return out


def _refined_grid(grid: Grid) -> tuple[Grid, Array]:
    """The refined grid and its pattern coordinates."""
    flat = _refined(grid.flat, grid)
    rows, columns = 2 * grid.rows - 1, 2 * grid.columns if grid.closed else 2 * grid.columns - 1
    fine = Grid(rows, columns, grid.closed, flat, flat, 0, grid.area, grid.tubes)
    return fine, garments.pattern(fine)
