"""Exact nearest vertices of the canonical body."""

from __future__ import annotations

import torch
from scipy.spatial import cKDTree
from torch import Tensor

from r3avatar.triton_support import use_triton

_CHUNK = 1 << 26  # distances held at once on an accelerator without Triton: 256 MiB of float32


class NearestVertex:
    """Nearest-neighbour search among fixed vertices [V, 3], exact on every device.

    A k-d tree on the CPU, Triton's kernel for float32 points on CUDA, chunked brute force elsewhere. A device's copy of
    the vertices is made at its first query, which therefore cannot be part of a CUDA graph; later ones can.
    """

    def __init__(self, vertices: Tensor):
        vertices = vertices.detach().cpu()
        self._tree = cKDTree(vertices.double().numpy())
        self._vertices = vertices
        self._copies = {}  # one a device
        self._blocks = {}

    def __call__(self, points: Tensor) -> Tensor:
        """Indices [...] of the vertices nearest to `points` [..., 3]; no gradient."""
        flat = points.detach().reshape(-1, 3)
        if flat.device.type == "cpu":
            _, index = self._tree.query(flat.numpy(), workers=torch.get_num_threads())
            return torch.from_numpy(index).reshape(points.shape[:-1])
        if flat.dtype == torch.float32 and use_triton("auto", flat.device):
            from r3avatar.avatar.triton_nearest import nearest_in_blocks, sort_into_blocks

            if flat.device not in self._blocks:
                self._blocks[flat.device] = sort_into_blocks(self._vertices).to(flat.device)
            return nearest_in_blocks(flat, self._blocks[flat.device]).reshape(points.shape[:-1])
        if flat.device not in self._copies:
            self._copies[flat.device] = self._vertices.to(flat.device)
        vertices = self._copies[flat.device].to(flat.dtype)
        rows = max(1, _CHUNK // vertices.shape[0])
        index = torch.cat([torch.cdist(p, vertices).argmin(1) for p in flat.split(rows)])
        return index.reshape(points.shape[:-1])
