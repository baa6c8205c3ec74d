"""Opening a capture that its reader refuses: which cameras and frames are to blame, and what opens without them.

A reader refuses at construction whatever its splits need and its files lack, and names the first such thing. To look at
the rest, the splits are cut down by halves until what remains opens: k faults among n cameras or frames take about
2 k log n attempts. If nothing opens at all, the intrinsics are scaled by the usual factors, as a reader may refuse a
calibration that plainly belongs to images of another size.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from r3avatar.captures import Capture, Mend, Split
from r3avatar.inspection.mistakes import ALWAYS, Mistake, guessed_factor, of_intrinsics, usual_factors
from r3avatar.inspection.samples import Hole

REFUSALS = (ValueError, KeyError, OSError, RuntimeError)  # CaptureError is a ValueError
SECONDS = 30.0  # after which no more is cut down: what remains is left out as a whole
_FEW = 0.25  # of a camera's frames: if it lacks no more, they go; otherwise the camera does

Make = Callable[..., Capture]  # a reader whose other arguments are given; takes splits, recorded, mend
Splits = Mapping[str, Split]


@dataclass
class Opened:
    """What came of opening a capture."""

    capture: Capture | None  # None: nothing of it opens
    refusal: str | None = None  # the reader's message; None: it opened as it was asked for
    without: list[Hole] = field(default_factory=list)  # what was left out for that
    mistake: Mistake | None = None  # the one that had to be mended for that


def message(error: BaseException) -> str:
    """What an exception says; a KeyError without its quotes."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return text or type(error).__name__


def open_capture(make: Make, splits: Splits, mend: Mend) -> Opened:
    """Open a capture as it is asked for, or as much of it as opens.

    make: called with `splits`, `recorded` and `mend`, or some of them, in place of its own arguments; without any, it
    opens the capture as it is asked for. splits, mend: those arguments; no splits: nothing is cut down.
    """
    try:
        return Opened(make())
    except REFUSALS as error:
        refusal = message(error)
    opened = _Search(make, splits).largest() if splits else None
    if opened is None:
        opened = _with_intrinsics(make, mend)
    return Opened(None, refusal) if opened is None else Opened(opened.capture, refusal, opened.without, opened.mistake)


def _with_intrinsics(make: Make, mend: Mend) -> Opened | None:
    for factor in ALWAYS:
        rough = _attempt(make, mend, of_intrinsics(factor))
        if rough is not None:  # it may open with a factor that is not quite the right one
            better = usual_factors(factor * guessed_factor(rough.capture.cameras))[0]
            return _attempt(make, mend, of_intrinsics(better)) or rough
    return None


def _attempt(make: Make, mend: Mend, mistake: Mistake) -> Opened | None:
    try:
        return Opened(make(mend=mend.then(mistake.mend)), mistake=mistake)
    except REFUSALS:
        return None


def restricted(splits: Splits, cameras: Collection[str], frames: Collection[int]) -> dict[str, Split]:
    """The splits with only these cameras and frames, without those that are empty then."""
    kept = {}
    for name, split in splits.items():
        shared = [c for c in split.cameras if c in cameras], [f for f in split.frames if f in frames]
        if all(shared):
            kept[name] = Split(*shared)
    return kept


class _Search:
    """Cuts the splits of a refused capture down to what opens."""

    def __init__(self, make: Make, splits: Splits):
        self._make, self._splits, self._ends = make, splits, time.monotonic() + SECONDS
        self.cameras = list(dict.fromkeys(camera for split in splits.values() for camera in split.cameras))
        self.frames = sorted({frame for split in splits.values() for frame in split.frames})
        self._capture: Capture | None = None  # the last that opened

    def largest(self) -> Opened | None:
        """The capture without what is to blame; None if all of it is."""
        blamed = self._blame_cameras(self.cameras)
        if len(blamed) == len(self.cameras) and len(set(blamed.values())) == 1:
            # One reason for all cameras: it lies in some frames, or in what all of them share.
            lost = self._blame_frames(self.cameras, self.frames)
            if len(lost) == len(self.frames):
                return None
            holes = [Hole(None, frame, why) for frame, why in lost.items()]
            return self._opened(self.cameras, set(self.frames) - set(lost), holes)
        frames, cameras, holes = set(self.frames), set(self.cameras), []
        for camera, why in blamed.items():
            lost = self._blame_frames([camera], self._frames_of(camera))
            if len(lost) > _FEW * len(self._frames_of(camera)):
                cameras.discard(camera)
                holes.append(Hole(camera, None, why))
            else:
                frames -= set(lost)
                holes += [Hole(camera, frame, lost[frame]) for frame in lost]
        return self._opened(cameras, frames, holes) or self._opened(
            set(self.cameras) - set(blamed), set(self.frames), [Hole(c, None, why) for c, why in blamed.items()]
        )

    def _frames_of(self, camera: str) -> list[int]:
        return sorted({f for split in self._splits.values() if camera in split.cameras for f in split.frames})

    def _blame_cameras(self, cameras: Sequence[str]) -> dict[str, str]:
        return self._blame(cameras, lambda some: (some, self.frames))

    def _blame_frames(self, cameras: Sequence[str], frames: Sequence[int]) -> dict[int, str]:
        return self._blame(frames, lambda some: (cameras, some))

    def _blame(self, items: Sequence, pick: Callable[[Sequence], tuple[Sequence, Sequence]]) -> dict:
        """The items to blame, each with the reader's message."""
        why = self._refusal(*pick(items))
        if why is None:
            return {}
        if len(items) == 1 or time.monotonic() > self._ends:
            return dict.fromkeys(items, why)
        if len(items) > 2 and self._refusal(*pick(items[:1])) == self._refusal(*pick(items[-1:])) == why:
            return dict.fromkeys(items, why)  # for one reason from first to last: it is not the items'
        half = len(items) // 2
        return self._blame(items[:half], pick) | self._blame(items[half:], pick)

    def _refusal(self, cameras: Collection[str], frames: Collection[int]) -> str | None:
        """The reader's message for these cameras and frames; None if they open, or no split has any."""
        kept = restricted(self._splits, set(cameras), set(frames))
        if not kept:
            return None
        # Readers want a training split, and one of them takes splits that are not given from a file.
        some = kept.get("train") or next(iter(kept.values()))
        changes: dict[str, object] = {"splits": {**dict.fromkeys({*self._splits, "train"}, some), **kept}}
        if "train" not in kept:
            changes["recorded"] = min(some.frames), max(some.frames) - min(some.frames) + 1
        try:
            self._capture = self._make(**changes)
        except REFUSALS as error:
            return message(error)
        self._capture.splits = {name: split for name, split in self._capture.splits.items() if name in kept}
        return None

    def _opened(self, cameras: Collection[str], frames: Collection[int], holes: list[Hole]) -> Opened | None:
        if not holes or not restricted(self._splits, cameras, frames) or self._refusal(cameras, frames) is not None:
            return None
        return Opened(self._capture, without=holes)
