"""Whether gsplat's CUDA kernels are built, what building them needs, and messages that say so.

gsplat from PyPI builds its kernels at the first call, silently and for minutes; where there is no nvcc it prints one
line and fails later on a NoneType. Its own wheels bring the kernels along.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch

log = logging.getLogger(__name__)

ALTERNATIVES = (
    "Without a compiler: rasterizer=triton (Triton compiles its kernels; CUDA builds of torch bring it along), "
    "rasterizer=numba (on the CPU), or a wheel with built kernels where gsplat's index has one for your Python, torch "
    "and CUDA (`pip install gsplat --index-url https://docs.gsplat.studio/whl/pt24cu124` is that of torch 2.4, CUDA "
    "12.4; for gsplat 1.5.3 they are for Python 3.10 and torch 2.0 to 2.4)"
)


def build_folder() -> Path:
    """Where torch keeps the extension that gsplat builds (TORCH_EXTENSIONS_DIR, else below ~/.cache)."""
    root = os.environ.get("TORCH_EXTENSIONS_DIR")
    if root:
        return Path(root) / "gsplat_cuda"
    from torch.utils.cpp_extension import get_default_build_root

    accelerator = "cpu" if torch.version.cuda is None else f"cu{torch.version.cuda.replace('.', '')}"
    python = f"py{sys.version_info.major}{sys.version_info.minor}{getattr(sys, 'abiflags', '')}"
    return Path(get_default_build_root()) / f"{python}_{accelerator}" / "gsplat_cuda"


def built() -> str | None:
    """Where the built kernels are: 'in the installed package', a file, or None where the next call builds them."""
    if importlib.util.find_spec("gsplat") is not None and importlib.util.find_spec("gsplat.csrc") is not None:
        return "in the installed package"
    return next((str(path) for path in sorted(build_folder().glob("gsplat_cuda*.so"))), None)


def nvcc_version(nvcc: str) -> tuple[int, int] | None:
    """(major, minor) of an nvcc, None if it does not say."""
    try:
        done = subprocess.run([nvcc, "--version"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"release (\d+)\.(\d+)", done.stdout)
    return (int(found[1]), int(found[2])) if found else None


def missing_tools() -> tuple[list[str], list[str]]:
    """What a build lacks, each with its fix: (what stops it, what may stop it)."""
    from torch.utils.cpp_extension import CUDA_HOME

    stops, doubts = [], []
    cuda = torch.version.cuda
    nvcc = shutil.which("nvcc")
    at_home = None if CUDA_HOME is None else Path(CUDA_HOME) / "bin" / "nvcc"
    if nvcc is None and at_home is not None and at_home.is_file():
        stops.append(f"nvcc is not on PATH (`export PATH={at_home.parent}:$PATH`)")
    elif nvcc is None:
        stops.append(
            f"nvcc was not found: install the CUDA toolkit {cuda or ''} that torch was built with, put its bin/ on "
            "PATH and set CUDA_HOME to its folder"
        )
    elif CUDA_HOME is None:
        stops.append(f"CUDA_HOME is not set (`export CUDA_HOME={Path(nvcc).resolve().parents[1]}`)")
    compiler = nvcc or (str(at_home) if at_home is not None and at_home.is_file() else None)
    version = None if compiler is None else nvcc_version(compiler)
    if version is not None and cuda is not None and version[0] != int(cuda.split(".")[0]):
        doubts.append(
            f"nvcc is of CUDA {version[0]}.{version[1]}, torch of {cuda}: other major versions rarely build or load; "
            f"install the CUDA {cuda.split('.')[0]} toolkit, or a torch built for CUDA {version[0]}"
        )
    if shutil.which("ninja") is None:
        stops.append("ninja is not on PATH: `pip install ninja`, with the environment activated")
    cxx = os.environ.get("CXX", "c++")
    if shutil.which(cxx.split()[0]) is None:
        stops.append(f"the C++ compiler `{cxx}` was not found: install g++, or set CXX")
    return stops, doubts


def require_tools() -> None:
    """Raise RuntimeError if the kernels are not built and cannot be built here; the message names the fixes."""
    if built() is None:
        stops, doubts = missing_tools()
        if stops:
            raise RuntimeError(_message("would build its CUDA kernels at the first call, and cannot", stops + doubts))


def load_kernels() -> None:
    """Load gsplat's kernels, building them first where they are not built: what is done, and for how long, is logged.

    Raises:
        RuntimeError: they could not be built or loaded; the message says what is missing, and what to use instead.
    """
    where, start = built(), time.monotonic()
    if where is None:
        _, doubts = missing_tools()
        for doubt in doubts:
            log.warning("gsplat: %s", doubt)
        only = "" if os.environ.get("TORCH_CUDA_ARCH_LIST") else f"; {_architecture()} builds for this GPU alone"
        log.warning(
            "gsplat builds its CUDA kernels, once, in %s: about 100 s on 16 cores, in proportion longer on fewer%s; "
            "MAX_JOBS=4 needs less memory",
            build_folder(), only,
        )  # fmt: skip
    try:
        kernels = importlib.import_module("gsplat.cuda._backend")._C
    except Exception as error:  # a failed build raises whatever the compiler, the linker or the loader met
        stops, doubts = missing_tools()
        lines = [line for line in f"{type(error).__name__}: {error}".splitlines() if line.strip()]
        reasons = [*stops, *doubts, *lines[:1], *lines[1:][-6:]]
        raise RuntimeError(_message("could not build or load its CUDA kernels", reasons)) from error
    if kernels is None:
        stops, doubts = missing_tools()
        reasons = stops + doubts or [f"it gave no reason; remove {build_folder()} to build afresh"]
        raise RuntimeError(_message("has no CUDA kernels", reasons))
    if where is None:
        log.warning("gsplat built its CUDA kernels in %.0f s; later runs load them", time.monotonic() - start)


def _architecture() -> str:
    """The setting that restricts a build to the present GPU."""
    if not torch.cuda.is_available():
        return "TORCH_CUDA_ARCH_LIST"
    return "TORCH_CUDA_ARCH_LIST={}.{}".format(*torch.cuda.get_device_capability())


def _message(what: str, reasons: list[str]) -> str:
    return f"gsplat {what}:\n" + "".join(f"  {reason}\n" for reason in reasons) + ALTERNATIVES
