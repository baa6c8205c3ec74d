"""Time retrieval with both backends on smooth random motion (SMPL-X, five parts, 20 candidates each).

python tools/bench_retrieval.py --recorded 100 300 3000 --query 400 --threads 1
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor

from r3avatar.retrieval import Retriever


def motion(frames: int, seed: int) -> Tensor:
    """Swinging joints with a slow drift, [T, 55, 3]."""
    g = torch.Generator().manual_seed(seed)
    phase = 0.1 * torch.arange(frames)[:, None, None] + 6 * torch.rand(1, 55, 3, generator=g)
    drift = 0.002 * torch.randn(frames, 55, 3, generator=g).cumsum(0)
    return 0.4 * torch.sin(phase * (1 + torch.arange(3) / 7)) + drift


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recorded", type=int, nargs="+", default=[100, 300, 3000])
    parser.add_argument("--query", type=int, default=400)
    parser.add_argument("--threads", type=int, default=1)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    query = motion(a.query, 1)
    for backend in ("torch", "faiss"):  # the first call loads libraries
        Retriever("smplx", backend).fit(motion(30, 0), torch.arange(30)).retrieve(query[:5])
    print(f"{a.query} query frames, {a.threads} thread(s)")
    print(f"{'recorded':>8} {'backend':8} {'fit, s':>8} {'retrieve, s':>12}")
    for T in a.recorded:
        for backend in ("torch", "faiss"):
            start = time.perf_counter()
            retriever = Retriever("smplx", backend).fit(motion(T, 0), torch.arange(T))
            fitted = time.perf_counter()
            retriever.retrieve(query)
            print(f"{T:8} {backend:8} {fitted - start:8.3f} {time.perf_counter() - fitted:12.3f}")


if __name__ == "__main__":
    main()
