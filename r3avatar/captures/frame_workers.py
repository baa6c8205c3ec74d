"""Processes that prepare frames: one is spawned and imports, then forks into as many as are wanted.

Starting a Python with torch takes seconds and hundreds of megabytes, so it is done once: the workers share what the
first process, their leader, has imported and read. A fork of the caller instead would share its threads, HDF5 handles
and GPU. The leader hands out the work, so that a worker stays with a camera while it can (lens distortion maps are
made once a camera and worker) and that all end at about the same time. No state is shared and no lock held between
processes: any of them may be killed at any moment.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import multiprocessing
import os
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from multiprocessing.connection import Connection, wait

import cv2

Write = Callable[[int, list[int]], int]  # prepares and stores some frames of a camera; returns how many

_FEWEST_FRAMES = 4  # that a worker gets at a time, towards the end
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_DIED = (
    "a process that prepared frames died (out of memory?). Finished frames are kept: run again, with fewer workers if "
    "it was memory. In a script, guard the entry with `if __name__ == '__main__'`"
)


class _InWorker(Exception):
    """Where in a worker an error was raised; shown as the cause of the error."""


class FrameWorkers:
    """The leader, which imports while its caller still finds out what there is to do, and then its workers.

    A context manager, whose end ends all processes.
    """

    def __init__(self):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._leader = context.Process(target=_lead, args=(theirs,))
        self._asked = False
        with _environment(dict.fromkeys(_THREADS, "1")):  # each worker is to use one core
            self._leader.start()
        theirs.close()

    def __enter__(self) -> FrameWorkers:
        return self

    def __exit__(self, *_) -> None:
        self._pipe.close()
        if not self._asked:  # it may still be importing
            self._leader.terminate()
        self._leader.join()

    def write(
        self, write: Write, missing: Iterable[tuple[int, int]], workers: int, frames_at_once: int
    ) -> Iterator[int]:
        """Call `write` for all missing (camera, frame) positions in worker processes; yields its results as they come.

        write: pickled once. A worker gets at most frames_at_once frames of one camera at a time. An error in a worker
        ends the others, between two frames, and is raised here; RuntimeError if a process dies. Once only.
        """
        self._asked = True
        order = _Order(missing, workers, frames_at_once)
        message = self._exchange((write, order, workers))
        while message is not None:
            if isinstance(message, tuple):
                raise message[0] from _InWorker(message[1])
            yield message
            message = self._exchange()

    def _exchange(self, request: tuple | None = None) -> int | tuple[Exception, str] | None:
        """The leader's next message, after a request if there is one."""
        try:
            if request is not None:
                self._pipe.send(request)
            return self._pipe.recv()
        except (EOFError, ConnectionError) as error:
            raise RuntimeError(_DIED) from error


class _Order:
    """What to prepare next: frames of the camera that a worker knows, or of the camera that has most left for it."""

    def __init__(self, missing: Iterable[tuple[int, int]], workers: int, frames_at_once: int):
        self._left: dict[int, list[int]] = {}
        for camera, frame in missing:
            self._left.setdefault(camera, []).append(frame)
        self._camera: dict[Hashable, int] = {}
        self._workers, self._frames_at_once = workers, frames_at_once

    def next(self, worker: Hashable) -> tuple[int, list[int]] | None:
        """Camera and frames for a worker; None when nothing is left. Smaller portions towards the end."""
        if not self._left:
            return None
        camera = self._camera.get(worker)
        if camera not in self._left:
            busy = Counter(self._camera.values())
            camera = max(self._left, key=lambda c: len(self._left[c]) / (1 + busy[c]))
            self._camera[worker] = camera
        share = sum(map(len, self._left.values())) // (2 * self._workers)
        n = min(self._frames_at_once, max(share, _FEWEST_FRAMES))
        frames = self._left[camera]
        if len(frames) > n:
            self._left[camera] = frames[n:]
        else:
            del self._left[camera]
        return camera, frames[:n]


def _lead(boss: Connection) -> None:
    """Start the workers, hand out the work, and pass their messages on; ends them if `boss` closes or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the caller's to handle, who then closes
    cv2.setNumThreads(1)
    importlib.import_module("av")  # decodes masks (png.py); its import takes as long as some ten frames
    try:
        write, order, workers = boss.recv()
    except EOFError:
        return  # there is nothing to do after all
    except Exception as error:  # the capture cannot be opened here
        boss.send((error, traceback.format_exc()))
        return
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    crew = {}
    try:
        for _ in range(workers):
            ours, theirs = context.Pipe()
            task = order.next(ours)
            if task is None:
                break
            process = context.Process(target=_work, args=(theirs, write), daemon=True)
            process.start()
            theirs.close()
            crew[ours] = process
            ours.send(task)
        while crew:
            for ready in wait([boss, *crew]):
                if ready is boss:
                    return
                try:
                    message = ready.recv()
                except (EOFError, ConnectionError):
                    message = RuntimeError(_DIED), "no message came from it"
                boss.send(message)
                if isinstance(message, tuple):
                    return
                task = order.next(ready)
                ready.send(task)
                if task is None:
                    crew.pop(ready).join()
        boss.send(None)
    except ConnectionError:
        return  # the caller is gone
    finally:
        for process in crew.values():
            process.terminate()
        for process in crew.values():
            process.join()


def _work(leader: Connection, write: Write) -> None:
    """Write what the leader asks for until it asks for nothing, or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # an exception, so that no half-written file stays
    cv2.setNumThreads(1)
    _keep_memory()
    with contextlib.suppress(EOFError, ConnectionError):
        while (task := leader.recv()) is not None:
            try:
                message = write(*task)
            except Exception as error:
                message = error, traceback.format_exc()
            leader.send(message)


def _keep_memory() -> None:
    """Have the C library keep what is freed: an image's pages asked of the system anew cost a fifth of preparing it."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's; others do without
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3
        mallopt(trim_threshold, 1 << 30)
        for size in (1 << 25, 1 << 30):  # 32 MiB is the most that an older glibc accepts
            mallopt(mmap_threshold, size)


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Environment variables for processes that start inside of the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
