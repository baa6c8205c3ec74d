"""How long retrieval=viterbi takes: python tools/bench_viterbi.py [--recorded 100 10000 100000] [--query 60].

Prints one row a recording: seconds to fit, milliseconds a query frame offline (search, and path with the rest), and live
with a latency of 3 frames. Poses are random walks, so that search has no easy case.
"""

from __future__ import annotations

import argparse
import time

import torch

from r3avatar.retrieval import ViterbiRetriever


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
    print(
        f"{'recorded':>9} {'fit s':>7} {'search ms':>10} {'path ms':>8} {'live ms':>8}   {torch.get_num_threads()} threads"
    )
    for T in arguments.recorded:
        retriever = ViterbiRetriever("smpl", arguments.backend, latency=None, up=[0, 1, 0])
        start = time.perf_counter()
        retriever.fit(walk(T, 0), torch.arange(T))
        fit = time.perf_counter()
        retriever._candidates(query, None)
        search = time.perf_counter()
        retriever.retrieve(query)
        whole = time.perf_counter()
        retriever.latency = 3
        live = retriever.live()
        for pose in query:
            live.push(pose)
        end = time.perf_counter()
        ms = 1000 / len(query)
        path = (whole - search) - (search - fit)
        print(f"{T:9} {fit - start:7.2f} {(search - fit) * ms:10.2f} {path * ms:8.2f} {(end - whole) * ms:8.2f}")


if __name__ == "__main__":
    main()
