"""A garment follows its wearer: it hangs, swings, stays whole and outside of the body, wherever and however up is."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from r3avatar.body import load_body
from r3avatar.body.model import rodrigues
from r3avatar.cloth import motion
from r3avatar.cloth.motion import (
    GAP_SECONDS,
    UNKNOWN_FPS,
    Bodies,
    Wearer,
    _between,
    after_dressing,
    dress,
    follow_body,
    stretches,
    turn_up,
)
from r3avatar.cloth.particles import Fabric
from r3avatar.cloth.tailor import KINDS, Cut, tailor
from r3avatar.types import BodyPose

ROWS, COLUMNS, FPS = 12, 32, 10.0
CUTS = {"skirt": Cut("skirt", 0.5, 2.5), "trousers": Cut("trousers", 0.5, 0.3), "cape": Cut("cape", 0.5, 0.3)}
Y_UP = torch.tensor([0.0, 1.0, 0.0])


@pytest.fixture(autouse=True, scope="module")
def one_fabric():
    """Of which a motion is followed in an eighth of the time, and threads keep their lengths."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dress, "__defaults__", ([Fabric()],))
        yield



@pytest.fixture(scope="module")
def body():
    return load_body("demo")


def _standing(body, frames):
    return BodyPose(
        torch.zeros(frames, 55, 3), torch.zeros(frames, body.num_betas), torch.zeros(frames, body.num_expression),
        torch.eye(3).repeat(frames, 1, 1), torch.zeros(frames, 3),
    )  # fmt: skip


def _stepping(body, frames):
    """The arms hang, the thighs swing, the trunk turns and goes ahead."""
    pose, swing = _standing(body, frames), 0.5 * torch.sin(0.8 * torch.arange(frames))
    pose.theta[:, 1, 0], pose.theta[:, 2, 0] = -swing, swing
    pose.theta[:, 16, 2], pose.theta[:, 17, 2] = -1.1, 1.1
    pose.theta[:, 0, 1] = 0.3 * swing
    pose.Th[:, 2] = 0.05 * torch.arange(frames)
    return pose


def _moved(pose, turn, shift):
    """The whole motion turned about the origin and shifted."""
    return replace(pose, R=turn @ pose.R, Th=pose.Th @ turn.T + shift)


@pytest.fixture(scope="module")
def wearer(body):
    return Wearer(body, _standing(body, 1), Y_UP)


@pytest.fixture(scope="module", params=KINDS)
def garment(wearer, request):
    return _made(wearer, CUTS[request.param])


def _made(wearer, cut, rows=ROWS, columns=COLUMNS):
    return tailor(cut, wearer.rest_vertices, wearer.rest_joints, wearer.weights, rows, columns)


@pytest.fixture(scope="module")
def worn(body, wearer, garment):
    """A garment, a motion, and the garment's particles in it."""
    poses = _stepping(body, 8)
    return garment, poses, dress(wearer, garment, poses, range(8), FPS)


def _stretched(garment, places):
    """Every thread's length in places [F, P, 3] to what it is unstretched, [F, threads], of those not sewn on."""
    pairs = garment.grid.pairs([(0, 1), (1, 0)])
    pairs = pairs[pairs[:, 1] >= garment.grid.columns]
    a, b = pairs.T
    flat = garment.grid.flat
    return np.linalg.norm(places[:, b] - places[:, a], axis=-1) / np.linalg.norm(flat[b] - flat[a], axis=-1)


def _outside(surface, places):
    """How far particles near the body lie in front of it, at least, over all frames."""
    least = []
    for points, normals, frame in zip(surface.points, surface.normals, places):
        distance, nearest = cKDTree(points).query(frame)
        height = ((frame - points[nearest]) * normals[nearest]).sum(1)
        least.append(height[distance < 0.05].min())
    return min(least)


def test_cloth_on_a_standing_body_settles(body, wearer, garment):
    ids = [0, 1, *range(5, 30, 5), 26]  # the first and the last two frames a tenth of a second apart
    poses = _standing(body, len(ids))
    places = dress(wearer, garment, poses, ids, FPS)
    moved = np.linalg.norm(np.diff(places, axis=0), axis=-1)
    assert moved[-1].max() < 0.01 and moved[-1].mean() < 0.002 and moved[-1].mean() < moved[0].mean() / 2
    assert np.isfinite(places).all() and np.abs(_stretched(garment, places) - 1).mean() < 0.01
    assert _outside(wearer.surface(poses), places) > 0
    edge, hem = (places[-1].reshape(ROWS, -1, 3)[row] for row in (0, -1))
    assert edge[:, 1].mean() - 0.5 < hem[:, 1].mean() < edge[:, 1].mean() - 0.35


def test_threads_keep_their_lengths(worn):
    garment, _, places = worn
    wrong = np.abs(_stretched(garment, places) - 1)
    assert np.percentile(wrong, 99) < 0.03 and wrong.max() < 0.12  # the most between the legs


def test_fine_threads_keep_their_lengths_too(body, wearer):
    garment = _made(wearer, Cut("cape", 0.65, 0.3), 24, 64)
    wrong = np.abs(_stretched(garment, dress(wearer, garment, _standing(body, 2), range(2), FPS)) - 1)
    assert wrong.max() < 0.25 and np.percentile(wrong, 99) < 0.05


def test_cloth_stays_outside_of_a_stepping_body(wearer, worn):
    _, poses, places = worn
    assert places.shape == (8, ROWS * COLUMNS, 3) and np.isfinite(places).all()
    assert _outside(wearer.surface(poses), places) > -0.01


def test_what_is_sewn_on_moves_with_the_body(body, wearer, worn):
    garment, poses, places = worn
    surface = wearer.surface(poses)
    pins = wearer.meet(surface, garment).pins
    np.testing.assert_allclose(places[:, :COLUMNS], pins, atol=1e-6)
    for frame, vertices in zip(pins, body.vertices(poses).double().numpy()):
        assert cKDTree(vertices).query(frame)[0].max() < 0.04
    rest = wearer.meet(wearer.surface(_standing(body, 1)), garment).pins[0]
    np.testing.assert_allclose(rest, garment.grid.start[:COLUMNS], atol=1e-6)
    assert np.abs(pins - rest).max() > 0.1


def test_dressing_is_the_same_wherever_the_motion_is(wearer, worn):
    garment, poses, places = worn
    turn, shift = rodrigues(torch.tensor([0.0, 1.1, 0.0])), torch.tensor([0.7, 0.3, -1.2])
    found = dress(wearer, garment, _moved(poses, turn, shift), range(8), FPS)
    missed = np.linalg.norm(found - (places @ turn.double().numpy().T + shift.double().numpy()), axis=-1)
    assert missed[:, :COLUMNS].max() < 1e-6  # the sewn ones
    # Where folds fall is decided by the last bits of what the body is: a cape's are many.
    assert missed.mean() < (0.03 if garment.cut.kind == "cape" else 1e-3)


def test_cloth_moves_rigidly_with_all_that_it_meets(body, wearer):
    garment = _made(wearer, CUTS["trousers"])
    whole, seconds, _ = after_dressing(wearer, _stepping(body, 3), range(3), FPS)
    met = wearer.meet(wearer.surface(whole), garment)
    turn, shift = rodrigues(torch.tensor([0.0, 1.1, 0.0], dtype=torch.float64)).numpy(), np.array([0.7, 0.3, -1.2])
    moved = Bodies(met.points @ turn.T + shift, met.normals @ turn.T, met.pins @ turn.T + shift)
    places, found = (follow_body(garment, bodies, seconds, Fabric()) for bodies in (met, moved))
    missed = np.linalg.norm(found - (places @ turn.T + shift), axis=-1)
    assert missed[:5].max() < 1e-5 and missed.mean() < 1e-5 and missed.max() < 2e-3


@pytest.mark.parametrize("up", [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.6, 0.48, -0.64]])
def test_up_may_be_anywhere(body, wearer, up):
    """The same motion in a world turned upright: the same cloth, turned."""
    garment, poses = _made(wearer, CUTS["trousers"]), _stepping(body, 3)
    places = dress(wearer, garment, poses, range(3), FPS)
    lean = torch.from_numpy(turn_up(torch.tensor(up)).T).float()  # y to up
    other = Wearer(body, poses, torch.tensor(up))
    np.testing.assert_array_equal(other.rest_vertices, wearer.rest_vertices)  # at rest up is y
    found = dress(other, garment, _moved(poses, lean, torch.tensor([0.3, 0.2, -0.5])), range(3), FPS) @ other.turn
    missed = np.linalg.norm(found - (places @ lean.double().numpy().T + [0.3, 0.2, -0.5]), axis=-1)
    assert missed[:, :COLUMNS].max() < 2e-6 and missed.mean() < 1e-3
    drop = (found[-1].reshape(ROWS, -1, 3)[0] - found[-1].reshape(ROWS, -1, 3)[-1]).mean(0)
    assert drop @ up > 0.3


@pytest.mark.parametrize(
    "up",
    [
        [0.0, 1.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0], [-2.0, 0.0, 0.0],
        [0.1, 0.9, 0.1], [0.3, -0.5, 0.8], [1.0, 1.0, 1.0], [-1.0, 0.5, 0.5],
    ],
)  # fmt: skip
def test_turn_up_is_a_rotation_that_makes_y_up(up):
    up = torch.tensor(up)
    turn = turn_up(up)
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(turn) == pytest.approx(1)
    np.testing.assert_allclose(turn @ (up / up.norm()).double().numpy(), [0, 1, 0], atol=1e-7)
    np.testing.assert_allclose(turn_up(torch.from_numpy(turn[1]).float()), turn, atol=1e-6)  # what a checkpoint keeps


def test_nearly_up_is_up():
    np.testing.assert_array_equal(turn_up(torch.tensor([0.02, 1.0, -0.03])), np.eye(3))


@pytest.mark.parametrize(
    ("ids", "fps", "expected"),
    [
        (range(5), 10.0, [(0, 5)]),
        ([7], 10.0, [(0, 1)]),
        ([0, 5, 10], 10.0, [(0, 3)]),  # half a second apart
        ([0, 5, 11, 12, 30], 10.0, [(0, 2), (2, 4), (4, 5)]),
        ([0, 12, 24, 37], None, [(0, 3), (3, 4)]),
        ([0, 12, 24, 37], 50.0, [(0, 4)]),
        ([0, 1, 2], 1.0, [(0, 1), (1, 2), (2, 3)]),  # a second each
        ([4, 5, 5, 6, 2, 3], 10.0, [(0, 2), (2, 4), (4, 6)]),  # no time goes back
    ],
)
def test_stretches_end_where_frames_are_apart(ids, fps, expected):
    assert stretches(ids, fps) == expected


def test_captures_without_a_rate_have_one():
    most = GAP_SECONDS * UNKNOWN_FPS
    ids = [0, math.floor(most), 2 * math.floor(most) + 1, 200]
    assert stretches(ids, None) == stretches(ids, UNKNOWN_FPS) == [(0, 2), (2, 3), (3, 4)]


def test_between_moments_straight_motion_is_straight():
    place, speed = np.array([[0.5, -0.25], [1.0, 4.0]]), np.array([[1.0, 0.5], [-2.0, 0.0]])
    for seconds in ([0.0, 0.5, 1.0, 1.5, 2.0], [0.0, 0.1, 0.6, 0.7, 2.0]):
        values = place + np.array(seconds)[:, None, None] * speed
        for f in range(4):
            for share in (0.0, 0.25, 0.5, 0.9, 1.0):
                now = seconds[f] + share * (seconds[f + 1] - seconds[f])
                np.testing.assert_allclose(_between(values, seconds, f, share), place + now * speed, atol=1e-12)


def test_between_moments_motion_passes_through_them_smoothly():
    seconds, values = [0.0, 0.2, 0.3, 0.7, 0.9], np.random.default_rng(0).standard_normal((5, 4, 3))
    for f in range(4):
        np.testing.assert_array_equal(_between(values, seconds, f, 0.0), values[f])
        np.testing.assert_array_equal(_between(values, seconds, f, 1.0), values[f + 1])
    tiny = 1e-5
    for f in range(3):  # as quick after a moment as before
        before = (values[f + 1] - _between(values, seconds, f, 1 - tiny)) / (tiny * (seconds[f + 1] - seconds[f]))
        after = (_between(values, seconds, f + 1, tiny) - values[f + 1]) / (tiny * (seconds[f + 2] - seconds[f + 1]))
        np.testing.assert_allclose(before, after, atol=0.05)
    alone = _between(values[:2], seconds[:2], 0, 0.5)
    np.testing.assert_allclose(alone, values[:2].mean(0))


def test_dressing_leads_from_rest_to_the_first_pose(body, wearer):
    poses, ids = _stepping(body, 5), [20, 21, 22, 24, 27]
    poses.theta[:, 0, 1] = 0.8
    whole, seconds, first = after_dressing(wearer, poses[1:], ids[1:], FPS)
    assert len(whole) == len(seconds) == first + 4 and first == 14
    assert seconds[0] == 0 and (np.diff(seconds) > 0).all()
    np.testing.assert_allclose(np.diff(seconds[first - 1 :]), [0.1, 0.1, 0.2, 0.3])
    for name in ("theta", "R", "Th"):
        assert torch.equal(getattr(whole, name)[first:], getattr(poses[1:], name))
        assert torch.equal(getattr(whole, name)[first - 1], getattr(poses, name)[1])
    assert not whole.theta[0, 1:].any() and torch.equal(whole.theta[0, 0], poses.theta[1, 0])
    assert torch.equal(whole.Th[0], poses.Th[1]) and torch.equal(whole.R[0], poses.R[1])
    asked = after_dressing(wearer, poses[:1], ids[:1], None)
    assert asked[1][1] == pytest.approx(1 / UNKNOWN_FPS) and asked[2] == 35
    assert (whole.theta[1:first, 1, 0] - whole.theta[: first - 1, 1, 0]).abs().max() < 0.1  # by and by


def test_stretches_know_nothing_of_each_other(body, wearer):
    garment, poses = _made(wearer, CUTS["skirt"], 6, 16), _stepping(body, 7)
    ids = [0, 1, 2, 40, 41, 42, 43]
    places = dress(wearer, garment, poses, ids, FPS)
    for part in (slice(0, 3), slice(3, 7)):
        np.testing.assert_array_equal(places[part], dress(wearer, garment, poses[part], ids[part], FPS))
    np.testing.assert_array_equal(places[3:], dress(wearer, garment, poses[3:], range(4), FPS))


def test_dressing_twice_is_the_same_to_the_bit(body, worn):
    garment, poses, places = worn
    afresh = Wearer(body, _standing(body, 1), Y_UP)
    np.testing.assert_array_equal(dress(afresh, _made(afresh, garment.cut), poses, range(8), FPS), places)


def test_no_rate_is_the_usual_one(body, wearer):
    garment, poses = _made(wearer, CUTS["trousers"], 6, 16), _stepping(body, 2)
    places = [dress(wearer, garment, poses, range(2), fps) for fps in (None, UNKNOWN_FPS, 10.0)]
    np.testing.assert_array_equal(places[0], places[1])
    assert np.abs(places[0] - places[2]).max() > 1e-4


def test_a_skirt_flies_out_when_its_wearer_spins(body, wearer):
    garment, poses = _made(wearer, CUTS["skirt"]), _standing(body, 8)
    still = dress(wearer, garment, poses, range(8), FPS)
    poses.R = rodrigues(torch.tensor([0.0, 1.0, 0.0]) * 0.6 * torch.arange(8)[:, None])  # a turn a second
    spun = dress(wearer, garment, poses, range(8), FPS)
    hems = [places[-1].reshape(ROWS, -1, 3)[-1] for places in (still, spun)]
    radius = [np.linalg.norm((hem - hem.mean(0))[:, [0, 2]], axis=1).mean() for hem in hems]
    assert radius[1] > radius[0] + 0.02 and hems[1][:, 1].mean() > hems[0][:, 1].mean() + 0.02


def test_heavier_air_slows_cloth(body, wearer):
    garment, poses = _made(wearer, CUTS["skirt"]), _standing(body, 4)
    poses.Th[:, 0] = torch.tensor([0.0, 0.0, 0.3, 0.6])
    lag = []
    for fabric in (Fabric(), Fabric(drag=8.0)):
        hem = dress(wearer, garment, poses, range(4), FPS, [fabric])[-1].reshape(ROWS, -1, 3)[-1]
        lag.append(0.6 - hem[:, 0].mean())
    assert lag[1] > lag[0] + 0.005


def test_a_surface_is_the_body_without_its_forearms(body):
    poses = _moved(_stepping(body, 3), rodrigues(torch.tensor([1.2, 0.4, 0.3])), torch.tensor([0.2, -0.4, 1.0]))
    poses.betas[:, 0] = 1.5
    wearer = Wearer(body, poses, torch.tensor([0.0, 0.0, 1.0]))
    surface, vertices = wearer.surface(poses), body.vertices(poses).double().numpy() @ wearer.turn.T
    for points, whole in zip(surface.points, vertices):
        assert cKDTree(whole).query(points)[0].max() < 1e-6
    joints = body.posed_joints(poses).double().numpy() @ wearer.turn.T
    distance = np.linalg.norm(surface.points[:, :, None] - joints[:, None, [20, 21, 7, 8]], axis=-1).min(1)
    assert (distance[:, :2] > 0.1).all() and (distance[:, 2:] < 0.08).all()  # no hands, but feet
    np.testing.assert_allclose(np.linalg.norm(surface.normals, axis=-1), 1, atol=1e-5)
    rest = np.concatenate([wearer.rest_joints, np.ones((55, 1))], 1)
    np.testing.assert_allclose(np.einsum("fjab,jb->fja", surface.maps, rest), joints, atol=1e-5)
    many = poses[torch.arange(40) % 3]
    np.testing.assert_allclose(wearer.surface(many).points[-1], surface.points[39 % 3], atol=1e-6)  # several batches
    other = replace(poses, betas=torch.zeros_like(poses.betas))  # the wearer's shape is the wearer's
    np.testing.assert_allclose(wearer.surface(other).points, surface.points, atol=1e-6)


def test_a_garment_begins_as_it_was_cut(body, wearer):
    garment = _made(wearer, CUTS["skirt"])
    bodies = wearer.meet(wearer.surface(_standing(body, 4)), garment)
    places = follow_body(garment, bodies, [0.0, 0.1, 0.2, 0.4], Fabric(), 4)
    assert len(bodies) == 4 and len(places) == 4
    np.testing.assert_allclose(places[0], garment.grid.start, atol=1e-6)


def test_of_several_fabrics_the_mean_is_taken(body, wearer):
    garment, poses = _made(wearer, CUTS["skirt"]), _stepping(body, 3)
    one, other = (dress(wearer, garment, poses, range(3), FPS, [fabric]) for fabric in (Fabric(), Fabric(drag=8.0)))
    both = dress(wearer, garment, poses, range(3), FPS, [Fabric(), Fabric(drag=8.0)])
    np.testing.assert_allclose(both, (one + other) / 2, atol=1e-12)
    assert len(motion.FABRICS) > 1 and np.abs(one - other).max() > 1e-3
