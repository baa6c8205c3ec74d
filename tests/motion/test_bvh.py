"""BVH: what is written is read back, and the kinematics are those of a plain second implementation."""

import math

import numpy as np
import pytest

from r3avatar.motion.bvh import read_bvh
from r3avatar.motion.motion import MotionError

ZXY = ["Zrotation", "Xrotation", "Yrotation"]
JOINTS = [
    ("hips", -1, [0.0, 0, 0], ["Xposition", "Yposition", "Zposition", *ZXY], None),
    ("spine", 0, [0.0, 1, 0.1], ["Yrotation", "Zrotation", "Xrotation"], None),
    ("head", 1, [0.0, 0.8, 0], ["Xrotation"], [0.0, 0.3, 0]),
    ("upper arm", 1, [0.5, 0.6, 0], ["Zrotation", "Yposition", "Xrotation", "Yrotation", "Xposition"], [0.7, 0, 0]),
]


def turn(axis, degrees):
    """A rotation about one axis, written out."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return {
        "X": np.array([[1, 0, 0], [0, c, -s], [0, s, c]]),
        "Y": np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]),
        "Z": np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]),
    }[axis]


def kinematics(joints, row):
    """Places of all joints and tips in one frame, with 4x4 matrices."""
    column, world, tips = 0, [], {}
    for name, parent, offset, channels, tip in joints:
        moved, turned = np.array(offset, dtype=float), np.eye(3)
        for channel in channels:
            if channel.endswith("position"):
                moved["XYZ".index(channel[0])] = row[column]
            else:
                turned = turned @ turn(channel[0], row[column])
            column += 1
        local = np.eye(4)
        local[:3, :3], local[:3, 3] = turned, moved
        world.append(local if parent < 0 else world[parent] @ local)
        if tip is not None:
            tips[name] = (world[-1] @ [*tip, 1])[:3]
    return np.array([m[:3, 3] for m in world]), np.array([m[:3, :3] for m in world]), tips


@pytest.fixture
def values():
    width = sum(len(joint[3]) for joint in JOINTS)
    return np.random.default_rng(3).uniform(-170, 170, (5, width))


def test_round_trip(tmp_path, write_bvh, values):
    rig = read_bvh(write_bvh(tmp_path / "m.bvh", JOINTS, values))
    assert rig.names == ["hips", "spine", "head", "upper arm"] and rig.parents == [-1, 0, 1, 1]
    assert rig.fps == 120 and len(rig) == 5
    np.testing.assert_array_equal(rig.rest()[3], [0.5, 1.6, 0.1])
    turned, places = rig.world()
    for f, row in enumerate(values):
        expected, rotations, tips = kinematics(JOINTS, row)
        np.testing.assert_allclose(places[f], expected, atol=1e-9)
        np.testing.assert_allclose(turned[f], rotations, atol=1e-9)
        for name, tip in tips.items():
            j = rig.names.index(name)
            np.testing.assert_allclose(places[f, j] + turned[f, j] @ rig.tips[j], tip, atol=1e-9)


@pytest.mark.parametrize(
    ("seconds", "fps"), [(0.0333333, 30), (0.008333, 120), (0.0166667, 60), (0.04, 25), (0.0333667, 1 / 0.0333667)]
)
def test_frame_times_are_rounded_in_files(tmp_path, write_bvh, values, seconds, fps):
    assert read_bvh(write_bvh(tmp_path / "m.bvh", JOINTS, values, seconds)).fps == fps


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("HIERARCHY", "HELLO", "line 1: expected HIERARCHY; found 'HELLO'"),
        ("Frames: 5", "Frames: 6", "'Frames: 6', but 5 lines"),
        ("Frames: 5", "Frames: 0", "empty motion"),
        ("Frame Time: 0.0083333", "Frame Time: 0", "SECONDS > 0"),
        ("Frame Time: 0.0083333", "", "expected Frame"),
        ("CHANNELS 1 Xrotation", "CHANNELS 2 Xrotation", "line 1[0-9]: expected 'CHANNELS n'"),
        ("CHANNELS 1 Xrotation", "CHANNELS 1 Wrotation", "found 'CHANNELS 1 Wrotation'"),
        ("JOINT head", "JOINT spine", "occurs twice"),
        ("OFFSET 0.0 0.8 0.0", "OFFSET 0.0 0.8", "expected OFFSET and 3 values"),
        ("OFFSET 0.0 0.8 0.0", "OFFSET 0.0 0.8 z", "a number instead of 'z'"),
        ("OFFSET 0.0 0.8 0.0", "OFFSET 0.0 nan 0.0", "a number instead of 'nan'"),
        ("Frames: 5", "Frames: inf", "a number instead of 'inf'"),
        ("MOTION", "ROOT other", "second ROOT"),
    ],
)
def test_refusals_name_the_line(tmp_path, write_bvh, values, old, new, message):
    path = write_bvh(tmp_path / "walk.bvh", JOINTS, values)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(MotionError, match=message) as error:
        read_bvh(path)
    assert "walk.bvh" in str(error.value)


def test_truncated_and_damaged_numbers(tmp_path, write_bvh, values):
    path = write_bvh(tmp_path / "m.bvh", JOINTS, values)
    lines = path.read_text().splitlines()
    for text, message in (
        ("\n".join(lines[:8]), "is it truncated"),
        ("\n".join(lines[:-1]), "but 4 lines of numbers"),
        ("\n".join([*lines[:-1], lines[-1][:-40]]), "frame 4 has 1[0-9] numbers; the channels need 15"),
        ("\n".join([*lines[:-1], lines[-1].replace(lines[-1].split()[3], "nan")]), "channels of frame 4 is not finite"),
        ("\n".join([*lines[:-1], lines[-1].replace(lines[-1].split()[3], "x")]), "no number"),
    ):
        path.write_text(text)
        with pytest.raises(MotionError, match=message):
            read_bvh(path)
    with pytest.raises(MotionError, match="does not exist"):
        read_bvh(tmp_path / "none.bvh")
