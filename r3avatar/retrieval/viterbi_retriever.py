"""Retrieval by the least sum of pose distances and jump costs over the whole query, or live with a fixed latency."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from r3avatar.retrieval.crossfade import CrossFade
from r3avatar.retrieval.fractional import fractional_times
from r3avatar.retrieval.index import PartIndex, pose_distance
from r3avatar.retrieval.live import LiveRetrieval
from r3avatar.retrieval.parts import BLENDING_JOINTS, EMBEDDED_JOINTS, JOINTS, PARTS, RETRIEVAL_JOINTS
from r3avatar.retrieval.retrieved import Retrieved
from r3avatar.retrieval.retriever import _Retriever
from r3avatar.retrieval.rotation_embedding import geodesic_distance, given_up, rotation_embedding, world_up
from r3avatar.retrieval.viterbi import JumpCost, OnlinePath, best_path


class ViterbiRetriever(_Retriever):
    """Each part's best path through its nearest frames; what a jump costs is weighed against the poses it gains.

    Where `Retriever` decides frame by frame, here the whole query is one optimum (`viterbi.best_path`), or `latency`
    frames of it at a time. Times are fractional, jumps are cross-faded over `fade_frames`, rotations mixed with aligned
    signs. Answers for a frame depend on the query's frames alone, never on which of them are evaluated.
    """

    def __init__(
        self,
        kind: str,
        backend: str = "auto",
        k: int | None = 64,
        jump_cost: float = 0.5,
        reach: float = 3.0,
        latency: int | None = None,
        geodesic: bool = True,
        heading_free: bool = True,
        up: Sequence[float] | None = None,
        hands: bool = False,
        fractional: bool = True,
        fade_frames: int = 3,
        align_rotations: bool = True,
    ):
        """
        Args:
            kind: 'smpl' or 'smplx', which decides the parts.
            backend: 'auto', 'faiss' or 'torch'; the answers are the same.
            k: candidates a part and frame (all frames where fewer are recorded); None = all frames.
            jump_cost: of leaving the timeline, radians of mean pose distance.
            reach: deviation from playing on at which it is left, in steps of the frames that can be retrieved.
            latency: frames of the future that a frame's choice waits for; None = the whole query.
            geodesic: joint rotations differ by their angle; False = by their axis-angle vectors, as published.
            heading_free: where the person faces does not count; False = it does, as published.
            up: [3] the world's up, for `heading_free`; None = the axis nearest to the recorded bodies' own up.
            hands: SMPL-X fingers count with their arm, each as much as any of its joints.
            fractional: times between frames.
            fade_frames: frames of a cross-fade; 0 = none.
            align_rotations: mix rotations with aligned signs (`blending.align_rotations`).
        """
        super().__init__(kind, backend)
        if k is not None and k < 1:
            raise ValueError(f"k = {k} must be at least 1, or null for all frames")
        if (latency is not None and latency < 0) or fade_frames < 0:
            raise ValueError(f"latency = {latency} and fade_frames = {fade_frames} must be 0 or more")
        if hands and kind == "smpl":
            raise ValueError("hands=true needs an SMPL-X body: SMPL has no finger joints")
        self._given_up = given_up(up)
        JumpCost(jump_cost, reach)  # its checks, now
        self.k, self.jump_cost, self.reach, self.latency = k, jump_cost, reach, latency
        self.geodesic, self.heading_free, self.hands = geodesic, heading_free, hands
        self.fractional, self.fade_frames, self.align_rotations = fractional, fade_frames, align_rotations
        self.up: Tensor | None = None

    def fit(self, theta: Tensor, times: Tensor, bank: Tensor | None = None):
        """As `Retriever.fit`; where `up` is not given it is told from these poses (`world_up`)."""
        self._check(theta)
        if self.heading_free and len(theta):
            self.up = world_up(theta) if self._given_up is None else self._given_up.to(theta)
        return super().fit(theta, times, bank)

    def retrieve(self, theta: Tensor, history: Tensor | None = None) -> Retrieved:
        """Times for a query sequence; arguments as for `Retriever.retrieve`."""
        embedding, distances, ids, times = self._candidates(theta, history)
        if self.latency is None:
            choice = best_path(distances, times, self._jump())
        else:
            online = OnlinePath(self._jump(), self.latency)
            decided = [online.push(*frame) for frame in zip(distances, times)]
            choice = np.concatenate([*decided, online.finish().reshape(-1, len(PARTS))])
        return self._retrieved(embedding, times, ids, choice, _Thread(self._fade()))

    def live(self) -> LiveRetrieval:
        """A query whose frames come one by one, on the CPU; `latency` = null counts as 0."""
        return LiveRetrieval(self)

    def _parts(self) -> tuple[tuple[int, ...], ...]:
        return (BLENDING_JOINTS if self.hands else RETRIEVAL_JOINTS)[self.kind]

    def _embedding(self, theta: Tensor, history: Tensor | None = None) -> Tensor:
        joints = (JOINTS if self.hands else EMBEDDED_JOINTS)[self.kind]
        history = None if history is None else history[:, :joints]
        return rotation_embedding(theta[:, :joints], history, self.geodesic, self.up if self.heading_free else None)

    def _index(self, embedding: Tensor, joints: tuple[int, ...]) -> PartIndex:
        return PartIndex(embedding, joints, self.backend, geodesic_distance if self.geodesic else pose_distance)

    def _candidates(self, theta: Tensor, history: Tensor | None):
        """Embedding [Q, J', C]; and on the host, for the dynamic program, distances, ids and times [Q, 5, k]."""
        embedding, distances, ids = self._search_ids(theta, history, self.k)
        host = ids.cpu().numpy()
        return embedding, distances.double().cpu().numpy(), host, self.times.double().cpu().numpy()[host]

    def _jump(self) -> JumpCost:
        return JumpCost(self.jump_cost, self.reach * self._spacing())

    def _fade(self) -> CrossFade:
        return CrossFade(self.fade_frames, len(PARTS), 1.0, float(self.times[0]), float(self.times[-1]))

    def _retrieved(
        self, embedding: Tensor, times: np.ndarray, ids: np.ndarray, choice: np.ndarray, thread: _Thread
    ) -> Retrieved:
        """What was chosen ([Q, 5] of the candidates [Q, 5, k]), refined and faded, after the frames of `thread`."""
        jump = self._jump()
        chosen = np.take_along_axis(ids, choice[..., None], -1)[..., 0]
        columns = [self._time(p, embedding, torch.from_numpy(chosen[:, p])) for p in range(len(PARTS))]
        exact, distances = (torch.stack(x, 1) for x in zip(*columns))
        rows = []
        for q, now in enumerate(exact.double().cpu().numpy()):
            frame = np.take_along_axis(times[q], choice[q][:, None], -1)[:, 0]
            inside = (~jump.leaves(thread.before[:, None], times[q])).sum(-1)
            rows.append([*thread.fade(now, jump.leaves(thread.before, frame)), np.where(thread.started, inside, -1)])
            thread.before, thread.started = frame, True
        found = torch.from_numpy(np.array(rows, np.float64).reshape(-1, 3, len(PARTS)))
        previous, share = found[:, 0].to(exact), found[:, 1].to(exact)
        neighbours = found[:, 2].to(exact.device, torch.int64)
        return Retrieved(exact, previous, distances, neighbours, share, self.align_rotations)

    def _time(self, part: int, embedding: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        index = self._indices[part]
        if self.fractional:
            return fractional_times(index, self.times, embedding, ids, 1.5 * self._spacing())
        ids = ids.to(index.bank.device)
        query = embedding[:, index.joints].to(index.bank)
        return self.times[ids].to(index.bank), index.distance(query, index.bank[ids])


class _Thread:
    """What a query's next frame has to know of those before it."""

    def __init__(self, fade: CrossFade):
        self.fade = fade
        self.before = np.full(len(PARTS), np.nan)  # the recorded frames last chosen
        self.started = False
