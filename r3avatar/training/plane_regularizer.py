"""Regularisers of the temporal codebook's planes: even in space, smooth in time, 1 where time changes nothing."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from r3avatar.avatar.codebook import PAIRS, TemporalCodebook

PLANE_TERMS = ("plane_tv", "time_smoothness", "time_sparsity")

_SLOPE, _BEND = (-1, 1), (1, -2, 1)  # what neighbouring texels are multiplied with: first and second difference
_DIFFERENCES = {"plane_tv": ((0, _SLOPE), (1, _SLOPE)), "time_smoothness": ((0, _BEND),), "time_sparsity": ()}
"""Axes of [height, width, channels] along which a term takes squared differences; a time plane's height is time."""


def plane_terms(codebook: TemporalCodebook, names: tuple[str, ...] = PLANE_TERMS) -> dict[str, Tensor]:
    """The regularisers `names` of a codebook as scalar tensors, unweighted, with gradients to its planes.

    plane_tv: squared difference of neighbouring texels of the space planes, along width and along height.
    time_smoothness: squared second difference along time of the time planes.
    time_sparsity: distance |texel - 1| of the time planes; where they are 1, features do not change with time.

    Each is a mean over the differences (or texels) and channels of a plane, summed over the planes and scales, and with
    plane_tv over both axes. Differences are those from texel to texel, whatever lies between in metres or frames. In
    time only recorded moments count, not a general one. A plane that has too few texels adds nothing: without time
    planes their terms are 0. Nothing here waits for the GPU.

    Source: K-Planes (Fridovich-Keil et al. 2023), which regularises so; means and sums are taken here as said above.
    """
    unknown = [name for name in names if name not in PLANE_TERMS]
    if unknown:
        raise ValueError(f"no such regulariser of planes: {', '.join(unknown)}; there are {', '.join(PLANE_TERMS)}")
    return dict(zip(names, _PlaneTerms.apply(codebook.planes, codebook, names))) if names else {}


class _PlaneTerms(torch.autograd.Function):
    """The terms, whose gradient is written plane by plane into one tensor like the parameter.

    PyTorch's own graph would keep the differences of all planes, and pad the gradient of each slice with zeros.
    """

    @staticmethod
    def forward(ctx, planes: Tensor, codebook: TemporalCodebook, names: tuple[str, ...]) -> tuple[Tensor, ...]:
        ctx.save_for_backward(planes)
        ctx.codebook, ctx.names = codebook, names
        results = []
        for name in names:
            result = planes.new_zeros(())
            for (plane,) in _planes(codebook, name, planes):
                if name == "time_sparsity":
                    result += (plane - 1).abs_().mean()
                for axis, taps in _differences(name, plane):
                    result += _apply(taps, plane, axis).square_().mean()
            results.append(result)
        return tuple(results)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor):
        (planes,) = ctx.saved_tensors
        total = torch.zeros_like(planes)
        for name, gradient in zip(ctx.names, gradients):
            for plane, into in _planes(ctx.codebook, name, planes, total):
                if name == "time_sparsity":
                    into += (plane - 1).sign_().mul_(gradient / plane.numel())
                for axis, taps in _differences(name, plane):
                    difference = _apply(taps, plane, axis)
                    difference *= 2 * gradient / difference.numel()
                    for tap, part in zip(taps, _shifted(into, axis, len(taps))):
                        part.add_(difference, alpha=tap)
        return total, None, None


def _planes(codebook: TemporalCodebook, name: str, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The planes of a term, [height, width, channels]: views of each of `tensors`, which are like the parameter."""
    in_time = name != "plane_tv"
    for k, views in enumerate(zip(*(codebook.views(x) for x in tensors))):
        if (PAIRS[k % len(PAIRS)][1] == 3) == in_time and views[0].numel():
            yield tuple(view[: codebook.recorded_texels] for view in views) if in_time else views


def _differences(name: str, plane: Tensor) -> list[tuple[int, tuple[int, ...]]]:
    """A term's axes and taps, as far as the plane has texels for them."""
    return [(axis, taps) for axis, taps in _DIFFERENCES[name] if plane.shape[axis] >= len(taps)]


def _apply(taps: tuple[int, ...], plane: Tensor, axis: int) -> Tensor:
    """The sums of neighbours along an axis, each times its tap: a tensor of its own."""
    first, *others = _shifted(plane, axis, len(taps))
    result = first * taps[0]
    for tap, part in zip(taps[1:], others):
        result.add_(part, alpha=tap)
    return result


def _shifted(plane: Tensor, axis: int, count: int) -> list[Tensor]:
    """Views of a plane, each a texel further along the axis than the one before."""
    length = plane.shape[axis] - count + 1
    return [plane.narrow(axis, k, length) for k in range(count)]
