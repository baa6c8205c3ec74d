"""Functions of tensors as CUDA graphs: recorded once, replayed with the launch cost of a single kernel."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor


class RecordedFunction:
    """Calls a function on CUDA, recorded as a graph where its calls have become repetitive.

    A call of a new `kind` (or of new shapes) runs as it is, which compiles kernels and makes lazily created state. The
    next one of that kind is recorded, and replayed from then on. Where only `addresses` change (density control has
    resized the parameters) the function is recorded anew without another plain run.

    The function must not synchronise with the host, and what it reads besides its arguments must stay where it is.
    """

    def __init__(self):
        self._kind: Hashable = None
        self._addresses: Hashable = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._anchor: torch.cuda.CUDAGraph | None = None
        self._arguments: tuple = ()
        self._result: Any = None
        self._stream = torch.cuda.Stream()
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, function: Callable, arguments: tuple, kind: Hashable = None, addresses: Hashable = None):
        """`function(*arguments)`; of a replay the same tensors every time, with new values.

        arguments: tensors, and dataclasses of tensors, on the device.
        """
        given = tensors_of(arguments)
        kind = (kind, tuple(x.shape for x in given))
        if kind != self._kind:
            self.forget()
            self._kind, self._arguments = kind, ()
            return function(*arguments)
        if self._graph is None or addresses != self._addresses:
            self._record(function, arguments)
            self._addresses = addresses
        assert self._graph is not None
        for mine, other in zip(tensors_of(self._arguments), given):
            mine.copy_(other, non_blocking=True)
        self._graph.replay()
        return self._result

    def forget(self) -> None:
        """Drop the recording; its memory stays for the next one."""
        self._graph, self._result = None, None

    def _record(self, function: Callable, arguments: tuple) -> None:
        self.forget()
        if self._anchor is None:
            # The pool lives as long as a graph uses it: without this one each recording would allocate anew.
            self._anchor = torch.cuda.CUDAGraph()
            device = tensors_of(arguments)[0].device
            self._capture(self._anchor, lambda: torch.zeros(1, device=device))
        if not self._arguments:
            self._arguments = tuple(_clone(x) for x in arguments)
        graph = torch.cuda.CUDAGraph()
        self._result = self._capture(graph, lambda: function(*self._arguments))
        self._graph = graph

    def _capture(self, graph: torch.cuda.CUDAGraph, function: Callable):
        """What `torch.cuda.graph` does, without its collection of garbage and its emptying of the allocator's cache."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            # thread_local: a thread that streams frames may allocate meanwhile.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                result = function()
            except BaseException:
                self._abandon(graph)
                raise
            graph.capture_end()
        torch.cuda.current_stream().wait_stream(self._stream)
        return result

    @staticmethod
    def _abandon(graph: torch.cuda.CUDAGraph) -> None:
        try:
            graph.capture_end()
        except RuntimeError:  # the capture is void already; the error that voided it is the one to report
            return


def tensors_of(value) -> list[Tensor]:
    """The tensors in a tensor, a dataclass or a tuple, fields within fields included, in their order."""
    if isinstance(value, Tensor):
        return [value]
    if is_dataclass(value):
        value = tuple(getattr(value, field.name) for field in fields(value))
    return [x for item in value for x in tensors_of(item)] if isinstance(value, tuple) else []


def _clone(value):
    if isinstance(value, Tensor):
        return value.clone()
    if is_dataclass(value):
        return replace(value, **{field.name: _clone(getattr(value, field.name)) for field in fields(value)})
    return value
