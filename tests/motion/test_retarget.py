"""Retargeting: the body's limbs point where the rig's do, for rigs of other rest poses, axes and sizes."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from r3avatar.body.model import rodrigues
from r3avatar.motion.load import load_motion
from r3avatar.motion.motion import MotionError, rest_joints
from r3avatar.motion.retarget import retarget
from r3avatar.motion.rig import RigMotion
from r3avatar.motion.rigs import JOINT_NAMES, NEEDED, RIGS, match_rig

LIMBS = [("hip", "knee"), ("knee", "ankle"), ("shoulder", "elbow"), ("elbow", "wrist")]


def places(body, pose):
    """Joints of poses in the world by plain forward kinematics, [F, J, 3]."""
    rest = body.joints(pose.betas, pose.expression)
    R, world, where = rodrigues(pose.theta), [], []
    for j, parent in enumerate(body.parents):
        if parent < 0:
            world.append(R[:, j])
            where.append(rest[:, j])
        else:
            world.append(world[parent] @ R[:, j])
            where.append(where[parent] + (world[parent] @ (rest[:, j] - rest[:, parent])[..., None])[..., 0])
    return (torch.stack(where, 1) @ pose.R.mT + pose.Th[:, None]).double().numpy()


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def worst_angle(body, motion, rig, axes):
    """The largest angle in degrees between a limb of the body and that of the rig (its axes turned by `axes`)."""
    names, bones = JOINT_NAMES[body.kind], match_rig(rig.names)[1]
    ours, theirs = places(body, motion.pose), rig.world()[1] @ axes.T
    worst = 0.0
    for side in ("left", "right"):
        for a, b in LIMBS:
            a, b = f"{side}_{a}", f"{side}_{b}"
            x = unit(ours[:, names.index(b)] - ours[:, names.index(a)])
            y = unit(theirs[:, bones[b]] - theirs[:, bones[a]])
            worst = max(worst, float(np.degrees(np.arccos((x * y).sum(-1).clip(-1, 1))).max()))
    return worst


def make_rig(tmp_path, kind="MIXAMO", arms=0.0, legs=0.0, size=100.0, axes=None, prefix="", frames=6, drop=()):
    """A rig of its own proportions; arms, legs: degrees down, apart at rest; axes: its turn from y up, +z ahead."""
    axes = np.eye(3) if axes is None else axes
    table = RIGS[kind]
    rest = {"pelvis": [0, 1.0, 0], "spine1": [0, 1.1, 0], "spine2": [0, 1.2, -0.02], "spine3": [0, 1.35, -0.01],
            "neck": [0, 1.5, 0.01], "head": [0, 1.6, 0.03]}  # fmt: skip
    for side, s in (("left", 1), ("right", -1)):
        arm = Rotation.from_euler("z", -s * arms, degrees=True).as_matrix() @ [s, 0, 0]
        leg = Rotation.from_euler("z", s * legs, degrees=True).as_matrix() @ [0, -1, 0]
        rest[f"{side}_collar"] = [s * 0.03, 1.45, 0]
        rest[f"{side}_hip"] = [s * 0.09, 0.95, 0]
        for start, joints, way in (("shoulder", ("elbow", "wrist"), arm * 0.3), ("hip", ("knee", "ankle"), leg * 0.42)):
            rest.setdefault(f"{side}_{start}", [s * 0.18, 1.45, 0])
            for i, joint in enumerate(joints, 1):
                rest[f"{side}_{joint}"] = np.array(rest[f"{side}_{start}"]) + i * way
        rest[f"{side}_foot"] = rest[f"{side}_ankle"] + np.array([0, -0.06, 0.13])
        if f"{side}_middle1" in table:
            rest[f"{side}_middle1"] = rest[f"{side}_wrist"] + arm * 0.09
            rest[f"{side}_middle2"] = rest[f"{side}_wrist"] + arm * 0.12
    parent_of = {"pelvis": None, "spine1": "pelvis", "spine2": "spine1", "spine3": "spine2", "neck": "spine3",
                 "head": "neck"}  # fmt: skip
    for side in ("left", "right"):
        leg, arm = ["hip", "knee", "ankle", "foot"], ["collar", "shoulder", "elbow", "wrist", "middle1", "middle2"]
        for chain in (["pelvis", *leg], ["spine3", *arm]):
            chain = [chain[0], *(f"{side}_{joint}" for joint in chain[1:])]
            parent_of |= dict(zip(chain[1:], chain[:-1]))
    joints = [j for j in parent_of if j in rest and j not in drop]
    parents = [joints.index(parent_of[j]) if parent_of[j] else -1 for j in joints]
    where = np.array([rest[j] for j in joints], dtype=float) * size @ axes.T
    offsets = np.array([where[j] - (where[p] if p >= 0 else 0) for j, p in enumerate(parents)])
    rng = np.random.default_rng(4)
    rotations = Rotation.from_rotvec(0.7 * rng.normal(size=(frames * len(joints), 3))).as_matrix()
    rotations = rotations.reshape(frames, len(joints), 3, 3)
    translations = np.broadcast_to(offsets, (frames, *offsets.shape)).copy()
    translations[:, 0] += np.linspace(0, size, frames)[:, None] * (axes @ [0, 0, 1])
    names = [prefix + table[j] for j in joints]
    return RigMotion(tmp_path / "m.bvh", names, parents, offsets, {}, rotations, translations, 60.0)


Z_UP = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # y up, +z ahead -> z up, -y ahead


@pytest.mark.parametrize("kind", ["MIXAMO", "CMU_BVH", "CMU_ASF", "SMPL"])
@pytest.mark.parametrize(("arms", "legs"), [(0, 0), (45, 10), (85, 20)])
def test_limbs_point_where_the_rigs_do(tmp_path, body, like, kind, arms, legs):
    rig = make_rig(tmp_path, kind, arms, legs, prefix="mixamorig:" if kind == "MIXAMO" else "")
    assert match_rig(rig.names)[0] == kind
    motion = retarget(rig, body, like)
    assert motion.fps == 60 and len(motion) == 6
    assert worst_angle(body, motion, rig, np.eye(3)) < 0.1


@pytest.mark.parametrize("axes", [Z_UP, Rotation.from_euler("y", 90, degrees=True).as_matrix()])
def test_axes_of_the_rig_do_not_matter(tmp_path, body, like, axes):
    plain = retarget(make_rig(tmp_path, arms=45), body, like)
    rig = make_rig(tmp_path, arms=45, axes=axes, size=2.0)
    rig.rotations = axes @ make_rig(tmp_path, arms=45).rotations @ axes.T  # the same motion in the other axes
    turned = retarget(rig, body, like)
    torch.testing.assert_close(turned.pose.theta, plain.pose.theta, atol=1e-4, rtol=0)
    torch.testing.assert_close(turned.pose.Th, plain.pose.Th, atol=1e-4, rtol=0)


def test_a_world_with_another_up_than_the_rest_pose(tmp_path, body, like):
    """Some exporters build the skeleton lying down and set it up by the root's rotation in every frame."""
    plain, rig = make_rig(tmp_path), make_rig(tmp_path, axes=Z_UP)
    rig.rotations = Z_UP @ plain.rotations @ Z_UP.T
    rig.rotations[:, 0] = Z_UP.T @ rig.rotations[:, 0]
    rig.translations[:, 0] = plain.translations[:, 0]
    a, b = retarget(plain, body, like), retarget(rig, body, like, up="y")
    torch.testing.assert_close(places_of(body, a), places_of(body, b), atol=1e-4, rtol=0)


def places_of(body, motion):
    return torch.from_numpy(places(body, motion.pose))


def test_rest_pose_and_trajectory(tmp_path, body, like):
    rig = make_rig(tmp_path, "MIXAMO")
    rig.rotations[:] = np.eye(3)
    motion = retarget(rig, body, like)
    names, ours = JOINT_NAMES["smplx"], places(body, motion.pose)
    rest = rest_joints(body, like)
    ratio = (np.linalg.norm(rest[4] - rest[1]) + np.linalg.norm(rest[7] - rest[4])) / 84  # legs, metres to rig units
    way = ours[-1, 0] - ours[0, 0]
    np.testing.assert_allclose(way, [0, 0, 100 * ratio], atol=1e-3)
    middle = ours[0, [names.index("left_hip"), names.index("right_hip")]].mean(0)
    np.testing.assert_allclose(middle, [0, 95 * ratio, 0], atol=1e-4)
    # feet stay flat and the trunk upright: nothing there is bent to the rig's own proportions
    world = rodrigues(motion.pose.theta)
    for chain in ([0, 3, 6, 9, 12, 15], [0, 1, 4, 7]):
        turned = np.eye(3)
        for j in chain:
            turned = turned @ world[0, j].double().numpy()
        assert np.degrees(np.arccos(np.clip(turned[1, 1], -1, 1))) < 0.5
    assert not motion.pose.theta[:, 22:25].any()


def test_a_real_clip_within_a_degree(body, like, clips):
    from r3avatar.motion.asf_amc import read_amc, read_asf

    rig = read_amc(clips / "02_01.amc", read_asf(clips / "02.asf"), 120)
    assert worst_angle(body, retarget(rig, body, like), rig, np.eye(3)) < 1


def test_a_real_clip_from_its_file(body, like, clips):
    """It walks the way the capture's person faces, upright, with both feet on the floor by turns."""
    turned = dataclasses.replace(like, theta=like.theta.clone())
    turned.theta[:, 0] = torch.tensor([0, 1.0, 0])
    motion = load_motion(clips / "02_01.amc", body=body, like=turned, fps=15, motion_fps=120)
    assert len(motion) == 43 and motion.fps == 15
    way = (motion.pose.Th[-1] - motion.pose.Th[0]).numpy()
    ahead = np.array([np.sin(1.0), 0, np.cos(1.0)])
    # Its hips are turned by 11 degrees in the first frame: that far the way is from straight ahead.
    assert way @ ahead > 3 and abs(way @ np.cross([0, 1, 0], ahead)) < 0.8
    where = places(body, motion.pose)
    assert (where[:, 15, 1] - where[:, [10, 11], 1].max(1) > 1.2).all()
    floor = body.vertices(motion.pose)[..., 1].amin(1)
    assert float(floor.max() - floor.min()) < 0.08  # the capture volume's own floor rises by 5 cm along this walk


def test_smpl_body(tmp_path, smpl_body, like_of):
    rig = make_rig(tmp_path, arms=30)
    motion = retarget(rig, smpl_body, like_of(smpl_body))
    assert worst_angle(smpl_body, motion, rig, np.eye(3)) < 0.1 and not motion.pose.theta[:, 22:].any()


def test_every_rig_has_what_is_needed():
    for rig, table in RIGS.items():
        assert set(NEEDED) <= set(table) <= set(JOINT_NAMES["smplx"]), rig
        assert len(set(table.values())) == len(table), rig


def test_unknown_rigs_and_rest_poses_are_refused(tmp_path, body, like):
    with pytest.raises(MotionError, match=r"no known rig.*MIXAMO comes closest and misses Head.*mixamorig:Hips"):
        retarget(make_rig(tmp_path, prefix="mixamorig:", drop=("head",)), body, like)
    rig = make_rig(tmp_path)
    rig.names = [f"bone{i}" for i in range(len(rig.names))]
    with pytest.raises(MotionError, match=r"misses .*Its bones: bone0, bone1"):
        retarget(rig, body, like)
    rig = make_rig(tmp_path)
    rig.offsets[:] = 0
    with pytest.raises(MotionError, match="its rest pose does not stand"):
        retarget(rig, body, like)
