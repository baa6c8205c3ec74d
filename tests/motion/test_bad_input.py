"""Every layout with every mistake: the error names the file, what was found and what is accepted."""

import shutil

import numpy as np
import pytest
import torch

from r3avatar.motion.load import load_motion
from r3avatar.motion.motion import MotionError

F = 6
ARRAYS = {
    "amass": {"poses": np.zeros((F, 156)), "trans": np.zeros((F, 3)), "mocap_framerate": 30.0},
    "smplx": {"global_orient": np.zeros((F, 3)), "body_pose": np.zeros((F, 63)), "transl": np.zeros((F, 3)), "fps": 30},
    "pose": {"theta": np.zeros((F, 55, 3)), "transl": np.zeros((F, 3)), "fps": 30.0},
}
JOINTS = [
    ("Hips", -1, (0, 90, 0), ["Xposition", "Yposition", "Zposition", "Zrotation", "Xrotation", "Yrotation"], None),
    *((f"{s}UpLeg", 0, (x, -5, 0), ["Zrotation"], None) for s, x in (("Left", 9), ("Right", -9))),
    *((f"{s}Leg", i, (0, -40, 0), ["Zrotation"], None) for s, i in (("Left", 1), ("Right", 2))),
    *((f"{s}Foot", i, (0, -40, 0), ["Zrotation"], (0, -5, 12)) for s, i in (("Left", 3), ("Right", 4))),
    ("Spine", 0, (0, 20, 0), ["Zrotation"], None),
    ("Neck", 7, (0, 30, 0), ["Zrotation"], None),
    ("Head", 8, (0, 10, 0), ["Zrotation"], (0, 20, 0)),
    *((f"{s}Arm", 7, (x, 25, 0), ["Zrotation"], None) for s, x in (("Left", 18), ("Right", -18))),
    *((f"{s}ForeArm", i, (x, 0, 0), ["Zrotation"], None) for s, i, x in (("Left", 10, 28), ("Right", 11, -28))),
    *((f"{s}Hand", i, (x, 0, 0), ["Zrotation"], (x, 0, 0)) for s, i, x in (("Left", 12, 24), ("Right", 13, -24))),
]
WIDTH = sum(len(joint[3]) for joint in JOINTS)


def _npz(tmp_path, layout, **changes):
    arrays = {k: v for k, v in {**ARRAYS[layout], **changes}.items() if v is not None}
    np.savez(tmp_path / "walk.npz", **arrays)
    return tmp_path / "walk.npz"


def _nan(shape, frame=4):
    values = np.zeros(shape)
    values[frame].flat[1] = np.nan
    return values


def _refused(path, message, body, like, **options):
    with pytest.raises(MotionError, match=message) as error:
        load_motion(path, body=body, like=like, **options)
    assert path.name in str(error.value), "the file is named"


NPZ = {
    "wrong joint count": [
        ("amass", {"poses": np.zeros((F, 153))}, r"poses is \[6, 153\]. Accepted: poses \[F, 156\] \(SMPL-H\), \[F,"),
        ("smplx", {"body_pose": np.zeros((F, 69))}, r"body_pose is \[6, 69\]. Accepted: .*body_pose \[F, 63\]"),
        ("pose", {"theta": np.zeros((F, 24, 3))}, r"theta is \[6, 24, 3\]. Accepted: .*takes \[F, 55, 3\]"),
    ],
    "not a number": [
        ("amass", {"poses": _nan((F, 156))}, r"poses of frame 4 is not finite \(1 such"),
        ("amass", {"trans": _nan((F, 3))}, "trans of frame 4 is not finite"),
        ("smplx", {"body_pose": _nan((F, 63))}, "body_pose of frame 4 is not finite"),
        ("smplx", {"transl": _nan((F, 3), 0)}, "transl of frame 0 is not finite"),
        ("pose", {"theta": _nan((F, 55, 3))}, "theta of frame 4 is not finite"),
        ("pose", {"transl": np.full((F, 3), np.inf)}, r"transl of frame 0 is not finite \(6 such"),
    ],
    "rate": [
        ("amass", {"mocap_framerate": 0.0}, "rate is 0.0; expected a positive number of frames a second, 1 to 10000"),
        ("amass", {"mocap_framerate": np.nan}, "rate is nan; expected a positive"),
        ("amass", {"mocap_framerate": None}, r"no frame rate \(none of the keys mocap_framerate.*motion_fps="),
        ("smplx", {"fps": -30}, "rate is -30.0; expected a positive"),
        ("smplx", {"fps": np.array([30, 60])}, r"rate is int64 \[2\]; expected one number"),
        ("pose", {"fps": np.array("fast")}, r"rate is <U4 \[\]; expected one number"),
        ("pose", {"fps": 1 / 30}, "rate is 0.0333.*1 to 10000"),
        ("pose", {"fps": None}, "states no frame rate"),
    ],
    "no root": [
        ("amass", {"trans": None}, "lacks trans; it holds mocap_framerate, poses. Accepted: "),
        ("smplx", {"global_orient": None}, "lacks global_orient; it holds body_pose, fps, transl. Accepted: global"),
        ("pose", {"transl": None}, "lacks transl; it holds fps, theta. Accepted: theta"),
    ],
    "empty": [
        ("amass", {"poses": np.zeros((0, 156)), "trans": np.zeros((0, 3))}, r"poses is \[0, 156\], an empty motion"),
        ("smplx", {"global_orient": np.zeros((0, 3))}, r"global_orient is \[0, 3\], an empty motion; expected F > 0"),
        ("pose", {"theta": np.zeros((0, 55, 3))}, r"theta is \[0, 55, 3\], an empty motion"),
    ],
}


@pytest.mark.parametrize("mistake", NPZ)
def test_npz(tmp_path, body, like, mistake):
    assert {layout for layout, _, _ in NPZ[mistake]} == set(ARRAYS)
    for layout, changes, message in NPZ[mistake]:
        _refused(_npz(tmp_path, layout, **changes), message, body, like)


def test_bvh(tmp_path, body, like, write_bvh):
    path = tmp_path / "walk.bvh"
    write_bvh(path, JOINTS, np.zeros((F, WIDTH)))
    assert len(load_motion(path, body=body, like=like)) == F
    write_bvh(path, JOINTS[:4], np.zeros((F, 9)))
    _refused(path, r"bones are of no known rig.*MIXAMO.*Its bones: Hips, LeftUpLeg.*Rename them", body, like)
    values = np.zeros((F, WIDTH))
    values[4, 3] = np.nan
    write_bvh(path, JOINTS, values)
    _refused(path, "channels of frame 4 is not finite", body, like)
    write_bvh(path, JOINTS, np.zeros((F, WIDTH)), frame_time=0)
    _refused(path, "SECONDS > 0", body, like)
    write_bvh(path, JOINTS, np.zeros((F, WIDTH)), frame_time=33.3)  # milliseconds
    _refused(path, "rate is 0.03.*expected a positive number of frames a second, 1 to", body, like)
    write_bvh(path, JOINTS, np.zeros((0, WIDTH)))
    _refused(path, "empty motion", body, like)
    write_bvh(path, JOINTS, np.zeros((F, WIDTH)))
    path.write_text(path.read_text().replace("ROOT Hips", "JOINT Hips"))
    _refused(path, "expected ROOT", body, like)


def test_asf_amc(tmp_path, clips, body, like):
    path = tmp_path / "02_01.amc"
    text = (clips / "02_01.amc").read_text()
    shutil.copy(clips / "02.asf", tmp_path / "02.asf")

    def refused(content, message, **options):
        path.write_text(content)
        _refused(path, message, body, like, **{"motion_fps": 120, **options})

    refused(text.replace("ltibia 22.3977\n", "ltibia 22.3977 1 2\n"), "3 numbers for ltibia; expected rx")
    refused(text.replace("ltibia 22.3977\n", "ltibia nan\n"), "ltibia of frame 0 is not finite")
    refused(text, "states no frame rate.*CMU's clips have 120.*motion_fps=", motion_fps=None)
    refused(text, "rate is 0; expected a positive", motion_fps=0)
    lines = text.splitlines()
    start = lines.index("1")
    assert lines[start + 1].startswith("root")
    refused("\n".join([*lines[: start + 1], *lines[start + 2 :]]), "frame 1 lacks root; is the file truncated")
    refused(":DEGREES\n", "empty motion: no frame number was found")
    skeleton = (clips / "02.asf").read_text()
    (tmp_path / "02.asf").write_text(skeleton.replace("lfemur", "lthigh"))
    path.write_text(text.replace("lfemur", "lthigh"))
    _refused(path, r"no known rig.*Its bones: root.*Rename them", body, like, motion_fps=120)


@pytest.mark.parametrize("layout", ARRAYS)
@pytest.mark.parametrize("rate", [10, 29.97, 120])
def test_other_rates_are_resampled(tmp_path, body, like, layout, rate):
    key = "mocap_framerate" if layout == "amass" else "fps"
    motion = load_motion(_npz(tmp_path, layout, **{key: rate}), body=body, like=like, fps=15)
    assert motion.fps == 15 and len(motion) == int((F - 1) / rate * 15 + 1e-6) + 1


def test_a_rate_against_the_files_own_is_refused(tmp_path, body, like):
    path = _npz(tmp_path, "amass")
    _refused(path, "states 30 frames a second, motion_fps=60; .*leave it out", body, like, motion_fps=60)
    assert len(load_motion(path, body=body, like=like, motion_fps=30)) == F


def test_a_body_of_other_joints(tmp_path, smpl_body, like_of):
    """The pose file of a body with fingers, on one without."""
    _refused(_npz(tmp_path, "pose"), r"\[6, 55, 3\]. Accepted: .*takes \[F, 24, 3\]", smpl_body, like_of(smpl_body))
    assert torch.isfinite(load_motion(_npz(tmp_path, "amass"), body=smpl_body, like=like_of(smpl_body)).pose.Th).all()
