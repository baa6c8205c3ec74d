"""Imports of Lightning's that commands do without until somebody needs them: most of the time that Lightning takes.

It imports torch._dynamo (torch.compile's machinery, SymPy, torch.distributed.fsdp) to recognize compiled modules, and
torch's counter of operations, with Triton, for summaries of models;
torchmetrics imports matplotlib for annotations, and scipy.signal to give it back a name. Nothing here needs torch.
"""

from __future__ import annotations

import builtins
import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

_DYNAMO, _FLOPS, _SIGNAL, _MATPLOTLIB, _AXES, _PYPLOT = (
    "torch._dynamo", "torch.utils.flop_counter", "scipy.signal", "matplotlib", "matplotlib.axes", "matplotlib.pyplot",
)  # fmt: skip


class _Class(type):
    """Of classes that stand for one, of the same name, in a module: without instances before that is loaded."""

    def _real(cls) -> Any:
        return getattr(sys.modules.get(cls.__module__), cls.__name__, ())

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, cls._real())

    def __subclasscheck__(cls, subclass: type) -> bool:
        return subclass is cls or issubclass(subclass, cls._real())


def _class(module: str, name: str) -> type:
    return _Class(name, (), {"__module__": module})


class _Module:
    """Stands for a module that is not loaded: it has the attributes given, and loads the real one for any other."""

    def __init__(self, name: str, **given: object):
        self.__dict__.update(given, __name__=name)

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self.__name__), attribute)


def without_dynamo(disabled: Callable) -> Callable:
    """A function that `torch._compile._disable_dynamo` has wrapped, without the wrapper's import of torch._dynamo.

    The wrapper keeps torch.compile out of the function, for which it imports torch._dynamo at its first call. While
    nobody has imported that, nothing is being compiled: then the function itself is called. What has no such wrapper
    (in another torch) is returned as it is.
    """
    plain = getattr(disabled, "__wrapped__", None)
    if plain is None or getattr(disabled, "__globals__", {}).get("__name__") != "torch._compile":
        return disabled

    @functools.wraps(disabled)
    def function(*args: Any, **kwargs: Any) -> Any:
        return (disabled if _DYNAMO in sys.modules else plain)(*args, **kwargs)

    return function


def _disable(fn: Callable | None = None, recursive: bool = True, **others: Any) -> Any:
    """`torch._dynamo.disable` for `@torch.compiler.disable`, which Lightning has on two methods."""
    later = getattr(sys.modules.get("torch._compile"), "_disable_dynamo", None)
    if fn is None or later is None or any(others.values()):
        return importlib.import_module(_DYNAMO).disable(fn, recursive, **others)
    return without_dynamo(later(fn, recursive))


def _flop_counter(*args: Any, **kwargs: Any) -> Any:
    return importlib.import_module(_FLOPS).FlopCounterMode(*args, **kwargs)


def _hamming(*args: Any, **kwargs: Any) -> Any:
    return importlib.import_module("scipy.signal.windows").hamming(*args, **kwargs)


@contextmanager
def _style(*args: Any, **kwargs: Any) -> Iterator[None]:
    """`matplotlib.pyplot.style.context`, which torchmetrics decorates its plotting functions with."""
    with importlib.import_module(_PYPLOT).style.context(*args, **kwargs):
        yield


_compiled = SimpleNamespace(OptimizedModule=_class(_DYNAMO, "OptimizedModule"))
_flops = SimpleNamespace(FlopCounterMode=_flop_counter)
_torch = _Module("torch", _dynamo=_Module(_DYNAMO, disable=_disable))
# torchmetrics gives scipy.signal a function `hamming` (for SRMRpy and gammatone) where that has none any more.
_scipy = _Module("scipy", signal=_Module(_SIGNAL, hamming=_hamming))
_matplotlib = _Module(
    _MATPLOTLIB,
    axes=_Module(_AXES, Axes=_class(_AXES, "Axes")),
    colors=_Module("matplotlib.colors", Colormap=_class("matplotlib.colors", "Colormap")),
    pyplot=_Module(_PYPLOT, Figure=_class(_PYPLOT, "Figure"), style=_Module("matplotlib.style", context=_style)),
)
_INSTEAD: dict[tuple[str, str, tuple[str, ...]], object] = {  # (who imports, what, `from` it) -> what it gets
    ("lightning_fabric.wrappers", _DYNAMO, ("OptimizedModule",)): _compiled,
    ("pytorch_lightning.utilities.compile", _DYNAMO, ("OptimizedModule",)): _compiled,
    ("torch.compiler", _DYNAMO, ()): _torch,
    ("pytorch_lightning.utilities.model_summary.model_summary", _FLOPS, ("FlopCounterMode",)): _flops,
    ("torchmetrics", _SIGNAL, ()): _scipy,
    ("torchmetrics.audio", _SIGNAL, ()): _scipy,
    ("torchmetrics.functional.audio", _SIGNAL, ()): _scipy,
    ("torchmetrics.utilities.plot", _MATPLOTLIB, ()): _matplotlib,
    ("torchmetrics.utilities.plot", _AXES, ()): _matplotlib,
    ("torchmetrics.utilities.plot", _PYPLOT, ()): _matplotlib,
}
_NAMES = {name for _, name, _ in _INSTEAD}


@contextmanager
def light_imports() -> Iterator[None]:
    """The import statements that `_INSTEAD` lists do not load what they name, if they are run in here.

    All others work as ever, and so do these where the module is loaded already, or where a release of Lightning has
    others. Afterwards nothing is changed but what these statements have bound.
    """
    real = builtins.__import__
    heavy = {_SIGNAL} if find_spec("srmrpy") or find_spec("gammatone") else set()

    def light(name, globals=None, locals=None, fromlist=(), level=0):
        if name in _NAMES and name not in heavy and name not in sys.modules and not level:
            stand_in = _INSTEAD.get(((globals or {}).get("__name__"), name, tuple(fromlist or ())))
            if stand_in is not None:
                return stand_in
        return real(name, globals, locals, fromlist, level)

    builtins.__import__ = light
    try:
        yield
    finally:
        builtins.__import__ = real
