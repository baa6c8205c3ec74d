"""Motion, body and cloth: what the captures promise about them."""

import numpy as np
import torch
from scipy.spatial import cKDTree

from r3avatar.body import load_body
from r3avatar.captures.synthesis import arithmetic as am
from r3avatar.captures.synthesis.performance import Performance
from r3avatar.captures.synthesis.person import SHOE
from r3avatar.captures.synthesis.score import PARTS
from r3avatar.captures.synthesis.skin import vertex_normals
from r3avatar.captures.synthesis.synthesize import person_betas, rehearse
from r3avatar.types import BodyPose


def _body_vertices(performance: Performance, garment: str = "skirt", seed: int = 0) -> np.ndarray:
    """The bare body [F, V, 3] by the package's body model, from the written parameters."""
    F = len(performance.fullpose)
    pose = BodyPose(
        theta=torch.tensor(performance.fullpose).float(),
        betas=torch.tensor(person_betas(seed, garment)).float().expand(F, -1),
        expression=torch.tensor(performance.expression).float(),
        R=torch.eye(3).expand(F, 3, 3),
        Th=torch.tensor(performance.transl).float(),
    )
    return load_body("demo").vertices(pose).double().numpy()


def test_poses_reproduce_the_body(tiny):
    body, person = _body_vertices(tiny.performance), tiny.person
    bare = np.abs(person.skin.rest[: body.shape[1]] - person.body.rest).max(1) == 0.0
    assert 0.5 < bare.mean() < 0.95  # face, arms, hands and legs; not the shirt
    drawn = tiny.performance.vertices[:, : body.shape[1]]
    assert np.abs(drawn - body)[:, bare].max() < 5e-6
    assert np.linalg.norm(drawn - body, axis=-1).max() < 0.02


def test_feet_stand_on_the_floor(tiny):
    shoes = np.unique(tiny.person.triangles[tiny.person.kind == SHOE])
    lowest = tiny.performance.vertices[:, shoes, 1].min(1)
    np.testing.assert_allclose(lowest, 0.0, atol=1e-9)


def test_later_poses_are_recombinations(tiny):
    options, pose = tiny.record["options"], am.quaternion(tiny.performance.fullpose)
    recorded, first = options["recorded_frames"], options["recorded_frames"] - 1 + options["transition_frames"]
    starts = []
    for joints in PARTS:
        joints = list(joints)
        found = []
        for start in range(recorded - options["later_frames"] + 1):
            times = np.arange(first, len(pose))
            same = pose[times[:, None], joints] - pose[(times - recorded + start)[:, None], joints]
            if np.abs(same).max() < 1e-9:
                found.append(start)
        assert len(found) == 1, f"joints {joints} repeat {found}"
        starts += found
    assert len(set(starts)) == len(PARTS)
    assert sorted(j for part in PARTS for j in part) == list(range(55))


def test_motion_is_smooth(tiny):
    turn = am.quaternion(tiny.performance.fullpose)
    step = am.rotation_vector(am.quaternion_product(turn[1:], am.inverse(turn[:-1])))
    assert np.linalg.norm(step, axis=-1)[: tiny.record["options"]["recorded_frames"] - 1].max() < np.deg2rad(35)
    assert np.linalg.norm(np.diff(tiny.performance.transl, axis=0), axis=-1).max() < 0.15


def test_cloth_stays_outside_the_body(tiny):
    person, performance = tiny.person, tiny.performance
    count = len(person.body.rest)
    hips_to_knees = np.abs(person.pattern[:count, 1] - person.marks.crotch) < 0.25
    for frame in range(len(performance.vertices)):
        body = performance.vertices[frame, :count]
        normals = vertex_normals(body, person.body_triangles)
        skin = np.flatnonzero(hips_to_knees & (np.abs(person.pattern[:count, 0]) < 0.3))
        distance, nearest = cKDTree(body[skin]).query(performance.cloth[frame])
        nearest = skin[nearest]
        height = ((performance.cloth[frame] - body[nearest]) * normals[nearest]).sum(1)
        assert height[distance < 0.03].min() > 0.002, f"frame {frame}"
        joints = performance_joints(tiny, frame)
        for a, b in ((1, 4), (2, 5)):  # the thighs as capsules
            axis = joints[b] - joints[a]
            along = np.clip((performance.cloth[frame] - joints[a]) @ axis / (axis @ axis), 0.0, 1.0)
            gap = np.linalg.norm(performance.cloth[frame] - joints[a] - along[:, None] * axis, axis=1)
            assert gap.min() > 0.04, f"frame {frame}"


def performance_joints(tiny, frame: int) -> np.ndarray:
    """World joints [55, 3] of a frame, by the chain of rotations."""
    turns, places = [], []
    joints, pose = tiny.person.joints, am.quaternion(tiny.performance.fullpose[frame])
    for j, parent in enumerate(tiny.person.parents):
        if parent < 0:
            turns.append(pose[0])
            places.append(joints[0] + tiny.performance.transl[frame])
        else:
            turns.append(am.quaternion_product(turns[parent], pose[j]))
            places.append(places[parent] + am.turned(turns[parent], joints[j] - joints[parent]))
    return np.stack(places)


def test_cloth_keeps_its_size(tiny):
    grid = tiny.performance.cloth.reshape(len(tiny.performance.cloth), 36, 96, 3)
    threads = np.linalg.norm(np.diff(grid, axis=1), axis=-1)  # [F, rows - 1, columns]
    ratio = threads[:, 2:].sum(1) / threads[:1, 2:].sum(1).mean()
    assert ratio.min() > 0.93 and ratio.max() < 1.07


def test_the_same_pose_comes_with_other_folds(tiny):
    """The case that the method exists for: legs alike within 5 degrees, cloth apart by centimetres."""
    options = {**tiny.record["options"], "recorded_frames": 30, "later_frames": 0}
    _, performance = rehearse(options)
    pose, cloth = performance.fullpose, performance.cloth
    turn = am.quaternion(pose[:, 0])
    heading = np.arctan2(*np.moveaxis(am.turned(turn, np.array([0.0, 0.0, 1.0]))[:, [0, 2]], -1, 0))
    local = am.turned(am.axis_turn(1, -heading)[:, None], cloth - cloth[:, :96].mean(1, keepdims=True))
    frames = [(i, i + 16) for i in range(14)]  # a step cycle apart
    legs = np.array([np.linalg.norm(pose[i, 1:7] - pose[j, 1:7], axis=-1).mean() for i, j in frames])
    folds = np.array([np.linalg.norm(local[i] - local[j], axis=-1)[96 * 18 :].mean() for i, j in frames])
    assert (folds[legs < np.deg2rad(5)] > 0.02).any(), f"{legs} {folds}"
