"""One small capture as plain arrays, which writers put into every data set's layout."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from r3avatar.captures.capture import Capture
from r3avatar.types import BodyPose, Cameras

from .conftest import camera


@dataclass
class PlainCapture:
    """Cameras C, frames F: what a layout's writer stores and its reader must give back."""

    cameras: list[dict]  # C of {"K" [3, 3], "D" [5], "w2c" [4, 4] metres, "width", "height"}; OpenCV's pixel centres
    images: list[list[np.ndarray]]  # [C][F] of [H, W, 3] uint8 RGB, black behind the person
    masks: list[list[np.ndarray]]  # [C][F] of [H, W] uint8 0/1
    poses: BodyPose  # [F]
    jpegs: list[list[bytes]] | None = None  # [C][F]; None: writers of JPEGs encode the images
    Rh: np.ndarray | None = None  # [F, 3] the axis-angle of poses.R; None: writers compute it

    def axis_angle(self, frame: int) -> np.ndarray:
        """Rh [3] of a frame, float64."""
        return cv2.Rodrigues(self.poses.R[frame].double().numpy())[0].ravel() if self.Rh is None else self.Rh[frame]


def plain_capture(kind: str, cameras: int = 3, frames: int = 4, size: tuple[int, int] = (96, 80)) -> PlainCapture:
    """A small capture without lens distortion: smooth random pictures of an ellipse, random poses of a `kind` body.

    SMPL poses have the global rotation in R and theta[:, 0] = 0; SMPL-X poses have R = 1 and it in theta[:, 0].
    """
    random = np.random.default_rng(3)
    width, height = size
    rig = [camera(width, height, 0.7 * c, distorted=False) for c in range(cameras)]
    images, masks = [], []
    for _ in range(cameras):
        row = []
        for _ in range(frames):
            mask = np.zeros((height, width), np.uint8)
            middle = (width // 2 + int(random.integers(-4, 5)), height // 2)
            cv2.ellipse(mask, middle, (width // 5, height // 3), 0, 0, 360, 1, -1)
            image = cv2.resize(random.integers(30, 225, (6, 7, 3), dtype=np.uint8), (width, height))
            row.append((image * mask[..., None], mask))
        images.append([image for image, _ in row])
        masks.append([mask for _, mask in row])
    joints = {"smpl": 24, "smplx": 55}[kind]
    theta = random.normal(0, 0.15, (frames, joints, 3))
    R = np.eye(3)[None].repeat(frames, 0)
    if kind == "smpl":
        R = np.stack([cv2.Rodrigues(v)[0] for v in theta[:, 0]])
        theta[:, 0] = 0
    poses = BodyPose(
        theta=torch.tensor(theta, dtype=torch.float32),
        betas=torch.tensor(random.normal(0, 0.5, 10), dtype=torch.float32).repeat(frames, 1),
        expression=torch.tensor(random.normal(0, 0.5, (frames, 10 if kind == "smplx" else 0)), dtype=torch.float32),
        R=torch.tensor(R, dtype=torch.float32),
        Th=torch.tensor(np.array([0, 0.1, 0]) + random.normal(0, 0.02, (frames, 3)), dtype=torch.float32),
    )
    return PlainCapture(rig, images, masks, poses)


def assert_cameras(plain: PlainCapture, cameras: list[Cameras], scale: float) -> None:
    """A reader's cameras are those that were written, at the scale of its images."""
    for written, read in zip(plain.cameras, cameras, strict=True):
        K = written["K"].copy()
        K[:2, 2] += 0.5  # from OpenCV's pixel centres to the project's
        K[:2] *= scale
        assert (read.width, read.height) == (written["width"] * scale, written["height"] * scale)
        np.testing.assert_allclose(read.K.numpy(), K, rtol=1e-6)
        np.testing.assert_allclose(read.w2c.numpy(), written["w2c"], atol=1e-6)


def assert_images(plain: PlainCapture, capture: Capture) -> None:
    """A reader's images and masks are those that were written, to the last value."""
    for c, (images, masks) in enumerate(zip(plain.images, plain.masks)):
        for f, (image, person) in enumerate(zip(images, masks)):
            rgb, mask = capture.read(c, f)
            assert rgb.dtype == mask.dtype == np.uint8
            np.testing.assert_array_equal(rgb, image)
            np.testing.assert_array_equal(mask, person)


def assert_read_by_threads(plain: PlainCapture, capture: Capture) -> None:
    """A pickled reader is the same one, and several threads may read from it at once."""
    copy = pickle.loads(pickle.dumps(capture))
    assert copy.fingerprint() == capture.fingerprint() and copy.splits == capture.splits
    pairs = [(c, f) for c in range(len(plain.images)) for f in range(len(plain.images[0]))] * 3
    with ThreadPoolExecutor(8) as pool:
        for (c, f), (rgb, _) in zip(pairs, pool.map(lambda pair: copy.read(*pair), pairs)):
            np.testing.assert_array_equal(rgb, plain.images[c][f])
