"""Retrieval by averaging: every recorded time counts, the more the nearer its pose is to the query's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from r3avatar.retrieval.index import PartIndex
from r3avatar.retrieval.live import LiveMixture
from r3avatar.retrieval.parts import EMBEDDED_JOINTS, RETRIEVAL_JOINTS
from r3avatar.retrieval.retrieved import Mixture
from r3avatar.retrieval.retriever import _Retriever
from r3avatar.retrieval.rotation_embedding import geodesic_distance, given_up, rotation_embedding, world_up

_PAIRED = 256  # recorded frames whose distances from each other set the bandwidths
_LEAST = 1e-6  # radians: the bandwidth of a recording that stands still


class MixtureRetriever(_Retriever):
    """`retrieval=mixture`: shares exp(-(d / h)^2 / 2) of the recorded frames, d the pose distance of a part.

    Loose cloth has history: one pose was recorded with several shapes of it, and a new motion has yet another. Which
    one is not to be known from the pose, and the guess of the least expected error is the mean of the likely ones
    (kernel regression, Nadaraya 1964 and Watson 1964). What is averaged are the Gaussians' attributes, not pictures:
    the result stays sharp. Shares change as continuously as the pose does, so there are no jumps to hide.

    The distance is that of `ViterbiRetriever`: geodesic, free of heading. The bandwidth h of a part is `bandwidth`
    times the median distance of two recorded frames: a part that moved much is compared more coarsely than one that
    was held still.
    """

    def __init__(
        self,
        kind: str,
        bandwidth: float = 0.25,
        most: int = 512,
        general: float = 0.0,
        pictures: int = 1,
        up: Sequence[float] | None = None,
    ):
        """
        Args:
            kind: 'smpl' or 'smplx', which decides the parts.
            bandwidth: of the kernel, as a share of the median pose distance of two recorded frames.
            most: recorded frames that take part; of a longer recording so many, evenly spaced, since an avatar keeps
                the attributes of each.
            general: how much the avatar's general moment counts beside the recorded ones, 0 to 1 (an avatar trained
                with codebook.general=true).
            pictures: 1: one picture of the averaged attributes; more: the mean of so many, each of a stretch of the
                recorded times (`Mixture.pieces`) and rendered by itself.
            up: [3] the world's up; None = the axis nearest to the recorded bodies' own up.
        """
        super().__init__(kind, "torch")
        if not bandwidth > 0 or most < 1:
            raise ValueError(f"bandwidth = {bandwidth} must be positive and most = {most} at least 1")
        if not 0 <= general <= 1:
            raise ValueError(f"general = {general} is a share: 0 to 1")
        if pictures < 1:
            raise ValueError(f"pictures = {pictures} must be at least 1")
        self.bandwidth, self.most, self.general, self.pictures = bandwidth, most, general, pictures
        self._given_up = given_up(up)
        self.up: Tensor | None = None
        self.bandwidths: Tensor | None = None  # [5] radians, of the parts

    def fit(self, theta: Tensor, times: Tensor, bank: Tensor | None = None):
        """As `Retriever.fit`; where `up` is not given it is told from these poses (`world_up`)."""
        self._check(theta)
        if len(theta):
            self.up = world_up(theta) if self._given_up is None else self._given_up.to(theta)
        bank = torch.ones(len(theta), dtype=torch.bool) if bank is None else torch.as_tensor(bank).bool().cpu()
        rows = bank.nonzero()[:, 0]
        if len(rows) > self.most:
            bank = torch.zeros_like(bank)
            bank[rows[torch.linspace(0, len(rows) - 1, self.most).round().long()]] = True
        super().fit(theta, times, bank)
        between = torch.stack([self._between(index) for index in self._indices])
        self.bandwidths = (between * self.bandwidth).clamp_min(_LEAST)
        return self

    def retrieve(self, theta: Tensor, history: Tensor | None = None) -> Mixture:
        """Shares for a query sequence; arguments as for `Retriever.retrieve`."""
        _, distances, ids = self._search_ids(theta, history, None)  # [Q, 5, D], the nearest first
        shares = torch.softmax(-(distances / self.bandwidths[:, None]).square() / 2, -1)
        weights, mean = torch.zeros_like(shares).scatter_(-1, ids, shares), (shares * distances).sum(-1)
        return Mixture(self.times, weights, mean, self.general_shares(mean), self.pictures)

    def general_shares(self, distances: Tensor) -> Tensor | None:
        """What the general moment counts [Q, 5], for a query whose mixtures have `distances` [Q, 5]."""
        return torch.full_like(distances, self.general) if self.general else None

    def live(self) -> LiveMixture:
        """A query whose frames come one by one, on the CPU."""
        return LiveMixture(self)

    def _parts(self) -> tuple[tuple[int, ...], ...]:
        return RETRIEVAL_JOINTS[self.kind]

    def _embedding(self, theta: Tensor, history: Tensor | None = None) -> Tensor:
        joints = EMBEDDED_JOINTS[self.kind]
        return rotation_embedding(theta[:, :joints], None if history is None else history[:, :joints], True, self.up)

    def _index(self, embedding: Tensor, joints: tuple[int, ...]) -> PartIndex:
        return PartIndex(embedding, joints, self.backend, geodesic_distance)

    @staticmethod
    def _between(index: PartIndex) -> Tensor:
        """The median distance of two recorded frames, of every n-th of many; 0 where there is but one."""
        bank = index.bank[:: 1 + (len(index) - 1) // _PAIRED]
        if len(bank) == 1:
            return bank.new_zeros(())
        pairs = torch.triu_indices(len(bank), len(bank), 1, device=bank.device).split(1 << 13, 1)
        return torch.cat([index.distance(bank[a], bank[b]) for a, b in pairs]).median()
