"""Captures that their reader refuses: the report gives the reason and shows the rest, and the command fails plainly."""

import json
import shutil

import h5py
import numpy as np
import pytest

from r3avatar.body import load_body
from r3avatar.captures import Mend, Split
from r3avatar.cli import check
from r3avatar.inspection import open_capture
from r3avatar.inspection.opening import restricted
from r3avatar.verbs import inspect as verb

from ..captures.body_files import write_body_files
from . import broken_captures as broken


@pytest.fixture(scope="module")
def stage(workplace, tmp_path_factory):
    """The tiny capture's person, the bodies' folder, and the SMPL-X body."""
    root = tmp_path_factory.mktemp("refused captures")
    person = broken.film(workplace.folder / "outputs" / "captures", "tiny", load_body("demo"))
    bodies = write_body_files(root / "bodies", broken.hands_of(person))
    return person, bodies, load_body("smplx", path=str(bodies))


@pytest.fixture
def inspect(stage, tmp_path, capsys):
    """Write a layout, spoil its folder, run the verb on it: the numbers of the report, and what was printed."""
    person, bodies, body = stage

    def run(layout, spoil, *arguments, code=2):
        broken.write(layout, tmp_path, person, body)
        spoil(tmp_path / broken.SUBJECT)
        given = [*broken.overrides(layout, tmp_path, bodies), "frames=3", f"out='{tmp_path}/out'", *arguments]
        with pytest.raises(SystemExit) as stop:
            verb.run(check("inspect", given))
        assert stop.value.code == code
        page = (tmp_path / "out" / "report.html").read_text()
        numbers = json.loads((tmp_path / "out" / "report.json").read_text())
        assert numbers["verdict"] == "poor"
        return numbers, page, capsys.readouterr().out

    return run


def found(numbers, name):
    """A check of the report: verdict, found, mend."""
    return next((c["verdict"], c["found"], c["mend"]) for c in numbers["checks"] if c["name"] == name)


def test_a_camera_is_left_out(inspect):
    def spoil(folder):
        with h5py.File(folder / "person_annots.smc", "r+") as file:
            del file["Mask/1"]

    numbers, page, text = inspect("dna_rendering", spoil)
    verdict, why, mend = found(numbers, "reader")
    assert verdict == "poor" and "Mask/1" in why and "camera 1" in mend
    assert "Mask/1" in numbers["refusal"] and "Mask/1" in text
    assert [(h["camera"], h["frame"]) for h in numbers["holes"]] == [("1", None)]
    assert numbers["capture"]["cameras"] == 2 and found(numbers, "overlap")[0] == "good"
    assert "Mask/1" in page and "camera 0" in page and "camera 2" in page


def test_a_few_frames_are_left_out(inspect):
    def spoil(folder):
        (folder / "images/01/000003.jpg").unlink()
        (folder / "mask/02/000010.png").unlink()

    numbers, _, _ = inspect("zju_mocap", spoil)
    assert {(h["camera"], h["frame"]) for h in numbers["holes"]} == {("1", 3), ("2", 10)}
    assert numbers["capture"]["cameras"] == 3 and found(numbers, "overlap")[0] == "good"
    assert numbers["capture"]["splits"]["train"] == {"cameras": 2, "frames": 7}
    assert any(group["place"] == "mask/*" and group["count"] == 35 for group in numbers["files"])


def test_frames_without_poses_are_left_out(inspect):
    splits = ["capture.splits.novel_pose.frames=8-13", "capture.recorded=[0,8]"]
    numbers, _, _ = inspect("mvhumannet", lambda folder: None, *splits)
    assert {h["frame"] for h in numbers["holes"]} == {12, 13}
    assert numbers["capture"]["splits"]["novel_pose"]["frames"] == 4 and found(numbers, "overlap")[0] == "good"


def test_an_unknown_camera_is_left_out_of_the_plain_layout_with_its_split(inspect):
    def spoil(folder):
        shutil.rmtree(folder / "images" / "2")

    numbers, _, _ = inspect("folder", spoil)
    assert [(h["camera"], h["frame"]) for h in numbers["holes"]] == [("2", None)]
    assert set(numbers["capture"]["splits"]) == {"train"} and numbers["capture"]["recorded"] == [0, 8]


def test_what_concerns_all_leaves_the_files(inspect):
    def spoil(folder):
        (folder / "smpl/smpl/000005.json").write_text("[{")
        (folder / "images/1/000002.png").write_bytes(b"")

    numbers, page, text = inspect("hifi4g", spoil)
    assert numbers["capture"] == {} and "000005.json" in numbers["refusal"]
    verdict, what, _ = found(numbers, "files")
    assert verdict == "poor" and "2 broken" in what
    broken_files = [one for group in numbers["files"] for one in group["broken"]]
    assert any("000005.json" in one for one in broken_files) and "images/1/000002.png: empty" in broken_files
    assert "000005.json" in page and "nothing of it opens" in text


def test_a_capture_that_is_not_there(inspect):
    numbers, _, text = inspect("folder", shutil.rmtree)
    assert "capture.json" in numbers["refusal"] and "[poor] files" in text and "[poor] reader" in text


def test_intrinsics_that_the_reader_refuses_are_named(inspect):
    def spoil(folder):
        path = folder / "camera_intrinsics.json"
        K = np.array(json.loads(path.read_text())["intrinsics"])
        K[:2] /= 2
        path.write_text(json.dumps({"intrinsics": K.tolist()}))

    numbers, page, _ = inspect("mvhumannet", spoil)
    assert "half of the size" in numbers["refusal"]
    assert numbers["mistakes"]["winner"] == "intrinsics at 0.5 times the images' size"
    assert found(numbers, "known mistakes")[2] == "set 'capture.mend.intrinsics_scale=2'"
    assert found(numbers, "overlap")[0] == "good" and "intrinsics_scale=2" in page


def test_without_a_body_the_rest_is_checked(inspect, tmp_path):
    numbers, _, text = inspect("zju_mocap", lambda folder: None, f"body.path='{tmp_path}/none'")
    assert numbers["refusal"] is None and "no overlap is judged" in found(numbers, "body")[1]
    assert found(numbers, "holes")[0] == "good" and numbers["images_read"] == 9 and "[poor] body" in text
    assert numbers["mistakes"]["tried"] == [] and not {c["name"] for c in numbers["checks"]} & {
        "overlap",
        "body height",
    }


def test_refused_arguments(inspect, tmp_path):
    """The mean hand pose of a body that is not there, which the reader's argument is made of."""
    numbers, _, _ = inspect("dna_rendering", lambda folder: None, f"body.path='{tmp_path}/none'")
    assert numbers["refusal"] and numbers["capture"] == {} and found(numbers, "files")[0] == "good"


def test_restricted_splits():
    splits = {"train": Split(["a", "b"], [0, 1]), "novel_view": Split(["c"], [1])}
    assert restricted(splits, {"a", "c"}, {1}) == {"train": Split(["a"], [1]), "novel_view": Split(["c"], [1])}
    assert restricted(splits, {"c"}, {1}) == {"novel_view": Split(["c"], [1])} and not restricted(splits, {"c"}, {0})


def test_faults_are_found_in_few_attempts():
    """3 bad cameras of 60, one bad frame of 100 in another: each is found, with few openings."""
    attempts = []

    class Stand:
        def __init__(self, splits):
            self.splits = dict(splits)

    def make(splits=None, recorded=None, mend=None):
        splits = splits or {"train": Split([str(c) for c in range(60)], list(range(100)))}
        attempts.append(1)
        for split in splits.values():
            for camera in split.cameras:
                if camera in ("7", "8", "41"):
                    raise ValueError(f"camera {camera} is bad")
                if camera == "30" and 55 in split.frames:
                    raise ValueError("camera 30, frame 55 is bad")
        return Stand(splits)

    everything = {"train": Split([str(c) for c in range(60)], list(range(100)))}
    opened = open_capture(make, everything, Mend())
    assert {(h.camera, h.frame) for h in opened.without} == {("7", None), ("8", None), ("41", None), ("30", 55)}
    assert opened.refusal == "camera 7 is bad" and len(opened.capture.splits["train"].cameras) == 57
    assert 55 not in opened.capture.splits["train"].frames and len(attempts) < 120
