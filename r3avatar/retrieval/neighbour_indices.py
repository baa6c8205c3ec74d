"""faiss's approximate indices of one part, whose candidates are measured exactly; faiss is imported where it is used.

They are searched by plain L2 over the part's numbers, which is not the method's distance: more candidates than wanted
are asked for, and the best of them by `geodesic_distance` count.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from r3avatar.retrieval.pruned_search import distances_by_hand

Array = np.ndarray

_MORE = 8  # candidates for each neighbour wanted
_CHUNK = 65536  # rows added at a time


def make(bank: Array, method: str):
    """A faiss index of [T, P, C] float32 (memory-mapped or not), numbers kept in 16 bits: 'ivf' or 'hnsw'."""
    faiss = _faiss()
    T, D = len(bank), int(np.prod(bank.shape[1:]))
    half = faiss.ScalarQuantizer.QT_fp16
    if method == "hnsw":
        index = faiss.IndexHNSWSQ(D, half, 32)
        index.hnsw.efConstruction = 80
        sample = 1024
    else:
        lists = int(max(1, min(4 * T**0.5, T / 39)))  # 39 points a list are the fewest that faiss trains with
        index = faiss.index_factory(D, f"IVF{lists},SQfp16", faiss.METRIC_L2)
        sample = 64 * lists
    rows = np.sort(np.random.default_rng(0).choice(T, min(T, sample), replace=False))
    index.train(_flat(bank[rows]))
    add(index, bank)
    return index


def add(index, bank: Array) -> None:
    """Add rows [T, P, C]."""
    for start in range(0, len(bank), _CHUNK):
        index.add(_flat(bank[start : start + _CHUNK]))


def save(index, path: Path) -> None:
    """Write an index (of the CPU) so that a reader sees the old file or the new one."""
    temporary = path.with_name(path.name + ".part")
    _faiss().write_index(index, str(temporary))
    os.replace(temporary, path)


def load(path: Path, gpu: bool = False, whole: bool = False):
    """Read an index: an inverted file's lists are memory-mapped, and cannot be added to unless `whole` reads them.

    gpu: put it there, with faiss-gpu.
    """
    faiss = _faiss()
    if not gpu:
        return faiss.read_index(str(path), 0 if whole else faiss.IO_FLAG_MMAP)
    if not hasattr(faiss, "StandardGpuResources") or faiss.get_num_gpus() == 0:
        raise ModuleNotFoundError(
            "an index on the GPU needs faiss-gpu (pip install 'r3avatar[gpu]', without faiss-cpu) and a CUDA device; "
            "gpu=False searches on the CPU"
        )
    index = faiss.read_index(str(path))
    if not isinstance(faiss.downcast_index(index), faiss.IndexIVF):
        raise ValueError(f"{path}: faiss has no GPU form of this index; build(method='ivf') makes one that it has")
    return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)


def search(index, queries: Array, bank: Array, k: int, probes: int) -> tuple[Array, Array]:
    """Distances and rows [Q, k] of the nearest to [Q, P, C]; infinite and -1 where fewer were found.

    probes: lists that an inverted file reads; a graph's search is 8 times as broad.
    """
    faiss = _faiss()
    try:
        faiss.ParameterSpace().set_index_parameter(index, "nprobe", probes)
    except RuntimeError:  # a graph has other parameters
        faiss.downcast_index(index).hnsw.efSearch = max(8 * probes, _MORE * k)
    _, candidates = index.search(_flat(queries), min(len(bank), _MORE * k))
    distances, rows = np.full((len(queries), k), np.inf), np.full((len(queries), k), -1)
    for q, found in enumerate(candidates):
        found = np.unique(found[found >= 0])  # ascending: the lower row first at equal distances
        exact = distances_by_hand(queries[q], np.asarray(bank[found]), np.array([0, bank.shape[1]]), True)[0]
        order = np.argsort(exact, kind="stable")[:k]
        distances[q, : len(order)], rows[q, : len(order)] = exact[order], found[order]
    return distances, rows


def _flat(bank: Array) -> Array:
    return np.ascontiguousarray(bank.reshape(len(bank), -1), np.float32)


def _faiss():
    try:
        import faiss
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "an approximate index needs faiss: pip install 'r3avatar[faiss]' (CUDA machines: 'r3avatar[gpu]'), or "
            "build(method='exact')",
            name="faiss",
        ) from error
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if faiss.omp_get_max_threads() > processors:  # by itself it takes the machine's, whatever this process may use
        faiss.omp_set_num_threads(processors)
    return faiss
