"""Files on which the HDF5 library does not come back are refused by name; whole ones cost one walk."""

import json
import multiprocessing
import os
import pickle
import subprocess
import sys

import h5py
import pytest

from r3avatar.captures import CaptureError, hdf5_guard
from r3avatar.captures.hdf5_guard import walk_first

from . import mutations
from .conftest import SPLITS, open_pair
from .mutations import cases


@pytest.fixture(autouse=True)
def afresh(monkeypatch, tmp_path):
    """No helper and nothing known, before and after."""
    monkeypatch.setenv("R3AVATAR_CACHE", str(tmp_path / "known"))

    def forget():
        if hdf5_guard._helper is not None:
            hdf5_guard._helper.kill()
            with hdf5_guard._helper:
                hdf5_guard._helper = None
        hdf5_guard._walked.clear()

    forget()
    yield
    forget()


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """Make the helper another script."""

    def become(script):
        path = tmp_path / "helper.py"
        path.write_text("import os, signal, sys, time\nsys.stdin.readline()\n" + script)
        monkeypatch.setattr(hdf5_guard, "_SCRIPT", path)

    return become


@pytest.fixture
def asked(monkeypatch):
    """The requests that went to the helper."""
    requests, ask = [], hdf5_guard._ask
    monkeypatch.setattr(hdf5_guard, "_ask", lambda request: requests.append(request) or ask(request))
    return requests


@pytest.mark.parametrize(
    "end, said",
    [
        ("signal.setitimer(signal.ITIMER_REAL, 0.05); time.sleep(60)", "did not come back from it in 30 s"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", r"crashed there \(SIGSEGV\)"),
        ("os._exit(3)", r"failed there \(exit code 3\)"),
    ],
)
def test_what_does_not_come_back_is_refused_by_name(pair, small, stand_in, end, said):
    stand_in(f"os.write(1, b'\"the file\"\\n\"attribute gender\"\\n'); {end}")
    path = pair / "0012_09" / "0012_09.smc"
    with pytest.raises(CaptureError, match=rf"attribute gender: .*the HDF5 library {said}\. Fix: download") as error:
        small.open(pair)
    assert str(error.value).startswith(f"{path}: ")


def test_a_helper_that_cannot_start_is_no_fault_of_the_file(pair, small, stand_in):
    stand_in("sys.exit(5)")
    with pytest.raises(RuntimeError, match="ended with code 5 at its start"):
        small.open(pair)


def test_a_file_that_the_library_loops_on(tmp_path, monkeypatch):
    """HDF5 2.0.0 does not return from the text attribute of this file; other versions may refuse it."""
    monkeypatch.setattr(mutations, "LIBRARY_SECONDS", 1.0)
    (case,) = cases("DnaRendering", [2113], tmp_path / "captures", seed=2)
    assert not case.failed, case


def test_whole_files_are_walked_over_once(pair, small, asked):
    for _ in range(2):
        capture = small.open(pair)
    assert [os.path.basename(request["path"]) for request in asked] == ["0012_09.smc", "0012_09_annots.smc"]
    path = pair / "0012_09" / "0012_09.smc"
    os.utime(path, ns=(1, 1))
    small.open(pair)
    assert len(asked) == 3, "the file has changed"
    train = capture.splits["train"]
    small.open(pair, splits={"train": train})
    assert len(asked) == 3, "fewer frames"


def test_later_processes_know_until_the_file_changes(pair, small, asked, tmp_path):
    def later(**changes):
        hdf5_guard._walked.clear()
        small.open(pair, **changes)
        return len(asked)

    few = {"train": SPLITS["train"]}
    assert [later(splits=few), later(splits=few)] == [2, 2]
    assert [later(), later(), later(splits=few)] == [4, 4, 4], "more frames, once"
    path = pair / "0012_09" / "0012_09.smc"
    os.utime(path, ns=(1, 1))
    assert later() == 5, "the file has changed"
    (note,) = [x for x in (tmp_path / "known" / "hdf5").iterdir() if f"{path}" in x.read_text()]
    note.write_text(note.read_text()[:-9])
    assert later() == 6, "the note is damaged"
    kept = json.loads(note.read_text())
    kept["state"][-1] = "1.0.0"
    note.write_text(json.dumps(kept))
    assert later() == 7, "another HDF5 library"


def test_where_no_note_can_be_kept_files_are_walked_over_again(pair, small, asked, tmp_path):
    (tmp_path / "known").write_text("not a folder")
    for _ in range(2):
        small.open(pair)
        hdf5_guard._walked.clear()
    assert len(asked) == 4


def test_a_copy_in_another_process_knows(pair, small, asked, monkeypatch, tmp_path):
    pickled = pickle.dumps(small.open(pair))
    hdf5_guard._walked.clear()
    monkeypatch.setenv("R3AVATAR_CACHE", str(tmp_path / "elsewhere"))
    pickle.loads(pickled)
    assert len(asked) == 2
    os.utime(pair / "0012_09" / "0012_09.smc", ns=(1, 1))
    pickle.loads(pickled)
    assert len(asked) == 3


def test_a_helper_that_ended_is_started_again(pair, small, asked):
    small.open(pair)
    hdf5_guard._helper.kill()
    hdf5_guard._helper.wait()
    os.utime(pair / "0012_09" / "0012_09.smc", ns=(1, 1))
    small.open(pair)
    assert len(asked) == 4, "asked twice"


def _open_in_a_fork(pair, pipe):
    os.utime(pair / "0012_09" / "0012_09.smc", ns=(1, 1))
    open_pair(pair)
    pipe.send(hdf5_guard._helper.pid)


def test_a_forked_process_has_its_own_helper(pair, small):
    small.open(pair)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    worker = context.Process(target=_open_in_a_fork, args=(pair, theirs))
    worker.start()
    assert ours.poll(20) and ours.recv() != hdf5_guard._helper.pid
    worker.join()
    os.utime(pair / "0012_09" / "0012_09.smc", ns=(2, 2))
    small.open(pair)


def _places(path, wanted):
    request = {"path": str(path), "groups": ["a", "none"], "attributes": ["x"], "wanted": wanted, "seconds": 5}
    command = [sys.executable, hdf5_guard._SCRIPT]
    done = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_walk_keeps_to_what_is_wanted(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["x"] = "text"
        for name in ("a/0/color/0", "a/0/color/1", "a/07/color/5", "a/9/color/5", "a/b", "other/0"):
            file[name] = [1, 2]
        file["a/0/color/loop"] = file["a"]  # a group inside itself
    places = _places(tmp_path / "a.h5", {"0": [1], "7": [5]})
    assert places == [
        "the file", "attribute x", "a", "a/0", "a/0/color", "a/0/color/1", "a/0/color/loop", "a/07", "a/07/color",
        "a/07/color/5", "a/b", "none", "the file", None,
    ]  # fmt: skip
    (tmp_path / "noise.h5").write_bytes(b"noise")
    assert _places(tmp_path / "noise.h5", {}) == ["the file", None]


def test_absent_files_are_left_to_the_reader(tmp_path):
    walk_first(tmp_path / "none.smc", groups=(), attributes=(), wanted={})


