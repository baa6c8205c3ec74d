"""The path through the candidates whose pose distances and jump costs add up to the least, for all parts at once."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numba import njit

Array = np.ndarray


@dataclass(frozen=True)
class JumpCost:
    """What it costs a part to go from one recorded time to another within one query frame.

    cost * min(1, |t - t_before - step| / reach): nothing where it plays on, and no more than `cost` however far.
    """

    cost: float  # of leaving the timeline, in the unit of the pose distance (radians)
    reach: float = 3.0  # recorded frames; from this deviation on the timeline is left
    step: float = 1.0  # recorded frames that a part moves on in one query frame where it plays on

    def __post_init__(self):
        if not (0 <= self.cost < np.inf and self.reach > 0):
            raise ValueError(f"a jump's cost = {self.cost} must be 0 or more, and its reach = {self.reach} positive")

    def __call__(self, before: Array, now: Array) -> Array:
        """The cost between times that broadcast."""
        return self.cost * np.minimum(np.abs(now - before - self.step) / self.reach, 1)

    def leaves(self, before: Array, now: Array) -> Array:
        """Whether the timeline is left, for times that broadcast; never where `before` is NaN (nothing was before)."""
        return np.abs(now - before - self.step) >= self.reach


def best_path(distances: Array, times: Array, jump: JumpCost, before: Array | None = None) -> Array:
    """The candidate of each frame and part, [Q, P] int64, such that no other choice costs less.

    Dynamic programming in float64: time O(Q P k^2), memory O(Q k). At equal costs the lower candidate counts.

    Args:
        distances: [Q, P, k] pose distances of the candidates.
        times: [Q, P, k] their recorded times, frames.
        before: [P] the times just before the first frame, already decided; None = nothing was.

    Source: Viterbi 1967.
    """
    distances, times = np.asarray(distances, np.float64), np.asarray(times, np.float64)
    if distances.shape != times.shape or distances.ndim != 3 or distances.shape[-1] == 0:
        raise ValueError(f"distances and times must both be [Q, P, k], k > 0, not {distances.shape} and {times.shape}")
    finite = (np.isfinite(distances) & np.isfinite(times)).all((1, 2))
    if not finite.all():
        raise ValueError(f"distances or times are not finite at query frame {int(np.argmin(finite))}")
    Q, P, _ = distances.shape
    choice = np.zeros((Q, P), np.int64)
    if Q == 0:
        return choice
    total = distances[0] if before is None else distances[0] + jump(np.asarray(before, np.float64)[:, None], times[0])
    _follow(distances, times, total.copy(), jump.cost, jump.reach, jump.step, choice)
    return choice


@njit(cache=True, nogil=True)
def _follow(distances, times, total, cost, reach, step, choice):
    """Fills `choice` [Q, P]; total [P, k] is what it costs to begin with each candidate."""
    Q, P, k = distances.shape
    origins = np.zeros((Q, k), np.int32)  # the candidate before, on the best way to each
    now = np.empty(k)
    for p in range(P):
        best = total[p]
        for q in range(1, Q):
            for i in range(k):
                least, origin = np.inf, 0
                for j in range(k):
                    way = best[j] + cost * min(abs(times[q, p, i] - times[q - 1, p, j] - step) / reach, 1.0)
                    if way < least:
                        least, origin = way, j
                now[i], origins[q, i] = distances[q, p, i] + least, origin
            best[:] = now
        at = np.argmin(best)
        for q in range(Q - 1, -1, -1):
            choice[q, p] = at
            at = origins[q, at]


class OnlinePath:
    """`best_path` for live use: each frame is decided once `latency` further frames are known, and stays decided.

    A frame's choice begins the best path over what is known, from the time chosen before it. So every jump that is made
    has been paid for, whatever comes later; and with a latency of the whole query nothing is decided before `finish`,
    which gives the path of `best_path`. A frame costs O(latency P k^2).
    """

    def __init__(self, jump: JumpCost, latency: int):
        if latency < 0:
            raise ValueError(f"latency must be 0 frames or more, not {latency}")
        self.jump, self.latency = jump, latency
        self._waiting: deque[tuple[Array, Array]] = deque()
        self._before: Array | None = None  # [P] the time of the last decided frame

    def push(self, distances: Array, times: Array) -> Array:
        """Take a frame's candidates [P, k]; returns the choice [n, P] of the frame `latency` before it, n = 0 or 1."""
        if self._waiting and distances.shape != self._waiting[0][0].shape:
            raise ValueError(f"candidates must be {self._waiting[0][0].shape} as before, not {distances.shape}")
        self._waiting.append((np.asarray(distances, np.float64), np.asarray(times, np.float64)))
        if len(self._waiting) <= self.latency:
            return np.zeros((0, len(distances)), np.int64)
        choice = self._path()[:1]
        _, decided = self._waiting.popleft()
        self._before = np.take_along_axis(decided, choice[0][:, None], -1)[:, 0]
        return choice

    def finish(self) -> Array:
        """The choices [n, P] of the frames that are still open, no more being to come; then a new query may begin."""
        choice = self._path() if self._waiting else np.zeros((0, 0), np.int64)
        self._waiting.clear()
        self._before = None
        return choice

    def _path(self) -> Array:
        distances, times = (np.stack(x) for x in zip(*self._waiting))
        return best_path(distances, times, self.jump, self._before)
