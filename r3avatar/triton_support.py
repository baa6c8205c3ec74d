"""Where Triton's kernels run: on CUDA devices, and on CPU tensors in Triton's interpreter (slow; for tests)."""

from __future__ import annotations

import functools
import importlib.util
import os

import torch

BACKENDS = ("auto", "torch", "triton")


@functools.lru_cache(maxsize=1)
def installed() -> bool:
    """Whether Triton can be imported; CUDA builds of torch for Linux bring it along."""
    return importlib.util.find_spec("triton") is not None


def interpreting() -> bool:
    """Whether kernels run in Triton's interpreter: TRITON_INTERPRET=1, set before the first kernel is imported."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def use_triton(backend: str, device: torch.device) -> bool:
    """Whether a part with the given `backend` computes on `device` through Triton.

    'auto' takes Triton on CUDA where it is installed (not under `torch.use_deterministic_algorithms`: kernels add
    atomically), 'torch' never, 'triton' always (on the CPU in the interpreter).

    Raises:
        ValueError: an unknown backend.
        RuntimeError: 'triton' where it cannot run; the message names the fix.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend '{backend}' is none of {', '.join(BACKENDS)}")
    if backend == "torch":
        return False
    if backend == "auto":
        return device.type == "cuda" and installed() and not torch.are_deterministic_algorithms_enabled()
    if not installed():
        raise RuntimeError("backend 'triton' needs the package triton (`pip install triton`); or set backend=torch")
    if device.type != "cuda" and not interpreting():
        raise RuntimeError(f"backend 'triton' needs CUDA tensors, these are on {device}; set backend=auto or torch")
    return True
