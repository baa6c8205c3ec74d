"""Damaged HDF5 files are met by another process first: some make the HDF5 library loop for ever, or crash.

Nothing in this process could end such a call. A helper (hdf5_walk.py) therefore walks over all of the structure that
the reader is about to use; it opens datasets but reads no image. It serves every file of this process and ends after a
minute without one. A file that was walked over, and has not changed since, is not walked over again: a note beside the
prepared frames ($R3AVATAR_CACHE/hdf5) tells later processes, as a walk over thousands of images takes most of a second.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import signal
import subprocess
import threading
from collections.abc import Collection, Mapping
from pathlib import Path

import h5py

from r3avatar.captures.cache_folder import default_cache_dir
from r3avatar.captures.capture import CaptureError
from r3avatar.early_start import HDF5_WALK, helper_process

SECONDS = 30.0  # that the library may take for one group or dataset
State = tuple[str, int, int]  # path, size, modification time

_SCRIPT = HDF5_WALK
_log = logging.getLogger(__name__)
_lock = threading.Lock()
_helper: subprocess.Popen | None = None
_abandoned: list[subprocess.Popen] = []  # of the process that this one was forked from
_walked: dict[State, dict[int, set[int]]] = {}  # state of a file to camera to frames


def walk_first(
    path: Path, *, groups: Collection[str], attributes: Collection[str], wanted: Mapping[int, Collection[int]]
) -> None:
    """Make sure that the HDF5 library comes back from a file's attributes and groups; CaptureError names where not.

    wanted: camera to frames. Of members with a number in their path, <camera> or <camera>/../<frame>, only these are
    walked over. Where the library merely raises an exception, this returns: the reader has the better message.
    """
    if not path.is_file():
        return
    with _lock:
        state = file_state(path)
        done = _walked.setdefault(state, {})
        if not done:
            done.update(_noted(state))
        if all(camera in done and done[camera] >= set(frames) for camera, frames in wanted.items()):
            return
        request = {"path": str(path), "groups": list(groups), "attributes": list(attributes), "seconds": SECONDS,
                   "wanted": {camera: sorted(frames) for camera, frames in wanted.items()}}  # fmt: skip
        for last in (False, True):
            place, code = _ask(request)
            if code is None:
                for camera, frames in wanted.items():
                    done.setdefault(camera, set()).update(frames)
                _note(state, done)
                return
            if place is not None:
                raise CaptureError(
                    path, place, expected="a readable part of an HDF5 file",
                    found=f"damaged data: the HDF5 library {_ending(code)}", fix="download the file again",
                )  # fmt: skip
            if last:  # the first time it may have been idle for too long just now
                raise RuntimeError(f"the process that looks at HDF5 files first ended with code {code} at its start")


def file_state(path: Path) -> State:
    """What tells that a file is unchanged."""
    stat = path.stat()
    return str(path.absolute()), stat.st_size, stat.st_mtime_ns


def walked(paths: Collection[Path]) -> dict[State, dict[int, set[int]]]:
    """What was walked over of the files as they are now, for `trust` in another process."""
    states = {file_state(path) for path in paths}
    return {state: done for state, done in _walked.items() if state in states}


def trust(known: Mapping[State, dict[int, set[int]]]) -> None:
    """Take over what another process has walked over (`walked`)."""
    with _lock:
        _walked.update(known)


def _note_of(state: State) -> Path:
    return default_cache_dir() / "hdf5" / f"{hashlib.sha256(state[0].encode()).hexdigest()[:24]}.json"


def _noted(state: State) -> dict[int, set[int]]:
    """What a process before this one walked over, of the file as it is now and with this HDF5 library."""
    try:
        note = json.loads(_note_of(state).read_text())
        if note["state"] == [*state, h5py.version.hdf5_version]:
            return {int(camera): set(frames) for camera, frames in note["walked"].items()}
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        _log.debug("the note on %s is not used: %s", state[0], error)
    return {}


def _note(state: State, done: Mapping[int, set[int]]) -> None:
    """Tell later processes; where nothing can be written they walk again."""
    place = _note_of(state)
    part = place.with_suffix(f".{os.getpid()}.part")
    walked = {camera: sorted(frames) for camera, frames in done.items()}
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps({"state": [*state, h5py.version.hdf5_version], "walked": walked}))
        os.replace(part, place)
    except OSError as error:
        _log.debug("no note on %s: %s", state[0], error)
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _ask(request: dict) -> tuple[str | None, int | None]:
    """The last place that the helper named, and its exit code; None: it came back."""
    global _helper
    if _helper is None:
        _helper = helper_process(_SCRIPT)
    place = None
    with contextlib.suppress(BrokenPipeError):
        _helper.stdin.write(json.dumps(request).encode() + b"\n")
        _helper.stdin.flush()
        for line in _helper.stdout:
            answer = json.loads(line)
            if answer is None:
                return place, None
            place = answer
    with contextlib.suppress(BrokenPipeError), _helper:  # closes the pipes and waits
        pass
    code, _helper = _helper.returncode, None
    return place, code


def _ending(code: int) -> str:
    if code == -signal.SIGALRM:
        return f"did not come back from it in {SECONDS:g} s"
    return f"crashed there ({signal.Signals(-code).name})" if code < 0 else f"failed there (exit code {code})"


def _forked() -> None:
    global _lock, _helper
    _lock = threading.Lock()
    if _helper is not None:
        _abandoned.append(_helper)  # the parent's: neither to be used nor to be waited for here
        _helper = None


os.register_at_fork(after_in_child=_forked)
