"""A small capture on disk, written in DNA-Rendering's layout and read back."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from r3avatar.body import load_body
from r3avatar.captures import DnaRendering, SmcWriter, Split

FRAMES = 5
SIZES = {0: (96, 80), 1: (96, 80), 48: (128, 112)}
SPLITS = {
    "train": Split(["0", "1"], [0, 1, 2]),
    "novel_view": Split(["0", "48"], [0, 2]),
    "novel_pose": Split(["48"], [3, 4]),
}


def camera(width: int, height: int, angle: float, distorted: bool = True) -> dict:
    """A camera 3.5 m from the origin at `angle` radians around the vertical, upright, the world's y up."""
    c, s = np.cos(angle), np.sin(angle)
    w2c = np.eye(4)
    w2c[:3, :3] = np.array([[c, 0, s], [0, -1, 0], [s, 0, -c]])
    w2c[:3, 3] = [0.0, 0.1, 3.5]
    focal = 1.3 * height
    K = np.array([[focal, 0, width / 2 - 0.3], [0, focal, height / 2 + 0.2], [0, 0, 1]])
    D = np.array([-0.12, 0.02, 1e-3, -1e-3, 0.001]) * distorted
    return {"K": K, "D": D, "w2c": w2c, "width": width, "height": height}


def picture(seed: int, width: int, height: int) -> tuple[bytes, bytes, np.ndarray, np.ndarray]:
    """A smooth random image as JPEG and an elliptic mask as PNG; the decoded image (BGR) and the mask 0/1."""
    random = np.random.default_rng(seed)
    image = cv2.resize(random.integers(30, 255, (6, 7, 3), dtype=np.uint8), (width, height))
    mask = np.zeros((height, width), np.uint8)
    centre = (width // 2 + int(random.integers(-4, 5)), height // 2)
    cv2.ellipse(mask, centre, (width // 5, height // 3), 0, 0, 360, 1, -1)
    jpeg = cv2.imencode(".jpg", image)[1]
    png = cv2.imencode(".png", mask * 255)[1].tobytes()
    return jpeg.tobytes(), png, cv2.imdecode(jpeg, cv2.IMREAD_COLOR), mask


def write_pair(root: Path, subject: str = "0012_09", distorted: bool = True, frames: int = FRAMES) -> None:
    """Write the small capture."""
    cameras = {c: camera(*size, angle=0.4 * i, distorted=distorted) for i, (c, size) in enumerate(SIZES.items())}
    random = np.random.default_rng(0)
    with SmcWriter(root, subject, cameras=cameras, num_frames=frames, gender="female") as writer:
        for c, (width, height) in SIZES.items():
            for frame in range(frames):
                jpeg, png, _, _ = picture(100 * c + frame, width, height)
                writer.add(c, frame, jpeg, png)
        fullpose = random.normal(0, 0.1, (frames, 55, 3))
        betas, expression = random.normal(0, 0.5, (2, frames, 10))
        transl = np.array([0.0, 0.1, 0.0]) + random.normal(0, 0.02, (frames, 3))
        writer.body(betas, expression, fullpose, transl)


def open_pair(root: Path, subject: str = "0012_09", **changes) -> DnaRendering:
    """Open the small capture."""
    arguments = {"splits": SPLITS, "recorded": (0, 3), "hand_mean": None, "scale": 0.5}
    return DnaRendering(root, subject, **{**arguments, **changes})


@pytest.fixture
def pair(tmp_path):
    """The folder of a freshly written small capture, to be spoiled at will."""
    write_pair(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def shared_pair(tmp_path_factory):
    """The folder of a small capture that no test changes."""
    root = tmp_path_factory.mktemp("captures")
    write_pair(root)
    return root


@pytest.fixture(scope="session")
def capture(shared_pair):
    """The small capture at half size."""
    return open_pair(shared_pair)


@pytest.fixture(scope="session")
def body():
    """The demo body."""
    return load_body("demo")


@pytest.fixture(scope="session")
def small():
    """The helpers above as one object, as tests cannot import them."""

    class Small:
        FRAMES, SIZES, SPLITS = FRAMES, SIZES, SPLITS
        camera, picture, write, open = map(staticmethod, (camera, picture, write_pair, open_pair))

    return Small
