"""Retrieve: recorded times whose poses are most like a query's, part by part."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from r3avatar.retrieval.embedding import pose_embedding
from r3avatar.retrieval.index import PartIndex, resolve_backend
from r3avatar.retrieval.live import LiveGreedy
from r3avatar.retrieval.parts import EMBEDDED_JOINTS, JOINTS, PARTS, RETRIEVAL_JOINTS, check_kind
from r3avatar.retrieval.pruned_search import PrunedSearch
from r3avatar.retrieval.retrieved import Retrieved
from r3avatar.retrieval.smoothing import greedy


class _Retriever(ABC):
    """What both retrievers share: the recorded poses and the checks on them."""

    def __init__(self, kind: str, backend: str):
        check_kind(kind)
        self.kind = kind
        self.backend = resolve_backend(backend)
        self.times: Tensor | None = None  # [T] recorded frames that can be retrieved
        self._indices: list[PartIndex] = []
        self.searches: PrunedSearch | None = None  # of live queries, made by the first

    @abstractmethod
    def _parts(self) -> tuple[tuple[int, ...], ...]:
        """Joints of each group that is searched on its own."""

    def fit(self, theta: Tensor, times: Tensor, bank: Tensor | None = None):
        """Take the recorded sequence; returns self.

        Args:
            theta: [T, J, 3] axis-angle of consecutive recorded frames, the root first (J = 24 SMPL, 55 SMPL-X).
            times: [T] their times in frames, rising by 1: the embedding's rotation steps are steps of one frame.
            bank: [T] bool, the frames that may be retrieved (those with images, say); all of them unless given.
        """
        self._check(theta)
        times = torch.as_tensor(times, device=theta.device)
        if times.shape != theta.shape[:1]:
            raise ValueError(f"times must be [{len(theta)}], one for each pose, not {tuple(times.shape)}")
        steps = times.double().diff()
        if ((steps - 1).abs() > 1e-3).any():
            row = int(((steps - 1).abs() > 1e-3).nonzero()[0])
            raise ValueError(
                f"recorded poses must be of consecutive frames; times[{row}] = {float(times[row])} is followed by "
                f"{float(times[row + 1])}. Give the poses of every frame, and mark those to retrieve from with bank="
            )
        embedding = self._embedding(theta)
        if bank is not None:
            bank = torch.as_tensor(bank, dtype=torch.bool, device=theta.device)
            embedding, times = embedding[bank], times[bank]
        if len(times) == 0:
            raise ValueError("no recorded frames to retrieve from: `theta` is empty, or `bank` is all false")
        self.times = times
        self._indices = [self._index(embedding, joints) for joints in self._parts()]
        self.searches = None
        return self

    def _spacing(self) -> float:
        """Frames from one that can be retrieved to the next."""
        assert self.times is not None
        return float(self.times.double().diff().median()) if len(self.times) > 1 else 1.0

    def _index(self, embedding: Tensor, joints: tuple[int, ...]) -> PartIndex:
        return PartIndex(embedding, joints, self.backend)

    def _search(self, theta: Tensor, history: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
        """Distances and times [Q, parts, min(k, T)] of each part's nearest recorded frames."""
        _, distances, ids = self._search_ids(theta, history, k)
        return distances, self.times.to(distances)[ids]

    def _search_ids(self, theta: Tensor, history: Tensor | None, k: int | None) -> tuple[Tensor, Tensor, Tensor]:
        """Embedding [Q, J', C]; distances and numbers [Q, parts, min(k, T)] of each part's nearest recorded frames."""
        embedding = self._embed(theta, history)
        found = [index.search(embedding, len(index) if k is None else k) for index in self._indices]
        distances, ids = (torch.stack(x, dim=1) for x in zip(*found))
        return embedding, distances, ids

    def _embed(self, theta: Tensor, history: Tensor | None) -> Tensor:
        """A query's embedding, after the checks on it."""
        if self.times is None:
            raise RuntimeError("the retriever has no recorded poses: call fit(theta, times) first")
        self._check(theta)
        return self._embedding(theta, history)

    def _embedding(self, theta: Tensor, history: Tensor | None = None) -> Tensor:
        joints = EMBEDDED_JOINTS[self.kind]
        return pose_embedding(theta[:, :joints], None if history is None else history[:, :joints])

    def _check(self, theta: Tensor) -> None:
        if theta.ndim != 3 or theta.shape[1:] != (JOINTS[self.kind], 3):
            raise ValueError(f"theta must be [T, {JOINTS[self.kind]}, 3] for {self.kind}, not {tuple(theta.shape)}")


class Retriever(_Retriever):
    """The method's retrieval: each part's nearest frames, kept on its timeline by `smoothing.greedy`."""

    def __init__(self, kind: str, backend: str = "auto", k: int = 20, window: float = 3.0):
        """
        Args:
            kind: 'smpl' or 'smplx', which decides the parts.
            backend: 'auto', 'faiss' or 'torch'; the answers are the same.
            k: candidates a part and frame (all frames where fewer are recorded).
            window: how far a part may move along its timeline in one query frame, in steps of the frames that can be
                retrieved (recorded frames, or each n-th where `fit` was given such a bank).
        """
        super().__init__(kind, backend)
        if k < 1 or window <= 0:
            raise ValueError(f"k = {k} must be at least 1 and window = {window} positive")
        self.k, self.window = k, window

    def _parts(self) -> tuple[tuple[int, ...], ...]:
        return RETRIEVAL_JOINTS[self.kind]

    def retrieve(self, theta: Tensor, history: Tensor | None = None) -> Retrieved:
        """Times for a query sequence.

        Args:
            theta: [Q, J, 3] axis-angle of every frame of the query, consecutive, at the recording's frame rate. To
                evaluate each n-th frame, retrieve for all and index the result.
            history: [<=2, J, 3] the frames just before, for the first frames' rotation steps; clamped without it.
        """
        distances, times = self._search(theta, history, self.k)
        return greedy(distances, times, self.window * self._spacing())

    def live(self) -> LiveGreedy:
        """A query whose frames come one by one, on the CPU."""
        return LiveGreedy(self)


class _WholeBody(_Retriever):
    """One time for all parts, by the distance over all joints together."""

    def __init__(self, kind: str, backend: str = "auto"):
        super().__init__(kind, backend)

    def _parts(self) -> tuple[tuple[int, ...], ...]:
        return (tuple(range(EMBEDDED_JOINTS[self.kind])),)

    @staticmethod
    def _same_for_all(times: Tensor, distances: Tensor) -> Retrieved:
        """times, distances: [Q, 1]."""
        times, distances = (x.expand(-1, len(PARTS)).clone() for x in (times, distances))
        return Retrieved(
            times, torch.full_like(times, torch.nan), distances, torch.full(times.shape, -1).to(times.device)
        )


class NearestFrame(_WholeBody):
    """`retrieval=whole_body`: in every frame the nearest frame of the whole body; no parts, no smoothing."""

    def retrieve(self, theta: Tensor, history: Tensor | None = None) -> Retrieved:
        """Times for a query sequence; arguments and shapes as `Retriever.retrieve`, and no jumps."""
        distances, times = self._search(theta, history, k=1)  # [Q, 1, 1]
        return self._same_for_all(times[:, :, 0], distances[:, :, 0])


class FrozenTime(_WholeBody):
    """`retrieval=none`: appearance stands still, at the recorded frame nearest to all of the query on average."""

    def retrieve(self, theta: Tensor, history: Tensor | None = None) -> Retrieved:
        """One time for all frames of a query sequence; arguments and shapes as `Retriever.retrieve`."""
        embedding = self._embed(theta, history)
        (index,) = self._indices
        time = index.nearest_on_average(embedding) if len(theta) else 0
        distances = index.distance(index.part(embedding), index.bank[time])[:, None]
        return self._same_for_all(self.times.to(distances)[time].expand(len(theta), 1), distances)
