"""The rules of density control: which Gaussians are cloned, split, merged and pruned, and what they become.

Pure functions of a *state*: a dict of tensors that share their first axis N,
  positions [N, 3], scales [N, 3] standard deviations, quaternions [N, 4] not normalised, opacity_logits [N, 1],
  gradients [N] mean screen-space gradient norms (NDC), radii [N] screen radii (pixels),
  optionally source [N] int64, the row a Gaussian came from, and born [N] bool, which becomes true for new ones,
and any others (colours), which are copied by clone and split and averaged by merge. A rule returns a new state: the
surviving rows in their order, then the new ones.

Sources: 3D Gaussian splatting (Kerbl et al. 2023) for clone, split and prune; GauHuman (Hu & Liu 2024) for the KL
divergence to the nearest neighbour and the merge.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from scipy.spatial import cKDTree
from torch import Tensor

from r3avatar.triton_support import use_triton

State = dict[str, Tensor]

SPLIT_SHRINK = 1.6
MERGE_SHRINK = 0.8
_SMALLEST_SCALE = 1e-8  # metres; below it a ratio of scales overflows


def nearest_neighbour(means: Tensor, ids: Tensor | None = None) -> Tensor:
    """Id of the nearest other Gaussian, exact: means [N, 3] and ids [M] of those that ask (None: all) give [M] int64.

    For all: brute force in one kernel for float32 on CUDA where Triton is installed; a k-d tree on the host otherwise:
    50 000 points take 0.1 s there, and 3 s as a matrix of distances on an H200.
    """
    N = len(means)
    if N < 2:
        raise ValueError(f"a nearest neighbour needs at least two Gaussians, not {N}")
    if ids is None and means.dtype == torch.float32 and use_triton("auto", means.device):
        from r3avatar.avatar.triton_nearest import nearest_vertices

        return nearest_vertices(means, means, exclude_self=True)
    points = means.detach().double().cpu().numpy()
    own = torch.arange(N) if ids is None else ids.cpu()
    found = torch.from_numpy(cKDTree(points).query(points[own.numpy()], k=2)[1])  # [M, 2], one of them the point itself
    nearest = torch.where(
        found[:, 0] == own, found[:, 1], found[:, 0]
    )  # of points in one place, itself may come second
    return nearest.to(means.device)


def rotation_matrices(quaternions: Tensor) -> Tensor:
    """Rotations [N, 3, 3] of quaternions (w, x, y, z) [N, 4], normalised here."""
    w, x, y, z = torch.nn.functional.normalize(quaternions, dim=-1).unbind(-1)
    rows = [
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def kl_to_neighbour(means: Tensor, quaternions: Tensor, scales: Tensor, neighbour: Tensor) -> Tensor:
    """KL(Gaussian i || its neighbour j) [N], from means [N, 3], quaternions [N, 4], scales [N, 3], ids [N].

    1/2 (tr(Sj^-1 Si) + d^T Sj^-1 d - 3 + log det Sj / det Si), with S = Rot diag(s^2) Rot^T and d = mean_j - mean_i;
    computed in the neighbour's axes, so that no matrix is inverted.
    """
    scales = scales.clamp_min(_SMALLEST_SCALE)
    rotations = rotation_matrices(quaternions)
    s_i, s_j = scales, scales[neighbour]
    to_j = rotations[neighbour].mT  # world to the neighbour's axes
    relative = to_j @ rotations  # [N, 3, 3]
    trace = ((relative * s_i[:, None, :]) / s_j[:, :, None]).square().sum(dim=(1, 2))
    d = (to_j @ (means[neighbour] - means)[:, :, None])[:, :, 0] / s_j
    return 0.5 * (trace + d.square().sum(-1) - 3 + 2 * (s_j / s_i).log().sum(-1))


def kl_of(state: State, ids: Tensor | None = None, backend: str = "auto") -> tuple[Tensor, Tensor]:
    """(KL to the nearest neighbour [N], neighbour [N] int64) of a state's Gaussians.

    ids: [M] those it is asked of (None: all); the others' values mean nothing. One kernel where Triton runs.
    """
    positions, quaternions, scales = state["positions"], state["quaternions"], state["scales"]
    if positions.dtype == torch.float32 and use_triton(backend, positions.device):
        from r3avatar.training.triton_density import divergence

        everyone = torch.arange(len(positions), device=positions.device) if ids is None else ids
        return divergence(positions, quaternions, scales, everyone, _SMALLEST_SCALE)
    neighbour = nearest_neighbour(positions, ids)
    if ids is not None:
        neighbour = torch.zeros(len(positions), dtype=torch.int64, device=ids.device).index_copy(0, ids, neighbour)
    return kl_to_neighbour(positions, quaternions, scales, neighbour), neighbour


def is_small(scales: Tensor, limit: float) -> Tensor:
    """Bool [N]: the largest standard deviation is at most `limit` metres."""
    return scales.amax(dim=-1) <= limit


def clone_mask(
    gradients: Tensor, scales: Tensor, kl: Tensor, threshold: float, small: float, kl_clone: float
) -> Tensor:
    """Bool [N]: moves much on the screen, is small, and is unlike its neighbour."""
    return (gradients >= threshold) & is_small(scales, small) & (kl > kl_clone)


def split_mask(
    gradients: Tensor, scales: Tensor, kl: Tensor, threshold: float, small: float, kl_split: float
) -> Tensor:
    """Bool [N]: moves much on the screen, is not small, and is unlike its neighbour."""
    return (gradients >= threshold) & ~is_small(scales, small) & (kl > kl_split)


def merge_mask(
    gradients: Tensor, scales: Tensor, kl: Tensor, threshold: float, small: float, kl_merge: float
) -> Tensor:
    """Bool [N]: moves much on the screen, is small, and is like its neighbour."""
    return (gradients >= threshold) & is_small(scales, small) & (kl < kl_merge)


def prune_mask(
    opacity_logits: Tensor,
    scales: Tensor,
    radii: Tensor,
    min_opacity: float,
    max_radius: float | None = None,
    max_scale: float | None = None,
) -> Tensor:
    """Bool [N]: nearly transparent, or larger than `max_radius` pixels or `max_scale` metres (None: not asked)."""
    mask = opacity_logits[:, 0].sigmoid() < min_opacity
    if max_radius is not None:
        mask = mask | (radii > max_radius)
    if max_scale is not None:
        mask = mask | (scales.amax(dim=-1) > max_scale)
    return mask


def rotate(quaternions: Tensor, vectors: Tensor) -> Tensor:
    """Vectors [M, 3] turned by quaternions (w, x, y, z) [M, 4], normalised here."""
    w, axis = torch.nn.functional.normalize(quaternions, dim=-1).split([1, 3], dim=-1)
    twice = 2 * torch.linalg.cross(axis, vectors)
    return vectors + w * twice + torch.linalg.cross(axis, twice)


def sample(state: State, ids: Tensor, noise: Tensor) -> Tensor:
    """Positions drawn from the Gaussians `ids` [M] with standard normal `noise` [M, 3]."""
    position, scale, quaternion = (state[name].index_select(0, ids) for name in ("positions", "scales", "quaternions"))
    return position + rotate(quaternion, scale * noise)


def clone(state: State, mask: Tensor, noise: Callable[[int], Tensor]) -> State:
    """Add a copy of each masked Gaussian, placed by a draw from it; the original stays. `noise(M)` gives [M, 3]."""
    ids = _rows(mask)
    if not len(ids):
        return dict(state)
    drawn = sample(state, ids, noise(len(ids)))
    after, old = _with_copies(state, None, ids)
    after["positions"][old:] = drawn
    return after


def split(state: State, mask: Tensor, noise: Callable[[int], Tensor]) -> State:
    """Replace each masked Gaussian by two draws from it, 1.6 times smaller: all first copies, then all second ones."""
    ids = _rows(mask).repeat(2)
    if not len(ids):
        return dict(state)
    drawn = sample(state, ids, noise(len(ids)))
    after, old = _with_copies(state, ~mask, ids)
    after["positions"][old:] = drawn
    _shrink(after, old, SPLIT_SHRINK)
    return after


def merge(state: State, mask: Tensor, neighbour: Tensor, mutual_merges_published: bool = False) -> State:
    """Replace each masked Gaussian and its neighbour by one: mean position, colours and opacity logit, its own rotation
    and its own scales / 0.8.

    Two that are each other's neighbour merge once, into the first's shape; `mutual_merges_published` restores the
    published defect, which leaves two points in one place. `neighbour` is read where the mask is true.
    """
    ids = _rows(mask)
    if not len(ids):
        return dict(state)
    partner = neighbour.index_select(0, ids)
    removed = mask.index_fill(0, partner, True)
    if not mutual_merges_published:
        mutual = mask.index_select(0, partner) & (neighbour.index_select(0, partner) == ids)
        first = _rows(~(mutual & (ids > partner)))
        ids, partner = ids.index_select(0, first), partner.index_select(0, first)
    kept = ("scales", "quaternions", "radii", "gradients", "source", "born", "scale_residual", "rotation_residual")
    after, old = _with_copies(state, ~removed, ids)
    for name, value in state.items():
        if name not in kept:
            after[name][old:].add_(value.index_select(0, partner)).div_(2)
    _shrink(after, old, MERGE_SHRINK)
    return after


def merge_removed(mask: Tensor, neighbour: Tensor) -> Tensor:
    """Bool [N]: the masked Gaussians and their neighbours."""
    return mask.index_fill(0, neighbour.index_select(0, _rows(mask)), True)


def _rows(mask: Tensor) -> Tensor:
    """Ids [M] where a mask is true. On CUDA it waits for the device once: a mask as an index would each time."""
    return mask.nonzero()[:, 0]


def _shrink(state: State, old: int, factor: float) -> None:
    """Make the copies from row `old` on smaller; lasting where a Gaussian has a scale of its own."""
    state["scales"][old:].div_(factor)
    state["radii"][old:].div_(factor)
    if "scale_residual" in state:
        state["scale_residual"][old:].sub_(math.log(factor))


def _with_copies(state: State, keep: Tensor | None, ids: Tensor) -> tuple[State, int]:
    """The rows where `keep` is true (None: all), then copies of the rows `ids`; and how many come before the copies."""
    old = torch.arange(len(state["gradients"]), device=ids.device) if keep is None else _rows(keep)
    rows = torch.cat([old, ids])
    after = {name: value.index_select(0, rows) for name, value in state.items()}
    after["gradients"][len(old) :].zero_()  # nothing was seen of them yet: they are not acted on again
    if "born" in after:
        after["born"][len(old) :].fill_(True)
    return after, len(old)
