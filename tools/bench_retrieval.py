"""The nearest recorded frames, and the live path, by number of recorded frames: one Markdown table.

python tools/bench_retrieval.py                                    # 1000, 10000 and 100000 frames, everything there is
python tools/bench_retrieval.py --recorded 1000000 --methods pruned ivf live_r3 live_viterbi --motion swings
python tools/bench_retrieval.py --methods torch_cuda               # on a GPU

SMPL, five parts, 20 nearest frames of each, embedding of retrieval=viterbi. build: seconds from embeddings (live: from
poses) to the first answer; memory: of what is searched; ms: median of single queries that follow one motion, waited
for, by the clock (what else runs counts) and p90; CPU ms: median of the processor time of the calling thread; recall at
20: share of the exact 20 nearest that are found (10 queries). live_r3, live_viterbi: a pose in, five times out, with
embedding and smoothing (k = 20; k = 64, latency 0).
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import os
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from r3avatar.benchmarks.clock import synchronize
from r3avatar.benchmarks.retrieval import dances, motion
from r3avatar.retrieval import Retriever, ViterbiRetriever, neighbour_indices
from r3avatar.retrieval.index import PartIndex
from r3avatar.retrieval.parts import RETRIEVAL_JOINTS
from r3avatar.retrieval.pruned_search import PrunedSearch, nearest_by_hand
from r3avatar.retrieval.rotation_embedding import geodesic_distance, rotation_embedding

METHODS = ("torch", "torch_cuda", "faiss_flat", "pruned", "ivf", "hnsw", "live_r3", "live_viterbi")
PARTS = RETRIEVAL_JOINTS["smpl"]
SLOTS = [joint for part in PARTS for joint in part]
STARTS = np.cumsum([0, *(len(part) for part in PARTS)])
UP = torch.tensor([0.0, 1.0, 0.0])
K = 20


def embed(theta: Tensor) -> Tensor:
    """[T, 24, 15] in pieces: a million frames at once would fill the memory with what lies in between."""
    pieces = [
        rotation_embedding(theta[i : i + 100_000], theta[max(0, i - 2) : i], up=UP)
        for i in range(0, len(theta), 100_000)
    ]
    return torch.cat(pieces)


def prepare(method: str, theta: Tensor, bank: Tensor, probes: int) -> tuple[Callable, float]:
    """A method's search, taking a pose's number in the query, its pose and its embedding; and its memory in bytes."""
    if method.startswith("live"):
        retriever = (
            Retriever("smpl", "torch")
            if method == "live_r3"
            else ViterbiRetriever("smpl", "torch", latency=0, up=[0, 1, 0])
        )
        live = retriever.fit(theta, torch.arange(len(theta))).live()
        return lambda pose, row: live.push(pose), live.search.nbytes
    if method == "pruned":
        search = PrunedSearch(bank[:, SLOTS].numpy(), [len(part) for part in PARTS], angles=True)
        return lambda pose, row: search.search(row[SLOTS].numpy(), K)[1], search.nbytes
    if method in ("ivf", "hnsw"):
        own = [bank[:, list(part)].numpy() for part in PARTS]
        indices = [neighbour_indices.make(part, method) for part in own]
        size = sum(len(part) * (2 * part[0].size + (8 if method == "ivf" else 2 * 32 * 4 + 16)) for part in own)

        def approximate(pose, row):
            rows = [
                neighbour_indices.search(index, row[None, list(part)].numpy(), mine, K, probes)[1][0]
                for index, mine, part in zip(indices, own, PARTS)
            ]
            return np.stack(rows)

        return approximate, size + sum(part.nbytes for part in own)
    device = torch.device("cuda" if method == "torch_cuda" else "cpu")
    backend = "faiss" if method == "faiss_flat" else "torch"
    there = bank.to(device)
    indices = [PartIndex(there, part, backend, geodesic_distance) for part in PARTS]

    def exact(pose, row):
        rows = torch.stack([index.search(row[None].to(device), K)[1][0] for index in indices])
        synchronize(device)
        return rows.cpu().numpy()

    return exact, sum(index.bank.nbytes for index in indices) * (2 if backend == "faiss" else 1)


def measure(method: str, theta: Tensor, bank: Tensor, query: Tensor, rows: Tensor, seconds: float, probes: int) -> list:
    """The cells of a method's row."""
    start = time.perf_counter()
    call, size = prepare(method, theta, bank, probes)
    call(query[0], rows[0])
    built = time.perf_counter() - start
    wall, processor, begun, i = [], [], time.perf_counter(), 0
    while i < 5 or time.perf_counter() - begun < seconds:
        q = 1 + i % (len(query) - 1)
        clock, own = time.perf_counter(), time.thread_time()
        call(query[q], rows[q])
        wall.append(1e3 * (time.perf_counter() - clock))
        processor.append(1e3 * (time.thread_time() - own))
        i += 1
    recall = ""
    if not method.startswith("live"):
        slots = bank[:, SLOTS].numpy()
        hits = []
        for q in range(0, len(query), max(1, len(query) // 10)):
            exact = nearest_by_hand(rows[q, SLOTS].numpy(), slots, STARTS, K, True)[1]
            hits += [len(set(a) & set(b)) / len(b) for a, b in zip(call(query[q], rows[q]), exact)]
        recall = f"{np.mean(hits):.3f}"
    p90 = sorted(wall)[int(0.9 * (len(wall) - 1))]
    return [f"{built:.2f}", f"{size / 2**20:.0f}", f"{statistics.median(wall):.3f}", f"{p90:.3f}",
            f"{statistics.median(processor):.3f}", recall]  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recorded", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=None)
    parser.add_argument("--motion", choices=("dance", "swings"), default="dance")
    parser.add_argument("--seconds", type=float, default=3.0, help="of single queries")
    parser.add_argument("--threads", type=int, default=2, help="of torch and faiss; the rest needs one")
    parser.add_argument("--probes", type=int, default=32)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    if importlib.util.find_spec("faiss") is not None:
        import faiss

        faiss.omp_set_num_threads(a.threads)
    make = dances if a.motion == "dance" else lambda frames, seed: motion(frames, seed, "smpl")
    methods = a.methods or [m for m in METHODS if m != "torch_cuda" or torch.cuda.is_available()]
    query = make(400, 77)
    rows = embed(query)
    print(f"{a.motion}, {a.threads} threads, load {os.getloadavg()[0]:.1f} at the start", flush=True)
    print("| recorded | method | build s | memory MiB | ms | p90 ms | CPU ms | recall at 20 |\n" + "|---" * 8 + "|")
    for T in a.recorded:
        theta = make(T, 1)
        bank = embed(theta)
        for method in methods:
            cells = measure(method, theta, bank, query, rows, a.seconds, a.probes)
            print(f"| {T} | {method} | " + " | ".join(cells) + " |", flush=True)
            gc.collect()


if __name__ == "__main__":
    with torch.no_grad():
        main()
