"""`r3avatar animate`: forms with alpha, the panel, going on after a kill, without the capture, and what it refuses."""

import json
import os
import shutil
import signal
import time

import av
import cv2
import numpy as np
import pytest

pytestmark = pytest.mark.slow
WALK = ["motion=builtin:walk", "end=0.3", "root=in_place", "camera=follow"]  # five frames


@pytest.fixture(scope="module")
def alone(workplace, tiny_run):
    """A folder with the tiny run and no capture, and how to run the command there."""
    folder = workplace.folder / "alone"
    shutil.copytree(tiny_run, folder / "outputs" / "tiny")
    return workplace.at(folder)


@pytest.fixture
def media(alone):
    return alone.folder / "outputs" / "tiny" / "media"


def _pictures(path, layout="rgb24"):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format=layout) for frame in container.decode(video=0)]


def test_without_the_capture(alone, media):
    text = alone("animate", "run=outputs/tiny", *WALK)
    assert "animate_walk.mp4 (5 frames" in text and "frames/s" in text and "animating" in text
    assert len(_pictures(media / "animate_walk.mp4")) == 5
    assert cv2.imread(str(media / "animate_walk.png")).shape[1] == 5 * 64
    assert not [p for p in media.iterdir() if p.name.startswith(".")]
    alone("animate", "run=outputs/tiny", "camera=4")  # a split of the capture, from a camera of the capture
    alone("render", "run=outputs/tiny", "camera=fixed")


def test_forms_with_alpha_hold_the_same_pictures(alone):
    for form in ("png", "ffv1", "prores"):
        alone("animate", "run=outputs/tiny", *WALK, f"format={form}", "output=forms/walk")
    folder = alone.folder / "forms"
    files = [cv2.imread(str(folder / "walk" / f"{f:06d}.png"), cv2.IMREAD_UNCHANGED) for f in range(5)]
    files = [picture[..., [2, 1, 0, 3]] for picture in files]
    for lossless, prores, picture in zip(
        _pictures(folder / "walk.mkv", "rgba"), _pictures(folder / "walk.mov", "rgba"), files, strict=True
    ):
        np.testing.assert_array_equal(lossless, picture)
        assert np.abs(prores[..., 3].astype(int) - picture[..., 3]).max() <= 1
        seen = picture[..., 3] > 250
        assert np.abs(prores[seen].astype(int) - picture[seen]).mean() < 6
        assert 0.02 < (picture[..., 3] > 128).mean() < 0.6 and (picture[..., 3] == 0).mean() > 0.3
    alone("animate", "run=outputs/tiny", *WALK, "output=forms/opaque")
    opaque = _pictures(folder / "opaque.mp4")[2]
    assert np.abs(files[2][..., :3] * (files[2][..., 3:] / 255) - opaque).mean() < 4


def test_the_panel_stands_beside_the_picture(alone):
    alone("animate", "run=outputs/tiny", *WALK, "picture_in_picture=true", "output=panel/walk")
    wide = _pictures(alone.folder / "panel" / "walk.mp4")
    assert wide[0].shape == (64, 64 + 56, 3)
    panel = wide[3][:, 64:].astype(int)
    assert panel.std() > 20 and np.abs(panel - wide[0][:, 64:]).max() > 60, "it moves"
    mixture = ["retrieval=mixture", "picture_in_picture=true", "output=panel/walk", "format=png"]
    alone("animate", "run=outputs/tiny", *WALK, *mixture)
    picture = cv2.imread(str(alone.folder / "panel" / "walk" / "000003.png"), cv2.IMREAD_UNCHANGED)
    assert (picture[:, 64:, 3] == 255).all() and (picture[:, :64, 3] == 0).any()


def test_a_killed_animation_goes_on(alone):
    command = ["animate", "run=outputs/tiny", "motion=builtin:jump", "end=1.4", "format=png", "output=k/s"]
    pid = alone.start(*command)
    parts = alone.folder / "k" / ".s.parts"
    try:
        deadline = time.monotonic() + 120
        while len(list(parts.glob("0*.png"))) < 4 and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        os.kill(pid, signal.SIGKILL)
        alone.end(code=-signal.SIGKILL)
    kept = len(list(parts.glob("0*.png")))
    assert 4 <= kept < 22 and not (alone.folder / "k" / "s").exists()
    before = {p.name: p.stat().st_mtime_ns for p in parts.glob("0*.png")}
    text = alone(*command)
    assert f"going on after {kept} of 22 frames" in text
    files = sorted((alone.folder / "k" / "s").iterdir())
    assert len(files) == 22 and not parts.exists()
    assert {p.name: p.stat().st_mtime_ns for p in files if p.name in before} == before, "those are not made again"
    assert "going on" not in alone(*command, "end=0.2"), "another film starts anew"


def test_a_camera_path_from_a_file(alone, workplace):
    K = [[200, 0, 63.5], [0, 200, 47.5], [0, 0, 1]]
    turn = [[1, 0, 0], [0, -1, 0], [0, 0, -1]]
    at = {"K": K, "R": turn, "width": 128, "height": 96}
    path = alone.folder / "path.json"
    path.write_text(json.dumps({"near": {**at, "T": [0, 1, 3]}, "far": {**at, "T": [0, 1, 6]}}))
    for verb in ("animate", "render"):
        options = WALK[:3] if verb == "animate" else []
        alone(verb, "run=outputs/tiny", *options, "camera=path.json", f"output=path/{verb}")
        pictures = _pictures(alone.folder / "path" / f"{verb}.mp4")
        shown = [(picture.max(-1) > 40).sum() for picture in pictures]
        assert pictures[0].shape == (96, 128, 3) and shown[0] > 1.5 * shown[-1] > 0, "it moves away"
    path.write_text(json.dumps({"near": at}))
    assert "path.json: camera near" in alone("render", "run=outputs/tiny", "camera=path.json", code=2)


def test_refusals(alone):
    def refused(*arguments):
        return alone("animate", "run=outputs/tiny", *arguments, code=2)

    assert "format=gif is unknown; expected h264, prores, ffv1, png" in refused(*WALK, "format=gif")
    assert "builtin:fly is unknown; built in are builtin:jump" in refused("motion=builtin:fly")
    assert "facing=away is unknown" in refused(*WALK, "facing=away")
    assert "facing=camera applies to motion files" in refused("facing=camera")
    assert "root=float is unknown" in refused("motion=builtin:walk", "root=float")
    assert "hold no frame" in refused("motion=builtin:walk", "start=9")
