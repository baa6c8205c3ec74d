"""Inspecting a capture: good ones are good, each known mistake is told, holes are listed, the report stands alone."""

import copy
import json
import math
import re
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from r3avatar.body import load_body
from r3avatar.captures import CaptureError, DnaRendering, Mend, Split
from r3avatar.cli import check
from r3avatar.inspection import inspect_capture, write_report
from r3avatar.inspection.mistakes import factors, known_mistakes
from r3avatar.inspection.overlap import overlap
from r3avatar.inspection.silhouette import silhouette
from r3avatar.types import Cameras
from r3avatar.verbs import inspect as verb

from .broken_captures import MISTAKES


@pytest.fixture(scope="module")
def body():
    """The demo body with bent mean hands: its own are flat, which no mistake about them could change."""
    body = load_body("demo")
    for mean, bend in ((body.left_hand_mean, -0.5), (body.right_hand_mean, 0.5)):
        mean.view(15, 3)[:, 2] = bend
    return body


@pytest.fixture(scope="module")
def tiny(workplace):
    """The tiny capture at its files' size."""
    splits = {"train": Split.parse("0-3", "0-7"), "novel_view": Split.parse("4", "0-7/4")}
    root = workplace.folder / "outputs" / "captures"
    return DnaRendering(root, "tiny", splits=splits, recorded=(0, 8), hand_mean=None, scale=1.0)


def spoiled(capture, **changed):
    """The capture with other attributes."""
    other = copy.copy(capture)
    for name, value in changed.items():
        setattr(other, name, value)
    return other


def cameras_with(capture, change):
    return {"cameras": [change(camera) for camera in capture.cameras]}


def opengl(capture, body):
    flip = torch.diag(torch.tensor([1.0, -1, -1, 1]))
    return cameras_with(capture, lambda camera: replace(camera, w2c=flip @ camera.w2c))


def test_every_mistake_is_tested(tiny, body):
    """By test_following_advice.py."""
    names = {mistake.name for mistake in known_mistakes(tiny.cameras, body, 2)}
    assert names == set(MISTAKES) - {"intrinsics at 1.5 times the images' size"}
    assert len(known_mistakes(tiny.cameras, load_body("demo"), 1)) == len(names) - 4  # flat mean hands, one frame


def test_factors_of_intrinsics_that_principal_points_tell():
    def rig(scale):
        K = torch.tensor([[600 * scale, 0, 318 * scale], [0, 600 * scale, 245 * scale], [0, 0, 1]])
        return [Cameras(K, torch.eye(4), 640, 480)]

    always = [0.5, 0.25, 2.0, 4.0]
    assert factors(rig(1.0)) == always and factors(rig(2.0))[:4] == always
    assert factors(rig(1.5))[4] == pytest.approx(2 / 3, abs=1e-6) and factors(rig(1 / 0.45))[-1] == 0.447
    assert factors([Cameras(torch.zeros(3, 3), torch.eye(4), 640, 480)]) == always


def test_a_good_capture_is_good(tiny, body):
    inspection = inspect_capture(tiny, body)
    assert inspection.verdict == "good", inspection.checks
    assert inspection.diagnosis.winner is None and not inspection.holes
    assert len(inspection.samples) == 4 * 6 + 2


def test_two_mistakes_have_no_single_mend(tiny, body):
    turn = torch.tensor([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    cameras = [replace(camera, w2c=camera.w2c @ turn) for camera in tiny.cameras]
    both = spoiled(tiny, cameras=cameras, poses=replace(tiny.poses, Th=tiny.poses.Th + 0.4))
    inspection = inspect_capture(both, body, frames=3)
    assert inspection.diagnosis.winner is None and inspection.verdict == "poor"


def test_advice_goes_on_from_what_is_mended_already(tiny, body):
    by_name = {mistake.name: mistake for mistake in known_mistakes(tiny.cameras, body, 2)}
    millimetres = by_name["cameras in millimetres, not metres"]
    assert millimetres.advice(Mend()) == "'capture.mend.camera_unit=0.001'"
    assert millimetres.advice(Mend(camera_unit=1000)) == "'capture.mend.camera_unit=1'"
    inverse = by_name["camera-to-world taken for world-to-camera, or the reverse"]
    assert inverse.advice(Mend(invert_extrinsics=True)) == "'capture.mend.invert_extrinsics=false'"
    assert "back to nothing" in inverse.advice(Mend(turn_world=90))
    full = by_name["full hand poses taken for relative to the mean (flat_hand_mean)"]
    assert full.advice(Mend()) == "'capture.mend.hands=full'"
    assert full.advice(Mend(hands="relative", hand_mean=list)) == "'capture.mend.hands=null'"
    late = by_name["poses one frame too late: images show the next row"]
    assert late.advice(Mend(frame_offset=-3)) == "'capture.mend.frame_offset=-2'"


class Holed(DnaRendering):
    """Without some images, with an empty mask and a picture of another size."""

    def read(self, camera_index, frame_index):
        image, mask = super().read(camera_index, frame_index)
        if (camera_index, frame_index) == (1, 2):
            raise CaptureError("tiny.smc", "Mask/1/mask/2", expected="an encoded image", found="none", fix="get it")
        if (camera_index, frame_index) == (2, 3):
            return image, np.zeros_like(mask)
        if (camera_index, frame_index) == (3, 4):
            return image[:-1], mask[:-1]
        return image, mask


def test_holes_are_listed(tiny, body, tmp_path):
    holed = copy.copy(tiny)
    holed.__class__ = Holed
    poses = replace(tiny.poses, Th=tiny.poses.Th.clone())
    poses.Th[7] = float("nan")
    inspection = inspect_capture(spoiled(holed, poses=poses), body, frames=2, every_image=True)
    assert {(hole.camera, hole.frame) for hole in inspection.holes} == {("1", 2), ("2", 3), ("3", 4), (None, 7)}
    assert inspection.read == 34 and inspection.verdict == "poor"
    page, data = write_report(inspection, tmp_path)
    assert "Mask/1/mask/2" in page.read_text() and len(json.loads(data.read_text())["holes"]) == 4


def test_a_capture_without_any_image_still_has_a_report(tiny, body, tmp_path):
    inspection = inspect_capture(spoiled(tiny, poses=replace(tiny.poses, Th=tiny.poses.Th * math.nan)), body, frames=1)
    assert not inspection.samples and inspection.verdict == "poor"
    page, data = write_report(inspection, tmp_path)
    assert json.loads(data.read_text())["overlap"]["median"] is None and "data:image/png" in page.read_text()


def test_the_report_stands_alone_and_holds_its_pictures(tiny, body, tmp_path):
    capture = spoiled(tiny, name="<tiny & 'co'>", **opengl(tiny, body))
    page, data = write_report(inspect_capture(capture, body, views=3, frames=2), tmp_path / "made")
    text, values = page.read_text(), json.loads(data.read_text())
    pictures = re.findall(r"<img alt='([^']*)' src='data:image/(?:png|jpeg);base64,", text)
    assert sum(name == "as given" for name in pictures) == sum(name == "mended" for name in pictures) == 6
    assert [n for n in pictures if n not in ("as given", "mended")] == [
        *(f"camera {c}" for c in "002244"),
        "cameras from above",
    ]
    assert not re.search(r"https?:|<script|<link|url\(|@import", text) and text.count("src=") == len(pictures)
    assert "<tiny" not in text and "&lt;tiny &amp; &#x27;co&#x27;&gt;" in text
    parts = "verdict name refusal capture images_read checks holes files cameras overlap mistakes"
    assert set(values) == set(parts.split()) and values["refusal"] is None
    assert set(values["overlap"]["images"][0]) == {"camera", "frame", "inside", "covered", "iou", "verdict"}
    assert values["mistakes"]["winner"].startswith("OpenGL") and len(values["mistakes"]["tried"]) == len(MISTAKES) - 1
    assert "<code>&#x27;capture.mend.camera_axes=opengl&#x27;</code>" in text
    assert values["capture"]["cameras"] == 5 and values["capture"]["resolutions"] == {"256x256": 5}
    assert values["capture"]["splits"]["train"] == {"cameras": 4, "frames": 8}


def test_the_body_must_be_the_captures_kind(tiny, body):
    with pytest.raises(ValueError, match="choose body="):
        inspect_capture(spoiled(tiny, body_kind="smpl"), body)
    with pytest.raises(ValueError, match="at least 1 view"):
        inspect_capture(tiny, body, views=0)


def test_a_silhouette_is_its_triangles():
    random = np.random.default_rng(0)
    vertices = random.normal(0, 1, (30, 3)) + np.array([0, 0, 6])
    faces = random.integers(0, 30, (12, 3))
    camera = Cameras(torch.tensor([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]]), torch.eye(4), 64, 48)
    found = silhouette(vertices, faces, camera)
    points = vertices[:, :2] / vertices[:, 2:] * 60 + [32, 24]
    expected = np.zeros((48, 64), bool)
    for y in range(48):
        for x in range(64):
            for face in faces:
                corners = points[face].astype(np.float32)
                area = abs(np.cross(*(np.diff(np.c_[corners, [0, 0, 0]], axis=0)))[2])
                if area > 1e-6 and cv2.pointPolygonTest(corners, (x + 0.5, y + 0.5), False) >= 0:
                    expected[y, x] = True
    assert expected.any() and (found.astype(bool) != expected).mean() < 2e-3
    assert not silhouette(vertices - np.array([0, 0, 6]), faces, camera).any()


def test_overlap_of_known_squares():
    body, mask = np.zeros((10, 10), np.uint8), np.zeros((10, 10), np.uint8)
    body[:4, :5], mask[:2] = 1, 1
    found = overlap(body, mask)
    assert found == (0.5, 0.5, 10 / 30) and found.verdict == "poor"
    assert overlap(mask, mask).verdict == "good" and overlap(np.zeros_like(mask), mask) == (0, 0, 0)
    mask[:] = 1
    body[1:], body[0, 0] = 0, 1
    assert overlap(body, mask).inside == 1 and overlap(body, mask).verdict == "poor"  # inside, as it is far too small


def test_the_command_line(workplace, only_tiny_capture):
    text = workplace("inspect", *only_tiny_capture)
    assert "tiny: good" in text and "[good] overlap" in text
    report = workplace.folder / "outputs" / "inspect" / "tiny"
    assert (report / "report.html").is_file() and json.loads((report / "report.json").read_text())["verdict"] == "good"


def test_only_strict_fails_for_a_poor_capture(workplace, only_tiny_capture, tmp_path, capsys):
    root = workplace.folder / "outputs" / "captures"
    arguments = [*only_tiny_capture, f"capture.root='{root}'", "capture.mend.camera_axes=opengl", "views=2", "frames=3"]
    poor = check("inspect", [*arguments, "capture.scale=1", f"out='{tmp_path}/poor report'"])
    assert verb.run(poor).verdict == "poor"
    text = capsys.readouterr().out
    assert "OpenGL camera axes" in text and "mend: set 'capture.mend.camera_axes=opencv'" in text
    assert (tmp_path / "poor report" / "report.html").is_file()
    poor.strict = True
    with pytest.raises(SystemExit) as stop:
        verb.run(poor)
    assert stop.value.code == 2
