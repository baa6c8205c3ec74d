"""How far apart points lie, to size the Gaussians that begin there."""

from __future__ import annotations

import importlib.util

import torch
from scipy.spatial import cKDTree
from torch import Tensor

BACKENDS = ("auto", "simple_knn", "scipy")
NEIGHBOURS = 3


def initial_distances(points: Tensor, backend: str = "auto") -> Tensor:
    """Mean of the squared distances to the three nearest other points (Kerbl et al. 2023, sec. 5.1: first sizes).

    Args:
        points: [N, 3] metres, at least four.
        backend: 'scipy' (k-d tree on the CPU), 'simple_knn' (the CUDA package of 3D Gaussian splatting, if you have
            installed it; its licence allows non-commercial use alone), or 'auto': simple_knn for points on CUDA where
            it is installed, else scipy.

    Returns:
        [N] square metres, on the points' device; no gradient.

    Raises:
        ValueError: an unknown backend, or fewer than four points.
        RuntimeError: simple_knn where it cannot run; the message names the fix.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend '{backend}' is none of {', '.join(BACKENDS)}")
    if points.ndim != 2 or points.shape[1] != 3 or len(points) <= NEIGHBOURS:
        raise ValueError(f"points must be [N, 3] with N > {NEIGHBOURS}, not {tuple(points.shape)}")
    points = points.detach()
    if backend == "auto":
        installed = importlib.util.find_spec("simple_knn") is not None
        backend = "simple_knn" if points.is_cuda and installed else "scipy"
    if backend == "simple_knn":
        return _simple_knn(points)
    found = points.cpu().double().numpy()
    distances, _ = cKDTree(found).query(found, k=NEIGHBOURS + 1, workers=torch.get_num_threads())
    return torch.from_numpy((distances[:, 1:] ** 2).mean(1)).to(points)


def _simple_knn(points: Tensor) -> Tensor:
    if not torch.cuda.is_available():
        raise RuntimeError("neighbours by simple_knn need a CUDA device; use scipy")
    try:
        from simple_knn._C import distCUDA2
    except ImportError as error:
        raise RuntimeError(
            f"simple_knn cannot be imported ({error}); install it (its licence: non-commercial use alone), or use "
            "scipy, which gives the same"
        ) from error
    return distCUDA2(points.float().cuda().contiguous()).to(points)
