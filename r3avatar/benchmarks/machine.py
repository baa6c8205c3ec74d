"""What figures were measured on, and what a process takes of it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from importlib import metadata
from pathlib import Path

import torch

from r3avatar.run import versions


def cpu_name() -> str:
    """The processor's name."""
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict:
    """CPU, cores, memory (GiB); GPU, its memory (GiB) and driver (None without one)."""
    gpu = torch.cuda.is_available()
    properties = torch.cuda.get_device_properties(0) if gpu else None
    return {
        "cpu": cpu_name(),
        "cores": cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": properties.name if properties is not None else None,
        "gpu_memory_gib": round(properties.total_memory / 2**30, 1) if properties is not None else None,
        "driver": nvidia_smi("driver_version") if gpu else None,
    }


def software() -> dict:
    """Versions: Python, packages, the CUDA that torch was built with; None where absent."""
    try:
        triton = metadata.version("triton")
    except metadata.PackageNotFoundError:
        triton = None
    return {**versions(), "triton": triton, "cuda": torch.version.cuda}


def nvidia_smi(query: str) -> str | None:
    """A value that nvidia-smi knows of the first visible GPU; it makes no CUDA context. None without nvidia-smi."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    device = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0] or "0"
    command = [tool, f"--id={device}", f"--query-gpu={query}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def device_memory_used() -> float | None:
    """MiB in use on the first visible GPU, by all processes; it makes no CUDA context. None if it cannot be told."""
    value = nvidia_smi("memory.used")
    return float(value) if value is not None and value.replace(".", "").isdigit() else None


class DeviceMemory:
    """What a process takes of its GPU as a whole: context, kernels, caches and tensors.

    Make it before the process first uses CUDA, so that its context counts. What other processes take or give back
    meanwhile is counted too.
    """

    def __init__(self):
        self._before = device_memory_used() if torch.cuda.is_available() else None

    def whole_mib(self) -> float | None:
        """MiB in use now (the caching allocator keeps its peak), less what was in use before; None on the CPU."""
        if not torch.cuda.is_available():
            return None
        free, total = torch.cuda.mem_get_info()
        return None if self._before is None else (total - free) / 2**20 - self._before


def host_memory_mib() -> dict[str, float]:
    """This process's resident MiB: `private` ones that it alone has, and `file` ones, unchanged pages of files, which
    others that map the same files share and the system may drop (the frame cache); empty where there is no /proc."""
    path = Path("/proc/self/smaps_rollup")
    if not path.exists():
        return {}
    kib = {line.split(":")[0]: int(line.split()[1]) for line in path.read_text().splitlines()[1:]}
    clean = kib["Private_Clean"] + kib["Shared_Clean"]
    return {"resident_mib": kib["Rss"] / 1024, "private_mib": kib["Private_Dirty"] / 1024, "file_mib": clean / 1024}


def seconds_since_start() -> float | None:
    """Seconds since this process was started, its imports included; None where there is no /proc."""
    stat = Path("/proc/self/stat")
    if not stat.exists() or not hasattr(time, "CLOCK_BOOTTIME"):
        return None
    ticks = int(stat.read_text().rpartition(")")[2].split()[19])  # field 22: start, in ticks since the machine booted
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
