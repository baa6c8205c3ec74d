"""Damage at random to one file of a small capture in every layout, and what reading it may then come to."""

from __future__ import annotations

import multiprocessing
import resource
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import cv2
import numpy as np
import torch

from r3avatar.captures import CaptureError, DnaRendering, FolderCapture, HiFi4G, MvHumanNet, Split, ZjuMocap
from r3avatar.captures.capture import Capture

from .conftest import SPLITS as PAIR_SPLITS
from .conftest import open_pair, write_pair
from .layouts_smpl import write_hifi4g, write_zju_mocap
from .layouts_smplx import SPLITS as MVHUMANNET_SPLITS
from .layouts_smplx import six_components, write_mvhumannet, write_plain_folder
from .plain_capture import plain_capture

SUBJECT = "ann"
SPLITS = {"train": Split(["0", "2"], [0, 1, 2]), "novel_view": Split(["1"], [0, 2]), "novel_pose": Split(["1"], [3])}
ARGUMENTS = {"splits": SPLITS, "recorded": (0, 3), "scale": 1.0}
SIZE = 48, 40
SECONDS = 10.0  # a case may take
MEMORY = 4 << 30  # bytes that a case may ask for beyond what the process holds: some damage is a huge size
ALLOWED = "same", "changed", "refused"  # outcomes
PICTURES = {".jpg", ".png"}


@dataclass(frozen=True)
class Layout:
    """How a small capture of a data set is written below a root and opened."""

    write: Callable[[Path], object]
    open: Callable[[Path], Capture]


def _dna_rendering(root: Path) -> DnaRendering:
    return open_pair(root, splits=PAIR_SPLITS)


def _zju_mocap(root: Path) -> ZjuMocap:
    return ZjuMocap(root, SUBJECT, **ARGUMENTS)


def _hifi4g(root: Path) -> HiFi4G:
    return HiFi4G(root, SUBJECT, mask_from_white=0.02, **ARGUMENTS)


def _mvhumannet(root: Path) -> MvHumanNet:
    return MvHumanNet(root, SUBJECT, splits=MVHUMANNET_SPLITS, recorded=(0, 2), hands=six_components(), scale=1.0)


def _folder_capture(root: Path) -> FolderCapture:
    return FolderCapture(root, SUBJECT)


LAYOUTS = {
    "DnaRendering": Layout(write_pair, _dna_rendering),
    "ZjuMocap": Layout(lambda root: write_zju_mocap(root / SUBJECT, plain_capture("smpl", size=SIZE)), _zju_mocap),
    "HiFi4G": Layout(lambda root: write_hifi4g(root / SUBJECT, plain_capture("smpl", size=SIZE)), _hifi4g),
    "MvHumanNet": Layout(
        lambda root: write_mvhumannet(root / SUBJECT, plain_capture("smplx", size=SIZE), six_components()), _mvhumannet
    ),
    "FolderCapture": Layout(
        lambda root: write_plain_folder(root, SUBJECT, plain_capture("smplx", size=SIZE)), _folder_capture
    ),
}


def truncate(path: Path, random: np.random.Generator, files: list[Path]) -> None:
    """The file ends at a random place."""
    content = path.read_bytes()
    path.write_bytes(content[: random.integers(len(content))])


def flip(path: Path, random: np.random.Generator, files: list[Path]) -> None:
    """One to eight random bits are flipped."""
    content = bytearray(path.read_bytes())
    for bit in random.integers(8 * len(content), size=random.integers(1, 9)):
        content[bit // 8] ^= 1 << (bit % 8)
    path.write_bytes(content)


def overwrite(path: Path, random: np.random.Generator, files: list[Path]) -> None:
    """A random block holds random bytes or zeros."""
    content = bytearray(path.read_bytes())
    first = int(random.integers(len(content)))
    count = min(int(2 ** random.uniform(0, 12)), len(content) - first)
    content[first : first + count] = random.bytes(count) if random.random() < 0.5 else bytes(count)
    path.write_bytes(content)


def empty(path: Path, random: np.random.Generator, files: list[Path]) -> None:
    """The file holds nothing."""
    path.write_bytes(b"")


def delete(path: Path, random: np.random.Generator, files: list[Path]) -> None:
    """The file is gone."""
    path.unlink()


def swap(path: Path, random: np.random.Generator, files: list[Path]) -> None:
    """The file and another one of the capture have changed places."""
    other = files[random.integers(len(files))]
    ours, theirs = path.read_bytes(), other.read_bytes()
    path.write_bytes(theirs)
    other.write_bytes(ours)


# Most cases go to the damage that has most variants.
MUTATIONS = [truncate, flip, overwrite, empty, delete, swap]
SHARES = [0.2, 0.35, 0.25, 0.04, 0.04, 0.12]


@dataclass(frozen=True)
class Case:
    """What became of one damaged capture: outcome is 'same', 'changed', 'refused', or a failure's text."""

    layout: str
    number: int
    mutation: str
    file: str
    outcome: str
    ended: bool = False  # False as well where the process that ran it is gone

    @property
    def failed(self) -> bool:
        """Whether the outcome is none of those that are allowed."""
        return self.outcome not in ALLOWED

    def __str__(self) -> str:
        return f"{self.layout} case {self.number}: {self.mutation} {self.file}: {self.outcome}"


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
            assert image.dtype == mask.dtype == np.uint8 and mask.max() <= 1, "an image or a mask of another kind"
            pictures.append(image.tobytes() + mask.tobytes())
    return described, pictures


def cases(name: str, numbers: Sequence[int], root: Path, seed: int = 0) -> Iterator[Case]:
    """Write a layout's capture to `root`, damage it once a number and yield what came of it, in the numbers' order.

    Cases run in a process of their own: its death or silence is a case's outcome as well.
    """
    LAYOUTS[name].write(root)
    backup = {path: path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
    whole = contents(LAYOUTS[name].open(root))
    context, left = multiprocessing.get_context("fork"), list(numbers)
    while left:
        ours, theirs = context.Pipe(duplex=False)
        worker = context.Process(target=_work, args=(theirs, name, left, root, seed, backup, whole))
        worker.start()
        theirs.close()
        while left:
            case = Case(name, left[0], "?", "?", "")
            try:
                for _ in range(2):  # what is done, then what came of it
                    if not ours.poll(SECONDS):
                        worker.kill()
                        case = replace(case, outcome=f"no end in {SECONDS:.0f} s")
                        break
                    case = ours.recv()
            except EOFError:
                worker.join()
                case = replace(case, outcome=f"the process died with exit code {worker.exitcode}")
            left.pop(0)
            yield case
            if not case.ended:
                break
        worker.join()
        ours.close()
        _restore(backup)


def _work(pipe: Connection, name: str, numbers: list[int], root: Path, seed: int, backup: dict, whole: tuple) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, resource.RLIM_INFINITY))
    files = list(backup)
    for number in numbers:
        random = np.random.default_rng([seed, list(LAYOUTS).index(name), number])
        path = files[random.integers(len(files))]
        mutate = MUTATIONS[random.choice(len(MUTATIONS), p=SHARES)]
        case = Case(name, number, mutate.__name__, str(path.relative_to(root)), "")
        pipe.send(case)
        mutate(path, random, files)
        pipe.send(replace(case, outcome=_outcome(case, root, whole), ended=True))
        _restore(backup)


def _outcome(case: Case, root: Path, whole: tuple) -> str:
    try:
        described, pictures = contents(LAYOUTS[case.layout].open(root))
    except CaptureError:
        return "refused"
    except Exception:  # any other is what is looked for
        return traceback.format_exc()
    if (described, pictures) == whole:
        return "same"
    if case.mutation in ("truncate", "empty", "delete"):
        return "read, although data is lost"
    if case.mutation != "swap" and Path(case.file).suffix in PICTURES and described != whole[0]:
        return "a damaged picture changed cameras or poses"
    return "changed"


def _restore(backup: dict[Path, bytes]) -> None:
    for path, content in backup.items():
        if not path.is_file() or path.read_bytes() != content:
            path.write_bytes(content)
