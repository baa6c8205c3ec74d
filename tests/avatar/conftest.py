"""Fixtures of the avatar's tests."""

import pytest
import torch


@pytest.fixture(scope="module")
def one_thread():
    """Small operations, whose threads would wait for each other where other tests run beside."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
