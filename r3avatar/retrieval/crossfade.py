"""Cross-fades over several frames where a part leaves its timeline."""

from __future__ import annotations

import numpy as np

Array = np.ndarray


class CrossFade:
    """Frame by frame: the time that each part fades from, and how much of it is left.

    In the i-th frame (from 0) of a fade over n the old time has the share (n - i) / (n + 1). It plays on meanwhile,
    within the recording: a still old picture would stop the cloth. Where a part jumps again before the fade is over,
    what it shows most of by then is what it goes on fading from.
    """

    def __init__(self, frames: int, parts: int, step: float, first: float, last: float):
        """frames: n, 0 = none; parts: P; step: recorded frames a query frame; first, last: the recording's times."""
        if frames < 0:
            raise ValueError(f"a cross-fade takes 0 frames or more, not {frames}")
        self.frames, self.step, self.first, self.last = frames, step, first, last
        self._source, self._time = (np.full(parts, np.nan) for _ in range(2))
        self._age = np.full(parts, frames)

    def __call__(self, time: Array, jumped: Array) -> tuple[Array, Array]:
        """The next frame's times [P] and which parts jumped to theirs [P]: the time to fade from [P] (NaN = none) and
        its share [P]."""
        mostly_old = self._share() > 0.5
        self._source = np.where(jumped & ~mostly_old, self._time, self._source) + self.step
        self._age = np.where(jumped, 0, np.minimum(self._age + 1, self.frames))
        self._time = time
        share = self._share()
        previous = np.where(share > 0, np.clip(self._source, self.first, self.last), np.nan)
        return previous, share

    def _share(self) -> Array:
        return (self.frames - self._age) / (self.frames + 1)
