"""A garment is cut for a body: where it is sewn on, how long and how wide it is."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial import ConvexHull, cKDTree

from r3avatar.body import load_body
from r3avatar.captures.synthesis.skin import vertex_normals
from r3avatar.cloth.motion import Wearer
from r3avatar.cloth.tailor import KINDS, MOST_FLARE, Cut, longest, tailor
from r3avatar.types import BodyPose

ROWS, COLUMNS = 12, 32
TUBES = ("skirt", "trousers")


@pytest.fixture(scope="module")
def body():
    return load_body("demo")


def _person(body, **betas):
    """The demo body at rest with betas such as b0=2: its vertices, joints, skinning weights."""
    shape = torch.zeros(1, body.num_betas)
    for name, value in betas.items():
        shape[0, int(name[1:])] = value
    like = BodyPose(
        torch.zeros(1, 55, 3), shape, torch.zeros(1, body.num_expression), torch.eye(3)[None], torch.zeros(1, 3)
    )  # fmt: skip
    wearer = Wearer(body, like, torch.tensor([0.0, 1.0, 0.0]))
    return wearer.rest_vertices, wearer.rest_joints, wearer.weights


@pytest.fixture(scope="module")
def person(body):
    return _person(body)


def _rows(garment, where="start"):
    """Its particles [tubes, rows, columns, 3]."""
    grid = garment.grid
    return getattr(grid, where).reshape(grid.rows, grid.tubes, -1, 3).swapaxes(0, 1)


def _girth(ring):
    return np.linalg.norm(np.roll(ring, -1, 0) - ring, axis=-1).sum()


def _windings(ring, centre):
    """How often a ring goes around a vertical axis, counter-clockwise seen from below (from +z to +x)."""
    angle = np.arctan2(ring[:, 0] - centre[0], ring[:, 2] - centre[2])
    steps = np.diff(np.append(angle, angle[0]))
    return ((steps + math.pi) % (2 * math.pi) - math.pi).sum() / (2 * math.pi)


@pytest.mark.parametrize("columns", [16, 32, 64])
@pytest.mark.parametrize("kind", KINDS)
def test_the_sewn_edge_lies_just_off_the_skin(body, person, kind, columns):
    vertices = person[0]
    garment = tailor(Cut(kind, 0.5, 0.6), *person, ROWS, columns)
    edge = garment.grid.start[:columns]
    distance, nearest = cKDTree(vertices).query(edge)
    normals = vertex_normals(vertices, body.faces.numpy())[nearest]
    assert distance.max() < 0.03
    assert ((edge - vertices[nearest]) * normals).sum(1).min() > 0.005
    assert np.isfinite(garment.grid.start).all() and np.isfinite(garment.grid.flat).all()
    assert garment.sewn_to.shape == (columns, 8) and (garment.sewn_to == nearest[:, None]).any(1).all()
    assert np.linalg.norm(vertices[garment.sewn_to] - edge[:, None], axis=-1).max() < 0.05


def test_a_skirt_begins_around_the_waist(person):
    vertices, joints, weights = person
    waist = tailor(Cut("skirt", 0.5, 1.0), *person, ROWS, COLUMNS).grid.start[:COLUMNS]
    assert np.ptp(waist[:, 1]) < 1e-9 and joints[0, 1] < waist[0, 1] < joints[9, 1]
    assert _windings(waist, joints[3]) == pytest.approx(1)
    trunk = vertices[weights[:, 16:].sum(1) < 0.1]
    for height in (joints[3, 1], joints[6, 1]):  # nowhere nearby is it narrower
        level = trunk[np.abs(trunk[:, 1] - height) < 0.025][:, [0, 2]]
        assert _girth(waist) < _girth(level[ConvexHull(level).vertices]) + 2 * math.pi * 0.02


def test_trousers_begin_around_each_thigh(person):
    vertices, joints = person[:2]
    trousers = tailor(Cut("trousers", 0.6, 0.5), *person, ROWS, COLUMNS)
    for ring, hip, sign in zip(_rows(trousers)[:, 0], (1, 2), (1, -1)):
        assert _windings(ring, joints[hip]) == pytest.approx(1)
        assert (sign * ring[:, 0]).min() > 0
        outer, inner = ring[(sign * ring[:, 0]).argmax()], ring[(sign * ring[:, 0]).argmin()]
        assert outer[1] == pytest.approx(joints[hip, 1], abs=0.01) and inner[1] < outer[1] - 0.1
        between = vertices[(np.abs(vertices[:, 0]) < 0.02) & (vertices[:, 1] > joints[4, 1])]
        assert ring[:, 1].min() < between[:, 1].min() and inner[1] < ring[:, 1].min() + 0.02  # below the crotch
    left, right = _rows(trousers)
    mirror = -np.arange(COLUMNS // 2) % (COLUMNS // 2)
    np.testing.assert_allclose(left, right[:, mirror] * [-1, 1, 1], atol=2e-3)


def test_a_cape_begins_along_the_shoulders(person):
    joints = person[1]
    edge = tailor(Cut("cape", 0.8, 0.5), *person, ROWS, COLUMNS).grid.start[:COLUMNS]
    left, right = joints[16, 0], joints[17, 0]
    assert 0.8 * left < edge[0, 0] < left and 0.8 * right > edge[-1, 0] > right and (np.diff(edge[:, 0]) < 0).all()
    assert (edge[:, 1] > joints[9, 1]).all() and (edge[:, 1] < joints[15, 1]).all()
    assert (edge[:, 2] < joints[12, 2]).all()  # behind the neck
    middle, ends = edge[COLUMNS // 2 - 1 : COLUMNS // 2 + 1], edge[[0, -1]]
    assert middle[:, 1].min() > ends[:, 1].max()  # shoulders slope


@pytest.mark.parametrize("flare", [0.0, 0.7, 2.5, MOST_FLARE])
@pytest.mark.parametrize("kind", KINDS)
def test_threads_are_as_long_as_the_cut_says(person, kind, flare):
    garment = tailor(Cut(kind, 0.6, flare), *person, ROWS, COLUMNS)
    for tube, start in zip(_rows(garment, "flat"), _rows(garment)):
        down = np.linalg.norm(np.diff(tube, axis=0), axis=-1)
        np.testing.assert_allclose(down, down[:1].repeat(ROWS - 1, 0))  # evenly
        lengths = down.sum(0)
        if kind == "skirt":
            np.testing.assert_allclose(lengths, 0.6)
        elif kind == "trousers":  # whose edge slants: what begins lower is shorter
            np.testing.assert_allclose(lengths, 0.6 + start[0, :, 1] - start[0, :, 1].max())
        else:  # whose sides fan out
            aside = tube[0, :, 0] / tube[0, 0, 0]  # from 1 to -1
            np.testing.assert_allclose(lengths, 0.6 * np.sqrt(1 + (flare / 2 * aside) ** 2))


@pytest.mark.parametrize("flare", [0.0, 0.7, 2.5, MOST_FLARE])
@pytest.mark.parametrize("kind", KINDS)
def test_the_hem_is_wider_than_the_edge_by_flare_times_length(person, kind, flare):
    garment = tailor(Cut(kind, 0.6, flare), *person, ROWS, 64)
    for tube in _rows(garment, "flat"):
        edge, hem = tube[0].copy(), tube[-1]
        length = np.linalg.norm(np.diff(tube, axis=0), axis=-1).sum(0).mean() if kind in TUBES else 0.6
        if kind in TUBES:
            edge[:, 1] = 0.0  # trousers slant
            assert _girth(hem * [1, 0, 1]) == pytest.approx(_girth(edge) + flare * length, rel=0.03)
        else:
            width = [np.linalg.norm(np.diff(row, axis=0), axis=1).sum() for row in (edge, hem)]
            assert width[1] == pytest.approx(width[0] + flare * 0.6)


@pytest.mark.parametrize("kind", KINDS)
def test_threads_along_the_sewn_edge_are_as_long_as_it(person, kind):
    for columns in (32, 64):
        garment = tailor(Cut(kind, 0.5, 0.6), *person, ROWS, columns)
        for sewn, flat in zip(_rows(garment)[:, 0], _rows(garment, "flat")[:, 0]):
            spacing = [np.linalg.norm(np.diff(row, axis=0), axis=1) for row in (sewn, flat)]
            np.testing.assert_allclose(*spacing, rtol=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_an_edge_is_as_long_however_many_columns_it_has(person, kind):
    edges = [_rows(tailor(Cut(kind, 0.5, 0.6), *person, ROWS, columns))[0, 0] for columns in (24, 64)]
    if kind == "cape":  # which is not closed
        edges = [np.concatenate([edge, edge[::-1]]) for edge in edges]
    lengths = [_girth(edge) for edge in edges]
    assert lengths[1] == pytest.approx(lengths[0], rel=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_longer_and_wider_cuts_make_longer_and_wider_garments(person, kind):
    def made(length, flare):
        garment = tailor(Cut(kind, length, flare), *person, ROWS, COLUMNS)
        start = garment.grid.start.reshape(ROWS, -1, 3)
        return start[-1, :, 1].mean(), np.ptp(start[-1, :, 0]), garment.grid.area

    (low, width, area), longer, wider = made(0.5, 0.5), made(0.7, 0.5), made(0.5, 1.5)
    assert longer[0] < low - 0.15 and longer[2] > area * 1.2
    assert wider[1] > width + 0.1 and wider[2] > area * 1.2


@pytest.mark.parametrize("kind", KINDS)
def test_the_area_is_that_of_the_cloth(person, kind):
    grid = tailor(Cut(kind, 0.6, 0.8), *person, 24, 64).grid
    a, b, c = (grid.flat[grid.triangles()[:, k]] for k in range(3))
    area = 0.5 * np.linalg.norm(np.cross(b - a, c - a), axis=1).sum()
    assert grid.area == pytest.approx(area, rel=0.2 if kind == "trousers" else 0.06)  # trousers: but for their slant


@pytest.mark.parametrize("kind", KINDS)
def test_triangles_face_away_from_the_body(person, kind):
    joints = person[1]
    grid = tailor(Cut(kind, 0.6, 0.8), *person, ROWS, COLUMNS).grid
    a, b, c = (grid.start[grid.triangles()[:, k]] for k in range(3))
    middle, normals = (a + b + c) / 3, np.cross(b - a, c - a)
    left, right = joints[[1, 2]] if kind == "trousers" else joints[[3, 3]]
    outward = (middle - np.where(middle[:, :1] > 0, left, right)) * [1, 0, 1] if kind != "cape" else [[0, 0, -1]]
    assert ((normals * outward).sum(1) > 0).mean() > 0.95  # but where the legs' cloth is flat between them


def test_trouser_legs_share_no_threads(person):
    grid = tailor(Cut("trousers", 0.7, 2.0), *person, ROWS, COLUMNS).grid
    assert grid.tubes == 2 and grid.columns == COLUMNS
    leg = np.arange(ROWS * COLUMNS) % COLUMNS >= COLUMNS // 2
    pairs = grid.pairs([(0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0)])
    assert (leg[pairs[:, 0]] == leg[pairs[:, 1]]).all() and {*pairs.flatten()} == {*range(ROWS * COLUMNS)}
    assert np.abs(grid.flat[leg][:, None] - grid.flat[~leg][None]).max(-1).min() > 1
    assert (grid.start[~leg, 0] > 0.004).all() and (grid.start[leg, 0] < -0.004).all()  # however wide
    assert (np.abs(grid.start[COLUMNS:, 0]) > 0.0079).all()
    odd = tailor(Cut("trousers", 0.7, 2.0), *person, ROWS, COLUMNS + 1).grid
    assert odd.columns == COLUMNS and len(odd.start) == len(odd.flat) == ROWS * COLUMNS


def test_trousers_that_end_above_the_crotch_hang_down_all_the_same(person):
    for length in (0.05, 0.14):
        garment = tailor(Cut("trousers", length, 0.3), *person, ROWS, COLUMNS)
        for tube in _rows(garment, "flat"):
            assert (tube[0, :, 1] > tube[-1, :, 1]).all() and garment.grid.area > 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_longest_ends_at_the_ankles(person, kind):
    _, joints, _ = person
    hem = tailor(Cut(kind, longest(kind, joints), 0.0), *person, ROWS, COLUMNS).grid.flat[-1, 1]
    edge = tailor(Cut(kind, longest(kind, joints), 0.0), *person, ROWS, COLUMNS).grid.start[:COLUMNS, 1]
    lowest = hem if kind != "cape" else edge.mean() - longest(kind, joints)
    assert lowest == pytest.approx(joints[7, 1], abs=0.12) and 0.6 < longest(kind, joints) < 1.5


def test_what_cannot_be_cut_is_refused(person):
    with pytest.raises(ValueError, match="garment 'kilt' is none of skirt, trousers, cape"):
        tailor(Cut("kilt", 0.5, 0.5), *person, ROWS, COLUMNS)
    lengths, flares = (0.0, -0.1, 3.0, math.nan), (-0.1, MOST_FLARE + 0.01, math.nan)
    for kind in KINDS:
        for length, flare in [(length, 0.5) for length in lengths] + [(0.5, flare) for flare in flares]:
            with pytest.raises(ValueError, match="expected a length below 3 metres, and a flare of 0 to 6"):
                tailor(Cut(kind, length, flare), *person, ROWS, COLUMNS)


@pytest.mark.parametrize("kind", KINDS)
def test_taller_people_have_longer_ways_to_the_ankle_and_wider_ones_more_cloth(body, person, kind):
    taller, broader = _person(body, b0=2), _person(body, b1=3, b4=-3, b9=3)
    assert longest(kind, taller[1]) > longest(kind, person[1]) + 0.05
    cuts = [tailor(Cut(kind, 0.5, 0.5), *who, ROWS, COLUMNS) for who in (person, taller, broader)]
    edges = [_rows(cut)[0, 0] for cut in cuts]
    assert np.abs(edges[1] - edges[0]).max() > 0.01 and np.abs(edges[2] - edges[0]).max() > 0.005
    if kind != "cape":
        assert _girth(edges[2]) > _girth(edges[0]) + 0.02
    for who, edge in zip((taller, broader), edges[1:]):
        assert cKDTree(who[0]).query(edge)[0].max() < 0.03


@pytest.mark.parametrize("kind", KINDS)
def test_a_body_without_fingers_is_cut_the_same(body, person, kind):
    """SMPL's layout: what fingers and face carry goes with the joint above."""
    vertices, joints, weights = person
    merged = weights.copy()
    for joint in range(54, 23, -1):
        merged[:, body.parents[joint]] += merged[:, joint]
    for joint in (22, 23):  # SMPL's hands, here jaw and an eye
        merged[:, 15] += merged[:, joint]
        merged[:, joint] = 0
    cut = Cut(kind, 0.5, 0.5)
    a, b = (tailor(cut, vertices, *rest, ROWS, COLUMNS) for rest in ((joints, weights), (joints[:24], merged[:, :24])))
    np.testing.assert_array_equal(a.grid.start, b.grid.start)
    np.testing.assert_array_equal(a.sewn_to, b.sewn_to)
