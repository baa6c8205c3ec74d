"""Recorded functions, and what happens where a recording fails."""

import logging

import pytest
import torch

from r3avatar.cuda_graphs import RecordedFunction

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def _function(fails):
    """x + 1, whose recordings fail as often as `fails` says."""

    def function(x):
        if torch.cuda.is_current_stream_capturing() and fails:
            fails.pop()
            torch.cuda.synchronize()  # not allowed there
        return x + 1

    return function


def test_a_recording_that_fails_once_is_made_later(caplog):
    recorded, function = RecordedFunction(), _function([1])
    with caplog.at_level(logging.WARNING):
        for value in range(5):
            x = torch.full((3,), float(value), device="cuda")
            assert recorded(function, (x,)).tolist() == [value + 1] * 3
    assert caplog.text.count("could not be recorded") == 1 and recorded._graph is not None


def test_a_recording_that_fails_twice_is_an_error():
    recorded, function = RecordedFunction(), _function([1, 1])
    x = torch.zeros(3, device="cuda")
    recorded(function, (x,))
    recorded(function, (x,))
    with pytest.raises(RuntimeError):
        recorded(function, (x,))
    assert (torch.ones(2, device="cuda") + 1).tolist() == [2, 2]  # the device goes on
