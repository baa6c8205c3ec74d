"""What the machine may refuse a run, said in the words of the configuration."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from omegaconf import DictConfig, OmegaConf

from r3avatar.training.stopping import NotWritten, OutOfMemory

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")

# Keys that decide on memory, and what each is.
_KEYS = {
    "batch.frames": "frames a step",
    "batch.views": "views of each; a step's memory grows with frames x views",
    "density.max_gaussians": "cap on the Gaussians",
    "cache.gpu_gib": "GiB of the GPU for training frames; 0 streams them",
    "capture.scale": "image size",
    "workers": "processes that load, each with memory of its own",
}
_FIXED = "batch.frames, batch.views and capture.scale hold for a whole run: changing them needs a new one"


@contextmanager
def explained(config: DictConfig) -> Iterator[None]:
    """Turn a full disk and too little memory into errors that name what to do. Other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise out_of_memory(error, config) from error
        if error.errno not in _FULL:
            raise
        raise NotWritten(
            f"{error.filename or 'a file of the run'} could not be written: {os.strerror(error.errno)}; the last "
            "checkpoint is intact. Make room, and go on with resume=auto"
        ) from error
    except (MemoryError, RuntimeError) as error:
        known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if not known and not any(sign in str(error) for sign in _MEMORY):
            raise
        raise out_of_memory(error, config) from error


def out_of_memory(error: BaseException, config: DictConfig) -> OutOfMemory:
    """The error for too little memory, with the present values of the keys that decide on it."""
    text = " ".join(str(error).split("\n")[0].split())[:200] or type(error).__name__
    device = isinstance(error, torch.OutOfMemoryError) or "CUDA" in text or "CUBLAS" in text
    lines = [f"{'the GPU' if device else 'this machine'} is out of memory ({text})", "keys to turn down:"]
    for key, meaning in _KEYS.items():
        value = OmegaConf.select(config, key, default="")
        if value != "":
            lines.append(f"  {key}={'null' if value is None else value}  ({meaning})")
    lines.append("The last checkpoint is intact: resume=auto goes on with it. " + _FIXED)
    return OutOfMemory("\n".join(lines))
