"""How long retrieval takes, by backend and number of recorded frames."""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from r3avatar.benchmarks.clock import latencies, synchronize
from r3avatar.body import demo_surface, load_body
from r3avatar.captures.synthesis.arithmetic import rotation_vector
from r3avatar.captures.synthesis.dance import Dance
from r3avatar.captures.synthesis.person import dress
from r3avatar.captures.synthesis.synthesize import person_betas
from r3avatar.retrieval import Retriever
from r3avatar.retrieval.parts import JOINTS


def motion(frames: int, seed: int, kind: str = "smplx") -> Tensor:
    """Swinging joints with a slow drift, [T, J, 3] axis-angle."""
    g, J = torch.Generator().manual_seed(seed), JOINTS[kind]
    phase = 0.1 * torch.arange(frames)[:, None, None] + 6 * torch.rand(1, J, 3, generator=g)
    drift = 0.002 * torch.randn(frames, J, 3, generator=g).cumsum(0)
    return 0.4 * torch.sin(phase * (1 + torch.arange(3) / 7)) + drift


def dances(frames: int, seed: int, each: int = 500) -> Tensor:
    """Dances of the synthetic captures' dancer, each of `each` frames at 15 a second, [T, 24, 3] axis-angle (SMPL)."""
    body, betas = load_body("demo"), person_betas(seed, "skirt")
    person = dress(body, demo_surface(), betas, False)
    ankle, clips = float(person.joints[7, 1]) - person.sole, []
    for clip in range(-(-frames // each)):
        random = np.random.default_rng([seed, clip])
        dance = Dance(
            person.joints, ankle, int(random.integers(2**31)), random.uniform(0.4, 1.2), random.uniform(0, 1.4)
        )
        turns = dance(random.uniform(0, 100) + np.arange(each) / 15).rotations[:, :24]
        clips.append(torch.from_numpy(rotation_vector(turns)).float())
    return torch.cat(clips)[:frames]


def retrieval(
    recorded: Iterable[int], kind: str, seconds: float, query: int = 100, cuda: bool = False
) -> dict[str, dict]:
    """Retrieval on smooth random motion, for each backend and number of recorded frames; 'live': `Retriever.live`.

    'ms': a single query frame with the two before it, as an interactive use asks; 'sequence_ms': a frame of a sequence
    of `query` frames asked for at once; 'fit_s': taking in the recording. cuda: time the torch search there as well.
    """
    kinds = [("torch", "cpu")]
    if importlib.util.find_spec("faiss") is not None:
        kinds.append(("faiss", "cpu"))
    if cuda:
        kinds.append(("torch", "cuda"))
    asked, result = motion(query, 1, kind), {}
    for backend, name in kinds:
        device = torch.device(name)
        theta = asked.to(device)
        warm = Retriever(kind, backend).fit(motion(30, 0, kind).to(device), torch.arange(30, device=device))
        warm.retrieve(theta[:5])  # loads libraries
        for T in recorded:
            bank, times = motion(T, 0, kind).to(device), torch.arange(T, device=device)
            start = time.perf_counter()
            retriever = Retriever(kind, backend).fit(bank, times)
            synchronize(device)
            fitted = time.perf_counter()
            retriever.retrieve(theta)
            synchronize(device)
            whole = time.perf_counter() - fitted

            def single(i: int, retriever=retriever, theta=theta):
                q = 2 + i % (query - 2)
                return retriever.retrieve(theta[q : q + 1], history=theta[q - 2 : q])

            ms = statistics.median(latencies(single, device, seconds))
            result[f"{backend}_{name}_{T}"] = {
                "ms": ms,
                "sequence_ms": 1e3 * whole / query,
                "fit_s": fitted - start,
                "recorded": T,
            }
            if backend == "torch" and name == "cpu":
                result[f"live_cpu_{T}"] = _live(retriever, theta, seconds)
    return result


def _live(retriever: Retriever, theta: Tensor, seconds: float) -> dict:
    start = time.perf_counter()
    live = retriever.live()
    live.push(theta[0])
    built = time.perf_counter() - start
    times = latencies(lambda i: live.push(theta[i % len(theta)]), torch.device("cpu"), seconds)
    return {"ms": statistics.median(times), "fit_s": built, "recorded": len(live.times)}
