"""Which frames and views each training step sees: shuffled, balanced, and the same for the same seed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

Step = tuple[list[int], list[list[int]]]  # frames [F], and for each its views [F][V]; positions in the split's lists


class BalancedDraws:
    """Draws `size` of 0 .. count - 1 again and again: distinct within a draw, each equally often over time.

    One shuffled deck of all is dealt after the other. Where a draw spans two decks, what it took from the old one comes
    later in the new one.
    """

    def __init__(self, count: int, size: int, random: np.random.Generator):
        if not 1 <= size <= count:
            raise ValueError(f"cannot draw {size} distinct of {count}")
        self._count, self._size, self._random = count, size, random
        self._deck: list[int] = []

    def next(self) -> list[int]:
        """The next draw, `size` distinct numbers."""
        if len(self._deck) < self._size:
            left = self._deck
            fresh = self._random.permutation(self._count).tolist()
            first = [i for i in fresh if i not in left][: self._size - len(left)]
            self._deck = left + first + [i for i in fresh if i not in first]
        draw, self._deck = self._deck[: self._size], self._deck[self._size :]
        return draw


class Schedule:
    """An endless sequence of steps of F frames with V views each, the views of a frame drawn for that frame alone.

    Frames are drawn without replacement, and so are each frame's views: all frame-view pairs are seen equally often,
    each once in num_frames * num_views / (F * V) steps where F and V divide the counts.
    """

    def __init__(self, num_frames: int, num_views: int, frames_per_step: int, views_per_step: int, seed: int):
        if not 1 <= frames_per_step <= num_frames:
            raise ValueError(f"frames_per_step is {frames_per_step}; the split 'train' has {num_frames} frames")
        if not 1 <= views_per_step <= num_views:
            raise ValueError(f"views_per_step is {views_per_step}; the split 'train' has {num_views} cameras")
        self.num_frames, self.num_views = num_frames, num_views
        self.frames_per_step, self.views_per_step, self.seed = frames_per_step, views_per_step, seed

    def steps(self, start: int = 0) -> Iterator[Step]:
        """The steps from number `start` on; earlier ones are drawn and dropped: one sequence, whatever the start."""
        frames = BalancedDraws(self.num_frames, self.frames_per_step, np.random.default_rng([self.seed, 0]))
        views = [
            BalancedDraws(self.num_views, self.views_per_step, np.random.default_rng([self.seed, 1, frame]))
            for frame in range(self.num_frames)
        ]
        number = 0
        while True:
            drawn = frames.next()
            step = drawn, [views[frame].next() for frame in drawn]
            if number >= start:
                yield step
            number += 1
