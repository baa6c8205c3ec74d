"""The frame cache: the same frames as without it, shared, resumable, and clear when something fails."""

import errno
import itertools
import logging
import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
import time

import h5py
import numpy as np
import pytest

from r3avatar.captures import CaptureError, DnaRendering, body_bounds, cache_writer, frames_of_splits, prepare
from r3avatar.captures.cache import cache_folder, default_cache_dir
from r3avatar.captures.frame_workers import _Order
from r3avatar.captures.prepared_frame import BOUND, PERSON, DirectFrames


class CountedReads(DnaRendering):
    """Counts what is read from the capture's files, and can pause there."""

    def __init__(self, *arguments, pause=0.0, **keywords):
        super().__init__(*arguments, **keywords)
        self._arguments["pause"] = pause
        self.reads, self.pause = [], pause

    def read(self, camera_index, frame_index):
        self.reads.append((camera_index, frame_index))
        time.sleep(self.pause)
        return super().read(camera_index, frame_index)


@pytest.fixture
def counted(shared_pair, small):
    return CountedReads(shared_pair, "0012_09", splits=small.SPLITS, recorded=(0, 3), hand_mean=None, scale=0.5)


def _prepare(capture, body, folder, **keywords):
    return prepare(capture, body, folder, **{"workers": 0, "progress": False, **keywords})


def _assert_same(store, capture, body, pairs):
    direct = DirectFrames(capture, body_bounds(body, capture.poses, capture.box_margin))
    for pair in pairs:
        ours, expected = store.get(*pair), direct.get(*pair)
        np.testing.assert_array_equal(ours.rgb, expected.rgb)
        np.testing.assert_array_equal(ours.mask, expected.mask)
        assert ours[2:] == expected[2:]


def test_cached_frames_are_the_direct_ones(counted, body, tmp_path):
    pairs = frames_of_splits(counted, counted.splits)
    assert len(pairs) == len(set(pairs)) == 10
    store = _prepare(counted, body, tmp_path)
    assert len(store) == 10 and all(pair in store for pair in pairs)
    _assert_same(store, counted, body, pairs)
    counted.reads.clear()
    _prepare(counted, body, tmp_path)
    assert not counted.reads


def test_the_window_holds_all_of_the_person(capture, body, tmp_path):
    store = _prepare(capture, body, tmp_path)
    for camera, frame in frames_of_splits(capture, capture.splits):
        rgb, person = capture.read(camera, frame)
        prepared = store.get(camera, frame)
        full_rgb, full_mask = np.zeros_like(rgb), np.zeros_like(person)
        prepared.copy_window(0, 0, full_rgb, full_mask)
        np.testing.assert_array_equal(full_rgb, rgb)
        np.testing.assert_array_equal(full_mask & PERSON, person)
        rows, columns = np.nonzero(full_mask & BOUND)
        x, y, w, h = prepared.bound
        assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (x, y, x + w, y + h)


def test_frames_are_views_of_the_file(capture, body, tmp_path):
    frame = _prepare(capture, body, tmp_path).get(0, 0)
    for array in (frame.rgb, frame.mask):
        assert not array.flags.owndata and not array.flags.writeable
    store = pickle.loads(pickle.dumps(_prepare(capture, body, tmp_path)))
    assert not store._contents
    np.testing.assert_array_equal(store.get(0, 0).rgb, frame.rgb)


def test_later_frames_are_added(counted, body, tmp_path):
    store = _prepare(counted, body, tmp_path, needed=[(0, 1), (1, 2)])
    with pytest.raises(KeyError, match="camera 0, frame 2 is not prepared"):
        store.get(0, 2)
    counted.reads.clear()
    store = _prepare(counted, body, tmp_path, needed=[(0, 1), (0, 2)])
    assert counted.reads == [(0, 2)] and len(store) == 3
    _assert_same(store, counted, body, [(0, 1), (0, 2), (1, 2)])


def test_whatever_decides_the_frames_decides_the_folder(shared_pair, small, body, tmp_path):
    class OtherBody:
        def __init__(self, shift):
            self.v_template = body.v_template + shift

        def vertices(self, pose):
            return body.vertices(pose)

    hands = np.full((30, 3), 0.1)
    captures = [small.open(shared_pair, **change) for change in (
        {}, {"scale": 0.25}, {"undistort": False}, {"box_margin": 0.1}, {"hand_mean": hands},
    )]  # fmt: skip
    folders = {cache_folder(capture, body, tmp_path) for capture in captures}
    folders |= {cache_folder(captures[0], OtherBody(shift), tmp_path) for shift in (0.0, 0.1)}
    copy = tmp_path / "copy"
    shutil.copytree(shared_pair, copy)
    os.utime(copy / "0012_09/0012_09_annots.smc", ns=(1, 1))
    folders.add(cache_folder(small.open(copy), body, tmp_path))
    assert len(folders) == 8
    assert cache_folder(small.open(shared_pair, recorded=(0, 5)), body, tmp_path) in folders


def test_default_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("R3AVATAR_CACHE", str(tmp_path))
    assert default_cache_dir() == tmp_path
    monkeypatch.delenv("R3AVATAR_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / ".cache/r3avatar"


def test_one_prepares_and_the_others_wait(counted, body, tmp_path, caplog):
    slow = CountedReads(**{**counted._arguments, "pause": 0.03})
    stores = []
    threads = [
        threading.Thread(target=lambda capture=capture: stores.append(_prepare(capture, body, tmp_path)))
        for capture in (slow, counted)
    ]
    with caplog.at_level(logging.WARNING):
        threads[0].start()
        while not slow.reads:
            time.sleep(0.001)
        threads[1].start()
        for thread in threads:
            thread.join()
    assert not counted.reads and [len(store) for store in stores] == [10, 10]
    assert "another process prepares" in caplog.text


def test_a_disk_too_small_is_noticed_before_work(counted, body, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("r3avatar.captures.cache.shutil.disk_usage", lambda path: usage._replace(free=100))
    with pytest.raises(OSError, match=r"room for 10 more frames: about 0.\d+ MB, and 0.0001 MB are free") as error:
        _prepare(counted, body, tmp_path)
    assert error.value.errno == errno.ENOSPC and not counted.reads


@pytest.mark.parametrize("kept", [0, 10, -1, -100])
def test_damaged_segments_are_prepared_again(counted, body, tmp_path, caplog, kept):
    _prepare(counted, body, tmp_path)
    path = sorted(tmp_path.rglob("*.frames"))[0]
    path.write_bytes(path.read_bytes()[:kept])
    counted.reads.clear()
    with caplog.at_level(logging.WARNING):
        store = _prepare(counted, body, tmp_path)
    assert "not a complete segment" in caplog.text and len(counted.reads) == 3
    _assert_same(store, counted, body, frames_of_splits(counted, counted.splits))


def test_worker_processes_make_the_same(capture, body, tmp_path):
    store = _prepare(capture, body, tmp_path, workers=9)  # more than there is work for
    _assert_same(store, capture, body, frames_of_splits(capture, capture.splits))


def test_work_is_handed_out_by_camera_and_in_smaller_portions_towards_the_end():
    missing = [(camera, frame) for camera in range(3) for frame in range(100)]
    order, given, portions = _Order(missing, workers=2, frames_at_once=16), [], []
    while (task := order.next(worker := len(portions) % 2)) is not None:
        portions.append((worker, *task))
        given += [(task[0], frame) for frame in task[1]]
    assert sorted(given) == missing
    sizes = [len(frames) for _, _, frames in portions]
    assert sizes[0] == max(sizes) == 16 and sizes[-1] <= 4 and sizes[-4:] == sorted(sizes[-4:], reverse=True)
    cameras = [[camera for worker, camera, _ in portions if worker == one] for one in (0, 1)]
    changes = sum(a != b for own in cameras for a, b in itertools.pairwise(own))
    assert cameras[0][0] != cameras[1][0] and changes <= 3


def test_progress_says_how_long_it_takes(counted, body, tmp_path, capsys):
    counted.pause = 0.12  # above the bar's shortest interval
    shown = r"preparing 0012_09: +\d+%.*?(\d+)/10 \[[\d:]+<([\d:?]+), +[\d.?]+ ?(?:frame/s|s/frame)"
    _prepare(counted, body, tmp_path, progress=True, needed=[(0, 0), (2, 3), (2, 4)])
    assert "/3 [" in capsys.readouterr().err
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache_writer, "_FRAMES_A_SEGMENT", 1)
        _prepare(counted, body, tmp_path, progress=True)
    steps = re.findall(shown, capsys.readouterr().err)
    assert list(dict.fromkeys(int(count) for count, _ in steps)) == list(range(3, 11)), "the finished ones count"
    assert steps[-1] == ("10", "00:00") and all(re.fullmatch(r"\d\d:\d\d", left) for _, left in steps[1:])


def test_a_worker_process_reports_what_is_damaged(pair, small, body, tmp_path):
    with h5py.File(pair / "0012_09/0012_09.smc", "r+") as file:
        data = file["Camera_12mp/48/color/4"][()]
        del file["Camera_12mp/48/color/4"]
        file["Camera_12mp/48/color/4"] = data[:50]
    with pytest.raises(CaptureError, match=r"Camera_12mp/48/color/4: expected an encoded image, found a JPEG of 50"):
        _prepare(small.open(pair), body, tmp_path / "cache", workers=1, needed=[(2, 4)])


@pytest.mark.parametrize("guarded", [True, False])
def test_a_script_without_a_guarded_entry_ends_with_a_message(shared_pair, tmp_path, guarded):
    """Spawned processes import the script again; they must not wait for ever on their parent's lock."""
    body = f"""
    splits = {{"train": Split(["0", "1"], [0, 1, 2])}}
    capture = DnaRendering({str(shared_pair)!r}, "0012_09", splits=splits, recorded=(0, 3), hand_mean=None, scale=0.5)
    prepare(capture, load_body("demo"), {str(tmp_path / "cache")!r}, workers=2, progress=False)
"""
    head = "from r3avatar.body import load_body\nfrom r3avatar.captures import DnaRendering, Split, prepare\n"
    script = tmp_path / "script.py"
    script.write_text(head + ('if __name__ == "__main__":' if guarded else "if True:") + body)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert (done.returncode == 0) == guarded, done.stderr
    assert guarded or "__main__" in done.stderr
