"""One index of the recorded frames of many captures and people, kept in a folder."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from r3avatar.retrieval import neighbour_indices as approximate
from r3avatar.retrieval.parts import EMBEDDED_JOINTS, JOINTS, PARTS, RETRIEVAL_JOINTS, check_kind
from r3avatar.retrieval.pruned_search import PrunedSearch, nearest_by_hand
from r3avatar.retrieval.retrieved import RetrievalError
from r3avatar.retrieval.rotation_embedding import rotation_embedding, world_up

Array = np.ndarray

VERSION, WIDTH = 1, 15
_EXACT_BYTES = 4 * (WIDTH + 6)  # of memory a frame and joint of an exact search


@dataclass
class Neighbours:
    """What `FrameIndex.search` found, [Q, 5, k] each, nearest first; row = -1 where no more were found."""

    distances: Array  # float64 `geodesic_distance`, radians; infinite where row = -1
    rows: Array  # int64 rows of the index
    captures: Array  # int64 numbers into `FrameIndex.captures`; -1 where row = -1
    frames: Array  # int64 the capture's own frame ids; -1 likewise


class FrameIndex:
    """Nearest recorded frames, part by part, among all that were appended; where people face does not count.

    The folder holds the embeddings and frame ids as plain arrays, which are memory-mapped, `index.json`, and what
    `build` made. It is complete after every call: rows beyond those that index.json counts are of an append that was
    cut off, and are overwritten by the next.
    """

    def __init__(self, folder: str | Path, gpu: bool = False):
        """Open what `create` made; gpu: search an `ivf` index with faiss-gpu."""
        self.folder = Path(folder)
        path = self.folder / "index.json"
        if not path.is_file():
            raise RetrievalError(f"{folder} holds no frame index (no index.json); make one with FrameIndex.create")
        self._about = json.loads(path.read_text())
        if self._about.get("version") != VERSION:
            raise RetrievalError(f"{path} is of version {self._about.get('version')}; this one reads {VERSION}")
        self.kind = self._about["kind"]
        self._parts = RETRIEVAL_JOINTS[self.kind]
        self._slots = [joint for part in self._parts for joint in part]
        self._starts = np.cumsum([0, *(len(part) for part in self._parts)])
        self._gpu, self._exact, self._indices = gpu, None, None

    @classmethod
    def create(cls, folder: str | Path, kind: str) -> FrameIndex:
        """A new, empty index of one body's kind, 'smpl' or 'smplx', in a folder that holds none."""
        check_kind(kind)
        folder = Path(folder)
        if (folder / "index.json").exists():
            raise FileExistsError(f"{folder} holds a frame index already; open it with FrameIndex(folder)")
        folder.mkdir(parents=True, exist_ok=True)
        _write_json(folder / "index.json", {"version": VERSION, "kind": kind, "captures": [], "built": None})
        return cls(folder)

    def __len__(self) -> int:
        return sum(capture["frames"] for capture in self._about["captures"])

    @property
    def captures(self) -> list[str]:
        """The names of what was appended, in that order."""
        return [capture["name"] for capture in self._about["captures"]]

    @property
    def built(self) -> dict | None:
        """What `build` made: {"method", "recall", ...}; None before it."""
        return self._about["built"]

    @property
    def embedding(self) -> Array:
        """[T, S, 15] float32, memory-mapped: each part's joints one after the other."""
        return self._rows("embedding.f32", np.float32, (len(self._slots), WIDTH))

    @property
    def frames(self) -> Array:
        """[T] int64, memory-mapped: the captures' own frame ids."""
        return self._rows("frames.i64", np.int64, ())

    def append(self, name: str, theta: Tensor, frames: Sequence[int], up: Sequence[float] | None = None) -> None:
        """Add a capture's frames.

        Args:
            name: of the capture, not yet in the index.
            theta: [T, J, 3] axis-angle of its frames, the root first.
            frames: [T] its frame ids, ascending; a gap begins a new sequence, whose first frames have no steps.
            up: [3] up in its world; None: told from the poses (`world_up`).
        """
        if name in self.captures:
            raise RetrievalError(f"{self.folder} has the capture '{name}' already; names must differ")
        ids = np.asarray(frames, np.int64)
        if theta.ndim != 3 or theta.shape[1:] != (JOINTS[self.kind], 3) or ids.shape != (len(theta),) or not len(ids):
            wanted = f"[T, {JOINTS[self.kind]}, 3] and [T], T > 0,"
            raise ValueError(f"{name}: poses and frame ids must be {wanted} not {tuple(theta.shape)} and {ids.shape}")
        if not (np.diff(ids) > 0).all():
            raise ValueError(f"{name}: frame ids must ascend")
        if not theta.isfinite().all():
            wrong = int((~theta.isfinite()).flatten(1).any(1).nonzero()[0])
            raise ValueError(f"{name}: the pose of frame {ids[wrong]} is not finite")
        theta = theta.detach().cpu().float()
        direction = world_up(theta) if up is None else torch.tensor([float(x) for x in up])
        runs = np.split(np.arange(len(ids)), np.flatnonzero(np.diff(ids) != 1) + 1)
        rows = torch.cat([self._embed(theta[run[0] : run[-1] + 1], None, direction) for run in runs]).numpy()
        start = len(self)
        for file, array in (("embedding.f32", rows), ("frames.i64", ids)):
            _append(self.folder / file, np.ascontiguousarray(array), start)
        self._about["captures"].append({"name": name, "frames": len(ids)})
        self._exact = None
        if self.built is not None and self.built["method"] != "exact":
            self._about["built"] = {**self.built, "recall": None}  # it was measured on what was there
            for p in range(len(PARTS)):
                index = approximate.load(self._path(p), whole=True)
                approximate.add(index, rows[:, self._starts[p] : self._starts[p + 1]])
                approximate.save(index, self._path(p))
            self._indices = None
        _write_json(self.folder / "index.json", self._about)

    def build(
        self, method: str = "auto", exact_gib: float = 4.0, probes: int = 32, queries: int = 50, k: int = 20
    ) -> dict:
        """Prepare searching; returns `built`.

        Args:
            method: 'exact' (`PrunedSearch`, in memory), 'ivf' or 'hnsw' (faiss, candidates measured exactly); 'auto':
                exact where it takes at most `exact_gib` GiB of memory, ivf beyond.
            probes: lists that an ivf search reads, or hnsw's breadth / 8.
            queries, k: recall at k is measured with so many recorded frames, moved by 0.05 in every number.
        """
        if len(self) == 0:
            raise RetrievalError(f"{self.folder} has no frames yet: append some")
        if method not in ("auto", "exact", "ivf", "hnsw"):
            raise ValueError(f"method {method!r} is unknown; expected 'auto', 'exact', 'ivf' or 'hnsw'")
        if method == "auto":
            fits = len(self) * len(self._slots) * _EXACT_BYTES <= exact_gib * 2**30
            method = "exact" if fits else "ivf"
        self._indices = None
        built = {"method": method, "probes": probes, "k": k, "recall": 1.0}
        if method != "exact":
            bank = self.embedding
            for p, (start, end) in enumerate(zip(self._starts, self._starts[1:])):
                approximate.save(approximate.make(bank[:, start:end], method), self._path(p))
            self._about["built"] = built
            built["recall"] = self._recall(queries, k)
        self._about["built"] = built
        _write_json(self.folder / "index.json", self._about)
        return built

    def search(self, theta: Tensor, k: int = 20, history: Tensor | None = None, up=None) -> Neighbours:
        """The k nearest frames of each part for consecutive poses [Q, J, 3]; history, up as for the embedding.

        up: [3] in the query's world; None: told from the query's poses.
        """
        if theta.ndim != 3 or theta.shape[1:] != (JOINTS[self.kind], 3):
            raise ValueError(f"poses must be [Q, {JOINTS[self.kind]}, 3], not {tuple(theta.shape)}")
        if not theta.isfinite().all():
            raise ValueError("the query's poses are not finite")
        theta = theta.detach().cpu().float()
        direction = world_up(theta) if up is None else torch.tensor([float(x) for x in up])
        distances, rows = self._nearest(self._embed(theta, history, direction).numpy(), k)
        captures, frames = self.where(rows)
        return Neighbours(distances, rows, captures, frames)

    def where(self, rows: Array) -> tuple[Array, Array]:
        """Numbers into `captures` and frame ids of rows of any shape; -1 and -1 where a row is -1."""
        ends = np.cumsum([capture["frames"] for capture in self._about["captures"]])
        none = rows < 0
        captures = np.where(none, -1, np.searchsorted(ends, rows, side="right"))
        return captures, np.where(none, -1, self.frames[np.maximum(rows, 0)])

    def _nearest(self, queries: Array, k: int) -> tuple[Array, Array]:
        """Distances and rows [Q, 5, k] for embeddings [Q, S, 15]."""
        if self.built is None:
            raise RetrievalError(f"{self.folder} is not built yet: call build()")
        k = min(k, len(self))
        if self.built["method"] == "exact":
            if self._gpu:
                raise RetrievalError("an exact index is searched on the CPU; build(method='ivf') makes one for a GPU")
            if self._exact is None:
                self._exact = PrunedSearch(self.embedding, [len(part) for part in self._parts], angles=True, advance=1)
            found = [self._exact.search(query, k) for query in queries]
            return tuple(np.stack(x) for x in zip(*found))
        bank, columns = self.embedding, []
        for p, index in enumerate(self._loaded()):
            here = slice(self._starts[p], self._starts[p + 1])
            columns.append(approximate.search(index, queries[:, here], bank[:, here], k, self.built["probes"]))
        return tuple(np.stack(x, 1) for x in zip(*columns))

    def _recall(self, queries: int, k: int) -> float:
        """The share of the exact k nearest that are found."""
        random, bank = np.random.default_rng(0), self.embedding
        chosen = np.sort(random.choice(len(self), min(queries, len(self)), replace=False))
        moved = (bank[chosen] + 0.05 * random.standard_normal((len(chosen), *bank.shape[1:]))).astype(np.float32)
        _, rows = self._nearest(moved, k)
        exact = [nearest_by_hand(query, bank, self._starts, k, True)[1] for query in moved]
        hits = [len(set(a) & set(b)) / len(b) for q, e in zip(rows, exact) for a, b in zip(q, e)]
        return float(np.mean(hits))

    def _embed(self, theta: Tensor, history: Tensor | None, up: Tensor) -> Tensor:
        joints = EMBEDDED_JOINTS[self.kind]
        history = None if history is None else history[:, :joints]
        return rotation_embedding(theta[:, :joints], history, True, up)[:, self._slots]

    def _loaded(self) -> list:
        if self._indices is None:
            self._indices = [approximate.load(self._path(p), self._gpu) for p in range(len(PARTS))]
        return self._indices

    def _path(self, part: int) -> Path:
        return self.folder / f"{PARTS[part]}.faiss"

    def _rows(self, file: str, dtype, shape: tuple[int, ...]) -> Array:
        if len(self) == 0:
            return np.zeros((0, *shape), dtype)
        return np.memmap(self.folder / file, dtype, "r", shape=(len(self), *shape))


def _append(path: Path, rows: Array, start: int) -> None:
    """Write rows behind the first `start`, over what an append that was cut off has left."""
    with open(path, "r+b" if path.exists() else "w+b") as file:
        file.seek(start * rows[0].nbytes)
        file.truncate()
        rows.tofile(file)


def _write_json(path: Path, value) -> None:
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(temporary, path)
