"""The same things wrong in every layout: one CaptureError each, which names the file, the item and the fix."""

import os
import pickle

import numpy as np
import pytest

from r3avatar.captures import CaptureError, prepare

from .broken import BROKEN, Mark, folder_of, hostile
from .mutations import contents
from .small_captures import LAYOUTS

CASES = [(wrong, layout) for wrong, layouts in BROKEN.items() for layout in layouts]
# SMPL has no expression; HiFi4G's masks are made of its images, MVHumanNet's expressions are one a file.
NOT_THERE = {
    ("no mask", "HiFi4G"),
    ("no expression", "ZjuMocap"),
    ("no expression", "HiFi4G"),
    ("expressions of fewer frames", "ZjuMocap"),
    ("expressions of fewer frames", "HiFi4G"),
    ("expressions of fewer frames", "MvHumanNet"),
}


def test_every_reader_is_tried_with_everything():
    assert {(wrong, layout) for wrong in BROKEN for layout in LAYOUTS} - set(CASES) == NOT_THERE


@pytest.mark.parametrize("wrong, layout", CASES)
def test_what_is_wrong_is_named(wrong, layout, tmp_path):
    LAYOUTS[layout].write(tmp_path)
    spoil, words = BROKEN[wrong][layout]
    spoil(folder_of(layout, tmp_path))
    with pytest.raises(CaptureError) as error:
        contents(LAYOUTS[layout].open(tmp_path))
    text = str(error.value)
    assert text.startswith(str(folder_of(layout, tmp_path))), text
    assert all(word in text for word in (*words, ": expected ", ", found ", " Fix: ")), text
    assert len(text) < 700 and "\n" not in text


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nothing_in_any_file_is_run(layout, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root, mark = tmp_path / "captures", tmp_path / "mark"
    LAYOUTS[layout].write(root)
    attacks = hostile(mark)
    for attack in attacks.values():
        assert b"open" in attack
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        whole = path.read_bytes()
        for name, attack in attacks.items():
            path.write_bytes(attack)
            with pytest.raises(CaptureError) as error:
                contents(LAYOUTS[layout].open(root))
            assert str(path) in str(error.value), name
            assert not mark.exists(), f"{name} in {path.name} was run"
        path.write_bytes(whole)
    contents(LAYOUTS[layout].open(root))


def test_the_attacks_would_work(tmp_path):
    pickle.loads(pickle.dumps(Mark(tmp_path / "mark")))
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pipes_and_folders_in_place_of_files(layout, tmp_path):
    """None is waited for."""
    LAYOUTS[layout].write(tmp_path)
    for path in sorted(path for path in tmp_path.rglob("*") if path.is_file())[::5]:
        whole = path.read_bytes()
        for make in (os.mkfifo, os.mkdir):
            path.unlink()
            make(path)
            with pytest.raises(CaptureError) as error:
                contents(LAYOUTS[layout].open(tmp_path))
            assert str(path) in str(error.value)
            (os.unlink if make is os.mkfifo else os.rmdir)(path)
            path.write_bytes(whole)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_read_only_folders_with_odd_names(layout, tmp_path, body):
    """Prepared with the cache elsewhere; nothing is written beside the data."""
    root = tmp_path / "My data, v1.2 (日本 Größe)"
    LAYOUTS[layout].write(root)
    paths = [root, *sorted(root.rglob("*"))]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in paths}
    capture = LAYOUTS[layout].open(root)
    capture.box_margin = 0.05
    fitted = capture if capture.body_kind == "smplx" else None
    contents(capture)
    if fitted:  # the body that comes with the package has SMPL-X's joints
        assert len(prepare(capture, body, tmp_path / "cache", workers=0, progress=False)) > 0
    assert [root, *sorted(root.rglob("*"))] == paths
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in paths} == before
    for path in paths:
        path.chmod(0o755 if path.is_dir() else 0o644)


@pytest.mark.parametrize(
    "setting, value, said",
    [
        ("scale", 0, "scale is 0"),
        ("scale", float("nan"), "scale is nan"),
        ("box_margin", -0.1, "box_margin is -0.1"),
        ("box_margin", float("inf"), "box_margin is inf"),
        ("fps", 0, "fps is 0"),
        ("fps", float("nan"), "fps is nan"),
        ("recorded", [0], "recorded is .*; expected"),
        ("recorded", [0, 1.5], "recorded is .*; expected"),
        ("recorded", [0, 0], "the recorded length is 0"),
        ("subject", "../secret", "subject is '../secret'"),
        ("subject", "", "subject is ''"),
    ],
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_wrong_arguments_are_value_errors(layout, setting, value, said, tmp_path):
    """CaptureError is for data; what a caller got wrong is a plain ValueError."""
    LAYOUTS[layout].write(tmp_path)
    capture = LAYOUTS[layout].open(tmp_path)
    with pytest.raises(ValueError, match=said) as error:
        type(capture)(**{**capture._arguments, setting: value})
    assert not isinstance(error.value, CaptureError)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_unknown_names_are_value_errors(layout, tmp_path):
    LAYOUTS[layout].write(tmp_path)
    capture = LAYOUTS[layout].open(tmp_path)
    for call in (lambda: capture.camera_index("99"), lambda: capture.frame_index(99), lambda: capture.split("test")):
        with pytest.raises(ValueError, match=r"no (camera|frame|split)") as error:
            call()
        assert not isinstance(error.value, CaptureError)


def test_a_shape_is_looked_at_before_its_numbers():
    from r3avatar.captures.checked import numbers

    huge = np.broadcast_to(np.float32(1), (1 << 20, 1 << 20))
    with pytest.raises(CaptureError, match=r"numbers \[3\], found \[1048576, 1048576\]"):
        numbers(huge, [(3,)], file="a", place="b", fix="c")
