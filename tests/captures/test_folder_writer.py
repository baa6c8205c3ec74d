"""Writing the plain layout: whole or not at all, and as its documentation says."""

import os
import re
import stat
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from r3avatar.body import load_body
from r3avatar.captures import CaptureError, FolderCapture, Split
from r3avatar.types import BodyPose

from .layouts_smplx import write_plain_folder
from .plain_capture import plain_capture

SUBJECT = "ann é.v2"


@pytest.fixture
def folder(tmp_path):
    """A folder to be spoiled."""
    return write_plain_folder(tmp_path / "captures", SUBJECT, plain_capture("smplx"))


def _open(folder, **changes):
    return FolderCapture(folder.parent, folder.name, **changes)


def test_encoded_pictures_are_kept_byte_for_byte(tmp_path):
    plain = plain_capture("smpl")
    jpeg = cv2.imencode(".jpg", plain.images[0][0][..., ::-1])[1].tobytes()
    mask = tmp_path / "m.png"
    cv2.imwrite(str(mask), plain.masks[0][0])
    folder = write_plain_folder(tmp_path, "kept", plain, pictures=lambda camera, frame: (jpeg, mask))
    assert (folder / "images/1/000002.jpg").read_bytes() == jpeg
    assert (folder / "masks/1/000002.png").read_bytes() == mask.read_bytes()
    assert _open(folder).read(0, 0)[1].sum() == plain.masks[0][0].sum()


def test_only_what_the_splits_need_must_be_there(tmp_path):
    plain = plain_capture("smpl")

    def pictures(camera, frame):
        return (plain.images[0][frame], plain.masks[0][frame]) if camera != "2" or frame != 1 else None

    folder = write_plain_folder(tmp_path, "holes", plain, pictures=pictures)
    with pytest.raises(CaptureError, match="frame 1: expected an image, found none"):
        _open(folder).read(2, 1)
    missing = f"{tmp_path / 'gone' / 'images' / '2' / '000000.png'}: camera 2, frame 0: expected an image"
    with pytest.raises(ValueError, match=re.escape(missing)):
        write_plain_folder(tmp_path, "gone", plain, pictures=lambda c, f: None if c == "2" else pictures(c, f))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["holes"]


def test_writing_refuses_to_overwrite_and_leaves_nothing_behind(folder):
    plain, root = plain_capture("smplx"), folder.parent
    before = sorted(path for path in root.rglob("*"))
    with pytest.raises(FileExistsError, match="overwrite=True"):
        write_plain_folder(root, SUBJECT, plain)

    def stops(camera, frame):
        if camera == "2":
            raise KeyboardInterrupt
        return plain.images[0][0], plain.masks[0][0]

    with pytest.raises(KeyboardInterrupt):
        write_plain_folder(root, SUBJECT, plain, overwrite=True, pictures=stops)
    assert sorted(path for path in root.rglob("*")) == before
    write_plain_folder(root, SUBJECT, plain, names=("a", "b", "c"), overwrite=True)
    assert _open(folder).camera_ids == ["a", "b", "c"] and [path.name for path in root.iterdir()] == [SUBJECT]


def test_what_is_not_a_capture_is_never_replaced(tmp_path):
    (tmp_path / "ann").mkdir()
    (tmp_path / "ann" / "thesis.txt").write_text("all of it")
    with pytest.raises(FileExistsError, match=r"holds no capture\.json"):
        write_plain_folder(tmp_path, "ann", plain_capture("smpl"), overwrite=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["ann", "thesis.txt"]


BAD = {
    "a slash": ({"subject": "a/b"}, "subject is 'a/b'"),
    "a path as camera": ({"names": ("../../x", "b", "c")}, r"a camera is '\.\./\.\./x'"),
    "frames": ({"frames": range(3)}, r"theta is \[4, 55, 3\] for 3 frames"),
    "gap": ({"frames": [0, 1, 2, 4]}, "frames: expected consecutive numbers"),
    "gender": ({"gender": "man"}, "gender: expected one of male, female, neutral"),
    "train": ({"splits": {"novel_view": Split(["0"], [0])}}, "splits, train: expected a value"),
    "RGBA": (
        {"pictures": lambda c, f: (np.zeros((80, 96, 4), np.uint8), np.ones((80, 96)))},
        r"camera 0, frame 0, image: an array uint8 \[80, 96, 4\]; expected RGB",
    ),
    "size": (
        {"pictures": lambda c, f: (np.zeros((80, 96, 3), np.uint8), np.ones((96, 80)))},
        "camera 0, frame 0, mask: 80x96 pixels; the camera has 96x80",
    ),
    "words": ({"pictures": lambda c, f: (b"words", np.ones((80, 96)))}, "image: expected an encoded JPEG or PNG"),
}


@pytest.mark.parametrize("bad", BAD)
def test_writing_refuses_what_cannot_be_read(tmp_path, bad):
    changes, message = BAD[bad]
    with pytest.raises(ValueError, match=message):
        write_plain_folder(**{"root": tmp_path / "new", "subject": "ann", "plain": plain_capture("smplx"), **changes})
    assert not (tmp_path / "new").exists() or not list((tmp_path / "new").iterdir())


def test_no_place_to_write(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CaptureError, match="file: the folder: expected a folder to write in, found none"):
        write_plain_folder(tmp_path / "file", "ann", plain_capture("smpl"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_root_is_not_written(tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(CaptureError, match=r"expected a folder to write in, found none \(Permission"):
        write_plain_folder(tmp_path, "ann", plain_capture("smpl"))


def test_the_documented_conversions_agree():
    """docs/folder_layout.md: (Rh, Th) as R and Th, or as global_orient and transl, is one posed body."""
    body, poses = load_body("demo"), plain_capture("smplx").poses
    R, Th = poses.R.clone(), poses.Th
    R[:] = torch.tensor(cv2.Rodrigues(np.array([0.3, 1.2, -0.2]))[0])
    theta = poses.theta.clone()
    theta[:, 0] = 0
    world = body.vertices(BodyPose(theta, poses.betas, poses.expression, R, Th))
    p = body.joints(poses.betas, poses.expression)[:, 0]
    theta[:, 0] = torch.tensor([0.3, 1.2, -0.2])  # global_orient = Rh
    transl = Th + (R @ p[..., None])[..., 0] - p
    again = body.vertices(BodyPose(theta, poses.betas, poses.expression, torch.eye(3).expand(4, 3, 3), transl))
    torch.testing.assert_close(again, world, atol=1e-5, rtol=0)


def test_the_documented_example_runs(tmp_path, monkeypatch):
    text = (Path(__file__).parents[2] / "docs" / "folder_layout.md").read_text()
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"```python\n(.*?)```", text, re.S):
        exec(compile(block, "docs/folder_layout.md", "exec"), {})
    assert FolderCapture("captures", "ann").read(0, 0)[1].any()
