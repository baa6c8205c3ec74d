"""Retrieval for poses that come one by one: a pose in, five times (or shares) out, in less than a millisecond."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from r3avatar.retrieval.fractional import live_times
from r3avatar.retrieval.live_embedding import LiveEmbedding
from r3avatar.retrieval.parts import EMBEDDED_JOINTS, JOINTS, PARTS
from r3avatar.retrieval.pruned_search import PrunedSearch
from r3avatar.retrieval.retrieved import Mixture, Retrieved
from r3avatar.retrieval.smoothing import choose
from r3avatar.retrieval.viterbi import OnlinePath

if TYPE_CHECKING:
    from r3avatar.retrieval.mixture import MixtureRetriever
    from r3avatar.retrieval.retriever import Retriever
    from r3avatar.retrieval.viterbi_retriever import ViterbiRetriever

Array = np.ndarray

MOST = 1024
"""Candidates a part and frame at most: the nearest frames are kept by insertion."""


class _Live:
    """What the live forms share: pose to candidates, exact, on one core, whatever the retriever's backend.

    The first use prepares the search (about a second for 100,000 frames), which later ones of that retriever share.
    """

    def __init__(
        self,
        retriever: Retriever | ViterbiRetriever | MixtureRetriever,
        joints: int,
        geodesic: bool,
        up: Tensor | None,
        k: int,
    ):
        if retriever.times is None:
            raise RuntimeError("the retriever has no recorded poses: call fit(theta, times) first")
        if k > MOST:
            raise ValueError(f"live retrieval takes k up to {MOST} candidates a part, not {k}; set retrieval.k=64")
        self.retriever, self.k = retriever, k
        self.slots = np.array([joint for part in retriever._parts() for joint in part])
        self.times = retriever.times.double().cpu().numpy()
        spacing = float(np.median(np.diff(self.times))) if len(self.times) > 1 else 1.0
        if retriever.searches is None:
            bank = torch.cat([index.bank for index in retriever._indices], 1).float().cpu().numpy()
            parts = [len(joints_) for joints_ in retriever._parts()]
            retriever.searches = PrunedSearch(bank, parts, geodesic, int(spacing <= 1))
        self.search = retriever.searches
        self._embedding = LiveEmbedding(joints, geodesic, None if up is None else up.double().cpu().numpy())

    def _candidates(self, theta: Tensor) -> tuple[Array, Array, Array]:
        """Of a pose [J, 3]: its embedding [S, C], and distances and rows [5, k] of the nearest recorded frames."""
        if theta.shape != (JOINTS[self.retriever.kind], 3):
            wanted = f"[{JOINTS[self.retriever.kind]}, 3] for {self.retriever.kind}"
            raise ValueError(f"a live pose must be {wanted}, not {tuple(theta.shape)}")
        pose = theta.detach().cpu().numpy()
        if not np.isfinite(pose).all():
            raise ValueError("the live pose is not finite")
        query = self._embedding(pose)[self.slots]
        return query, *self.search.search(query, self.k)


class LiveGreedy(_Live):
    """`Retriever` (`retrieval=r3`) for poses that come one by one; it never waits."""

    def __init__(self, retriever: Retriever):
        super().__init__(retriever, EMBEDDED_JOINTS[retriever.kind], False, None, retriever.k)
        self._window = retriever.window * retriever._spacing()
        self._last: list[tuple] | None = None

    def push(self, theta: Tensor) -> Retrieved:
        """Take the next frame's pose [J, 3]; returns its times [1, 5]."""
        _, distances, rows = self._candidates(theta)
        candidates = zip(distances.tolist(), self.times[rows].tolist())
        last = self._last
        found = [choose(*part, self._window, None if last is None else last[p][0]) for p, part in enumerate(candidates)]
        self._last = found
        floats = torch.tensor(found, dtype=torch.float32).T[:, None]  # [4, 1, 5]
        return Retrieved(floats[0], floats[1], floats[2], floats[3].long())

    def finish(self) -> list[Retrieved]:
        """Nothing is open; then a new query may begin."""
        self._last = None
        self._embedding.forget()
        return []


class LiveMixture(_Live):
    """`MixtureRetriever` (`retrieval=mixture`) for poses that come one by one; it never waits."""

    def __init__(self, retriever: MixtureRetriever):
        known = 1 if retriever.times is None else len(retriever.times)
        if known > MOST:
            raise ValueError(f"live retrieval mixes up to {MOST} recorded frames, not {known}; set retrieval.most=512")
        super().__init__(retriever, EMBEDDED_JOINTS[retriever.kind], True, retriever.up, known)
        self._frames = retriever.times.cpu()
        self._general_shares, self._pictures = retriever.general_shares, retriever.pictures
        self._bandwidths = retriever.bandwidths.double().cpu().numpy()[:, None]

    def push(self, theta: Tensor) -> Mixture:
        """Take the next frame's pose [J, 3]; returns its shares [1, 5, D]."""
        _, distances, rows = self._candidates(theta)  # [5, D], the nearest first
        powers = -((distances / self._bandwidths) ** 2) / 2
        shares = np.exp(powers - powers[:, :1])
        shares /= shares.sum(1, keepdims=True)
        weights = np.zeros_like(shares)
        np.put_along_axis(weights, rows, shares, 1)
        mean = torch.from_numpy((shares * distances).sum(1)).float()
        general = self._general_shares(mean[None])
        return Mixture(self._frames, torch.from_numpy(weights).float()[None], mean[None], general, self._pictures)

    def finish(self) -> list[Mixture]:
        """Nothing is open; then a new query may begin."""
        self._embedding.forget()
        return []


class LiveRetrieval(_Live):
    """Poses in, times out `latency` frames later: the same as `ViterbiRetriever.retrieve` with that latency."""

    def __init__(self, retriever: ViterbiRetriever):
        joints = (JOINTS if retriever.hands else EMBEDDED_JOINTS)[retriever.kind]
        up = retriever.up if retriever.heading_free else None
        k = len(retriever.times) if retriever.k is None and retriever.times is not None else retriever.k
        super().__init__(retriever, joints, retriever.geodesic, up, k or 1)
        self._jump, self._fade = retriever._jump(), retriever._fade()
        self._path = OnlinePath(self._jump, retriever.latency or 0)
        self._gap = 1.5 * retriever._spacing() if retriever.fractional else 0.0
        self._before: Array | None = None  # [5] the recorded times last chosen
        self._waiting: deque[tuple] = deque()

    def push(self, theta: Tensor) -> Retrieved | None:
        """Take the next frame's pose [J, 3]; returns the times [1, 5] of the frame `latency` before it, if there is."""
        query, distances, rows = self._candidates(theta)
        times = self.times[rows]
        self._waiting.append((query, rows, times))
        choice = self._path.push(distances, times)
        return self._decided(choice[0]) if len(choice) else None

    def finish(self) -> list[Retrieved]:
        """The times of the frames that are still open, no more being to come; then a new query may begin."""
        found = [self._decided(choice) for choice in self._path.finish()]
        self._fade, self._before = self.retriever._fade(), None
        self._embedding.forget()
        return found

    def _decided(self, choice: Array) -> Retrieved:
        """The oldest frame that waits, with the candidates `choice` [5]."""
        query, rows, times = self._waiting.popleft()
        every = np.arange(len(PARTS))
        rows, frame = rows[every, choice], times[every, choice]
        search = self.search
        exact, distances = live_times(
            query, search.measures, search.places, search.starts, rows, self.times, self._gap, search.angles
        )
        if self._before is None:
            jumped, inside = np.zeros(len(PARTS), bool), np.full(len(PARTS), -1)
        else:
            jumped = self._jump.leaves(self._before, frame)
            inside = (~self._jump.leaves(self._before[:, None], times)).sum(-1)
        previous, share = self._fade(exact, jumped)
        self._before = frame
        floats = torch.from_numpy(np.stack([exact, previous, distances, share])).float()[:, None]
        neighbours = torch.from_numpy(inside)[None]
        return Retrieved(floats[0], floats[1], floats[2], neighbours, floats[3], self.retriever.align_rotations)
