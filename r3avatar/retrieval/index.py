"""Exact nearest frames of one body part under the method's own distance."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

log = logging.getLogger(__name__)

_CHUNK_ELEMENTS = 1 << 22  # differences held at once, so that a long query does not fill the memory


def resolve_backend(backend: str) -> str:
    """'faiss' or 'torch'; 'auto' is faiss where it is installed (logged).

    Raises:
        ModuleNotFoundError: 'faiss' is asked for by name and not installed.
    """
    if backend not in ("auto", "faiss", "torch"):
        raise ValueError(f"retrieval backend {backend!r} is unknown; expected 'auto', 'faiss' or 'torch'")
    installed = importlib.util.find_spec("faiss") is not None
    if backend == "faiss" and not installed:
        raise ModuleNotFoundError(
            "retrieval.backend=faiss needs faiss: pip install 'r3avatar[faiss]' (CUDA machines: 'r3avatar[gpu]'), "
            "or set retrieval.backend=torch, which gives the same answers"
        )
    if backend == "auto":
        backend = "faiss" if installed else "torch"
        log.info("retrieval backend: %s", backend)
    return backend


def pose_distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean over joints of the Euclidean norm of the difference of the joints' vectors: [..., J', 9] twice gives [...].

    Source: R3-Avatar (arXiv 2503.12751), retrieval by temporal pose similarity.
    """
    return torch.linalg.vector_norm(a - b, dim=-1).mean(dim=-1)


class PartIndex:
    """The recorded frames' embeddings of one part, searchable for the k nearest.

    The distance is `pose_distance` or any that is nowhere smaller. Both backends return the same ids and distances.
    'torch' measures every frame. 'faiss' searches plain L2, which bounds `pose_distance`: with d all joints'
    differences together, |d| / J <= mean_j |d_j| <= |d| / sqrt(J). Candidates are measured exactly, and their number
    grows until the first bound proves that no other frame can be among the k.
    """

    def __init__(
        self,
        embedding: Tensor,
        joints: Sequence[int],
        backend: str = "auto",
        distance: Callable[[Tensor, Tensor], Tensor] = pose_distance,
    ):
        """
        Args:
            embedding: [T, J', C] of the recorded frames; C = 9 for `pose_embedding`.
            joints: the part's joints, numbers into J'.
            backend: 'auto', 'faiss' or 'torch' (see `resolve_backend`).
            distance: of embeddings [..., P, C] twice, gives [...]; at least `pose_distance` of them everywhere.
        """
        self.backend = resolve_backend(backend)
        self.joints = list(joints)
        self.distance, self.width = distance, embedding.shape[-1]
        self.bank = _part(embedding, self.joints, self.width, "recorded")  # [T, P, C]
        if len(self.bank) == 0:
            raise ValueError("no recorded frames: a retrieval index needs at least one")
        self._index = None
        if self.backend == "faiss":
            import faiss

            flat = self.bank.flatten(1).float().cpu()
            self._largest = flat.square().sum(-1).max()
            self._index = faiss.IndexFlatL2(flat.shape[1])
            self._index.add(flat.numpy())

    def __len__(self) -> int:
        return len(self.bank)

    def search(self, query: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The min(k, T) nearest recorded frames of each query frame.

        Args:
            query: [Q, J', C] embeddings.
            k: frames wanted, at least 1.

        Returns:
            Distances [Q, k'] ascending, and ids [Q, k'] int64 into the recorded frames;
            at equal distances the lower id comes first.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}")
        query = self.part(query)
        k = min(k, len(self))
        if self._index is None or len(query) == 0:
            return self._search_all(query, k)
        return self._search_candidates(query, k)

    def part(self, query: Tensor) -> Tensor:
        """The part's joints [Q, P, C] of query embeddings [Q, J', C], as the recorded ones are kept."""
        return _part(query, self.joints, self.width, "query").to(self.bank)

    def nearest_on_average(self, query: Tensor) -> int:
        """The recorded frame with the least sum of distances to all query frames [Q, J', C]; the first of equals."""
        query = self.part(query)
        total = torch.zeros(len(self), dtype=torch.float64, device=query.device)
        for some in query.split(max(1, _CHUNK_ELEMENTS // self.bank.numel())):
            total += self.distance(some[:, None], self.bank[None]).double().sum(0)
        return int(total.argmin())

    def _search_all(self, query: Tensor, k: int) -> tuple[Tensor, Tensor]:
        every = torch.arange(len(self), device=query.device)
        rows = max(1, _CHUNK_ELEMENTS // self.bank.numel())
        parts = [_nearest(self.distance(q[:, None], self.bank[None]), every, k) for q in query.split(rows)]
        if not parts:
            return query.new_zeros(0, k), torch.zeros(0, k, dtype=torch.int64, device=query.device)
        return torch.cat([d for d, _ in parts]), torch.cat([i for _, i in parts])

    def _search_candidates(self, query: Tensor, k: int) -> tuple[Tensor, Tensor]:
        T, P = self.bank.shape[:2]
        flat = query.flatten(1).float().cpu()
        # faiss may compute |a|^2 + |b|^2 - 2ab in float32: this much its squared distances can be off.
        slack = 64 * torch.finfo(torch.float32).eps * (flat.square().sum(-1) + self._largest)  # [Q]
        distances = query.new_empty(len(query), k)
        ids = torch.empty(len(query), k, dtype=torch.int64, device=query.device)
        open_ = torch.arange(len(query))  # queries not yet proven exact
        C = 2 * k
        while len(open_) and C < T // 2:  # from there on measuring every frame is cheaper
            squared, candidates = (torch.from_numpy(x) for x in self._index.search(flat[open_].numpy(), C))
            rows = max(1, _CHUNK_ELEMENTS // (C * self.bank[0].numel()))
            for some, some_ids in zip(open_.split(rows), candidates.sort(dim=-1).values.split(rows)):
                some, some_ids = some.to(query.device), some_ids.to(query.device)
                exact = self.distance(query[some][:, None], self.bank[some_ids])
                distances[some], ids[some] = _nearest(exact, some_ids, k)
            # Every other frame is in L2 at least as far as the last candidate. Strictly: a tie may have a lower id.
            others = (squared[:, -1] - slack[open_]).clamp_min(0).sqrt() / P
            open_ = open_[distances[open_, -1].cpu() >= others]
            C *= 4
        if len(open_):
            rest = open_.to(query.device)
            distances[rest], ids[rest] = self._search_all(query[rest], k)
        return distances, ids


def _nearest(distances: Tensor, ids: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k smallest of [Q, C] distances, whose ids ([C] or [Q, C]) ascend; a stable sort keeps lower ids first."""
    distances, order = distances.sort(dim=-1, stable=True)
    return distances[:, :k], ids.expand_as(order).gather(-1, order[:, :k])


def _part(embedding: Tensor, joints: list[int], width: int, name: str) -> Tensor:
    if embedding.ndim != 3 or embedding.shape[-1] != width or embedding.shape[1] <= max(joints):
        shape = tuple(embedding.shape)
        raise ValueError(f"{name} embedding must be [T, J', {width}] with J' > {max(joints)}, not {shape}")
    part = embedding[:, joints].contiguous()
    finite = part.flatten(1).isfinite().all(-1)
    if not finite.all():
        raise ValueError(f"{name} poses are not finite at row {int((~finite).nonzero()[0])}")
    return part
