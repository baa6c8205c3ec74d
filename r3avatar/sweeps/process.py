"""A sweep's job as a process of its own: what breaks in it breaks alone, and it sees one GPU from its first line on."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from r3avatar.sweeps.gpus import lock_file, take_gpu
from r3avatar.sweeps.jobs import Job, Outcome, finished

TRIAL = "R3AVATAR_TRIAL"
"""The environment variable that makes a run a search's trial: '<its number> <the study's file>'."""

PRUNED = 3  # exit code of a run that a search has ended
SAVED = (75, 130)  # exit codes of runs that a signal has ended: `training.stopping`

# SLURM sends the signal by which submitit learns that its time is up to all processes; this one gets SIGTERM then.
_DEAF_TO_USR2 = ("/bin/sh", "-c", 'trap "" USR2; exec "$0" "$@"')

_running: set[subprocess.Popen] = set()
_stop = threading.Event()


def stop_all(wait: bool = False) -> None:
    """Ask this process's jobs to save and end, and let no other one start; may be called by a signal's handler."""
    _stop.set()
    for process in list(_running):
        process.terminate()
    for process in list(_running) if wait else ():
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # Popen.wait, which this may interrupt, holds a lock


def stopping() -> bool:
    """Whether `stop_all` was called."""
    return _stop.is_set()


def log_of(job: Job) -> Path:
    """The file that gets all that a job prints."""
    return Path(job.directory) / job.folder / "logs" / "job.log"


def run_job(job: Job, show: bool = False) -> Outcome:
    """Train a job's run and wait for it; show: print here what it prints.

    Locks the run folder, and a GPU if the job needs one and is to pick it; the process inherits both locks.
    """
    folder = Path(job.directory) / job.folder
    held = lock_file(folder / "logs" / "job.lock")
    if held is None:
        return Outcome("elsewhere", fresh=False, error=f"another process is at it ({folder}/logs/job.lock is locked)")
    descriptors = [held]
    try:
        if "overwrite=true" not in job.command:  # between planning and starting, another sweep may have finished it
            before = finished(folder, job.evaluate)
            if before is not None and (before.state == "done" or TRIAL in job.environment):
                return before
        environment = {**os.environ, **job.environment}
        if job.gpu and job.devices:
            device, descriptor = take_gpu(job.devices, job.jobs_per_gpu)
            descriptors.append(descriptor)
            environment |= {"CUDA_VISIBLE_DEVICES": device, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        if stopping():
            return Outcome("stopped", error="not started")
        return _train(job, environment, descriptors, show)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _train(job: Job, environment: dict[str, str], descriptors: list[int], show: bool) -> Outcome:
    begin = time.monotonic()
    command = [*_DEAF_TO_USR2, *job.program, *job.command]
    with open(log_of(job), "wb") as log:
        log.write(f"$ r3avatar train {shlex.join(job.command)}\n".encode())
        log.flush()
        process = subprocess.Popen(
            command, cwd=job.directory, env=environment, pass_fds=descriptors, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if show else log, stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches it once, through stop_all
        )  # fmt: skip
        _running.add(process)
        try:
            if stopping():
                process.terminate()
            if show:
                while chunk := os.read(process.stdout.fileno(), 65536):
                    log.write(chunk)
                    sys.stdout.buffer.write(chunk)
                    sys.stdout.flush()
            code = process.wait()
        except BaseException:  # a scheduler ends this task: the run shall save itself first
            process.terminate()
            process.wait()
            raise
        finally:
            _running.discard(process)
            if process.stdout is not None:
                process.stdout.close()
    return _outcome(job, code, time.monotonic() - begin)


def _outcome(job: Job, code: int, seconds: float) -> Outcome:
    found = finished(Path(job.directory) / job.folder, job.evaluate)
    psnr = None if found is None else found.psnr
    if code == 0 and found is not None:
        return Outcome("done", psnr=psnr, seconds=seconds)
    if code == PRUNED and found is not None:
        return Outcome("pruned", psnr=psnr, seconds=seconds)
    if code in SAVED:
        return Outcome("stopped", seconds=seconds, error=last_words(log_of(job).read_text(errors="replace")))
    if code == 0:
        return Outcome("failed", seconds=seconds, error="it ended without metrics.json")
    if code < 0:
        name = signal.Signals(-code).name
        why = " (by the system, if its memory ran out)" if name == "SIGKILL" else ""
        return Outcome("failed", seconds=seconds, error=f"killed by {name}{why}")
    return Outcome("failed", seconds=seconds, error=last_words(log_of(job).read_text(errors="replace")))


def last_words(log: str) -> str:
    """The line of a job's output that says why it ended: the command's own, else a traceback's last."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", log) if line.strip()]
    own = [line for line in lines if line.startswith("r3avatar train: ")]
    errors = [line for line in lines if re.match(r"[A-Za-z_][\w.]*(Error|Exception|Interrupt)\b", line)]
    return (own or errors or lines or ["no output"])[-1].removeprefix("r3avatar train: ")
