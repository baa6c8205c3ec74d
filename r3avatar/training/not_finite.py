"""What is kept of a step that was no numbers: its batch, the state before it, and what in it is not finite."""

from __future__ import annotations

import dataclasses
import logging
import os
from pathlib import Path

import pytorch_lightning as pl
import torch

from r3avatar.captures import CaptureDataModule
from r3avatar.cuda_graphs import tensors_of
from r3avatar.training.checkpoints import CheckpointFiles
from r3avatar.training.module import AvatarModule
from r3avatar.training.stopping import NotFinite
from r3avatar.types import Batch

log = logging.getLogger(__name__)


def explain_step(
    trainer: pl.Trainer, module: AvatarModule, data: CaptureDataModule, step: int, folder: Path
) -> NotFinite:
    """The error for a step that was not finite, once the trainer has stopped.

    Runs the step again on the state before it, which the update has left alone, and names its frames and cameras, the
    terms of the loss and the parameters' gradients that are not finite. folder/not_finite.ckpt keeps what it names, the
    batch, and the state (avatar and Adam), so that `checkpoint=not_finite` renders it.
    """
    frames, cameras, batch = data.training_step(step)
    device = trainer.strategy.root_device
    module.to(device)
    images = batch.rgb.shape[0] * batch.rgb.shape[1]
    canonical = module.avatar.gaussians
    canonical.active_sh_degree = min(canonical.max_sh_degree, step * images // module.sh_degree_every)
    state = {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}
    module.zero_grad(set_to_none=True)
    with torch.autograd.set_detect_anomaly(False), torch.enable_grad():
        terms, _, _ = module.forward_backward(batch.to(device))
    found = [f"loss term {name} is {float(value)}" for name, value in terms.items() if not bool(value.isfinite())]
    found += [
        f"gradient of {name}: {int((~p.grad.isfinite()).sum())} of {p.grad.numel()} numbers are not finite"
        for name, p in module.named_parameters()
        if p.grad is not None and not bool(p.grad.isfinite().all())
    ]
    parameters = module.named_parameters()
    found += [f"parameter {name} is not finite" for name, p in parameters if not bool(p.isfinite().all())]
    path = folder / "not_finite.ckpt"
    part = path.with_name(path.name + ".part")
    contents = {
        "state_dict": state,
        "optimizer_states": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "progress": {"images": step * images, "seconds": module.seconds, "curve": module.curve},
        "step": step,
        "frames": frames,
        "cameras": cameras,
        "batch": _plain(batch),
        "found": found,
    }
    if trainer.is_global_zero:
        CheckpointFiles().save_checkpoint(contents, part)
        os.replace(part, path)
    shown = [*found[:4], f"and {len(found) - 4} more"] if len(found) > 5 else found
    what = "; ".join(shown) or "run again alone, the step is finite: the device's sums come in another order each time"
    where = ", ".join(f"frame {f} in cameras {' '.join(map(str, row))}" for f, row in zip(frames, cameras))
    return NotFinite(
        f"training step {step} (after {step * images} images; {where}) is not finite: {what}. {path} keeps the batch "
        "and the state before it; resume=true debug=detect_nan goes on from the last one, and tells which operation",
        step,
    )


def _plain(batch: Batch) -> dict:
    """A batch as a dictionary of tensors and numbers."""
    return {
        field.name: _plain(value) if dataclasses.is_dataclass(value) and tensors_of(value) else value
        for field in dataclasses.fields(batch)
        for value in [getattr(batch, field.name)]
    }
