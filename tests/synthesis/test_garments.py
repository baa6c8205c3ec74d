"""The cape and the wide trousers: outside the body, whole, swinging; and what seeds change."""

import numpy as np
import pytest
from scipy.spatial import cKDTree

from r3avatar.captures.synthesis import arithmetic as am
from r3avatar.captures.synthesis.appearance import PLAID_WEAVE, palette, weave
from r3avatar.captures.synthesis.rig import ring
from r3avatar.captures.synthesis.skin import joint_transforms, vertex_normals
from r3avatar.captures.synthesis.synthesize import rehearse, studio_of

COLUMNS = {"cape": 40, "trousers": 96}


def _options(garment: str, seed: int = 0, frames: int = 22) -> dict:
    usual = dict(length=1.0, fullness=1.0, bending=1.0, drag=1.0, energy=1.0, turning=1.0, fps=15.0, supersampling=1)
    return dict(usual, seed=seed, garment=garment, recorded_frames=frames, later_frames=0, transition_frames=4)


@pytest.fixture(scope="module", params=["cape", "trousers"])
def worn(request):
    return request.param, *rehearse(_options(request.param, seed=5))


def _bodies(person, performance):
    """The bare body [V, 3] of every frame and its transforms."""
    for pose, transl, expression in zip(performance.fullpose, performance.transl, performance.expression):
        joints = person.joints + person.offsets(expression)[1]
        transforms = joint_transforms(am.quaternion(pose), joints, person.parents, joints[0] + transl)
        yield person.body.at(transforms), transforms


def test_cloth_stays_outside_the_body(worn):
    garment, person, performance = worn
    # Where thighs touch, what is pressed between them has no room; it is not seen.
    rest, hip = person.body.rest, person.joints[1, 1]
    pressed = (np.abs(rest[:, 0]) < 0.07) & (rest[:, 1] < hip) & (rest[:, 1] > hip - 0.30)
    for frame, (body, _) in enumerate(_bodies(person, performance)):
        distance, nearest = cKDTree(body).query(performance.cloth[frame])
        normals = vertex_normals(body, person.body_triangles)
        height = ((performance.cloth[frame] - body[nearest]) * normals[nearest]).sum(1)
        seen = (distance < 0.05) & ~(pressed[nearest] & (garment == "trousers"))
        assert height[seen].min() > 0.0, f"frame {frame}"


def test_cloth_keeps_its_size(worn):
    garment, _, performance = worn
    grid = performance.cloth.reshape(len(performance.cloth), -1, COLUMNS[garment], 3)
    threads = np.linalg.norm(np.diff(grid, axis=1), axis=-1).sum(1)  # [F, columns] from the sewn edge to the hem
    assert (np.abs(threads / threads.mean(0) - 1.0) < 0.08).all()
    assert performance.cloth[..., 1].min() > -0.01  # above the floor


def test_cloth_swings(worn):
    """Against the body's pelvis the hem moves by decimetres, and differently when the legs' pose comes back."""
    garment, person, performance = worn
    hem = performance.cloth[:, -COLUMNS[garment] :]
    root = np.stack([t[0] for _, t in _bodies(person, performance)])
    local = np.einsum("fji,fnj->fni", root[:, :, :3], hem - root[:, None, :, 3])
    assert np.linalg.norm(local - local.mean(0), axis=-1).max() > 0.15
    assert np.linalg.norm(local[16:22] - local[0:6], axis=-1).mean() > 0.03  # a step cycle apart


def test_the_cape_hangs_behind(worn):
    garment, person, performance = worn
    if garment == "cape":
        for cloth, (_, transforms) in zip(performance.cloth, _bodies(person, performance)):
            chest = (cloth - transforms[9, :, 3]) @ transforms[9, :, :3] - person.joints[9]
            assert chest[:, 2].mean() < 0.0 and (chest[:, 2] > 0.02).mean() < 0.35


def test_trouser_legs_are_two():
    person, performance = rehearse(_options("trousers", frames=3))
    legs = performance.cloth.reshape(3, 36, 2, 48, 3)
    around = np.linalg.norm(legs - np.roll(legs, 1, axis=3), axis=-1)
    assert around[:, -1].sum(-1).min() > 0.7 and around.max() < 0.06  # each hem is a closed ring, metres
    ankles = np.stack([[t[7] @ [*person.joints[7], 1.0], t[8] @ [*person.joints[8], 1.0]] for _, t in
                       _bodies(person, performance)])  # fmt: skip
    for side in (0, 1):
        hem = legs[:, -1, side]
        centre = 0.5 * (hem.min(1) + hem.max(1))
        assert np.linalg.norm((centre - ankles[:, side])[:, [0, 2]], axis=-1).max() < 0.15
        assert np.abs(hem[..., 1].min(1) - ankles[:, side, 1]).max() < 0.12


def test_seeds_change_cloth_and_colours():
    assert weave(0, "skirt").kind == PLAID_WEAVE and (weave(0, "skirt").period, weave(0, "skirt").repeats) == (0.13, 14)
    for garment in ("skirt", "cape", "trousers"):
        cloths = [weave(seed, garment) for seed in range(30)]
        assert len({c.kind for c in cloths}) == 2 and len({c.repeats for c in cloths}) > 3
        assert min(c.period for c in cloths) > 0.09 and max(c.period for c in cloths) < 0.157
        assert np.ptp([c.length for c in cloths]) > 0.1
    assert len({palette(seed)[11:15].tobytes() for seed in range(30)}) > 6


def test_seeds_give_other_motion_and_the_length_is_an_option(tiny):
    short = rehearse({**_options("skirt", seed=3, frames=2), "length": 0.7})[1]
    assert short.cloth[..., 1].min() > tiny.performance.cloth[..., 1].min() + 0.05
    assert np.abs(short.fullpose - tiny.performance.fullpose[:2]).max() > 0.2


def test_supersampling_is_the_same_picture_smoother():
    person, performance = rehearse(_options("trousers", frames=1))
    vertices = performance.vertices[0]
    camera = ring(performance.vertices, [0], [], width=160, height=160, distortion=[-0.12, 0.05, 0, 0, 0], seed=0)[0]
    views = []
    for finer in (1, 3):
        studio = studio_of(person, performance, {**_options("trousers"), "supersampling": finer})
        views.append(studio.draw(vertices, studio.light(vertices), camera))
    a, b = views
    assert a.rgb.shape == b.rgb.shape and set(np.unique(b.mask)) == {0, 255}
    assert (a.mask != b.mask).sum() < 0.02 * (a.mask > 0).sum()
    inside = (a.mask > 0) & (b.mask > 0)
    gap = (a.rgb.astype(float) - b.rgb)[inside]
    assert np.abs(gap.mean()) < 1.0 and np.sqrt((gap**2).mean()) < 20.0
    ys, xs = np.nonzero(inside)
    shifted = np.sqrt(((a.rgb.astype(float)[ys, xs - 1] - b.rgb[ys, xs]) ** 2).mean())
    assert shifted > 1.5 * np.sqrt((gap**2).mean())  # not even a pixel is it displaced
