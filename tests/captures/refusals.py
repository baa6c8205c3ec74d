"""Damaged images, and how readers refuse them."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from r3avatar.captures import CaptureError
from r3avatar.captures.capture import Capture

SMALL = cv2.imencode(".png", np.ones((8, 9), np.uint8))[1].tobytes()  # of another size than its camera
EMPTY_MASK = cv2.imencode(".png", np.zeros((80, 96), np.uint8))[1].tobytes()


def assert_refused_when_read(capture: Capture, camera: int, place: Path | str, message: str) -> None:
    """Of a camera, frame 0 is read, and frame 1 is refused: by the name of its file, for the reason that matches."""
    capture.read(camera, 0)
    with pytest.raises(CaptureError, match=message) as error:
        capture.read(camera, 1)
    assert str(error.value).startswith(f"{place}: ")
