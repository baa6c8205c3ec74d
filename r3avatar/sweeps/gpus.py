"""One GPU a job: the machine's GPUs, and which of them is free, by a locked file each."""

from __future__ import annotations

import fcntl
import getpass
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path


def visible_gpus() -> tuple[str, ...]:
    """The GPUs of this machine that may be used, as CUDA_VISIBLE_DEVICES names them; without starting CUDA."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return tuple(token.strip() for token in chosen.split(",") if token.strip() not in ("", "-1", "NoDevFiles"))
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return tuple(re.findall(r"^GPU (\d+):", listed.stdout, re.MULTILINE)) if listed.returncode == 0 else ()


def lock_file(path: Path) -> int | None:
    """Lock a file; its descriptor, or None if another process has it.

    The lock belongs to the open file, which a child that inherits the descriptor shares: it lasts until the last of
    them has ended, however it ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def locks_folder() -> Path:
    """Where this user's sweeps lock GPUs: on this machine, not on a disk that machines share."""
    return Path(os.environ.get("R3AVATAR_LOCKS") or Path(tempfile.gettempdir()) / f"r3avatar-gpus-{getpass.getuser()}")


def take_gpu(devices: Sequence[str], jobs_per_gpu: int = 1, poll: float = 0.5) -> tuple[str, int]:
    """Wait for the next free place on one of `devices`; its GPU and the descriptor that holds it while it is open.

    Of equally free GPUs the first: places are gone through GPU by GPU before a second job is put on one.
    """
    while True:
        for place in range(jobs_per_gpu):
            for device in devices:
                descriptor = lock_file(locks_folder() / f"{re.sub(r'[^A-Za-z0-9-]', '_', device)}.{place}.lock")
                if descriptor is not None:
                    return device, descriptor
        time.sleep(poll)
