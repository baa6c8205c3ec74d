"""A rank's part of every training step, where several processes train one avatar."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from r3avatar.captures.schedule import Step


@dataclass(frozen=True)
class Shard:
    """Some of a step's frames, and some of each one's views: the same share for every rank.

    Ranks divide the frames into `frame_parts` and, where there are more ranks than that, the views into `view_parts`.
    The order of a step's images stays: the last rank has the last frame.
    """

    rank: int
    frame_parts: int
    view_parts: int

    @classmethod
    def of(cls, frames: int, views: int, rank: int, ranks: int) -> Shard:
        """Of steps of frames x views, over so many ranks; frames are divided first, as a deformation serves all views.

        ValueError with the nearest number of views that can be divided, if these cannot.
        """
        parts = _parts(frames, views, ranks)
        if parts is None:
            more = next(v for v in range(views + 1, views + ranks + 1) if _parts(frames, v, ranks))
            raise ValueError(
                f"batch.frames={frames} x batch.views={views} cannot be divided evenly over {ranks} devices, by frames "
                f"and by each frame's views; batch.frames={frames} batch.views={more} can, or other frames and views "
                f"whose product is a multiple of {ranks}"
            )
        return cls(rank, *parts)

    @property
    def first_view(self) -> bool:
        """Whether this rank has the first views of its frames: of the ranks with the same frames, exactly one has."""
        return self.rank % self.view_parts == 0

    def part(self, step: Step) -> Step:
        """The rank's frames [F / frame_parts] of a step, and their views [F / frame_parts][V / view_parts]."""
        frames, views = step
        by_frame, by_view = divmod(self.rank, self.view_parts)
        F, V = len(frames) // self.frame_parts, len(views[0]) // self.view_parts
        mine = slice(by_frame * F, (by_frame + 1) * F)
        return frames[mine], [row[by_view * V : (by_view + 1) * V] for row in views[mine]]


class ShardedSteps:
    """A rank's part of some steps, in their order; each pass iterates them anew."""

    def __init__(self, steps: Iterable[Step], shard: Shard):
        self._steps, self._shard = steps, shard

    def __iter__(self) -> Iterator[Step]:
        return map(self._shard.part, self._steps)


def _parts(frames: int, views: int, ranks: int) -> tuple[int, int] | None:
    """Into how many parts frames and views are divided, None if that is not possible."""
    for parts in range(min(frames, ranks), 0, -1):
        if frames % parts == 0 and ranks % parts == 0 and views % (ranks // parts) == 0:
            return parts, ranks // parts
    return None
