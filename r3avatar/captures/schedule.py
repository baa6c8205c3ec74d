"""Which frames and views each training step sees: shuffled, balanced, and the same for the same seed."""

from __future__ import annotations

import itertools
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
    each once in num_frames * num_views / (F * V) steps where F and V divide the counts. Iterating begins at `position`,
    which whoever uses the steps advances; it and what decides the sequence make up `state_dict`.

    moving_view: of every frame there is one view only, as if one camera went around the person: frame i has view
        i mod num_views. views_per_step is 1 then.
    """

    def __init__(
        self,
        num_frames: int,
        num_views: int,
        frames_per_step: int,
        views_per_step: int,
        seed: int,
        moving_view: bool = False,
    ):
        if not 1 <= frames_per_step <= num_frames:
            raise ValueError(f"frames_per_step is {frames_per_step}; the split 'train' has {num_frames} frames")
        if not 1 <= views_per_step <= num_views:
            raise ValueError(f"views_per_step is {views_per_step}; the split 'train' has {num_views} cameras")
        if moving_view and views_per_step != 1:
            raise ValueError(f"views_per_step is {views_per_step}; with moving_view a frame has 1 view: batch.views=1")
        self._settings = {
            "num_frames": num_frames,
            "num_views": num_views,
            "frames_per_step": frames_per_step,
            "views_per_step": views_per_step,
            "seed": seed,
            "moving_view": moving_view,
        }
        self.position = 0  # steps used so far

    def __iter__(self) -> Iterator[Step]:
        """The steps from `position` on; earlier ones are drawn and dropped: one sequence, whatever the start."""
        num_frames, num_views, frames_per_step, views_per_step, seed, moving_view = self._settings.values()
        start = self.position
        frames = BalancedDraws(num_frames, frames_per_step, np.random.default_rng([seed, 0]))
        views = [
            BalancedDraws(num_views, views_per_step, np.random.default_rng([seed, 1, frame]))
            for frame in range(num_frames)
        ]
        for number in itertools.count():
            drawn = frames.next()
            step = drawn, [[frame % num_views] if moving_view else views[frame].next() for frame in drawn]
            if number >= start:
                yield step

    def at(self, number: int) -> Step:
        """One step by its number, 0 the first; the position stays."""
        other = Schedule(**self._settings)
        other.position = number
        return next(iter(other))

    def state_dict(self) -> dict[str, int]:
        """The position and what decides the sequence, for a checkpoint."""
        return {"position": self.position, **self._settings}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Continue at a checkpoint's position; ValueError if its steps were drawn otherwise."""
        for name, now in self._settings.items():
            before = state_dict.get(name, False)  # checkpoints that know no moving_view had none
            if before != now:
                raise ValueError(
                    f"the checkpoint's training steps were drawn with {name} {before}, now it is {now}; "
                    "resume with the same capture, batch and seed"
                )
        self.position = state_dict["position"]
