"""The built-in motions: they are what the clips are, and fit other bodies."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from r3avatar.motion.builtin import CREDIT, FOLDER, builtin_names, leg_length, read_builtin
from r3avatar.motion.load import load_motion
from r3avatar.motion.motion import MotionError, rest_joints


def test_the_files_are_small_and_name_their_source():
    assert {"walk", "jump", "punch", "swordplay"} <= set(builtin_names())
    for path in FOLDER.glob("*.npz"):
        assert path.stat().st_size < 200_000
        with np.load(path) as arrays:
            assert str(arrays["credit"]) == CREDIT and str(arrays["source"]).startswith("02_")


def test_the_walk_is_the_clip(clips, body, like_of):
    like = replace(like_of(body), betas=torch.zeros(2, body.num_betas))
    common = {"body": body, "like": like, "fps": 15}
    built = load_motion("builtin:walk", **common).pose
    clip = load_motion(clips / "02_01.amc", motion_fps=120, **common).pose
    torch.testing.assert_close(built.Th, clip.Th, atol=2e-3, rtol=0)
    torch.testing.assert_close(built.theta, clip.theta, atol=2e-3, rtol=0)


@pytest.mark.parametrize("name", ["walk", "jump", "punch", "swordplay"])
def test_motions_are_steady_and_stand_on_the_floor(body, like, name):
    pose = load_motion(f"builtin:{name}", body=body, like=like, fps=30).pose
    assert 2.5 * 30 < len(pose) < 7 * 30
    lowest = torch.cat([body.vertices(pose[f : f + 1])[..., 1].amin(1) for f in range(0, len(pose), 6)])
    start = body.vertices(like[:1])[0, :, 1].min()
    assert (lowest - start).min() > -0.1, "no foot sinks into the floor"
    assert pose.Th.diff(dim=0).norm(dim=1).max() < 0.15, "no leap from frame to frame"


def test_an_smpl_body_with_other_legs(smpl_body, like_of):
    like = like_of(smpl_body)
    like.betas[:] = 2.0
    pose = read_builtin("walk", smpl_body, like).pose
    assert pose.theta.shape[1] == 24 and (pose.theta[:, 22:] == 0).all()
    with np.load(FOLDER / "walk.npz") as arrays:
        scale = leg_length(rest_joints(smpl_body, like)) / float(arrays["leg"])
        way = np.linalg.norm(arrays["transl"][-1] - arrays["transl"][0])
    assert abs(scale - 1) > 0.01
    assert float((pose.Th[-1] - pose.Th[0]).norm()) == pytest.approx(scale * way, rel=1e-3)


def test_unknown_names_list_the_known(body, like):
    with pytest.raises(MotionError, match=r"builtin:fly is unknown; built in are builtin:jump, .*builtin:walk"):
        load_motion("builtin:fly", body=body, like=like)


def test_the_first_frame_faces_a_point(body, like):
    spot = torch.tensor([3.0, 5.0, -2.0])
    pose = load_motion("builtin:walk", body=body, like=like, fps=15, face=spot).pose
    plain = load_motion("builtin:walk", body=body, like=like, fps=15).pose
    pelvis = torch.from_numpy(rest_joints(body, like)[0]).float()
    way = (pose.Th[-1] - pose.Th[0]) * torch.tensor([1.0, 0, 1])
    ahead = (spot - pelvis - pose.Th[0]) * torch.tensor([1.0, 0, 1])
    assert torch.nn.functional.cosine_similarity(way, ahead, dim=0) > 0.97  # a walk goes where it faces
    torch.testing.assert_close(pose.Th[0], plain.Th[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(pose.theta[:, 1:], plain.theta[:, 1:])
