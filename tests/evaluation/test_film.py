"""Films: pixels and alpha come back, pieces are joined without loss, and a killed process is gone on from."""

import itertools
import shutil

import av
import cv2
import numpy as np
import pytest

from r3avatar.evaluation.film import Film
from r3avatar.evaluation.video_formats import FORMATS, straight_rgba
from r3avatar.run import RunError


def _frames(count, channels, size=(34, 46)):
    """A bright square that moves over a ramp; alpha is a ramp of its own."""
    y, x = np.mgrid[: size[0], : size[1]]
    for i in range(count):
        frame = np.stack([4 * x, 5 * y, 60 + 0 * x, 255 - 5 * x][:channels], -1).astype(np.uint8)
        frame[8:20, 2 + i % 20 : 14 + i % 20, :3] = 240, 20 + 6 * (i % 30), 90
        yield frame


def _decoded(path, layout):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        pictures = list(container.decode(stream))
        times = [float(p.pts * p.time_base) for p in pictures]
        return stream.codec_context.name, [p.to_ndarray(format=layout) for p in pictures], times


@pytest.mark.parametrize("form", ["h264", "prores", "ffv1"])
@pytest.mark.parametrize("count", [1, 8, 9, 19])
def test_joined_pieces_play_as_one(tmp_path, form, count):
    channels = 4 if FORMATS[form].alpha else 3
    film = Film(tmp_path / "walk", form, 30000 / 1001, count, "x", piece=8)
    film.write(_frames(count, channels))
    path = film.complete()
    codec, pictures, times = _decoded(path, "rgba" if channels == 4 else "rgb24")
    assert codec == {"h264": "h264", "prores": "prores", "ffv1": "ffv1"}[form] and len(pictures) == count
    np.testing.assert_allclose(times, np.arange(count) * 1001 / 30000, atol=1e-3)
    for found, frame in zip(pictures, _frames(count, channels)):
        error = np.abs(found.astype(int) - frame)
        if form == "ffv1":
            assert error.max() == 0
        elif form == "prores":
            assert error[..., 3].max() <= 1, "alpha"
            assert error[..., :3].mean() < 2
        else:
            assert error.mean() < 12  # colours are halved in size
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_png_files_are_the_pixels(tmp_path):
    assert Film(tmp_path / "seen.mp4", "h264", 15, 5, "x").path.name == "seen.mp4", "the suffix may be given"
    shutil.rmtree(tmp_path / ".seen.mp4.parts")
    film = Film(tmp_path / "walk", "png", 15, 5, "x")
    film.write(_frames(5, 4))
    path = film.complete()
    assert path == tmp_path / "walk" and sorted(p.name for p in path.iterdir()) == [f"{i:06d}.png" for i in range(5)]
    for i, frame in enumerate(_frames(5, 4)):
        stored = cv2.imread(str(path / f"{i:06d}.png"), cv2.IMREAD_UNCHANGED)[..., [2, 1, 0, 3]]
        np.testing.assert_array_equal(stored, frame)
    again = Film(tmp_path / "walk", "png", 15, 2, "x")  # a shorter one takes the place of all of it
    again.write(_frames(2, 4))
    assert len(list(again.complete().iterdir())) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["walk"]


@pytest.mark.parametrize("form", ["h264", "png"])
def test_a_killed_film_goes_on_where_it_was(tmp_path, form):
    channels = 4 if FORMATS[form].alpha else 3
    film = Film(tmp_path / "walk", form, 15, 20, {"pose": 1}, piece=8)
    film.write(itertools.islice(_frames(20, channels), 11))  # then the process dies
    (film.parts / "000005.mp4.partial").write_bytes(b"half")
    film._lock.close()
    film = Film(tmp_path / "walk", form, 15, 20, {"pose": 1}, piece=8)
    assert film.finished == (8 if form == "h264" else 11)
    assert not list(film.parts.glob("*.partial"))
    film.write(itertools.islice(_frames(20, channels), film.finished, None))
    interrupted = film.complete()
    film = Film(tmp_path / "straight", form, 15, 20, {"pose": 1}, piece=8)
    film.write(_frames(20, channels))
    straight = film.complete()
    if form == "png":
        assert all((straight / p.name).read_bytes() == p.read_bytes() for p in interrupted.iterdir())
    else:
        for a, b in zip(_decoded(straight, "rgb24")[1], _decoded(interrupted, "rgb24")[1], strict=True):
            assert np.abs(a.astype(int) - b).mean() < 4  # x264 does not code tiny pictures the same way twice


def test_parts_of_another_film_are_thrown_away(tmp_path):
    film = Film(tmp_path / "walk", "h264", 15, 20, {"pose": 1}, piece=8)
    film.write(itertools.islice(_frames(20, 3), 9))
    film._lock.close()
    assert Film(tmp_path / "walk", "h264", 15, 20, {"pose": 2}, piece=8).finished == 0


def test_refusals(tmp_path):
    with pytest.raises(RunError, match="format=gif is unknown; expected h264, prores, ffv1, png"):
        Film(tmp_path / "walk", "gif", 15, 5, "x")
    film = Film(tmp_path / "walk", "png", 15, 5, "x")
    with pytest.raises(RunError, match="another process is writing"):
        Film(tmp_path / "walk", "png", 15, 5, "x")
    film.write(_frames(3, 4))
    with pytest.raises(ValueError, match="3 of 5 frames"):
        film.complete()
    with pytest.raises(ValueError, match=r"uint8 \[34, 46, 3\]"):
        film.write(_frames(1, 3))


def test_colours_over_black_become_straight():
    alpha = np.array([[0.0, 0.5, 1.0]])
    rgb = np.array([[[0.0, 0, 0], [0.4, 0.1, 0.5], [0.2, 0.6, 1.0]]])
    found = straight_rgba(rgb, alpha)
    np.testing.assert_array_equal(found[0], [[0, 0, 0, 0], [204, 51, 255, 128], [51, 153, 255, 255]])
    over_black = found[..., :3] / 255 * found[..., 3:] / 255
    np.testing.assert_allclose(over_black, rgb, atol=0.004)
