"""Density control: statistics of training steps, and the edits of the set of Gaussians that follow from them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from r3avatar.training.density_rules import (
    State,
    clone,
    clone_mask,
    kl_of,
    merge,
    merge_mask,
    prune_mask,
    split,
    split_mask,
)
from r3avatar.training.density_statistics import DensityStatistics
from r3avatar.types import RenderOutput

if TYPE_CHECKING:
    from r3avatar.avatar.decoder import Attributes


@dataclass
class DensityEdit:
    """A change of the set of Gaussians: the kept rows in their order, then new ones."""

    keep: Tensor  # [K] int64, rows of the old parameters
    new: dict[str, Tensor]  # name -> [M, ...], rows to append to each learned parameter
    parents: Tensor  # [M] int64, the old row each new one came from
    cloned: int  # how many Gaussians each rule acted on
    split: int
    merged: int
    pruned: int

    @property
    def count(self) -> int:
        """Gaussians after the edit."""
        return len(self.keep) + len(self.parents)


def apply_edit(optimizer: torch.optim.Optimizer | None, module: nn.Module, edit: DensityEdit) -> None:
    """Resize the module's learned parameters and their optimizer state, after the optimizer's step.

    Each parameter named in `edit.new` becomes a new `nn.Parameter` of `module` and takes its place in its group; of
    the state (Adam's averages) kept rows stay and new ones start at zero. `optimizer` is torch's own, not a wrapper.
    """
    K = len(edit.keep)
    sources = torch.cat([edit.keep, edit.parents])
    for name, new in edit.new.items():
        old = getattr(module, name)
        rows = sources.to(old.device)
        values = old.detach().index_select(0, rows)
        values[K:] = new
        grown = nn.Parameter(values, requires_grad=old.requires_grad)
        setattr(module, name, grown)
        if optimizer is None:
            continue
        for group in optimizer.param_groups:
            group["params"] = [grown if p is old else p for p in group["params"]]
        if old in optimizer.state:
            state = optimizer.state.pop(old)
            for key, value in state.items():  # of a shape of its own is Adam's step count
                if isinstance(value, Tensor) and value.shape == old.shape:
                    state[key] = value.index_select(0, rows)
                    state[key][K:].zero_()
            optimizer.state[grown] = state


class DensityControl:
    """Clones, splits, merges and prunes Gaussians on the statistics of the steps since it last did.

    The learned parameters are positions and colours; opacity, scale and rotation belong to a time and come from the
    decoder. Statistics stand for them, where the published code takes those of whatever frame came last:
      opacity   the highest over a running window of frames, so that a part seen only at some times is kept;
      scale     the geometric mean over that window, for every rule that asks for a size;
      rotation  the last frame's: it matters only to the KL divergence and to where copies fall.
    The window is the interval since the last edit, and so many before it that `window_frames` frames lie in it.

    An edit moves and copies positions and colours. That a split makes scales 1.6 times smaller and a merge 1 / 0.8
    times larger counts for the rules that follow in the same edit, and no longer where the decoder alone has the
    scales; with a static residual (`CanonicalGaussians`) it lasts.

    Source: R3-Avatar, after GauHuman (Hu & Liu 2024) and 3D Gaussian splatting (Kerbl et al. 2023). Each switch
    `*_published` restores one defect of the published code.
    """

    def __init__(
        self,
        start: int = 400,
        stop: int = 15000,
        every: int = 100,
        every_steps: int = 0,
        grad_threshold: float = 1e-3,
        crowded: int = 35000,
        crowded_step: int = 5000,
        percent_dense: float = 0.01,
        kl_clone: float = 0.4,
        kl_split: float = 0.4,
        kl_merge: float = 0.1,
        min_opacity: float = 0.005,
        size_prune_after: int = 3000,
        max_screen_radius: float | None = 20.0,
        max_scale: float | None = 0.1,
        window_frames: int = 400,
        max_gaussians: int | None = None,
        seed: int = 0,
        last_frame_statistics_published: bool = False,
        merge_gradients_published: bool = False,
        clone_resets_radii_published: bool = False,
        mutual_merges_published: bool = False,
    ):
        """
        Args:
            start, stop, every: images seen; edits happen after `start` and before `stop`, every `every`.
            every_steps: and no two within so many steps, however many images those have.
            grad_threshold: mean norm of the screen-space gradient, NDC, from which a Gaussian is acted on.
            crowded, crowded_step: with N > crowded Gaussians the threshold is multiplied by
                2 + (N - crowded) / crowded_step.
            percent_dense: share of the extent up to which a Gaussian is small.
            kl_clone, kl_split, kl_merge: thresholds on the KL divergence to the nearest neighbour.
            min_opacity: below it a Gaussian is pruned.
            size_prune_after: images after which large Gaussians are pruned: a screen radius above `max_screen_radius`
                pixels, or a scale above `max_scale` times the extent (None: never).
            window_frames: frames in the window of the opacity and scale statistics.
            max_gaussians: clones and splits stop at this number, those with the highest gradients first. None: no cap.
            seed: of the draws that place copies; the same on every rank.
            last_frame_statistics_published: opacity and scale of the last frame alone.
            merge_gradients_published: the merge reads gradients by row number, which clones and splits have shifted.
            clone_resets_radii_published: cloning forgets the screen radii, so that they never prune.
            mutual_merges_published: two mutual neighbours that merge leave two Gaussians in one place.
        """
        if every < 1 or window_frames < 1:
            raise ValueError(f"every = {every} and window_frames = {window_frames} must be at least 1")
        if every_steps < 0:
            raise ValueError(f"every_steps = {every_steps} must be at least 0")
        self.start, self.stop, self.every, self.every_steps = start, stop, every, every_steps
        self.grad_threshold, self.crowded, self.crowded_step = grad_threshold, crowded, crowded_step
        self.percent_dense = percent_dense
        self.kl_clone, self.kl_split, self.kl_merge = kl_clone, kl_split, kl_merge
        self.min_opacity, self.size_prune_after = min_opacity, size_prune_after
        self.max_screen_radius, self.max_scale = max_screen_radius, max_scale
        self.window_frames, self.max_gaussians = window_frames, max_gaussians
        self.last_frame_statistics_published = last_frame_statistics_published
        self.merge_gradients_published = merge_gradients_published
        self.clone_resets_radii_published = clone_resets_radii_published
        self.mutual_merges_published = mutual_merges_published
        self.statistics = DensityStatistics(window_frames)
        self._generator = torch.Generator().manual_seed(seed)
        self._edited_at = start

    def collecting(self, images: int) -> bool:
        """Whether steps are still observed after so many images."""
        return images < self.stop

    def due(self, images: int, step: int = 1) -> bool:
        """Whether an edit is due after so many images, seen in steps of `step` (of all devices together)."""
        enough = images // self.every > self._edited_at // self.every
        return self.start < images < self.stop and enough and images - self._edited_at >= self.every_steps * step

    def observe(self, render: RenderOutput, attributes: Attributes, width: int, height: int) -> None:
        """Take in one step, after its backward pass; see `DensityStatistics.observe`."""
        self.statistics.observe(render, attributes, width, height)

    def reserve(self, count: int, rows: int, device: torch.device) -> None:
        """Before a CUDA graph that accumulates is recorded; see `DensityStatistics.reserve`."""
        self.statistics.reserve(count, rows, device)

    def accumulate(self, render: RenderOutput, attributes: Attributes, width: int, height: int) -> None:
        """What of `observe` a CUDA graph may hold; see `DensityStatistics.accumulate`."""
        self.statistics.accumulate(render, attributes, width, height)

    def advance(self, frames: int) -> None:
        """The rest of `observe`; see `DensityStatistics.advance`."""
        self.statistics.advance(frames)

    def step(
        self, module: nn.Module, images: int, extent: float, generator: torch.Generator | None = None
    ) -> DensityEdit | None:
        """Decide on the statistics so far, and begin new ones. None = nothing to change.

        With several processes every rank calls `statistics.all_reduce()` before, and finds the same edit.

        Args:
            module: holds the learned parameters, all [N, ...]: `positions` [N, 3] and any others (colours).
            images: seen so far.
            extent: radius of the training cameras, metres.
            generator: of the draws that place copies; its own unless given.
        """
        self._edited_at = images
        learned = {name: value.detach() for name, value in module.named_parameters(recurse=False)}
        state = learned | self.statistics.state(self.last_frame_statistics_published)
        N = len(learned["positions"])
        if len(state["gradients"]) != N:
            raise ValueError(f"density statistics are of {len(state['gradients'])} Gaussians, the avatar has {N}")
        state["source"] = torch.arange(N, device=state["positions"].device)
        state["born"] = torch.zeros_like(state["source"], dtype=torch.bool)
        source = generator or self._generator

        def noise(count: int) -> Tensor:
            drawn = torch.randn(count, 3, generator=source, device=source.device)
            return drawn.to(state["positions"], non_blocking=True)

        after, counts = self.densify(state, images, extent, noise)
        rows = after["source"]
        if not len(rows):
            raise RuntimeError(
                f"density control would prune all {N} Gaussians at image {images}: their opacity is below "
                f"{self.min_opacity} or their size above the limits; check the masks, or set density=none"
            )
        edit = None
        if any(counts.values()):
            old = int((~after["born"]).sum())  # rows before the new ones: every rule appends those
            new = {name: after[name][old:] for name in learned}
            edit = DensityEdit(rows[:old], new, rows[old:], **counts)
            if edit.count == N and old == N:
                edit = None
        self.statistics.close(edit)
        return edit

    def densify(
        self, state: State, images: int, extent: float, noise: Callable[[int], Tensor]
    ) -> tuple[State, dict[str, int]]:
        """Clone, split, merge, prune on a full state (see `density_rules`); neighbours are found anew for each rule.

        `noise(M)` gives [M, 3] standard normal draws. Returns the new state, and how many Gaussians each rule acted on.
        """
        state = dict(state)
        original = state["gradients"]
        threshold, small = self._threshold(len(original)), self.percent_dense * extent
        counts = {"cloned": 0, "split": 0, "merged": 0, "pruned": 0}
        moving = (original >= threshold).nonzero()[:, 0]  # no rule but the pruning looks at others
        if len(original) > 1 and len(moving):
            kl, neighbour = kl_of(state, moving)
            mask = clone_mask(state["gradients"], state["scales"], kl, threshold, small, self.kl_clone)
            mask = self._affordable(mask, state["gradients"])
            state = clone(state, mask, noise)
            counts["cloned"] = len(state["gradients"]) - len(mask)
            if self.clone_resets_radii_published:
                state["radii"] = torch.zeros_like(state["radii"])

            gradients = state["gradients"]
            if counts["cloned"]:
                kl, neighbour = kl_of(state, (gradients >= threshold).nonzero()[:, 0])
            mask = split_mask(gradients, state["scales"], kl, threshold, small, self.kl_split)
            mask = self._affordable(mask, gradients)
            state = split(state, mask, noise)
            counts["split"] = len(state["gradients"]) - len(mask)

            gradients = state["gradients"]
            if self.merge_gradients_published:  # row k's original gradient, whatever has moved to row k; 0 beyond
                gradients = torch.cat([original, original.new_zeros(len(gradients))])[: len(gradients)]
            if counts["split"] or self.merge_gradients_published:
                kl, neighbour = kl_of(state, (gradients >= threshold).nonzero()[:, 0])
            mask = merge_mask(gradients, state["scales"], kl, threshold, small, self.kl_merge)
            counts["merged"] = int(mask.sum())
            if counts["merged"]:
                state = merge(state, mask, neighbour, self.mutual_merges_published)
        elif len(original) > 1 and self.clone_resets_radii_published:
            state["radii"] = torch.zeros_like(state["radii"])

        by_size = images > self.size_prune_after
        mask = prune_mask(
            state["opacity_logits"],
            state["scales"],
            state["radii"],
            self.min_opacity,
            self.max_screen_radius if by_size else None,
            self.max_scale * extent if by_size and self.max_scale is not None else None,
        )
        left = (~mask).nonzero()[:, 0]
        counts["pruned"] = len(mask) - len(left)
        if counts["pruned"]:
            state = {name: value.index_select(0, left) for name, value in state.items()}
        return state, counts

    def _threshold(self, count: int) -> float:
        over = count - self.crowded
        return self.grad_threshold * (2 + over / self.crowded_step if over > 0 else 1)

    def _affordable(self, mask: Tensor, gradients: Tensor) -> Tensor:
        """As many of the mask as `max_gaussians` allows, the highest gradients first; each adds one Gaussian."""
        if self.max_gaussians is None:
            return mask
        room = max(0, self.max_gaussians - len(mask))
        order = torch.where(mask, gradients, -1).argsort(descending=True, stable=True)[:room]
        return mask & torch.zeros_like(mask).index_fill(0, order, True)

    def state_dict(self) -> dict:
        """Statistics, the state of the draws and the last edit, as plain containers of tensors."""
        return {
            "statistics": self.statistics.state_dict(),
            "generator": self._generator.get_state(),
            "edited_at": self._edited_at,
        }

    def load_state_dict(self, state: dict) -> None:
        """Continue where `state_dict` was taken."""
        self.statistics.load_state_dict(state["statistics"])
        self._generator.set_state(state["generator"].cpu())
        self._edited_at = state["edited_at"]


class NoDensityControl:
    """The ablation `density=none`: the Gaussians stay those of the body's vertices."""

    def __init__(self, **settings):
        """settings: of the density control, which an experiment may bring along; only their names are checked."""
        unknown = set(settings) - set(inspect.signature(DensityControl).parameters)
        if unknown:
            raise TypeError(f"density=none: density control has no setting {', '.join(sorted(unknown))}")

    def collecting(self, images: int) -> bool:
        """Never."""
        return False

    def due(self, images: int, step: int = 1) -> bool:
        """Never."""
        return False

    def state_dict(self) -> dict:
        """Nothing to keep."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Nothing to restore."""
