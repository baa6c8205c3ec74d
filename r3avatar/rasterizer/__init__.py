"""Rasterizers: posed Gaussians and cameras in, images out, behind one interface.

`NumbaRasterizer` (CPU), `TritonRasterizer` and `GsplatRasterizer` (CUDA) and `TorchRasterizer` (the readable reference)
agree in value and in gradient; `make_rasterizer("auto")` takes the fastest one that this machine can run.
"""

from __future__ import annotations

import importlib.util
import logging

import torch

from ..triton_support import installed
from .base import Rasterizer
from .gsplat_cuda import GsplatRasterizer
from .inria import InriaRasterizer
from .torch_reference import TorchRasterizer
from .triton_gpu import TritonRasterizer

log = logging.getLogger(__name__)

__all__ = [
    "GsplatRasterizer",
    "InriaRasterizer",
    "NumbaRasterizer",
    "Rasterizer",
    "TorchRasterizer",
    "TritonRasterizer",
    "make_rasterizer",
]


def make_rasterizer(name: str = "auto", **options) -> Rasterizer:
    """A rasterizer by name.

    Args:
        name: "torch", "numba", "gsplat", "triton", "inria", or "auto": on CUDA triton, or gsplat where only that is
            installed, else numba.
        options: the rasterizer's own keyword arguments (eps2d, near, antialiased).

    Raises:
        ValueError: no rasterizer of that name.
        RuntimeError: the machine lacks what the named rasterizer needs.
    """
    if name == "auto":
        cuda, gsplat = torch.cuda.is_available(), importlib.util.find_spec("gsplat") is not None
        name = "numba" if not cuda else "triton" if installed() else "gsplat" if gsplat else "numba"
        reason = " (CUDA, but neither triton nor gsplat is installed)" if cuda else " (no CUDA device)"
        log.info("rasterizer: %s%s", name, reason if name == "numba" else "")
    if name == "torch":
        return TorchRasterizer(**options)
    if name == "numba":
        return _numba_rasterizer()(**options)
    if name == "gsplat":
        return GsplatRasterizer(**options)
    if name == "triton":
        return TritonRasterizer(**options)
    if name == "inria":
        return InriaRasterizer(**options)
    raise ValueError(f"no rasterizer is named {name!r}; choose auto, torch, numba, gsplat, triton or inria")


def __getattr__(name: str):
    # numba takes a second to import: only those who render on the CPU pay it.
    if name == "NumbaRasterizer":
        return _numba_rasterizer()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _numba_rasterizer():
    try:
        from .numba_cpu import NumbaRasterizer
    except RuntimeError as error:
        if "cannot cache" not in str(error):
            raise
        raise RuntimeError(
            f"numba found no folder to keep its compiled kernels in ({error}); set NUMBA_CACHE_DIR to a writable folder"
        ) from error
    return NumbaRasterizer
