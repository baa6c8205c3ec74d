"""Start a verb once for each device of this machine, and end as the first process that fails."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

_GRACE = 20.0  # seconds that the others have to end by themselves once a process has failed
_PARENT = "R3AVATAR_LAUNCHER"  # its process id, for the processes that it started
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def launch(command: Sequence[str], count: int, logs: Path) -> int:
    """Run `command` as `count` processes of this machine, with torchrun's variables; returns their exit code.

    Rank 0 has this process's output; the others write to logs/train_rank<k>.out. Signals are passed on to all. When
    one fails the others have some seconds, and are killed then: they wait for it. 128 + n stands for signal n.
    """
    logs.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    threads = str(max(1, (os.cpu_count() or 1) // count))
    shared = {
        "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        _PARENT: str(os.getpid()),
    }  # fmt: skip
    processes: list[subprocess.Popen] = []

    def forward(number: int, frame) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in _FORWARDED}
    try:
        for rank in range(count):
            environment = {"OMP_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads, **os.environ, **shared}
            environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            own = [*command, f"hydra.job.name=train_rank{rank}"] if rank else list(command)
            # A session of its own: what the terminal's Ctrl-C sends arrives once, from here.
            if rank:
                with open(_log(logs, rank), "w") as file:
                    process = subprocess.Popen(
                        own, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
                    )
            else:
                process = subprocess.Popen(own, env=environment, start_new_session=True)
            processes.append(process)
        return _wait(processes, logs)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(processes: list[subprocess.Popen], logs: Path) -> int:
    failed: int | None = None
    deadline = float("inf")
    while any(process.poll() is None for process in processes):
        if failed is None:
            failed = next((k for k, process in enumerate(processes) if process.poll()), None)
            deadline = float("inf") if failed is None else time.monotonic() + _GRACE
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    if failed is None:
        failed = next((k for k, process in enumerate(processes) if process.poll()), None)
    if failed is None:
        return 0
    code = processes[failed].returncode
    code = code if code > 0 else 128 - code
    alike = all(process.poll() == processes[failed].returncode for process in processes)
    if not alike or code == 1:  # otherwise all ended for one reason, which rank 0 has told
        print(f"\nrank {failed} ended first, with exit code {code}; outputs: {logs}/train_rank*.out", file=sys.stderr)
        if failed:
            print(_log(logs, failed).read_text(errors="replace")[-2000:], file=sys.stderr)
    return code


def _log(logs: Path, rank: int) -> Path:
    return logs / f"train_rank{rank}.out"


def end_with_launcher() -> None:
    """In a process that `launch` started: end when the launcher is gone, however that ended. Elsewhere nothing."""
    parent = os.environ.get(_PARENT)
    if parent is None:
        return

    def watch() -> None:
        while os.getppid() == int(parent):
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, name="launcher watch", daemon=True).start()
