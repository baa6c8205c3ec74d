"""What a training begins while its modules are imported."""

import ctypes
import gc
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from r3avatar import early_start
from r3avatar.captures import hdf5_guard
from r3avatar.cli import check


class Driver:
    """Stands in for CUDA's driver: notes its calls, and refuses one of them."""

    def __init__(self, refused=None):
        self.refused, self.calls = refused, []

    def __getattr__(self, name):
        return lambda *arguments: self.calls.append(name) or (100 if name == self.refused else 0)


CALLS = ["cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain"]


@pytest.mark.parametrize("refused", [None, *CALLS])
def test_cuda_opens_as_far_as_the_driver_lets_it(monkeypatch, refused):
    driver = Driver(refused)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    assert early_start.open_cuda() is (refused is None)
    assert driver.calls == (CALLS if refused is None else CALLS[: CALLS.index(refused) + 1])


def test_without_a_driver_there_is_no_cuda(monkeypatch):
    def missing(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert early_start.open_cuda() is False


@pytest.mark.parametrize(
    ("overrides", "cuda", "hdf5"),
    [
        ([], True, True),
        (["trainer.devices=[2]"], True, True),
        (["trainer.accelerator=cpu"], False, True),
        (["rasterizer=numba"], False, True),
        (["capture=zju_mocap", "capture.root=x", "capture.subject=x", "body=smpl", "body.path=x"], True, False),
        (["trainer=multi_gpu"], False, False),
    ],
)
def test_only_what_a_training_wants_is_begun(monkeypatch, overrides, cuda, hdf5):
    opened, devices = threading.Event(), []
    monkeypatch.setattr(early_start, "open_cuda", lambda device: (devices.append(device), opened.set()))
    monkeypatch.setattr(early_start, "_start", lambda script: script)
    monkeypatch.setattr(early_start, "_begun", {})
    monkeypatch.setenv("CUDA_MODULE_LOADING", "LAZY")
    early_start.begin_training(check("train", overrides))
    assert opened.wait(5 if cuda else 0.1) is cuda
    assert devices == [2 if "trainer.devices=[2]" in overrides else 0] * cuda
    assert list(early_start._begun) == [hdf5_guard._SCRIPT] * hdf5


@pytest.mark.parametrize("found", [True, False])
def test_triton_is_asked_for_its_key_where_there_is_cuda(monkeypatch, found):
    asked = []
    cache = SimpleNamespace(triton_key=lambda: asked.append(threading.current_thread()))
    monkeypatch.setitem(sys.modules, "triton", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "triton.runtime", SimpleNamespace(cache=cache))
    monkeypatch.setitem(sys.modules, "triton.runtime.cache", cache)
    monkeypatch.setattr(early_start, "open_cuda", lambda: found)
    early_start.begin_triton(check("train", ["trainer.accelerator=cpu"]))
    early_start.begin_triton(check("train", []))
    for thread in threading.enumerate():
        if thread.name == "Triton's key":
            thread.join(5)
    assert len(asked) == found and threading.main_thread() not in asked


def test_the_process_that_was_begun_is_used_once(monkeypatch):
    monkeypatch.setattr(early_start, "_start", lambda script: f"new {script}")
    monkeypatch.setattr(early_start, "_begun", {"a": "begun"})
    assert [early_start.helper_process(script) for script in "aab"] == ["begun", "new a", "new b"]


def test_the_collector_rests_while_modules_are_imported():
    code = """
import gc, sys
from r3avatar.early_start import collect_again, uncollected
with uncollected():
    assert not gc.isenabled()
    collect_again()
    assert gc.isenabled() and gc.get_freeze_count()
assert gc.isenabled()
with uncollected():
    pass
assert gc.isenabled()
gc.disable()
with uncollected():
    collect_again()
    assert not gc.isenabled(), "who has switched it off keeps it off"
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_collector_stays_on_where_torch_is_loaded():
    frozen = gc.get_freeze_count()
    with early_start.uncollected():
        assert gc.isenabled()
        early_start.collect_again()
    assert gc.get_freeze_count() == frozen
