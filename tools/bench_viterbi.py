"""How long retrieval=viterbi takes: python tools/bench_viterbi.py [--recorded 100 10000 100000] [--query 60].

Prints one row a recording: seconds to fit, and milliseconds a query frame of the search for candidates, of the path
through them, of all of it offline, and live with a latency of 3 frames. Poses are random walks.
"""

from __future__ import annotations

import argparse
import time
from itertools import pairwise

import torch

from r3avatar.retrieval import ViterbiRetriever
from r3avatar.retrieval.viterbi import best_path


def walk(T: int, seed: int) -> torch.Tensor:
    """[T, 24, 3] joint angles that wander and return."""
    steps = 0.05 * torch.randn(T, 24, 3, generator=torch.Generator().manual_seed(seed))
    return 0.6 * torch.sin(steps.cumsum(0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recorded", type=int, nargs="+", default=[100, 10_000, 100_000])
    parser.add_argument("--query", type=int, default=60)
    parser.add_argument("--backend", default="torch")
    arguments = parser.parse_args()
    query = walk(arguments.query, 1)
    ViterbiRetriever("smpl", arguments.backend, up=[0, 1, 0]).fit(query, torch.arange(len(query))).retrieve(query)
    print(f"{torch.get_num_threads()} threads, backend {arguments.backend}, {len(query)} query frames")
    print(f"{'recorded':>9} {'fit s':>7} {'search ms':>10} {'path ms':>8} {'all ms':>8} {'live ms':>8}")
    for T in arguments.recorded:
        retriever = ViterbiRetriever("smpl", arguments.backend, up=[0, 1, 0])
        times = [time.perf_counter()]
        retriever.fit(walk(T, 0), torch.arange(T))
        times.append(time.perf_counter())
        _, distances, _, candidates = retriever._candidates(query, None)
        times.append(time.perf_counter())
        best_path(distances, candidates, retriever._jump())
        times.append(time.perf_counter())
        retriever.retrieve(query)
        times.append(time.perf_counter())
        retriever.latency = 3
        live = retriever.live()
        live.push(query[0])  # prepares the search
        start = time.perf_counter()
        for pose in query:
            live.push(pose)
        seconds = time.perf_counter() - start
        fit, *rest = (*(b - a for a, b in pairwise(times)), seconds)
        search, path, whole, each = (1000 * x / len(query) for x in rest)
        print(f"{T:9} {fit:7.2f} {search:10.2f} {path:8.2f} {whole:8.2f} {each:8.2f}")


if __name__ == "__main__":
    main()
