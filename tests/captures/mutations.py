"""Damage to one file of a small capture in every layout, and what reading it may then come to."""

from __future__ import annotations

import multiprocessing
import resource
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import cv2
import numpy as np
import torch

from r3avatar.captures import CaptureError, hdf5_guard
from r3avatar.captures.capture import Capture

from .small_captures import LAYOUTS

SECONDS = 20.0  # a case may take
LIBRARY_SECONDS = 2.0  # instead of `hdf5_guard.SECONDS`
MEMORY = 4 << 30  # bytes that a case may ask for beyond what the process holds: some damage is a huge size
# Outcomes: as before; another whole file of the capture stands there; a number or a pixel is another one, in a format
# that has no checksum to tell; a CaptureError.
ALLOWED = "same", "swapped", "altered", "refused"
PICTURES = {".jpg", ".png"}
CHECKSUMS = {".png", ".npz"}  # formats in which no damage may pass for other values
KINDS = ("truncate", "flip", "overwrite", "empty", "delete", "swap")
SHARES = [0.2, 0.35, 0.25, 0.04, 0.04, 0.12]  # most cases go to the damage that has most variants


@dataclass(frozen=True)
class Damage:
    """What is done to a file. Places are taken modulo the number of bytes, bits (flip) or files (swap)."""

    kind: str  # of KINDS
    places: tuple[int, ...] = ()
    content: bytes = b""  # overwrite: what stands there then, as far as the file goes

    def apply(self, path: Path, files: Sequence[Path]) -> None:
        """Damage the file at `path`, one of the capture's `files`."""
        content = bytearray(path.read_bytes())
        if self.kind == "delete":
            path.unlink()
            return
        if self.kind == "swap":
            other = files[self.places[0] % len(files)]
            content, theirs = other.read_bytes(), content
            other.write_bytes(theirs)
        elif self.kind == "empty":
            content = b""
        elif self.kind == "truncate":
            content = content[: self.places[0] % len(content)]
        elif self.kind == "flip":
            for place in self.places:
                bit = place % (8 * len(content))
                content[bit // 8] ^= 1 << (bit % 8)
        else:
            first = self.places[0] % len(content)
            count = min(len(self.content), len(content) - first)
            content[first : first + count] = self.content[:count]
        path.write_bytes(content)


def random_damage(random: np.random.Generator, size: int, files: int) -> Damage:
    """Damage to a file of `size` bytes, one of `files`."""
    kind = KINDS[random.choice(len(KINDS), p=SHARES)]
    if kind in ("empty", "delete"):
        return Damage(kind)
    if kind == "swap":
        return Damage(kind, (int(random.integers(files)),))
    if kind == "truncate":
        return Damage(kind, (int(random.integers(size)),))
    if kind == "flip":
        return Damage(kind, tuple(random.integers(8 * size, size=random.integers(1, 9)).tolist()))
    first = int(random.integers(size))
    count = min(int(2 ** random.uniform(0, 12)), size - first)
    return Damage(kind, (first,), random.bytes(count) if random.random() < 0.5 else bytes(count))


@dataclass(frozen=True)
class Case:
    """What became of one damaged capture: outcome is one of ALLOWED, or a failure's text."""

    layout: str
    damage: Damage
    file: str
    outcome: str
    number: int = -1  # of `cases`

    @property
    def failed(self) -> bool:
        """Whether the outcome is none of those that are allowed."""
        return self.outcome not in ALLOWED

    def __str__(self) -> str:
        return f"{self.layout} case {self.number}: {self.damage.kind} {self.file}: {self.outcome}"


class DamagedReadings:
    """A small capture in a layout, damaged and read in a process whose death or silence is an outcome as well.

    A context manager. `files`: those of the capture, below `root`.
    """

    def __init__(self, layout: str, root: Path):
        self.layout, self.root = layout, root
        LAYOUTS[layout].write(root)
        self.files = sorted(path for path in root.rglob("*") if path.is_file())
        self._backup = {path: path.read_bytes() for path in self.files}
        self._whole = contents(LAYOUTS[layout].open(root))
        self._worker: multiprocessing.Process | None = None

    def __enter__(self) -> DamagedReadings:
        return self

    def __exit__(self, *_) -> None:
        self._end()

    def size(self, file: Path) -> int:
        """Bytes of a file before any damage."""
        return len(self._backup[file])

    def read(self, file: Path, damage: Damage, number: int = -1) -> Case:
        """Damage a file, read all of the capture, mend it again, and say what came of it."""
        if self._worker is None:
            context = multiprocessing.get_context("fork")
            self._pipe, theirs = context.Pipe()
            self._worker = context.Process(target=self._work, args=(theirs, self._pipe))
            self._worker.start()
            theirs.close()
        self._pipe.send((file, damage))
        try:
            if self._pipe.poll(SECONDS):
                outcome = self._pipe.recv()
            else:
                self._worker.kill()
                self._end()
                outcome = f"no end in {SECONDS:.0f} s"
        except EOFError:
            worker = self._worker
            self._end()
            outcome = f"the process died with exit code {worker.exitcode}"
        return Case(self.layout, damage, str(file.relative_to(self.root)), outcome, number)

    def _end(self) -> None:
        if self._worker is not None:
            self._pipe.close()
            self._worker.join()
            self._worker = None
            self._mend()

    def _work(self, pipe: Connection, other_end: Connection) -> None:
        other_end.close()
        torch.set_num_threads(1)
        cv2.setNumThreads(0)
        hdf5_guard.SECONDS = LIBRARY_SECONDS
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, resource.RLIM_INFINITY))
        while True:
            try:
                file, damage = pipe.recv()
            except EOFError:
                return
            damage.apply(file, self.files)
            pipe.send(self._outcome(file, damage))
            self._mend()

    def _outcome(self, file: Path, damage: Damage) -> str:
        lost = damage.kind in ("truncate", "empty", "delete")
        try:
            described, pictures = contents(LAYOUTS[self.layout].open(self.root))
        except CaptureError as error:
            return "refused" if not lost or str(file) in str(error) else f"refused without naming the file: {error}"
        except Exception:  # any other is what is looked for
            return traceback.format_exc()
        if (described, pictures) == self._whole:
            return "same"
        if damage.kind == "swap":
            return "swapped"
        if lost:
            return "read, although data is lost"
        if file.suffix in PICTURES and described != self._whole[0]:
            return "a damaged picture changed cameras or poses"
        return "altered" if file.suffix not in CHECKSUMS else "read as other values, although the file has checksums"

    def _mend(self) -> None:
        for path, content in self._backup.items():
            if not path.is_file() or path.read_bytes() != content:
                path.write_bytes(content)


def contents(capture: Capture) -> tuple[list, list]:
    """Everything a capture says of itself, and all its images and masks; AssertionError for what is not well-formed."""
    poses = capture.poses
    tensors = [poses.theta, poses.betas, poses.expression, poses.R, poses.Th]
    tensors += [value for camera in capture.cameras for value in (camera.K, camera.w2c)]
    described = [capture.camera_ids, capture.frame_ids, capture.gender, capture.fps, capture.recorded, capture.splits]
    described += [(camera.width, camera.height) for camera in capture.cameras]
    for value in tensors:
        assert value.isfinite().all(), "a value that is not finite"
        described.append((tuple(value.shape), value.numpy().tobytes()))
    assert len(poses) == len(capture.frame_ids), f"{len(poses)} poses of {len(capture.frame_ids)} frames"
    pictures = []
    for index, camera in enumerate(capture.cameras):
        size = camera.height, camera.width
        for frame in range(len(capture.frame_ids)):
            image, mask = capture.read(index, frame)
            assert image.shape == (*size, 3) and mask.shape == size, f"{image.shape}, {mask.shape}, expected {size}"
            assert image.dtype == mask.dtype == np.uint8 and mask.max() == 1, "an image or a mask of another kind"
            pictures.append(image.tobytes() + mask.tobytes())
    return described, pictures


def cases(layout: str, numbers: Sequence[int], root: Path, seed: int = 0) -> Iterator[Case]:
    """Write a layout's capture to `root`, damage it at random once a number and yield what came of it."""
    with DamagedReadings(layout, root) as readings:
        for number in numbers:
            random = np.random.default_rng([seed, list(LAYOUTS).index(layout), number])
            file = readings.files[random.integers(len(readings.files))]
            damage = random_damage(random, readings.size(file), len(readings.files))
            yield readings.read(file, damage, number)
