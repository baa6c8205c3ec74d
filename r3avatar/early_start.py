"""What a training begins while its modules are imported, which takes seconds and holds Python's lock.

Another process and the CUDA driver do not wait for that lock. Nothing here needs torch.
"""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import DictConfig

HDF5_WALK = Path(__file__).parent / "captures" / "hdf5_walk.py"
_READ_HDF5 = ("r3avatar.captures.DnaRendering",)
_paused = False  # whether `uncollected` has switched the collector off
_begun: dict[Path, subprocess.Popen] = {}
_abandoned: list[subprocess.Popen] = []  # of the process that this one was forked from


def begin_training(config: DictConfig) -> None:
    """Start the process that meets HDF5 files first, and CUDA's context, if `r3avatar train` will want them."""
    if "num_nodes" in config.trainer:  # several processes, each with a device of its own
        return
    if config.capture.get("_target_") in _READ_HDF5:
        _begun[HDF5_WALK] = _start(HDF5_WALK)
    if not _on_cpu(config):
        # Not a daemon: Python's end waits for it, as nothing may end within the driver's initialisation.
        os.environ.setdefault("CUDA_MODULE_LOADING", "LAZY")  # as torch does, before the driver's initialisation
        devices = config.trainer.get("devices")  # a number of them, or which
        several = isinstance(devices, Sequence) and not isinstance(devices, str) and len(devices)
        first = devices[0] if several else 0
        threading.Thread(target=open_cuda, args=(first,), name="CUDA's context").start()


def _on_cpu(config: DictConfig) -> bool:
    return config.trainer.accelerator == "cpu" or config.rasterizer._target_.endswith(".NumbaRasterizer")


def helper_process(script: Path) -> subprocess.Popen:
    """A Python process of a script with pipes to its stdin and stdout: the one that was begun, or a new one."""
    return _begun.pop(script, None) or _start(script)


def _start(script: Path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def open_cuda(device: int = 0) -> bool:
    """Retain the primary context of a device, which is torch's too; False where there is none.

    ctypes lets go of Python's lock in every call. (CUDA driver API: cuInit, cuDevicePrimaryCtxRetain.)
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    number, context = ctypes.c_int(), ctypes.c_void_p()
    return (
        driver.cuInit(0) == 0
        and driver.cuDeviceGet(ctypes.byref(number), device) == 0
        and driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), number) == 0
    )


def begin_triton(config: DictConfig) -> None:
    """Have Triton hash its own library, which its cache of kernels asks for at the first of them, in a thread.

    For a training on CUDA, once torch is there. Hashing lets go of Python's lock; where this fails, it comes later.
    """
    if not _on_cpu(config):
        threading.Thread(target=_hash_triton, name="Triton's key", daemon=True).start()


def _hash_triton() -> None:
    if not open_cuda():
        return
    try:
        from triton.runtime.cache import triton_key  # which keeps its result
    except ImportError:  # no Triton, or a version that has it elsewhere
        return
    triton_key()


@contextmanager
def uncollected() -> Iterator[None]:
    """Without Python's garbage collection until `collect_again`, or the end: imports leave none to find.

    It would look through all of torch's objects again and again. Where torch is loaded already, nothing changes.
    """
    global _paused
    if "torch" not in sys.modules and gc.isenabled():
        _paused = True
        gc.disable()
    try:
        yield
    finally:
        collect_again()


def collect_again() -> None:
    """Collect garbage again, but of what was loaded in `uncollected`: that stays as long as the process."""
    global _paused
    if _paused:
        gc.freeze()
        gc.enable()
    _paused = False


def _forked() -> None:
    _abandoned.extend(_begun.values())  # the parent's: neither to be used nor to be waited for here
    _begun.clear()


os.register_at_fork(after_in_child=_forked)
