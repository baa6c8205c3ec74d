"""A training step as one CUDA graph: recorded once, replayed with the launch cost of a single kernel."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import fields

import torch
from torch import Tensor

from r3avatar.types import Batch, BodyPose, Cameras


class StepGraph:
    """Runs a step function of a batch on CUDA, recorded as a graph where it has become repetitive.

    A step of a new `kind` runs as it is, which compiles kernels and makes lazily created state. The next one of that
    kind is recorded, and replayed from then on. Where only `addresses` change (density control has resized the
    parameters) the step is recorded anew without another plain run.

    The function must not synchronise with the host, and what it reads, but for the batch, must stay where it is.
    """

    def __init__(self):
        self._kind: Hashable = None
        self._addresses: tuple = ()
        self._graph: torch.cuda.CUDAGraph | None = None
        self._anchor: torch.cuda.CUDAGraph | None = None
        self._batch: Batch | None = None
        self._result: dict[str, Tensor] = {}
        self._stream = torch.cuda.Stream()
        self._pool = torch.cuda.graph_pool_handle()

    def run(
        self, function: Callable[[Batch], dict[str, Tensor]], batch: Batch, kind: Hashable, addresses: tuple
    ) -> dict[str, Tensor]:
        """The function's result for the batch; of a replay the same tensors every time, with new values."""
        kind = (kind, tuple(x.shape for x in _tensors(batch)))
        if kind != self._kind:
            self.release()
            self._kind = kind
            return function(batch)
        if self._graph is None or addresses != self._addresses:
            self._record(function, batch)
            self._addresses = addresses
        assert self._graph is not None and self._batch is not None
        for mine, given in zip(_tensors(self._batch), _tensors(batch)):
            mine.copy_(given, non_blocking=True)
        self._graph.replay()
        return self._result

    def release(self) -> None:
        """Forget the recording; its memory stays for the next one."""
        self._graph, self._result = None, {}

    def _record(self, function: Callable[[Batch], dict[str, Tensor]], batch: Batch) -> None:
        self.release()
        if self._anchor is None:
            # The pool lives as long as a graph uses it: without this one each recording would allocate anew.
            self._anchor = torch.cuda.CUDAGraph()
            self._capture(self._anchor, lambda: torch.zeros(1, device=batch.rgb.device))
        if self._batch is None or [x.shape for x in _tensors(self._batch)] != [x.shape for x in _tensors(batch)]:
            self._batch = batch._map(_clone)
        graph = torch.cuda.CUDAGraph()
        self._result = self._capture(graph, lambda: function(self._batch))
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


def _tensors(value: Batch | BodyPose | Cameras) -> list[Tensor]:
    """The tensors of a batch, those of its pose and cameras included."""
    found = []
    for field in fields(value):
        item = getattr(value, field.name)
        if isinstance(item, Tensor):
            found.append(item)
        elif isinstance(item, (BodyPose, Cameras)):
            found += _tensors(item)
    return found


def _clone(value):
    return value._map(_clone) if isinstance(value, (BodyPose, Cameras)) else value.clone()
