"""What a run keeps of its capture comes back as it was, and damage is refused by name."""

import json

import numpy as np
import pytest
import torch

from r3avatar.captures import CaptureError, Recording, Split, write_recording
from r3avatar.captures.capture import Capture
from r3avatar.types import BodyPose, Cameras


class Plain(Capture):
    """Two cameras of different sizes, five poses, no images."""

    def __init__(self):
        g = torch.Generator().manual_seed(0)
        K = torch.tensor([[200.0, 0, 32.5], [0, 210, 24.25], [0, 0, 1]])
        self.name, self.fps, self.body_kind, self.gender = "plain", 29.97, "smplx", None
        self.frame_ids, self.camera_ids = list(range(3, 8)), ["front", "7"]
        self.cameras = [Cameras(K, torch.eye(4), 64, 48), Cameras(2 * K, torch.eye(4), 128, 96)]
        self.poses = BodyPose(
            torch.randn(5, 55, 3, generator=g), torch.randn(5, 10, generator=g), torch.zeros(5, 0),
            torch.eye(3).expand(5, 3, 3), torch.randn(5, 3, generator=g),
        )  # fmt: skip
        self.recorded, self.box_margin = (3, 4), 0.05
        self.splits = {"train": Split(["7"], [3, 5]), "novel_pose": Split(["front"], [7])}

    def read(self, camera_index, frame_index):
        raise NotImplementedError

    def fingerprint(self):
        return {"files": [1, 2]}


def test_everything_but_the_images_comes_back(tmp_path):
    capture = Plain()
    kept = Recording(write_recording(tmp_path / "recording.npz", capture))
    for name in ("name", "fps", "body_kind", "gender", "frame_ids", "camera_ids", "recorded", "splits", "box_margin"):
        assert getattr(kept, name) == getattr(capture, name), name
    for name in ("theta", "betas", "expression", "R", "Th"):
        assert torch.equal(getattr(kept.poses, name), getattr(capture.poses, name)), name
    for found, camera in zip(kept.cameras, capture.cameras):
        assert torch.equal(found.K, camera.K) and (found.width, found.height) == (camera.width, camera.height)
    assert [p.name for p in tmp_path.iterdir()] == ["recording.npz"]
    assert kept.fingerprint() == {"files": [1, 2]}, "the frame cache of the capture is found by it"
    with pytest.raises(CaptureError, match=r"camera front, frame 4: expected an image.*open the capture itself"):
        kept.read(0, 1)


def test_damage_is_refused_by_name(tmp_path):
    path = write_recording(tmp_path / "recording.npz", Plain())
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CaptureError, match=r"recording\.npz.*animate once where the capture is"):
        Recording(path)
    path.write_bytes(whole)
    with np.load(path) as stored:
        arrays = dict(stored)
    about = json.loads(str(arrays["about"]))
    for change, message in (
        ({"theta": arrays["theta"][:3]}, r"theta: expected numbers \[5, any, 3\], found \[3, 55, 3\]"),
        ({"Th": arrays["Th"] * np.nan}, "Th: expected finite numbers"),
        ({"about": np.array(json.dumps({**about, "format": 9}))}, "format 9"),
        ({"about": np.array("{")}, "about: expected JSON"),
    ):
        np.savez(path, **{**arrays, **change})
        with pytest.raises(CaptureError, match=message):
            Recording(path)
    with pytest.raises(CaptureError, match="found none"):
        Recording(tmp_path / "other.npz")
