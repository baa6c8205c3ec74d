"""Exact nearest vertices of the canonical body."""

from __future__ import annotations

import torch
from scipy.spatial import cKDTree
from torch import Tensor

_CHUNK = 1 << 26  # distances held at once on an accelerator: 256 MiB of float32


class NearestVertex:
    """Nearest-neighbour search among fixed vertices [V, 3]: a k-d tree on the CPU, chunked brute force elsewhere."""

    def __init__(self, vertices: Tensor):
        vertices = vertices.detach().cpu()
        self._tree = cKDTree(vertices.double().numpy())
        self._copies = {vertices.device: vertices}  # one a device, made at its first query

    def __call__(self, points: Tensor) -> Tensor:
        """Indices [...] of the vertices nearest to `points` [..., 3]; no gradient."""
        flat = points.detach().reshape(-1, 3)
        if flat.device.type == "cpu":
            _, index = self._tree.query(flat.numpy(), workers=torch.get_num_threads())
            return torch.from_numpy(index).reshape(points.shape[:-1])
        if flat.device not in self._copies:
            self._copies[flat.device] = self._copies[torch.device("cpu")].to(flat.device)
        vertices = self._copies[flat.device].to(flat.dtype)
        rows = max(1, _CHUNK // vertices.shape[0])
        index = torch.cat([torch.cdist(p, vertices).argmin(1) for p in flat.split(rows)])
        return index.reshape(points.shape[:-1])
