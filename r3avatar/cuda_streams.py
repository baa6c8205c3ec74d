"""CUDA streams of the process that no other work of ours ever shares."""

from __future__ import annotations

import threading

import torch

_TRIES = 256

_streams: dict[tuple[str, int], torch.cuda.Stream] = {}
_lock = threading.Lock()


def stream_for(purpose: str, device: torch.device) -> torch.cuda.Stream:
    """The process's stream for a purpose on a device, another one for every purpose.

    torch hands its 32 streams out in turn, so that the 33rd `torch.cuda.Stream()` is the first once more: frames copied
    on the one that a step is recorded on would void the recording.
    RuntimeError where torch has none left that is not another purpose's.
    """
    index = torch.cuda.current_device() if device.index is None else device.index
    with _lock:
        if (purpose, index) not in _streams:
            taken = {stream.cuda_stream for (_, other), stream in _streams.items() if other == index}
            for _ in range(_TRIES):
                stream = torch.cuda.Stream(torch.device("cuda", index))
                if stream.cuda_stream not in taken:
                    break
            else:
                raise RuntimeError(f"no CUDA stream is left for {purpose}: {len(taken)} are in use on cuda:{index}")
            _streams[purpose, index] = stream
        return _streams[purpose, index]
