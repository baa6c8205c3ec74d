"""Exact nearest vertices on the GPU: fused brute force, and a search that skips blocks of vertices that never change.

Both compare squared distances taken directly from coordinate differences in float32, ties to the lowest index, and keep
distances in registers: a running best per (point, lane), reduced at the end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

# Points a program and its warps: every thread holds POINTS / WARPS points against one lane of vertices.
BRUTE_POINTS, BRUTE_WARPS = 64, 4
BLOCK_POINTS, BLOCK_WARPS = 8, 1  # few: a block is visited where any of a program's points needs it
LANES = tl.constexpr(32)  # vertices at once: the block's size, blocks a group, and bits of a group's mask


@triton.jit
def _square_distance(px, py, pz, vx, vy, vz):
    dx = px - vx
    dy = py - vy
    dz = pz - vz
    return dx * dx + dy * dy + dz * dz


@triton.jit
def _first_least(distance, index):
    """Index [P] of the least of distances [P, LANES], the lowest one among equals, and that distance."""
    least = tl.min(distance, axis=1)
    return tl.min(tl.where(distance == least[:, None], index, 2147483647), axis=1), least


@triton.jit(do_not_specialize=["M", "V"])
def _brute_kernel(points, vertices, out, M, V, EXCLUDE: tl.constexpr, P: tl.constexpr):
    m = tl.program_id(0) * P + tl.arange(0, P)
    at = tl.minimum(m, M - 1) * 3
    px = tl.load(points + at)[:, None]
    py = tl.load(points + at + 1)[:, None]
    pz = tl.load(points + at + 2)[:, None]
    lane = tl.arange(0, LANES)
    best = tl.full([P, LANES], float("inf"), tl.float32)
    found = tl.zeros([P, LANES], tl.int32)  # number of the first vertex of the lanes' round
    start = 0
    while start < V:
        v = start + lane
        inside = v < V
        vx = tl.load(vertices + v * 3, mask=inside, other=float("inf"))[None, :]
        vy = tl.load(vertices + v * 3 + 1, mask=inside, other=float("inf"))[None, :]
        vz = tl.load(vertices + v * 3 + 2, mask=inside, other=float("inf"))[None, :]
        distance = _square_distance(px, py, pz, vx, vy, vz)
        if EXCLUDE:
            distance = tl.where(v[None, :] == m[:, None], float("inf"), distance)
        closer = distance < best  # never true of NaN, so the index stays in range
        best = tl.where(closer, distance, best)
        found = tl.where(closer, start, found)
        start += LANES
    index, _ = _first_least(best, found + lane[None, :])
    tl.store(out + m, index.to(tl.int64), mask=m < M)


@triton.jit(do_not_specialize=["M", "groups"])
def _blocks_kernel(points, spheres, vertices, ids, out, M, groups, P: tl.constexpr):
    m = tl.program_id(0) * P + tl.arange(0, P)
    at = tl.minimum(m, M - 1) * 3
    px = tl.load(points + at)[:, None]
    py = tl.load(points + at + 1)[:, None]
    pz = tl.load(points + at + 2)[:, None]
    lane = tl.arange(0, LANES)
    blocks = groups * LANES
    count = blocks * LANES

    # The block with the nearest centre gives every point an upper bound.
    best = tl.full([P, LANES], float("inf"), tl.float32)
    found = tl.zeros([P, LANES], tl.int32)
    group = 0
    while group < groups:
        c = spheres + group * LANES + lane
        cx = tl.load(c)[None, :]
        cy = tl.load(c + blocks)[None, :]
        cz = tl.load(c + 2 * blocks)[None, :]
        distance = _square_distance(px, py, pz, cx, cy, cz)
        closer = distance < best
        best = tl.where(closer, distance, best)
        found = tl.where(closer, group, found)
        group += 1
    block, _ = _first_least(best, found * LANES + lane[None, :])
    v = vertices + block[:, None] * LANES + lane[None, :]
    distance = _square_distance(px, py, pz, tl.load(v), tl.load(v + count), tl.load(v + 2 * count))
    reach = tl.sqrt(tl.min(distance, axis=1))[:, None]

    # Then the blocks whose spheres come within the bound of any point.
    best = tl.full([P, LANES], float("inf"), tl.float32)
    found = tl.zeros([P, LANES], tl.int32)
    group = 0
    while group < groups:
        c = spheres + group * LANES + lane
        cx = tl.load(c)[None, :]
        cy = tl.load(c + blocks)[None, :]
        cz = tl.load(c + 2 * blocks)[None, :]
        radius = tl.load(c + 3 * blocks)[None, :]
        limit = (reach + radius) * 1.00001 + 1e-12  # more than all the roundings: no candidate is lost to them
        near = _square_distance(px, py, pz, cx, cy, cz) <= limit * limit
        bits = tl.sum(tl.max(near.to(tl.int32), axis=0) << lane, axis=0)
        if bits != 0:
            for b in range(LANES):
                if ((bits >> b) & 1) != 0:
                    w = (group * LANES + b) * LANES + lane
                    vx = tl.load(vertices + w)[None, :]
                    vy = tl.load(vertices + count + w)[None, :]
                    vz = tl.load(vertices + 2 * count + w)[None, :]
                    index = tl.load(ids + w)[None, :]
                    here = _square_distance(px, py, pz, vx, vy, vz)
                    closer = (here < best) | ((here == best) & (index < found))
                    best = tl.where(closer, here, best)
                    found = tl.where(closer, index, found)
        group += 1
    index, _ = _first_least(best, found)
    tl.store(out + m, index.to(tl.int64), mask=m < M)


@dataclass
class VertexBlocks:
    """Fixed vertices, sorted into compact blocks of 32, and 32 blocks a group; what is missing lies at infinity.

    spheres: [4, blocks] centre and radius of every block, metres.
    vertices: [3, blocks * 32]; ids: int32 [blocks * 32], their numbers before sorting.
    """

    spheres: Tensor
    vertices: Tensor
    ids: Tensor

    def to(self, device: torch.device) -> VertexBlocks:
        return VertexBlocks(self.spheres.to(device), self.vertices.to(device), self.ids.to(device))


def sort_into_blocks(vertices: Tensor) -> VertexBlocks:
    """Blocks of `vertices` [V, 3] on the CPU, halved along their longest side until 32 are left.

    Raises:
        ValueError: there are no vertices, or some are not finite.
    """
    points = vertices.detach().cpu().float().numpy()
    if not len(points) or not np.isfinite(points).all():
        raise ValueError(f"the nearest of {len(points)} vertices: at least one is needed, and all must be finite")
    size = LANES.value
    leaves, pending = [], [np.arange(len(points))]
    while pending:
        rows = pending.pop()
        if len(rows) <= size:
            leaves.append(rows)
            continue
        axis = np.ptp(points[rows], axis=0).argmax()
        half = (len(rows) + 2 * size - 1) // (2 * size) * size  # whole blocks: only the last one is not full
        order = np.argpartition(points[rows, axis], half - 1)
        pending += [rows[order[half:]], rows[order[:half]]]
    blocks = -(-len(leaves) // size) * size
    spheres = np.full((4, blocks), np.inf, np.float32)
    sorted_points = np.full((3, blocks, size), np.inf, np.float32)
    ids = np.zeros((blocks, size), np.int32)
    for i, rows in enumerate(leaves):
        inside = points[rows].astype(np.float64)
        centre = ((inside.min(0) + inside.max(0)) / 2).astype(np.float32)
        radius = np.linalg.norm(inside - centre, axis=1).max() * (1 + 1e-6)  # of the rounded centre, rounded up
        spheres[:, i] = *centre, radius
        sorted_points[:, i, : len(rows)] = points[rows].T
        ids[i, : len(rows)] = rows
    tensors = (spheres, sorted_points.reshape(3, -1), ids.reshape(-1))
    return VertexBlocks(*(torch.from_numpy(x) for x in tensors))


def nearest_in_blocks(points: Tensor, blocks: VertexBlocks) -> Tensor:
    """Indices [M] int64 of the vertices nearest to float32 `points` [M, 3]; exact, ties to the lowest index.

    Points in an order that keeps neighbours together are fastest: eight at a time visit the blocks that any needs.
    """
    points = _checked(points)
    M, out = points.shape[0], torch.empty(points.shape[0], dtype=torch.int64, device=points.device)
    if M:
        with torch.cuda.device_of(points):
            _blocks_kernel[(triton.cdiv(M, BLOCK_POINTS),)](
                points, blocks.spheres, blocks.vertices, blocks.ids, out, M, blocks.spheres.shape[1] // LANES.value,
                P=BLOCK_POINTS, num_warps=BLOCK_WARPS,
            )  # fmt: skip
    return out


def nearest_vertices(points: Tensor, vertices: Tensor, exclude_self: bool = False) -> Tensor:
    """Indices [M] int64 of the `vertices` [V, 3] nearest to `points` [M, 3], both float32; ties to the lowest index.

    exclude_self: the points are the vertices themselves, and the nearest *other* one is asked for.

    Raises:
        ValueError: fewer vertices than needed, or other types or shapes.
    """
    points, vertices = _checked(points), _checked(vertices)
    M, V = points.shape[0], vertices.shape[0]
    others = V - exclude_self
    if others < 1 or (exclude_self and M != V):
        raise ValueError(
            f"nearest of {others} vertices to {M} points (exclude_self={exclude_self}): too few or not the same"
        )
    out = torch.empty(M, dtype=torch.int64, device=points.device)
    if M:
        with torch.cuda.device_of(points):
            _brute_kernel[(triton.cdiv(M, BRUTE_POINTS),)](
                points, vertices, out, M, V, EXCLUDE=exclude_self, P=BRUTE_POINTS, num_warps=BRUTE_WARPS
            )
    return out


def _checked(points: Tensor) -> Tensor:
    if points.dim() != 2 or points.shape[1] != 3 or points.dtype != torch.float32:
        raise ValueError(f"points must be float32 [M, 3], not {points.dtype} {list(points.shape)}")
    return points.detach().contiguous()
