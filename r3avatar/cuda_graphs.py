"""Functions of tensors as CUDA graphs: recorded once, replayed with the launch cost of a single kernel."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from r3avatar.cuda_streams import stream_for

log = logging.getLogger(__name__)


class GraphMemory:
    """The memory of recordings that never run at the same time: what one of them needs in between, others use again.

    What a recording returns may therefore be overwritten as soon as another one of this memory is replayed.
    """

    def __init__(self):
        self._pool = torch.cuda.graph_pool_handle()
        self._anchor: torch.cuda.CUDAGraph | None = None

    def record(self, function: Callable[[], Any], device: torch.device) -> tuple[torch.cuda.CUDAGraph, Any]:
        """`function()` as a graph, and its result at the places where each replay will write it."""
        if self._anchor is None:
            # The pool lives as long as a graph uses it: without this one each recording would allocate anew.
            self._anchor, _ = self._capture(lambda: torch.zeros(1, device=device))
        return self._capture(function)

    def _capture(self, function: Callable[[], Any]) -> tuple[torch.cuda.CUDAGraph, Any]:
        """What `torch.cuda.graph` does, without its collection of garbage and its emptying of the allocator's cache."""
        graph = torch.cuda.CUDAGraph()
        stream = stream_for("recording", torch.device("cuda"))  # one: freed memory is kept by the stream it was used on
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), _no_collection():
            try:
                # relaxed: the driver voids a recording of another mode when a thread makes a call that it holds to be
                # unsafe, though it has nothing to do with what is recorded. Other threads allocate, wait for their
                # copies and ask for NCCL's events meanwhile; this one loads a kernel's code at its first launch for a
                # number of Gaussians of another divisibility. What would touch the recorded work (to wait for it, or
                # for the whole device) is an error in this mode too.
                graph.capture_begin(pool=self._pool, capture_error_mode="relaxed")
                result = function()
                graph.capture_end()
            except BaseException:
                self._abandon(graph)
                raise
        torch.cuda.current_stream().wait_stream(stream)
        return graph, result

    def _abandon(self, graph: torch.cuda.CUDAGraph) -> None:
        """End a recording that failed, so that another one can be made; the error that it failed with is the caller's.

        torch before 2.12 leaves the allocators recording where a recording cannot be ended: to this pool, which is
        refused from then on, for streams that the graph has to tell. So the allocator is told, the pool is left alone,
        and the graph stays.
        """
        try:
            graph.capture_end()
        except RuntimeError:
            _void.append(graph)
            try:
                torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), self._pool)
            except RuntimeError as error:  # it had been told
                log.debug("%s", error)
        self._pool, self._anchor = torch.cuda.graph_pool_handle(), None


_void: list[torch.cuda.CUDAGraph] = []  # recordings that failed: allocators may ask them until the process ends


@contextmanager
def _no_collection() -> Iterator[None]:
    """Without Python's garbage collection, which takes milliseconds and may end CUDA objects of anybody."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


class RecordedFunction:
    """Calls a function on CUDA, recorded as a graph where its calls have become repetitive.

    A call of a new `kind` (or of new shapes) runs as it is, which compiles kernels and makes lazily created state. The
    next one of that kind is recorded, and replayed from then on. Where only `addresses` change (density control has
    resized the parameters) the function is recorded anew without another plain run.

    The function must not synchronise with the host, and what it reads besides its arguments must stay where it is.
    """

    def __init__(self, memory: GraphMemory | None = None, in_place: bool = False):
        """
        memory: shared with other recordings; one of its own unless given.
        in_place: every call has the same tensors as arguments, an `Inbox`'s; otherwise a replay copies them first.
        """
        self._memory = GraphMemory() if memory is None else memory
        self._in_place = in_place
        self._kind: Hashable = None
        self._addresses: Hashable = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._arguments: tuple = ()
        self._result: Any = None

    def __call__(self, function: Callable, arguments: tuple, kind: Hashable = None, addresses: Hashable = None):
        """`function(*arguments)`; of a replay the same tensors every time, with new values.

        arguments: tensors, and dataclasses of tensors, on the device.
        """
        given = [] if self._in_place else tensors_of(arguments)
        kind = (kind, tuple(x.shape for x in given))
        if kind != self._kind:
            self.forget()
            self._kind, self._arguments = kind, ()
            return function(*arguments)
        if self._graph is None or addresses != self._addresses:
            self._record(function, arguments)
            self._addresses = addresses
        assert self._graph is not None
        for mine, other in zip(tensors_of(self._arguments) if given else (), given):
            mine.copy_(other, non_blocking=True)
        self._graph.replay()
        return self._result

    def forget(self) -> None:
        """Drop the recording; its memory stays for the next one."""
        self._graph, self._result = None, None

    def _record(self, function: Callable, arguments: tuple) -> None:
        self.forget()
        if not self._arguments:
            self._arguments = arguments if self._in_place else _rebuilt(arguments, torch.clone)
        device = tensors_of(arguments)[0].device
        self._graph, self._result = self._memory.record(lambda: function(*self._arguments), device)


class Inbox:
    """Tensors on a device that stay where they are and take the values of arguments from anywhere.

    All that comes from the host travels in one copy, through one page-locked buffer. Floats become float32.
    """

    _ALIGNMENT = 16  # bytes, of every tensor

    def __init__(self, arguments: tuple, device: torch.device):
        """arguments: tensors and dataclasses of them, for their shapes; `put` brings the values."""
        places, size = [], 0
        for x in tensors_of(arguments):
            dtype = torch.float32 if x.is_floating_point() else x.dtype
            places.append((size, x.numel() * dtype.itemsize, dtype, x.shape))
            size += -(-places[-1][1] // self._ALIGNMENT) * self._ALIGNMENT
        cuda = device.type == "cuda"
        self._there = torch.empty(size, dtype=torch.uint8, device=device)
        self._here = torch.empty(size, dtype=torch.uint8, pin_memory=cuda)
        self._sent = torch.cuda.Event() if cuda else None
        self._theirs, self._ours = (
            [x[start : start + size].view(dtype).view(shape) for start, size, dtype, shape in places]
            for x in (self._there, self._here)
        )
        views = iter(self._theirs)
        self.arguments: tuple = _rebuilt(arguments, lambda x: next(views))

    def put(self, values: list[Tensor]) -> None:
        """Bring values, `tensors_of` arguments of the same shapes; copies that wait for nothing but the one before."""
        if any(x.is_cpu for x in values):
            if self._sent is not None:
                self._sent.synchronize()  # the last copy has left the buffer
            for mine, x in zip(self._ours, values):
                if x.is_cpu:
                    mine.copy_(x)
            self._there.copy_(self._here, non_blocking=True)
            if self._sent is not None:
                self._sent.record()
        for mine, x in zip(self._theirs, values):
            if not x.is_cpu:
                mine.copy_(x, non_blocking=True)


def tensors_of(value) -> list[Tensor]:
    """The tensors in a tensor, a dataclass or a tuple, fields within fields included, in their order."""
    if isinstance(value, Tensor):
        return [value]
    if is_dataclass(value):
        value = tuple(getattr(value, field.name) for field in fields(value))
    return [x for item in value for x in tensors_of(item)] if isinstance(value, tuple) else []


def _rebuilt(value, function: Callable[[Tensor], Tensor]):
    """A tensor, a dataclass or a tuple with the function's results in place of its tensors, in their order."""
    if isinstance(value, Tensor):
        return function(value)
    if is_dataclass(value):
        names = [field.name for field in fields(value)]
        return replace(value, **{name: _rebuilt(getattr(value, name), function) for name in names})
    return tuple(_rebuilt(x, function) for x in value) if isinstance(value, tuple) else value
