"""ASF and AMC: a real clip of the CMU database against plain kinematics, and what is refused."""

import math

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from r3avatar.body.model import rodrigues
from r3avatar.motion.asf_amc import find_asf, read_amc, read_asf
from r3avatar.motion.bvh import read_bvh
from r3avatar.motion.load import load_motion
from r3avatar.motion.motion import MotionError
from r3avatar.motion.retarget import retarget


@pytest.fixture(scope="module")
def clip():
    from pathlib import Path

    folder = Path(__file__).parent / "clips"
    return read_amc(folder / "02_01.amc", read_asf(folder / "02.asf"), 120)


def turn(degrees):
    """Rz Ry Rx of three angles, written out."""
    (a, b, c), R = np.radians(degrees), np.eye(3)
    for i, angle in ((0, a), (1, b), (2, c)):
        u, v = (i + 1) % 3, (i + 2) % 3
        one = np.eye(3)
        one[u, u] = one[v, v] = math.cos(angle)
        one[u, v], one[v, u] = -math.sin(angle), math.sin(angle)
        R = one @ R
    return R


def limbs(clips, frame):
    """Directions of some limbs in one frame, straight from the text of the files."""
    bones, bone = {"root": {"dof": ["rx", "ry", "rz"], "axis": np.zeros(3), "direction": np.zeros(3)}}, {}
    for words in map(str.split, (clips / "02.asf").read_text().splitlines()):
        if words[:1] == ["begin"]:
            bone = {"dof": []}
        elif words[:1] in (["direction"], ["axis"]) and bone is not None:
            bone[words[0]] = np.array([float(w) for w in words[1:4]] if words[1] != "XYZ" else [0.0, 0, 0])
        elif words[:1] == ["dof"]:
            bone["dof"] = words[1:]
        elif words[:1] == ["name"]:
            bones[words[1]] = bone
    lines = (clips / "02_01.amc").read_text().splitlines()
    start = lines.index(str(frame + 1))
    values = {w[0]: [float(x) for x in w[1:]] for w in map(str.split, lines[start + 1 : start + 30])}
    values["root"] = values["root"][3:]
    directions = {}
    for chain in (
        ["root", "lhipjoint", "lfemur", "ltibia", "lfoot"],
        ["root", "rhipjoint", "rfemur", "rtibia", "rfoot"],
        ["root", "lowerback", "upperback", "thorax", "lclavicle", "lhumerus", "lradius", "lwrist", "lhand"],
        ["root", "lowerback", "upperback", "thorax", "lowerneck", "upperneck", "head"],
    ):
        turned = np.eye(3)
        for name in chain:
            angles = np.zeros(3)
            for dof, value in zip(bones[name]["dof"], values.get(name, [])):
                angles["xyz".index(dof[1])] = value
            C = turn(bones[name]["axis"])
            turned = turned @ C @ turn(angles) @ C.T
            directions[name] = turned @ bones[name]["direction"]
    return directions


@pytest.mark.parametrize("frame", [0, 100, 342])
def test_limbs_of_a_real_clip(clips, clip, frame):
    assert len(clip) == 343 and clip.fps == 120 and clip.names[0] == "root" and len(clip.names) == 31
    turned, places = clip.world()
    skeleton = read_asf(clips / "02.asf")
    for name, direction in limbs(clips, frame).items():
        if name == "root":
            continue
        j = clip.names.index(name)
        bone = skeleton.bones[name].direction
        np.testing.assert_allclose(turned[frame, j] @ bone, direction / np.linalg.norm(direction), atol=1e-5)
    knee, ankle = (places[frame, clip.names.index(n)] for n in ("ltibia", "lfoot"))
    shin = limbs(clips, frame)["ltibia"]
    np.testing.assert_allclose((ankle - knee) / 7.28717, shin / np.linalg.norm(shin), atol=1e-5)


def test_a_real_walk_walks(clip):
    _, places = clip.world()
    head, feet = (places[:, [clip.names.index(n) for n in names]] for names in (["head"], ["ltoes", "rtoes"]))
    assert (head[:, 0, 1] - feet[..., 1].max(1) > 20).all()  # inches / 0.45: the head is above both feet
    assert np.ptp(places[:, 0, 2]) > 40 and feet[..., 1].min() < 2  # it goes somewhere, on the floor


def test_bvh_of_the_same_clip(tmp_path, clip, write_bvh, body, like):
    channels = ["Xposition", "Yposition", "Zposition", "Zrotation", "Yrotation", "Xrotation"]

    def below(j):  # depth first, as a BVH lists its joints
        return [j, *(d for k, parent in enumerate(clip.parents) if parent == j for d in below(k))]

    order = below(0)
    joints = [
        (clip.names[j], order.index(clip.parents[j]) if j else -1, clip.offsets[j], channels[3 * bool(j) :],
         clip.tips.get(j))
        for j in order
    ]  # fmt: skip
    angles = Rotation.from_matrix(clip.rotations[::20, order].reshape(-1, 3, 3)).as_euler("ZYX", degrees=True)
    values = np.concatenate([clip.translations[::20, 0], angles.reshape(-1, 3 * len(order))], 1)
    rig = read_bvh(write_bvh(tmp_path / "m.bvh", joints, values))
    assert rig.names == [clip.names[j] for j in order]
    for ours, theirs in zip(rig.world(), clip.world()):
        np.testing.assert_allclose(ours, theirs[::20, order], atol=1e-6)
    poses = [retarget(r, body, like).pose for r in (rig, clip)]
    np.testing.assert_allclose(rodrigues(poses[0].theta), rodrigues(poses[1].theta[::20]), atol=1e-5)
    np.testing.assert_allclose(poses[0].Th, poses[1].Th[::20], atol=1e-5)
    assert len(load_motion(tmp_path / "m.bvh", body=body, like=like, fps=60, end=0.1)) == 7


def test_finds_its_skeleton(tmp_path, clips):
    assert find_asf(clips / "02_01.amc") == clips / "02.asf"
    with pytest.raises(MotionError, match=r"neither 05_01\.asf nor 05\.asf.*skeleton="):
        find_asf(tmp_path / "05_01.amc")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ltibia 22.3977\n", "", "frame 1 lacks ltibia"),
        ("ltibia 22.3977\n", "ltibia 22.3977 3\n", "2 numbers for ltibia; expected rx"),
        ("ltibia 22.3977\n", "ltibia x\n", "line 31: expected numbers"),
        ("ltibia 22.3977\n", "ltibia nan\n", "ltibia of frame 0 is not finite"),
        ("ltibia 22.3977\n", "tail 22.3977\n", "bone tail has no degrees of freedom in .*02.asf.*lfemur"),
        (":DEGREES\n1\n", ":DEGREES\n", "expected a frame number"),
    ],
)
def test_clip_refusals(tmp_path, clips, old, new, message):
    text = (clips / "02_01.amc").read_text()
    assert old in text
    (tmp_path / "02_01.amc").write_text(text.replace(old, new, 1))
    with pytest.raises(MotionError, match=message) as error:
        read_amc(tmp_path / "02_01.amc", read_asf(clips / "02.asf"), 120)
    assert "02_01.amc" in str(error.value)


def test_truncated_and_empty_clips(tmp_path, clips):
    skeleton, text = read_asf(clips / "02.asf"), (clips / "02_01.amc").read_text()
    for content, message in ((text[: text.index("\nlwrist")], "is the file truncated"), (":DEGREES\n", "empty motion")):
        (tmp_path / "m.amc").write_text(content)
        with pytest.raises(MotionError, match=message):
            read_amc(tmp_path / "m.amc", skeleton, 120)
    with pytest.raises(MotionError, match=r"no frame rate.*CMU's clips have 120.*motion_fps"):
        read_amc(clips / "02_01.amc", skeleton, None)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (":hierarchy", ":other", "no section :hierarchy"),
        (":root", ":stem", "no section :root"),
        ("name lfemur", "name lfemurs", "hierarchy names unknown bones lfemur"),
        ("name rtoes", "name ltoes", "ltoes is defined twice"),
        ("    rfoot rtoes\n", "", "does not reach rtoes"),
        ("direction 0.34202 -0.939693 0  ", "direction 0 0 0", "not all zero"),
        ("length 7.59371", "length nan", "length of lfemur is nan"),
        ("axis 0 0 20", "axis 0 inf 20", "three finite angles"),
        ("dof rx ry rz", "dof rx ry l", "accepted are rx ry rz"),
        ("order TX TY TZ", "order TX TY", "the root's order"),
        ("angle deg", "angle gon", "expected deg or rad"),
    ],
)
def test_skeleton_refusals(tmp_path, clips, old, new, message):
    text = (clips / "02.asf").read_text()
    assert old in text
    (tmp_path / "02.asf").write_text(text.replace(old, new, 1))
    with pytest.raises(MotionError, match=message) as error:
        read_asf(tmp_path / "02.asf")
    assert "02.asf" in str(error.value)
