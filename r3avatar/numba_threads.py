"""Run a compiled kernel's tasks on several threads: free threads take the next task, nobody waits for an absent one.

numba's own `parallel=True` waits, spinning, until every thread of its pool has passed a region. While other processes
(a data loader's workers) hold a core, each region then takes as long as the operating system leaves one thread out.
Here the calling thread works through the tasks itself; helpers that get a core in time take some of them, and only
those that have started are waited for. The pool holds no state between calls, so any Python thread may use it.
"""

from __future__ import annotations

import atexit
import os
import queue
import threading
from collections.abc import Callable

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.extending import intrinsic
from torch import Tensor

CHUNK = 256  # Gaussians a task
FAST = {"contract", "reassoc", "arcp", "nsz"}
"""A kernel's liberties with rounding; comparisons stay false for what is no number."""


@intrinsic
def next_task(typing, counter):
    """Take the next task's number: add 1 to `counter[0]` (int64) as one atomic step, return what was there."""

    def generate(context, builder, sig, args):
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        return builder.atomic_rmw("add", data, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(counter), generate


def arrays(*tensors: Tensor) -> list[np.ndarray]:
    """The values of tensors on the CPU, of one piece each: what kernels are given."""
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


class _Region:
    """One kernel call that helpers may join until its tasks are gone."""

    def __init__(self, kernel: Callable, arguments: tuple):
        self.kernel, self.arguments = kernel, arguments
        self.turn = threading.Condition()
        self.running, self.closed = 0, False
        self.error: BaseException | None = None

    def help(self) -> None:
        """A helper's part; nothing if the region is over."""
        with self.turn:
            if self.closed:
                return
            self.running += 1
        try:
            self.kernel(*self.arguments)
        except BaseException as error:  # raised by `close`, in the thread that asked for the work
            self.error = error
        with self.turn:
            self.running -= 1
            self.turn.notify()

    def close(self) -> None:
        """Let nobody join any more and wait for those who have."""
        with self.turn:
            self.closed = True
            self.turn.wait_for(lambda: self.running == 0)
        if self.error is not None:
            raise self.error


class _Pool:
    def __init__(self):
        self.regions: queue.SimpleQueue[_Region | None] = queue.SimpleQueue()
        self.helpers: list[threading.Thread] = []
        self.lock = threading.Lock()

    def enlist(self, region: _Region, helpers: int) -> None:
        if len(self.helpers) < helpers:
            with self.lock:
                while len(self.helpers) < helpers:
                    name = f"kernels-{len(self.helpers)}"
                    self.helpers.append(threading.Thread(target=self._work, daemon=True, name=name))
                    self.helpers[-1].start()
        for _ in range(helpers):
            self.regions.put(region)

    def dismiss(self) -> None:
        for _ in self.helpers:
            self.regions.put(None)
        for helper in self.helpers:
            helper.join()
        self.helpers = []

    def _work(self) -> None:
        while (region := self.regions.get()) is not None:
            region.help()
            del region  # or its arrays would live until the next one


_pool = _Pool()


def _forget_threads() -> None:
    """A forked process has none of its parent's threads."""
    global _pool
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)
# A helper that wakes while Python shuts down aborts the process: they must be gone by then.
atexit.register(lambda: _pool.dismiss())


def run_tasks(kernel: Callable, tasks: int, *arguments) -> None:
    """Call `kernel(counter, tasks, *arguments)` on up to NUMBA_NUM_THREADS threads; return when all tasks are done.

    Args:
        kernel: a numba function compiled with nogil=True that takes tasks by `next_task(counter)` until
            there are none; its result must not depend on who takes which.
        tasks: how many there are.
        arguments: passed on as they are.
    """
    counter = np.zeros(1, np.int64)
    # Waking a helper costs tens of microseconds: not worth it for a task or two.
    helpers = min(config.NUMBA_NUM_THREADS, tasks // 4) - 1
    if helpers < 1:
        kernel(counter, tasks, *arguments)
        return
    region = _Region(kernel, (counter, tasks, *arguments))
    _pool.enlist(region, helpers)
    try:
        kernel(counter, tasks, *arguments)
    finally:
        region.close()


def chunks(N: int) -> int:
    """How many tasks N Gaussians are."""
    return -(-N // CHUNK)
