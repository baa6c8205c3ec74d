"""What retrieval returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


class RetrievalError(ValueError):
    """A retrieval that what it was given does not allow, with the fix in its message."""


PUBLISHED_FADE = 1 / 3
"""Share of the time jumped from in the one frame of the published cross-fade: (2 new + old) / 3."""


@dataclass
class Retrieved:
    """Recorded times for each query frame and part (`parts.PARTS` in that order)."""

    times: Tensor  # [Q, 5] float, recorded frames; fractional between two frames
    previous: Tensor  # [Q, 5] float, the time to cross-fade from where the part jumped; NaN = no cross-fade
    distances: Tensor  # [Q, 5] pose distance of the chosen frames, interpolated as the time is
    neighbours: Tensor  # [Q, 5] int64, candidates inside the window; -1 for the first query frame
    fade: Tensor | None = None  # [Q, 5] float in [0, 1), the share of `previous`; None = 1/3 where the part jumped
    align: bool = False  # mix rotations as unit quaternions of aligned signs; False = raw numbers, as published

    def __post_init__(self):
        if self.fade is None:
            self.fade = torch.where(self.jump, PUBLISHED_FADE, 0.0).to(self.times)
        for name in ("previous", "distances", "neighbours", "fade"):
            found = getattr(self, name).shape
            assert found == self.times.shape, f"{name} is {tuple(found)}; times are {tuple(self.times.shape)}"

    def __len__(self) -> int:
        return len(self.times)

    def __getitem__(self, rows) -> Retrieved:
        """Some of the query frames, e.g. those that are evaluated (`slice`, list or tensor: the Q axis stays)."""
        if isinstance(rows, list) and len(rows) == 1:
            rows = rows[0]
        if isinstance(rows, int):  # a view: frame after frame is asked for while an avatar moves
            rows = slice(rows, rows + 1 or None)
        tensors = (self.times, self.previous, self.distances, self.neighbours, self.fade)
        return Retrieved(*(x[rows] for x in tensors), self.align)

    @staticmethod
    def joined(results: Sequence[Retrieved]) -> Retrieved:
        """Results of one retriever one after the other."""
        names = ("times", "previous", "distances", "neighbours", "fade")
        return Retrieved(*(torch.cat([getattr(r, name) for r in results]) for name in names), results[0].align)

    @property
    def jump(self) -> Tensor:
        """[Q, 5] bool: the part is cross-faded in this frame, because it left its timeline in it or just before."""
        return ~torch.isnan(self.previous)

    @property
    def mean(self) -> Tensor:
        """[Q, 5] the times, as `Mixture.mean` is."""
        return self.times

    @property
    def spread(self) -> Tensor:
        """[Q, 5] zeros, as `Mixture.spread` is not."""
        return torch.zeros_like(self.times)

    @property
    def decisive(self) -> tuple[Tensor, ...]:
        """What decides the pictures, besides `align`."""
        return self.times, self.previous, self.fade


@dataclass
class Mixture:
    """Shares of recorded times for each query frame and part, by which what was recorded then is averaged."""

    frames: Tensor  # [D] float, the recorded frames that take part, one and the same tensor for a whole query
    weights: Tensor  # [Q, 5, D] float, 0 or more, those of a part and query frame summing to 1
    distances: Tensor  # [Q, 5] the frames' mean pose distance, by their shares
    general: Tensor | None = None  # [Q, 5] how much the general moment counts beside them, 0 to 1; None: nothing
    pictures: int = 1  # so many are drawn, one of each of its `pieces`, and averaged; 1: one, of averaged attributes
    align = True  # rotations are mixed as unit quaternions of aligned signs

    def __post_init__(self):
        shape, wanted = tuple(self.weights.shape), (*self.distances.shape, len(self.frames))
        assert shape == wanted, f"weights are {shape}; distances and frames ask for {wanted}"

    def __len__(self) -> int:
        return len(self.weights)

    def __getitem__(self, rows) -> Mixture:
        """Some of the query frames (`slice`, list, tensor or a number: the Q axis stays)."""
        if isinstance(rows, int):
            rows = slice(rows, rows + 1 or None)
        general = None if self.general is None else self.general[rows]
        return Mixture(self.frames, self.weights[rows], self.distances[rows], general, self.pictures)

    @staticmethod
    def joined(results: Sequence[Mixture]) -> Mixture:
        """Results of one retriever one after the other."""
        frames = results[0].frames
        assert all(torch.equal(frames, r.frames) for r in results), "mixtures of different recorded frames"
        general = None if results[0].general is None else torch.cat([r.general for r in results])
        weights, distances = torch.cat([r.weights for r in results]), torch.cat([r.distances for r in results])
        return Mixture(frames, weights, distances, general, results[0].pictures)

    @property
    def shares(self) -> Tensor:
        """[Q, 5, D] the weights; where the general moment counts [Q, 5, D + 1], its own the last. They sum to 1."""
        if self.general is None:
            return self.weights
        general = self.general[..., None]
        return torch.cat([(1 - general) * self.weights, general], -1)

    def pieces(self) -> tuple[Tensor, Tensor]:
        """The mixture as K = `pictures` narrow ones that count alike, each of a stretch of recorded time, and where the
        general moment counts as one more, of it alone: shares [Q, K', 5, D'] as of `shares`, and how much each counts
        [Q, K']. Their mean is the mixture; they change as continuously as it does.
        """
        K, order = self.pictures, self.frames.argsort()
        weights = self.weights[..., order].double()
        ends = weights.cumsum(-1)
        ends = ends / ends[..., -1:]
        starts = torch.cat([torch.zeros_like(ends[..., :1]), ends[..., :-1]], -1)
        cuts = torch.arange(K + 1, device=ends.device, dtype=ends.dtype)[:, None, None] / K  # between the pieces
        inside = torch.minimum(ends[:, None], cuts[1:]) - torch.maximum(starts[:, None], cuts[:-1])  # [Q, K, 5, D]
        pieces = torch.empty_like(inside)
        pieces[..., order] = inside.clamp_min(0)
        pieces = (pieces / pieces.sum(-1, keepdim=True)).to(self.weights)
        counts = self.weights.new_full((len(self), K), 1 / K)
        if self.general is None:
            return pieces, counts
        pieces = torch.nn.functional.pad(pieces, (0, 1, 0, 0, 0, 1))
        pieces[:, -1, :, -1] = 1
        share = self.general.mean(-1, keepdim=True)  # a picture has one
        return pieces, torch.cat([(1 - share) * counts, share], 1)

    @property
    def times(self) -> Tensor:
        """[Q, 5] the recorded frame that counts most."""
        return self.frames[self.weights.argmax(-1)]

    @property
    def mean(self) -> Tensor:
        """[Q, 5] the mean recorded frame."""
        return self.weights @ self.frames.to(self.weights)

    @property
    def spread(self) -> Tensor:
        """[Q, 5] the standard deviation of the recorded frames about `mean`."""
        away = (self.frames.to(self.weights) - self.mean[..., None]).square()
        return (self.weights * away).sum(-1).sqrt()

    @property
    def jump(self) -> Tensor:
        """[Q, 5] bool, false: shares change as continuously as poses do."""
        return torch.zeros_like(self.distances, dtype=torch.bool)

    @property
    def decisive(self) -> tuple[Tensor, ...]:
        """What decides the pictures."""
        return self.frames, self.shares, torch.tensor(self.pictures)
