"""One Adam over named parameter groups, and the course of their learning rates."""

from __future__ import annotations

import torch
from torch import Tensor

from r3avatar.avatar import Avatar
from r3avatar.training.fused_adam import FusedAdam
from r3avatar.training.schedules import log_linear

RESIDUAL = ("opacity", "scale", "rotation")  # of `CanonicalGaussians`, with avatar.static_residual=true
PARTS = ("positions", "sh_dc", "sh_rest", "planes", "decoder", "skinning", "pose_refinement")
LIGHT = ("shading", "normals")  # the light and what it falls on, with avatar.shading=true
GROUPS = (*PARTS, *RESIDUAL, *LIGHT)
BATCH_RULES = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}
"""Exponents of a step's number of images."""


def make_optimizer(
    avatar: Avatar,
    extent: float,
    positions: float = 1.6e-4,
    sh_dc: float = 2.5e-3,
    sh_rest: float = 1.25e-4,
    planes: float = 1.6e-4,
    decoder: float = 5e-5,
    skinning: float = 5e-5,
    pose_refinement: float = 5e-5,
    opacity: float = 5e-2,
    scale: float = 5e-3,
    rotation: float = 1e-3,
    shading: float = 2e-2,
    normals: float = 4e-3,
    eps: float = 1e-15,
) -> FusedAdam:
    """Adam whose groups carry `name` and `initial_lr`; absent parts (ablations) have no group.

    extent: radius of the training cameras, metres; it multiplies the positions' learning rate (3D Gaussian splatting).
    """
    g = avatar.gaussians
    modules = {"skinning": avatar.skinning.weight_offsets, "pose_refinement": avatar.pose_refinement}
    colour = [] if avatar.colour_residual is None else list(avatar.colour_residual.parameters())
    parameters = {
        "positions": ([g.positions], positions * extent),
        "sh_dc": ([g.sh_dc], sh_dc),
        "sh_rest": ([g.sh_rest], sh_rest),
        "planes": (list(avatar.codebook.parameters()), planes),
        "decoder": (list(avatar.decoder.parameters()) + colour, decoder),
        "skinning": ([] if modules["skinning"] is None else list(modules["skinning"].parameters()), skinning),
        "pose_refinement": (
            [] if modules["pose_refinement"] is None else list(modules["pose_refinement"].parameters()),
            pose_refinement,
        ),
        "opacity": ([g.opacity_residual] if g.static_residual else [], opacity),
        "scale": ([g.scale_residual] if g.static_residual else [], scale),
        "rotation": ([g.rotation_residual] if g.static_residual else [], rotation),
        "shading": ([] if avatar.shading is None else [avatar.shading.light], shading),
        "normals": ([] if avatar.shading is None else [g.normals], normals),
    }
    groups = [
        {"params": values, "lr": rate, "initial_lr": rate, "name": name}
        for name, (values, rate) in parameters.items()
        if values
    ]
    return FusedAdam(groups, eps=eps)


def place_rates(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Make Adam's rates what its device wants, after a checkpoint was loaded too.

    On CUDA tensors there, so that a recorded step follows the schedule; elsewhere numbers.
    """
    cuda = device.type == "cuda"
    for group in optimizer.param_groups:
        rate = float(group["lr"])
        group["lr"] = torch.tensor(rate, device=device) if cuda else rate
        group["capturable"] = cuda


class LearningRates:
    """Learning rates over a run: log-linear from each group's start to `final` times it.

    final: factor at the end, one a group (absent: 1, no decay). Published: positions 0.01 over 30000 images
    whatever the run's length, all others constant; by default here all but the normals decay, over the run's length.
    decay_images: length of the schedule in images; None: the run's whole budget (images or minutes, whichever leads).
    batch_rule: factor for steps of B images: 'sqrt' (sqrt B, Adam's noise scale), 'linear' (B) or 'none'; one for all
        groups, or one a group under its name and the others' as 'default'.
    """

    def __init__(
        self, final: dict[str, float], decay_images: int | None = None, batch_rule: str | dict[str, str] = "sqrt"
    ):
        rules = {"default": batch_rule} if isinstance(batch_rule, str) else dict(batch_rule)
        unknown = (set(final) | set(rules) - {"default"}) - set(GROUPS)
        if unknown:
            raise ValueError(f"learning rates of unknown groups {sorted(unknown)}; there are {', '.join(GROUPS)}")
        for rule in rules.values():
            if rule not in BATCH_RULES:
                raise ValueError(f"batch_rule '{rule}' is none of {', '.join(BATCH_RULES)}")
        self.final, self.decay_images = dict(final), decay_images
        default = rules.get("default", "sqrt")
        self.batch_rules = {name: rules.get(name, default) for name in GROUPS}
        self.current: dict[str, float] = {}  # as last applied

    def apply(self, optimizer: torch.optim.Optimizer, progress: float, images: int, batch: int) -> None:
        """Set every group's rate at `progress` (0 to 1) of the budget, after `images` images, for steps of `batch`."""
        u = progress if self.decay_images is None else images / self.decay_images
        for group in optimizer.param_groups:
            start = group["initial_lr"] * batch ** BATCH_RULES[self.batch_rules[group["name"]]]
            rate = log_linear(start, start * self.final.get(group["name"], 1.0), u)
            self.current[group["name"]] = rate
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
