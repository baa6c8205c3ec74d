"""What density control remembers of the training steps; taking it in never waits for the GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from r3avatar.triton_support import use_triton
from r3avatar.types import RenderOutput

if TYPE_CHECKING:
    from r3avatar.avatar.decoder import Attributes
    from r3avatar.training.density import DensityEdit

_SMALLEST_SCALE = 1e-8  # metres, before the logarithm
_HIGHEST = ("radii", "opacity_logits")  # the interval's maxima; the others are sums
_BEGINNING = {"opacity_logits": -torch.inf}  # of an interval's tensors; the others begin at 0
_WINDOW = ("opacity_logits", "log_scale_sum", "frame_count")  # what the window keeps of an interval


class DensityStatistics:
    """Statistics of N Gaussians over the steps since the last edit, and a running window of frames before it."""

    def __init__(self, window_frames: int, backend: str = "auto"):
        """window_frames: frames that the running window holds; backend: see `triton_support.use_triton`."""
        self.window_frames, self.backend = window_frames, backend
        self.interval: dict[str, Tensor] = {}  # since the last edit, each [N, ...]; see `_empty`
        self.frames = 0  # in the interval
        self.last: dict[str, Tensor] = {}  # the last frame's opacity_logits, scales, quaternions
        self.history: list[dict] = []  # closed intervals, newest first: frames and the window's three tensors
        self._interval_room: dict[str, Tensor] = {}  # what `interval` and `last` are the first rows of, if anything
        self._last_room: dict[str, Tensor] = {}

    def observe(self, render: RenderOutput, attributes: Attributes, width: int, height: int) -> None:
        """Take in a step of F frames x V views: `accumulate` and `advance`."""
        self.accumulate(render, attributes, width, height)
        self.advance(render.radii.shape[0])

    def advance(self, frames: int) -> None:
        """Count the frames of a step that was accumulated: of every replay, where a CUDA graph accumulates."""
        self.frames += frames

    def reserve(self, count: int, rows: int, device: torch.device) -> None:
        """Be ready for steps of `rows`, of which the first `count` are Gaussians and the others count for nothing.

        Statistics lie in tensors of so many rows from then on, and stay there through the edits that these suffice for:
        a recorded step finds them.
        """
        room = self._interval_room.get("radii")
        if room is not None and len(room) == rows and room.device == device and self.interval:
            return
        self._to(device)
        interval, last = self.interval or self._empty(count, device), self.last
        if len(interval["radii"]) != count:
            raise ValueError(f"density statistics are of {len(interval['radii'])} Gaussians, the avatar has {count}")
        self._interval_room = self._empty(rows, device)
        self._last_room = {
            "opacity_logits": torch.zeros(rows, 1, device=device),
            "scales": torch.zeros(rows, 3, device=device),
            "quaternions": torch.zeros(rows, 4, device=device),
        }
        self._view(count)
        for views, values in ((self.interval, interval), (self.last, last)):
            for name, value in values.items():
                views[name].copy_(value)

    def _view(self, count: int) -> None:
        """Let `interval` and `last` be the first rows of their room."""
        self.interval = {name: value[:count] for name, value in self._interval_room.items()}
        self.last = {name: value[:count] for name, value in self._last_room.items()}

    def _to(self, device: torch.device) -> None:
        """Move what was loaded from a checkpoint."""
        if self.interval and self.interval["radii"].device != device:
            self.history = [_copied(h, device) for h in self.history]
            self.interval, self.last = _copied(self.interval, device), _copied(self.last, device)

    @torch.no_grad()
    def accumulate(self, render: RenderOutput, attributes: Attributes, width: int, height: int) -> None:
        """The part of `observe` that computes on the device: in place, so that a CUDA graph can hold it.

        The norm of a Gaussian's screen-space gradient counts in normalised device coordinates, so that the threshold
        does not depend on the resolution: the pixel gradient times (width / 2, height / 2); and times F V, since the
        loss is a mean over the images. The mean is over the images in which the Gaussian is visible.

        Args:
            render: after backward(), so that `means2d.grad` [F, V, N, 2] is there.
            attributes: what the decoder gave: opacity_logit [F, N, 1], scale [F, N, 3], rotation [F, N, 4].
            width, height: of the capture's full images in pixels, not of the crops they are rendered in.
        """
        gradient = render.means2d.grad
        if gradient is None:
            raise RuntimeError(
                "render.means2d has no gradient: observe a step after backward(), with means2d.retain_grad() called"
            )
        F, V, N = render.radii.shape
        if not self.interval:
            self.interval = self._empty(N, gradient.device)
        self._to(gradient.device)
        s, mine = self.interval, self.last
        if self._interval_room and len(self._interval_room["radii"]) == N:
            s, mine = self._interval_room, self._last_room
        if len(s["radii"]) != N:
            raise ValueError(f"density statistics are of {len(s['radii'])} Gaussians, the render has {N}")
        logits, scales = attributes.opacity_logit, attributes.scale
        last = {"opacity_logits": logits[-1], "scales": scales[-1], "quaternions": attributes.rotation[-1]}
        if not mine:
            mine = self.last = {name: value.new_empty(value.shape) for name, value in last.items()}
        if use_triton(self.backend, gradient.device):
            from r3avatar.training import triton_statistics

            triton_statistics.accumulate(
                gradient,
                render.radii,
                logits,
                scales,
                attributes.rotation,
                s,
                mine,
                width,
                height,
                _SMALLEST_SCALE,
            )
            return
        visible = render.radii > 0  # [F, V, N]
        norm = F * V * torch.hypot(gradient[..., 0] * (width / 2), gradient[..., 1] * (height / 2))
        s["gradient_sum"] += torch.where(visible, norm, 0).sum(dim=(0, 1))
        s["gradient_count"] += visible.sum(dim=(0, 1))
        torch.maximum(s["radii"], render.radii.amax(dim=(0, 1)).to(s["radii"]), out=s["radii"])
        torch.maximum(s["opacity_logits"], logits.amax(dim=0), out=s["opacity_logits"])
        s["log_scale_sum"] += scales.clamp_min(_SMALLEST_SCALE).log().sum(dim=0)
        s["frame_count"] += F
        for name, value in last.items():
            mine[name].copy_(value)

    def all_reduce(self, seen_elsewhere: bool = False) -> None:
        """Combine the ranks' statistics in place (sums, maxima, the last rank's last frame): on every rank.

        Two collectives of the process group's backend for where the values are; nothing waits for a device.
        `frames` is to be that of all ranks on each of them.
        seen_elsewhere: another rank counts this one's frames, of which this one has seen other views.
        """
        if not (dist.is_available() and dist.is_initialized()):
            return
        uncounted = [self.interval["log_scale_sum"], self.interval["frame_count"]] if seen_elsewhere else []
        if dist.get_rank() != dist.get_world_size() - 1:
            uncounted += self.last.values()
        for value in uncounted:
            value.zero_()
        highest = [self.interval[name] for name in _HIGHEST]
        sums = [value for name, value in self.interval.items() if name not in _HIGHEST] + list(self.last.values())
        for values, operation in ((sums, dist.ReduceOp.SUM), (highest, dist.ReduceOp.MAX)):
            flat = torch.cat([value.flatten() for value in values])
            dist.all_reduce(flat, op=operation)
            parts = flat.split([value.numel() for value in values])
            torch._foreach_copy_(values, [part.view_as(value) for value, part in zip(values, parts)])

    def forget_interval(self) -> None:
        """As if no step had been observed since the last edit, in place: what another rank remembers counts once."""
        _begin(self.interval)

    def state(self, last_frame: bool = False) -> dict[str, Tensor]:
        """gradients [N], radii [N] of the interval; opacity_logits [N, 1], scales [N, 3], quaternions [N, 4] of the
        window (or of the last frame alone)."""
        if not self.frames:
            raise RuntimeError("no step was observed since the last edit: there is nothing to decide on")
        s = self.interval
        state = {"gradients": s["gradient_sum"] / s["gradient_count"].clamp_min(1), "radii": s["radii"], **self.last}
        if not last_frame:
            window, frames = [s], self.frames
            for closed in self.history:
                if frames >= self.window_frames:
                    break
                window.append(closed)
                frames += closed["frames"]
            logits, log_scales, counts = (torch.stack([w[name] for w in window]) for name in _WINDOW)
            state["scales"] = (log_scales.sum(dim=0) / counts.sum(dim=0)).exp()
            state["opacity_logits"] = logits.amax(dim=0)
        return state

    def close(self, edit: DensityEdit | None = None) -> None:
        """End the interval: it joins the window, and after an edit the window's rows follow its Gaussians.

        New Gaussians inherit the window of those they came from: they lie next to them, and the decoder is smooth.
        """
        history = [self.interval, *self.history]
        frames = [self.frames, *(h["frames"] for h in self.history)]
        while len(history) > 1 and sum(frames[:-1]) >= self.window_frames:
            history.pop(), frames.pop()
        device = self.interval["radii"].device
        if edit is not None:
            rows = torch.cat([edit.keep, edit.parents])
            # All intervals at once: the work is in the launches.
            windows = {name: torch.stack([h[name] for h in history]).index_select(1, rows) for name in _WINDOW}
            self.history = [
                {"frames": count, **{name: values[k] for name, values in windows.items()}}
                for k, count in enumerate(frames)
            ]
            if self._interval_room and len(rows) <= len(self._interval_room["radii"]):
                _begin(self._interval_room)
                self._view(len(rows))
            else:
                self._interval_room = self._last_room = {}
                self.interval, self.last = self._empty(len(rows), device), {}
        else:  # in place: a CUDA graph goes on writing here
            newest = {"frames": self.frames, **{name: self.interval[name].clone() for name in _WINDOW}}
            self.history = [newest, *self.history[: len(history) - 1]]
            _begin(self.interval)
        self.frames = 0

    def state_dict(self) -> dict:
        """Plain containers of tensors (copies) and numbers."""
        history = [_copied(h) for h in self.history]
        interval, last = _copied(self.interval), _copied(self.last) if self.frames else {}
        return {"interval": interval, "frames": self.frames, "last": last, "history": history}

    def load_state_dict(self, state: dict) -> None:
        """Continue where `state_dict` was taken; tensors move to the next step's device."""
        self.interval, self.frames, self.last = _copied(state["interval"]), state["frames"], _copied(state["last"])
        self.history = [_copied(h) for h in state["history"]]
        self._interval_room = self._last_room = {}

    @staticmethod
    def _empty(N: int, device: torch.device) -> dict[str, Tensor]:
        values = torch.zeros(8 * N, device=device)
        sums, log_scales, logits = values[: 4 * N].view(4, N), values[4 * N : 7 * N].view(N, 3), values[7 * N :]
        return {
            "gradient_sum": sums[0],
            "gradient_count": sums[1],  # images in which a Gaussian was visible
            "radii": sums[2],  # highest
            "opacity_logits": logits.fill_(_BEGINNING["opacity_logits"])[:, None],  # highest
            "log_scale_sum": log_scales,
            "frame_count": sums[3][:, None],
        }


def _begin(interval: dict[str, Tensor]) -> None:
    """As if nothing had been observed, in place: a CUDA graph goes on writing there."""
    for name, value in interval.items():
        value.fill_(_BEGINNING.get(name, 0.0))


def _copied(values: dict, device: torch.device | None = None) -> dict:
    return {k: v.to(device, copy=True) if isinstance(v, Tensor) else v for k, v in values.items()}
