"""Time retrieval with every backend on smooth random motion (SMPL-X, five parts, 20 candidates each).

python tools/bench_retrieval.py --recorded 100 300 3000 --query 400 --threads 1
"""

from __future__ import annotations

import argparse

import torch

from r3avatar.benchmarks.report import table
from r3avatar.benchmarks.retrieval import retrieval


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recorded", type=int, nargs="+", default=[100, 300, 3000])
    parser.add_argument("--query", type=int, default=400)
    parser.add_argument("--seconds", type=float, default=1.0, help="of single queries")
    parser.add_argument("--threads", type=int, default=1)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    rows = retrieval(a.recorded, "smplx", a.seconds, a.query, cuda=torch.cuda.is_available())
    print(f"sequences of {a.query} query frames, {a.threads} thread(s)\n{table('retrieval', rows)}")


if __name__ == "__main__":
    main()
