"""Preparation at scale, with real processes: killed, two at once, on a full disk, from read-only data."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from r3avatar.captures import Split, body_bounds, frames_of_splits, prepare
from r3avatar.captures.cache import FrameStore, cache_folder
from r3avatar.captures.prepared_frame import DirectFrames

FRAMES = 40
SPLITS = {"train": Split(["0", "1", "48"], list(range(FRAMES)))}
# A script of its own, as a user has one: every frame that it reads is noted in a file, whichever process reads it.
SCRIPT = """
import logging, os, sys, time
from r3avatar.body import load_body
from r3avatar.captures import DnaRendering, Split, prepare

ROOT, CACHE, NOTES, PAUSE = sys.argv[1:5]

class Noted(DnaRendering):
    def read(self, camera, frame):
        image = super().read(camera, frame)
        time.sleep(float(PAUSE))
        with open(NOTES, "a") as notes:
            notes.write(f"{camera} {frame}\\n")
        self.noted()
        return image

    def noted(self):
        pass

    def fingerprint(self):
        return {**super().fingerprint(), "reader": "DnaRendering"}

def open_capture(kind=Noted):
    splits = {"train": Split(["0", "1", "48"], list(range(%d)))}
    return kind(ROOT, "0012_09", splits=splits, recorded=(0, %d), hand_mean=None, scale=0.5)

%s

if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    main()
"""
PREPARE = """
def main():
    store = prepare(open_capture(), load_body("demo"), CACHE, workers=int(sys.argv[5]))
    print("frames", len(store))
"""


@pytest.fixture(scope="module")
def many(tmp_path_factory, small):
    """A capture of 3 cameras and 40 frames."""
    root = tmp_path_factory.mktemp("many")
    small.write(root, frames=FRAMES)
    return root


@pytest.fixture
def run(many, tmp_path):
    """Starts the script in a process group of its own; run.reads() are the frames read so far."""

    class Run:
        notes, cache = tmp_path / "notes", tmp_path / "cache"

        def start(self, main=PREPARE, pause=0.0, workers=2, prefix=(), root=many):
            path = tmp_path / "script.py"
            path.write_text(SCRIPT % (FRAMES, FRAMES, textwrap.dedent(main)))
            arguments = [*prefix, sys.executable, path, root, self.cache, self.notes, str(pause), str(workers)]
            return subprocess.Popen(
                arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
            )

        def finish(self, process):
            out, err = process.communicate(timeout=120)
            assert process.returncode == 0, err
            return out, err

        def reads(self):
            lines = self.notes.read_text().splitlines() if self.notes.exists() else []
            return [tuple(map(int, line.split())) for line in lines]

    return Run()


def _group_is_gone(leader):
    """Whether no process of a group runs any more; one that nobody has waited for yet does not run."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group = path.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(group) == leader and state not in "ZX":
            return False
    return True


def _wait(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def _finished(capture, body, cache):
    store = FrameStore(cache_folder(capture, body, cache), capture.camera_ids, capture.frame_ids)
    return {pair for pair in frames_of_splits(capture, capture.splits) if pair in store}


def _assert_right(capture, body, cache):
    """Once the rest is prepared, every frame is the one of the capture's files, and nothing half-written is left."""
    pairs = frames_of_splits(capture, capture.splits)
    store = prepare(capture, body, cache, workers=0, progress=False)
    direct = DirectFrames(capture, body_bounds(body, capture.poses, capture.box_margin))
    for pair in pairs:
        ours, expected = store.get(*pair), direct.get(*pair)
        np.testing.assert_array_equal(ours.rgb, expected.rgb)
        np.testing.assert_array_equal(ours.mask, expected.mask)
        assert ours[2:] == expected[2:]
    assert not list(store.folder.rglob("*.partial"))


def test_killed_at_any_moment_it_goes_on(run, many, small, body):
    capture = small.open(many, splits=SPLITS, recorded=(0, FRAMES))
    moments, kept = random.Random(), set()
    for target in (0, 50):
        process = run.start(pause=0.03)
        wanted = len(kept) + target + moments.randrange(1, 20)
        _wait(lambda wanted=wanted: len(run.reads()) >= wanted)
        time.sleep(moments.random() * 0.1)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        _wait(lambda process=process: _group_is_gone(process.pid))
        before, kept = kept, _finished(capture, body, run.cache)
        reads = run.reads()
        assert before <= kept and len(reads) == len(set(reads)), "what was finished stays, and is not done twice"
        assert len(reads) - len(kept) <= 2 * 16, "a worker loses the frames that it had not written yet"
        run.notes.write_text("".join(f"{camera} {frame}\n" for camera, frame in kept))
    assert kept
    reads, read = [], capture.read
    capture.read = lambda *pair: reads.append(pair) or read(*pair)
    prepare(capture, body, run.cache, workers=0, progress=False)
    assert sorted([*reads, *kept]) == frames_of_splits(capture, capture.splits)
    _assert_right(capture, body, run.cache)


def test_two_at_once_share_the_work(run, many, small, body):
    capture = small.open(many, splits=SPLITS, recorded=(0, FRAMES))
    processes = [run.start(pause=0.02, workers=workers) for workers in (2, 0)]
    results = [run.finish(process) for process in processes]
    assert [out.split() for out, _ in results] == [["frames", str(3 * FRAMES)]] * 2
    assert sorted(run.reads()) == frames_of_splits(capture, capture.splits), "each frame is prepared once"
    _assert_right(capture, body, run.cache)


def test_the_other_goes_on_where_one_is_killed(run, many, small, body):
    """Only the first process is killed: its workers end by themselves, and the one that waited takes over."""
    capture = small.open(many, splits=SPLITS, recorded=(0, FRAMES))
    first = run.start(pause=0.3)
    _wait(run.reads)
    second = run.start(workers=0)
    _wait(lambda: "another process prepares" in second.stderr.readline())
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    _wait(lambda: _group_is_gone(first.pid), seconds=10)
    run.finish(second)
    _assert_right(capture, body, run.cache)


def test_a_killed_worker_is_noticed(run, many, small, body):
    process = run.start(
        """
        class Killing(Noted):
            def noted(self):
                if os.path.getsize(NOTES) > 150:  # some 30 frames
                    os.kill(os.getpid(), 9)

        def main():
            prepare(open_capture(Killing), load_body("demo"), CACHE, workers=2)
        """
    )
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "a process that prepared frames died (out of memory?). Finished frames are kept" in err
    _wait(lambda: _group_is_gone(process.pid), seconds=10)
    _assert_right(small.open(many, splits=SPLITS, recorded=(0, FRAMES)), body, run.cache)


def _in_namespace(commands):
    """A prefix that runs a command as root of its own mounts; skips where the system does not let us."""
    if shutil.which("unshare") is None or shutil.which("mount") is None:
        pytest.skip("mounting needs Linux's unshare and mount")
    prefix = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", f'{commands} && exec "$@"', "sh"]
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this system lets nobody mount in a namespace of their own")
    return prefix


def test_a_disk_that_fills_up(run):
    """A real file system without room: from the start, and then because another program takes it while frames come."""
    run.cache.mkdir()
    prefix = _in_namespace(f"mount -t tmpfs -o size=4m tmpfs '{run.cache}'")
    out, _ = run.finish(run.start(
        """
        from pathlib import Path

        def fill():
            with open(CACHE + "/ballast", "ab", buffering=0) as file:
                try:
                    while file.write(bytes(4096)):
                        pass
                except OSError:
                    pass

        class Crowded(Noted):
            def noted(self):
                if os.path.getsize(NOTES) > 300:  # some 60 frames
                    fill()

        def attempt(capture, workers):
            try:
                print("frames", len(prepare(capture, load_body("demo"), CACHE, workers=workers)))
            except OSError as error:
                print(error)

        def main():
            fill()
            attempt(open_capture(), 0)
            for room in (8192, 100000):  # for what comes before the frames; for some of them
                os.truncate(CACHE + "/ballast", os.path.getsize(CACHE + "/ballast") - room)
                attempt(open_capture(), 0)
            os.unlink(CACHE + "/ballast")
            attempt(open_capture(Crowded), 2)
            kept = {path: path.read_bytes() for path in Path(CACHE).rglob("*.frames")}
            print("kept", len(kept), "partial", len(list(Path(CACHE).rglob("*.partial"))))
            os.unlink(CACHE + "/ballast")
            attempt(open_capture(), 0)
            assert all(path.read_bytes() == content for path, content in kept.items())
        """,
        prefix=prefix,
    ))  # fmt: skip
    *refused, kept, frames = out.splitlines()
    pattern = r"\[Errno 28\] the frame cache needs room for (\d+) more frames: (.*)\. Finished frames are kept\. Fix: "
    messages = [re.match(pattern, line) for line in refused]
    assert len(messages) == 4 and all(messages), out
    assert messages[0][2] == messages[3][2] == "the disk is full"
    assert re.fullmatch(r"about [\d.]+ MB, and 0\.\d+ MB are free", messages[2][2])
    assert re.fullmatch(r"kept [1-9]\d* partial 0", kept) and frames == "frames 120"
    reads = run.reads()
    assert len(set(reads)) == 120 and len(reads) <= 120 + 2 * 16, "what was written is not prepared again"


def test_read_only_data_with_the_cache_elsewhere(run, many, small, body, tmp_path):
    """Mounts that nobody can write to: the data, and then the finished cache too."""
    data = tmp_path / "data"
    data.mkdir()
    out, _ = run.finish(run.start(
        """
        def main():
            try:
                open(ROOT + "/new", "w")
            except OSError as error:
                print(error.strerror)
            capture, body = open_capture(), load_body("demo")
            print(len(prepare(capture, body, CACHE, workers=2)))
            assert os.system(f"mount --bind '{CACHE}' '{CACHE}' && mount -o remount,ro,bind '{CACHE}'") == 0
            print(len(prepare(capture, body, CACHE, workers=2)))
            capture.box_margin = 0.2
            try:
                prepare(capture, body, CACHE)
            except PermissionError as error:
                print(error)
        """,
        prefix=_in_namespace(f"mount --bind '{many}' '{data}' && mount -o remount,ro,bind '{data}'"), root=data,
    ))  # fmt: skip
    *shown, refused = out.splitlines()
    assert shown == ["Read-only file system", "120", "120"]
    assert re.match(r"\[Errno 30\] the frame cache cannot be written there \(Read-only file system\)", refused)
    assert "R3AVATAR_CACHE or cache.folder" in refused and str(run.cache) in refused
    _assert_right(small.open(many, splits=SPLITS, recorded=(0, FRAMES)), body, run.cache)
