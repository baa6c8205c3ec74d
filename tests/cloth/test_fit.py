"""Which garment is worn and how long it is, found in what it looks like."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from r3avatar.body import load_body
from r3avatar.cloth import fit
from r3avatar.cloth.fit import FAR, LOOSE, OUTSIDE, Sight, _misfit, _refined, fit_garment
from r3avatar.cloth.motion import Wearer, after_dressing, follow_body
from r3avatar.cloth.particles import Fabric
from r3avatar.cloth.tailor import KINDS, Cut, longest, size_of, tailor
from r3avatar.types import BodyPose

FPS, FRAMES = 10.0, 6
# What is worn; none of them is among the cuts that are tried on first.
TRUTH = {"skirt": Cut("skirt", 0.58, 1.7), "trousers": Cut("trousers", 0.67, 0.7), "cape": Cut("cape", 0.85, 0.8)}


@pytest.fixture(scope="module")
def scene():
    """A body that steps for less than a second: its wearer, surface, the moments, and which of them are seen."""
    body = load_body("demo")
    swing = 0.5 * torch.sin(0.9 * torch.arange(FRAMES))
    theta = torch.zeros(FRAMES, 55, 3)
    theta[:, 1, 0], theta[:, 2, 0] = -swing, swing
    theta[:, 16, 2], theta[:, 17, 2] = -0.9, 0.9
    poses = BodyPose(
        theta, torch.zeros(FRAMES, 10), torch.zeros(FRAMES, 10), torch.eye(3).repeat(FRAMES, 1, 1),
        torch.zeros(FRAMES, 3),
    )  # fmt: skip
    wearer = Wearer(body, poses, torch.tensor([0.0, 1.0, 0.0]))
    whole, seconds, first = after_dressing(wearer, poses, range(FRAMES), FPS)
    vertices = body.vertices(whole).double().numpy()
    moments = [first, first + FRAMES // 2, first + FRAMES - 1]
    return SimpleNamespace(
        wearer=wearer, surface=wearer.surface(whole), seconds=seconds, vertices=vertices, moments=moments
    )  # fmt: skip


def _sights(scene, cut=None):
    """What is seen of the bare body, or of it with a garment."""
    cloth = np.zeros((len(scene.seconds), 0, 3))
    if cut is not None:
        who = scene.wearer
        garment = tailor(cut, who.rest_vertices, who.rest_joints, who.weights, *size_of(cut.kind, True))
        places = follow_body(garment, who.meet(scene.surface, garment), scene.seconds, Fabric())
        cloth = np.stack([_refined(garment, frame) for frame in places])
    found = []
    for moment in scene.moments:
        body, worn = scene.vertices[moment], cloth[moment]
        loose = worn[cKDTree(body).query(worn)[0] > 0.03] if len(worn) else worn
        found.append(_sight(moment, loose, np.concatenate([body, worn])))
    return found


def _sight(moment, loose, hull):
    tree = cKDTree(hull)
    return Sight(moment, loose, tree, lambda places: tree.query(places)[0] < 0.03)


def _fitted(scene, sights, **options):
    return fit_garment(scene.wearer, scene.surface, scene.seconds, sights, **options)


@pytest.fixture(scope="module")
def seen(scene):
    """Sights of every kind of garment."""
    return {kind: _sights(scene, cut) for kind, cut in TRUTH.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_the_garment_that_is_worn_is_found(scene, seen, kind):
    cut, misfit = _fitted(scene, seen[kind])
    assert cut.kind == kind and cut.length == pytest.approx(TRUTH[kind].length, rel=0.15)
    assert abs(cut.flare - TRUTH[kind].flare) < 1
    assert misfit < 0.03


def test_short_and_long_skirts_are_told_apart(scene):
    for length in (0.4, 0.8):
        cut = _fitted(scene, _sights(scene, Cut("skirt", length, 2.0)), kinds=("skirt",), or_none=False)[0]
        assert cut.length == pytest.approx(length, rel=0.15)


def test_a_bare_body_wears_nothing(scene):
    assert _fitted(scene, _sights(scene)) == (None, 0.0)


def test_a_skirt_is_put_on_a_bare_body_that_must_wear_one(scene):
    cut, misfit = _fitted(scene, _sights(scene), kinds=("skirt",), or_none=False)
    assert cut.kind == "skirt" and cut.length < 0.4 * longest("skirt", scene.wearer.rest_joints) and misfit < 0.15


def test_only_what_is_asked_for_is_tried_on(scene, seen):
    cut, misfit = _fitted(scene, seen["trousers"], kinds=("skirt",), or_none=False)
    assert cut.kind == "skirt" and misfit > _fitted(scene, seen["trousers"], kinds=("trousers",))[1]


def test_no_garment_explains_a_balloon(scene):
    random = np.random.default_rng(0).standard_normal((3000, 3))
    balloon = np.array([0.0, 1.5, 0.0]) + 0.3 * random / np.linalg.norm(random, axis=1, keepdims=True)
    sights = [_sight(m, balloon, np.concatenate([scene.vertices[m], balloon])) for m in scene.moments]
    cut, misfit = _fitted(scene, sights)
    assert cut is None and misfit > 0.9 * FAR


def test_a_little_off_the_body_is_no_garment(scene, seen):
    few = []
    for sight in seen["skirt"]:
        count = int(0.9 * LOOSE * sight.hull.n)
        few.append(Sight(sight.moment, sight.loose[:: len(sight.loose) // count + 1], sight.hull, sight.inside))
    assert _fitted(scene, few) == (None, 0.0)
    assert _fitted(scene, few, kinds=("skirt",), or_none=False)[0].kind == "skirt"


@pytest.mark.parametrize("or_none", [True, False])
def test_a_body_that_is_not_seen_wears_nothing(scene, or_none):
    assert _fitted(scene, [], or_none=or_none) == (None, 0.0)


def test_the_same_sights_give_the_same_garment(scene, seen):
    assert _fitted(scene, seen["skirt"], kinds=("skirt",)) == _fitted(scene, seen["skirt"], kinds=("skirt",))


def test_misfit_counts_what_is_not_covered_and_what_sticks_out():
    grid = 0.1 * np.stack(np.meshgrid(*[np.arange(10.0)] * 2, [0.0]), -1).reshape(-1, 3)
    tree = cKDTree(grid)
    sight = Sight(0, grid, tree, lambda places: tree.query(places)[0] < 0.01)
    assert _misfit(grid, sight) == 0
    assert _misfit(grid[:50], sight) == pytest.approx(np.minimum(cKDTree(grid[:50]).query(grid)[0], FAR).mean())
    ahead = np.array([0.0, 0.0, 1.0])
    assert _misfit(grid + 0.04 * ahead, sight) == pytest.approx(0.04 + OUTSIDE * 0.04)  # both
    assert _misfit(grid + 0.009 * ahead, sight) == pytest.approx(0.009)  # inside
    assert _misfit(grid + 9 * ahead, sight) == pytest.approx((1 + OUTSIDE) * FAR)
    assert _misfit(grid + 0.04 * ahead, Sight(0, grid[:0], tree, sight.inside)) == pytest.approx(OUTSIDE * 0.04)


def test_refined_particles_are_the_middles_of_threads_too(scene):
    who = scene.wearer
    garment = tailor(Cut("cape", 0.5, 0.0), who.rest_vertices, who.rest_joints, who.weights, 3, 4)
    refined = _refined(garment, garment.grid.flat)
    assert len(refined) == 12 + 9 + 8 + 6
    np.testing.assert_array_equal(refined[:12], garment.grid.flat)
    assert np.abs(refined[12:] - garment.grid.flat[[0]]).max() < 1 and len(np.unique(refined.round(9), axis=0)) == 35


def test_a_body_that_a_garment_cannot_be_cut_for(scene, seen, monkeypatch, caplog):
    def refuse(cut, *body):
        if cut.kind == "cape":
            raise ValueError("no shoulders")
        return tailor(cut, *body)

    monkeypatch.setattr(fit, "tailor", refuse)
    monkeypatch.setattr(fit, "LENGTHS", (0.55,))
    cut, _ = _fitted(scene, seen["skirt"], kinds=("skirt", "cape"))
    assert cut.kind == "skirt" and "a cape is not tried on: no shoulders" in caplog.text
    with pytest.raises(ValueError, match="no shoulders"):
        _fitted(scene, seen["cape"], kinds=("cape",), or_none=False)
