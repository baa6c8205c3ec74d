"""Recordings: their mode and stream, what happens when one fails, and that another one can be made then."""

import gc
import threading
from contextlib import nullcontext
from itertools import count
from types import SimpleNamespace

import pytest
import torch

from r3avatar import cuda_graphs, cuda_streams
from r3avatar.cuda_graphs import GraphMemory, RecordedFunction
from r3avatar.cuda_streams import stream_for


def on_cuda(test):
    return pytest.mark.gpu(pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")(test))


class Graph:
    """Stands for torch's, and tells what was asked of it."""

    ends = True

    def __init__(self):
        self.calls = []

    def capture_begin(self, pool, capture_error_mode):
        self.calls.append(("begin", pool, capture_error_mode, gc.isenabled()))

    def capture_end(self):
        self.calls.append(("end",))
        if not self.ends:
            raise RuntimeError("the capture is void")


@pytest.fixture
def without_cuda(monkeypatch):
    """torch.cuda as far as a recording uses it; the calls that reach the allocator."""
    numbers, told = count(1), []
    stream = SimpleNamespace(wait_stream=lambda other: None, cuda_stream=1)
    for name, value in {
        "Stream": lambda device: stream, "current_stream": lambda: stream, "stream": lambda s: nullcontext(),
        "graph_pool_handle": lambda: (0, next(numbers)), "current_device": lambda: 0, "CUDAGraph": Graph,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", lambda *given: told.append(given), raising=False)
    monkeypatch.setattr(cuda_graphs, "_void", [])
    monkeypatch.setattr(cuda_streams, "_streams", {})
    return told


def test_a_recording_collects_no_garbage_and_voids_for_no_other_thread(without_cuda):
    graph, result = GraphMemory().record(lambda: gc.isenabled(), torch.device("cpu"))
    assert result is False and gc.isenabled()
    assert graph.calls == [("begin", (0, 1), "relaxed", False), ("end",)]


def test_no_two_purposes_share_a_stream(without_cuda, monkeypatch):
    handles = iter(k // 2 % 3 for k in count())  # the streams in turn, each twice: 0 0 1 1 2 2 0 0 ...
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: SimpleNamespace(cuda_stream=next(handles)))
    cpu, other = torch.device("cpu"), torch.device("cuda", 1)
    streams = [stream_for(purpose, cpu) for purpose in ("recording", "frames", "third")]
    assert [s.cuda_stream for s in streams] == [0, 1, 2] and stream_for("frames", cpu) is streams[1]
    assert stream_for("frames", other) is not streams[1], "of another device"
    with pytest.raises(RuntimeError, match="no CUDA stream is left for fourth: 3 are in use on cuda:0"):
        stream_for("fourth", cpu)


def test_after_a_failure_comes_a_fresh_pool(without_cuda, monkeypatch):
    def fails():
        raise ValueError("mine")

    memory = GraphMemory()
    with pytest.raises(ValueError, match="mine"):
        memory.record(fails, torch.device("cpu"))
    assert gc.isenabled() and not without_cuda and not cuda_graphs._void, "its end worked"
    memory.record(lambda: None, torch.device("cpu"))

    monkeypatch.setattr(Graph, "ends", False)
    with pytest.raises(RuntimeError, match="void"):
        memory.record(lambda: None, torch.device("cpu"))
    assert without_cuda == [(0, (0, 2))] and len(cuda_graphs._void) == 1
    monkeypatch.setattr(Graph, "ends", True)
    graph, _ = memory.record(lambda: None, torch.device("cpu"))
    assert graph.calls[0][1] == (0, 3), "the pool that may still be recorded to is never used again"


def _waits(x):
    """x + 1, whose recording is void: it waits for what is being recorded."""
    y = x + 1
    if torch.cuda.is_current_stream_capturing():
        torch.cuda.current_stream().synchronize()
    return y


@on_cuda
def test_records_again_after_a_void_recording():
    """Twice: in the memory of the recording that failed, while an older recording of it goes on."""
    x = torch.zeros(3, device="cuda")
    memory = GraphMemory()
    older = RecordedFunction(memory)
    for value in range(3):
        assert older(lambda a: a * 2, (torch.full_like(x, value),)).tolist() == [2 * value] * 3
    for _ in range(2):
        with pytest.raises(RuntimeError):
            memory.record(lambda: _waits(x), x.device)
        newer = RecordedFunction(memory)
        for value in range(4):
            assert newer(lambda a: a + 1, (torch.full_like(x, value),)).tolist() == [value + 1] * 3
        assert older(lambda a: a * 2, (torch.full_like(x, 5),)).tolist() == [10] * 3
    held = [torch.empty(1 << 20, device="cuda") for _ in range(8)]  # the allocator goes on, and gives memory back
    taken = torch.cuda.memory_allocated()
    side = torch.cuda.Stream()
    for value in held:
        value.record_stream(side)
    del held, value
    torch.cuda.synchronize()
    torch.empty(1, device="cuda")
    assert torch.cuda.memory_allocated() < taken - (7 << 22)
    assert torch.randn(4, device="cuda").isfinite().all()
    torch.empty(1 << 20, pin_memory=True)


@on_cuda
def test_other_threads_and_events_void_no_recording():
    """Allocating, copying and waiting elsewhere, and asking for an event here, while a step is recorded."""
    x, event, stop, errors = torch.zeros(3, device="cuda"), torch.cuda.Event(), threading.Event(), []
    event.record()

    def stream_frames():
        try:
            with torch.cuda.stream(stream_for("frames", x.device)):
                while not stop.is_set():
                    there = torch.empty(1 << 22, pin_memory=True).cuda(non_blocking=True)
                    done = torch.cuda.Event(blocking=True)
                    done.record()
                    done.synchronize()
                    assert done.query() and there.is_cuda
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=stream_frames)
    thread.start()
    try:
        for _ in range(50):  # more than torch has streams

            def function():
                y = x + 1
                event.query()
                return y * 2

            graph, result = GraphMemory().record(function, x.device)
            graph.replay()
            assert result.tolist() == [2] * 3
    finally:
        stop.set()
        thread.join()
    assert not errors
