"""The panel beside a picture: what it shows, in which place and colour, at constant size."""

import numpy as np
import pytest
import torch

from r3avatar.body import load_body
from r3avatar.evaluation.picture_in_picture import BACKGROUND, COLOURS, REMEMBERED, PictureInPicture
from r3avatar.motion.cameras import look_at
from r3avatar.retrieval import Retrieved
from r3avatar.types import BodyPose, Cameras


@pytest.fixture(scope="module")
def body():
    return load_body("demo")


def _retrieved(times):
    times = torch.as_tensor(times, dtype=torch.float32)
    return Retrieved(times, torch.full_like(times, torch.nan), times * 0, torch.zeros(times.shape, dtype=torch.int64))


def _pose(body):
    return BodyPose(torch.zeros(1, 55, 3), torch.zeros(1, 10), torch.zeros(1, body.num_expression),
                    torch.eye(3)[None], torch.zeros(1, 3))  # fmt: skip


def _camera(height=300):
    centre = _middle()
    K = torch.tensor([[400.0, 0, 150], [0, 400, height / 2], [0, 0, 1]])
    return Cameras(K, look_at(centre + torch.tensor([0, 0, 3.0]), centre, torch.tensor([0.0, 1, 0])), 300, height)


def _middle():
    body = load_body("demo")
    vertices = body.v_template
    return (vertices.amin(0) + vertices.amax(0)) / 2


def test_the_panel_shows_body_frames_and_timeline(body):
    asked = []

    def thumbnail(frame):
        asked.append(frame)
        return np.full((40, 20, 3), 10 * frame, np.uint8)

    times = np.stack([np.arange(5.0), [10, 10, 10, 10, 12.4]])
    panel = PictureInPicture(body, _retrieved(times), (3, 20), thumbnail, 300)
    picture = panel(0, _pose(body), _camera())
    assert picture.shape == (300, panel.width, 3) and picture.dtype == np.uint8
    assert asked == [3, 4, 5, 6, 7], "frames by their ids: the recording begins at 3"
    top = picture[:126]
    assert (top != BACKGROUND).any(-1).mean() > 0.03
    upright = np.flatnonzero((top != BACKGROUND).any((1, 2)))
    assert upright[0] > 2 and upright[-1] < 123, "seen by the picture's own camera, whole"
    for part in range(5):  # each part's picture in its place, in a frame of its colour
        x = part * (panel.width // 5)
        assert (picture[126 + 60, x + panel.width // 10] == 10 * (3 + part)).all()
        assert (picture[126 + 60, x + 1] == COLOURS[part]).all()
    later = panel(1, _pose(body), _camera())
    assert asked[5:] == [13, 15]  # once each, 12.4 + 3 rounded
    line = (later[240:] == 255).all(-1).all(0) | (later[260:290] == 255).all(-1).all(0)
    assert np.flatnonzero(line).tolist() == [panel.width - 5], "the playhead is at the end"


def test_thumbnails_are_remembered_up_to_a_number(body):
    times = np.repeat(np.arange(200.0)[:, None], 5, 1)
    panel = PictureInPicture(body, _retrieved(times), (0, 200), lambda f: np.zeros((9, 9, 3), np.uint8), 100)
    for f in range(200):
        panel._frames(40, f)
    assert len(panel._seen) == REMEMBERED


def test_a_camera_amid_the_body_leaves_its_place_empty(body):
    panel = PictureInPicture(body, _retrieved(np.zeros((1, 5))), (0, 1), lambda f: np.zeros((9, 9, 3), np.uint8), 200)
    camera = Cameras(_camera().K, look_at(_middle(), _middle() + torch.ones(3), torch.tensor([0.0, 1, 0])), 300, 300)
    assert (panel(0, _pose(body), camera)[:80] == BACKGROUND).all()
