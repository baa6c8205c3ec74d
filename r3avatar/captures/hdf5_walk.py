"""Walk over the structure of HDF5 files in a process of its own, which hdf5_guard.py starts and may lose.

Requests come as lines of JSON on stdin: {path, groups, attributes, wanted, seconds}. Every place is named on stdout
before it is touched, a line of JSON each; the line `null` ends an answer. What raises is left to the reader, which
raises it again: here it only matters that the HDF5 library comes back. Where it does not, the alarm ends this process.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys

IDLE_SECONDS = 60  # without a request; the next one starts another process
_DEPTH = 4  # Camera_5mp/<camera>/color/<frame>


def main() -> None:
    """Answer requests until stdin ends."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [folder for folder in sys.path if os.path.abspath(folder) != here]  # our names shadow nobody's
    import h5py

    # The default action ends the process even inside the library, where no Python handler would run.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    signal.alarm(IDLE_SECONDS)
    for line in sys.stdin:
        _Walk(h5py, json.loads(line)).run()
        signal.alarm(IDLE_SECONDS)


class _Walk:
    def __init__(self, h5py, request: dict):
        self.h5py, self.path, self.seconds = h5py, request["path"], request["seconds"]
        self.groups, self.attributes = request["groups"], request["attributes"]
        self.wanted = {int(camera): set(frames) for camera, frames in request["wanted"].items()}

    def run(self) -> None:
        self._touch("the file", self._file)
        _say(None)

    def _touch(self, place: str, action) -> None:
        _say(place)
        signal.setitimer(signal.ITIMER_REAL, self.seconds)
        with contextlib.suppress(Exception):  # the reader meets it again and says what is wrong
            action()

    def _file(self) -> None:
        with self.h5py.File(self.path, "r") as file:
            for name in self.attributes:
                self._touch(f"attribute {name}", lambda name=name: file.attrs.get(name))
            for name in self.groups:
                self._touch(name, lambda name=name: self._item(file[name], name, ()))
            self._touch("the file", file.close)

    def _item(self, item, place: str, numbers: tuple[int, ...]) -> None:
        if isinstance(item, self.h5py.Group) and place.count("/") < _DEPTH - 1:
            for name in item:
                inner = (*numbers, int(name)) if name.isdecimal() else numbers
                if self._is_wanted(inner):
                    path = f"{place}/{name}"
                    self._touch(path, lambda name=name, path=path, inner=inner: self._item(item[name], path, inner))
        elif isinstance(item, self.h5py.Dataset):
            _ = item.shape, item.dtype, item.id.get_storage_size()
            if item.chunks:
                item.id.get_num_chunks()  # walks the chunks' index; the values themselves have no structure

    def _is_wanted(self, numbers: tuple[int, ...]) -> bool:
        camera, frame, *_ = (*numbers, None, None)
        return camera is None or (camera in self.wanted and (frame is None or frame in self.wanted[camera]))


def _say(place: str | None) -> None:
    os.write(1, json.dumps(place).encode() + b"\n")


if __name__ == "__main__":
    main()
