"""Pictures and videos."""

import av
import cv2
import numpy as np
import pytest
import torch

from r3avatar.evaluation.media import error_map, strip, to_uint8, write_image, write_video
from r3avatar.evaluation.plots import retrieval_timeline


def test_image_round_trip(tmp_path):
    image = torch.rand(7, 5, 3, generator=torch.Generator().manual_seed(0))
    path = write_image(tmp_path / "a" / "b.png", image)
    np.testing.assert_array_equal(cv2.imread(str(path))[..., ::-1], to_uint8(image))


def test_strip_labels_and_grey(tmp_path):
    picture = strip([torch.rand(20, 30, 3), torch.rand(20, 30)], ["one", "two"])
    assert picture.shape == (38, 60, 3) and picture.dtype == np.uint8
    assert (picture[18:, 30:, 0] == picture[18:, 30:, 1]).all()


def test_error_map_is_dark_where_right():
    a = torch.zeros(4, 4, 3)
    b = a.clone()
    b[0, 0] = 0.3
    picture = error_map(a, b).astype(int)
    assert picture[0, 0].sum() > 500 > picture[3, 3].sum()


def test_video_of_odd_size_is_h264(tmp_path):
    frames = [np.full((33, 45, 3), 20 * i, np.uint8) for i in range(6)]
    path = write_video(tmp_path / "v.mp4", iter(frames), fps=7.5)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
        assert float(stream.average_rate) == 7.5
        decoded = [f.to_ndarray(format="rgb24") for f in container.decode(stream)]
    assert len(decoded) == 6 and decoded[0].shape == (34, 46, 3)
    assert abs(int(decoded[5][10, 10, 0]) - 100) < 6


def test_a_failing_stream_leaves_no_half_video(tmp_path):
    def frames():
        yield np.zeros((16, 16, 3), np.uint8)
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        write_video(tmp_path / "v.mp4", frames(), 10)
    with pytest.raises(ValueError, match="no frames"):
        write_video(tmp_path / "w.mp4", [], 10)
    assert not list(tmp_path.iterdir())


def test_timeline(tmp_path):
    times = np.arange(10.0).reshape(2, 5)
    path = retrieval_timeline(tmp_path / "t.png", [60, 61], times, times > 8, 0)
    assert cv2.imread(str(path)).std() > 1
