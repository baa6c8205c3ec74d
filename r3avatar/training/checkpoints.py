"""Checkpoints: when they are written, and how, so that whatever ends a run the last whole one stays."""

from __future__ import annotations

import errno
import os
import random
import shutil
import time
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from lightning_fabric.plugins import TorchCheckpointIO

from r3avatar.training.module import AvatarModule
from r3avatar.training.stopping import NotWritten, StopSignals

_AGREE_EVERY = 20  # steps between two agreements of several ranks


class CheckpointFiles(TorchCheckpointIO):
    """Lightning's way to write checkpoints, for which a file counts as written when the disk has it."""

    def save_checkpoint(self, checkpoint: dict, path: str | os.PathLike, storage_options=None) -> None:
        """Write `path` through to the disk. NotWritten, and no such file, if the disk is full or refuses."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        file = None
        try:
            with path.open("wb", buffering=0) as opened:
                file = _Witness(opened)
                torch.save(_trimmed(checkpoint), file)
                os.fsync(opened.fileno())
        except (OSError, RuntimeError) as error:
            path.unlink(missing_ok=True)
            cause = (file and file.error) or error  # torch reports its own surprise at what the disk said
            if not isinstance(cause, OSError):
                raise
            written, free = file.size if file else 0, shutil.disk_usage(path.parent).free
            raise NotWritten(
                f"checkpoint {path.with_suffix('')} could not be written after {written / 2**20:.1f} MiB: "
                f"{os.strerror(cause.errno or 0)} ({free / 2**20:.1f} MiB are free); the one before is intact. "
                "Make room, and go on with resume=auto"
            ) from cause


def _trimmed(value):
    """The same with tensors that hold no more than they show: of a view torch would write all of its memory."""
    if isinstance(value, torch.Tensor):
        return value if value.untyped_storage().nbytes() == value.nbytes else value.clone()
    if isinstance(value, dict):
        return {key: _trimmed(item) for key, item in value.items()}
    return [_trimmed(item) for item in value] if type(value) is list else value


class _Witness:
    """A file that remembers the first error of a write, and how much was written."""

    def __init__(self, file):
        self._file, self.error, self.size = file, None, 0

    def write(self, data) -> int:
        left = memoryview(data).cast("B")
        length = len(left)
        try:
            while len(left):  # the last bytes before a disk is full are written without an error
                written = self._file.write(left)
                self.size, left = self.size + written, left[written:]
        except OSError as error:
            self.error = self.error or error
            raise
        return length

    def flush(self) -> None:
        self._file.flush()


def publish(part: Path, last: Path, best: Path | None) -> None:
    """Give a whole file its name `last`, and `best` too: under each name the old file is followed by the new one.

    `best` comes first: were it second, a kill in between would leave a checkpoint that knows of a best one that is not
    there.
    """
    if best is not None:
        link = best.with_name(best.name + ".part")
        link.unlink(missing_ok=True)
        try:
            os.link(part, link)  # the same bytes under a second name
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):  # of file systems without links
                raise
            shutil.copyfile(part, link)
        os.replace(link, best)
    os.replace(part, last)
    folder = os.open(last.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the names, too, are on the disk
    finally:
        os.close(folder)


def random_state(device: torch.device) -> dict:
    """The states of the global generators of Python, NumPy and torch, in plain containers."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": [version, list(words), gauss],
        "numpy": [name, keys.tolist(), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def restore_random_state(state: dict, device: torch.device) -> None:
    """Continue where `random_state` was taken."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


class CheckpointCallback(pl.Callback):
    """checkpoints/last.ckpt at every validation, every so many images or minutes, and at the end; best.ckpt by PSNR.

    All are taken between two steps: to go on from any of them is to do what an uninterrupted run would have done. A
    file appears under its name only when whole and on the disk, so that a kill, a loss of power or a full disk costs at
    most the newest interval. Checkpoints hold tensors and plain containers alone: `torch.load(..., weights_only=True)`
    reads them. Of several ranks the first one writes.

    It must come after the callbacks whose state it saves.
    """

    def __init__(
        self,
        folder: str,
        signals: StopSignals | None = None,
        every_images: int | None = None,
        every_minutes: float | None = None,
    ):
        """
        Args:
            signals: on request, a checkpoint is written and the run stops with their error.
            every_images, every_minutes: between two checkpoints, validations' aside; None: those alone.
        """
        for name, value in {"every_images": every_images, "every_minutes": every_minutes}.items():
            if value is not None and value <= 0:
                raise ValueError(f"checkpoint.{name} must be positive or null, not {value}")
        self.folder, self.best = Path(folder), float("-inf")
        self._signals, self._every_images, self._every_minutes = signals, every_images, every_minutes
        self._device = torch.device("cpu")
        self._images, self._written = -1, 0.0  # seen at the last checkpoint, and when that was
        self._random: dict | None = None  # of the checkpoint that the run goes on from

    def setup(self, trainer: pl.Trainer, module: AvatarModule, stage: str) -> None:
        trainer.strategy.checkpoint_io = CheckpointFiles()

    def on_train_start(self, trainer: pl.Trainer, module: AvatarModule) -> None:
        self._written = time.monotonic()
        self._device = module.device
        if self._random is not None:
            self._images = module.images
            restore_random_state(self._random, module.device)
        if self._signals is not None:
            self._signals.hold()

    def on_train_batch_end(self, trainer: pl.Trainer, module: AvatarModule, outputs, batch, batch_idx) -> None:
        # Resumed from before a validation that is due, Lightning leaves that one out; after it, all is done.
        if _validation_follows(trainer, module):
            return
        stop, late = self._agreed(trainer)
        counted = self._every_images is not None and module.images - max(0, self._images) >= self._every_images
        if stop or late or counted:
            self._save(trainer, module)
        if stop:
            self._stop(module)

    def on_validation_end(self, trainer: pl.Trainer, module: AvatarModule) -> None:
        if trainer.sanity_checking:
            return
        value = module.curve[-1]["psnr"]
        improved = value > self.best
        self.best = max(self.best, value)
        self._save(trainer, module, improved)
        if self._agreed(trainer, at_once=True)[0]:
            self._stop(module)

    def on_train_end(self, trainer: pl.Trainer, module: AvatarModule) -> None:
        if module.images != self._images:
            self._save(trainer, module)
        stop, _ = self._agreed(trainer, at_once=True)
        if self._signals is not None:
            self._signals.release()
            if stop:
                self._stop(module)

    def on_exception(self, trainer: pl.Trainer, module: AvatarModule, exception: BaseException) -> None:
        if self._signals is not None:
            self._signals.release()

    def _agreed(self, trainer: pl.Trainer, at_once: bool = False) -> tuple[bool, bool]:
        """Whether to stop, and whether so many minutes have passed: the same on every rank."""
        stop = self._signals is not None and self._signals.requested is not None
        late = self._every_minutes is not None and time.monotonic() - self._written >= 60 * self._every_minutes
        if not (dist.is_available() and dist.is_initialized()):
            return stop, late
        if trainer.global_step % _AGREE_EVERY and not at_once:  # to agree is to wait for the others
            return False, False
        decide = trainer.strategy.reduce_boolean_decision
        return decide(stop, all=False), self._every_minutes is not None and decide(late, all=False)

    def _stop(self, module: AvatarModule) -> None:
        assert self._signals is not None
        raise self._signals.error(f"saved at {module.images} images in {self.folder / 'last.ckpt'} (resume=true)")

    def _save(self, trainer: pl.Trainer, module: AvatarModule, improved: bool = False) -> None:
        module.check_finite()  # what cannot be gone on from is not saved
        module.count_time()
        part = self.folder / "last.ckpt.part"
        # Of what is saved, not of how it is read: the optimizers and callbacks too. Lightning warns when it is unset.
        trainer.save_checkpoint(part, weights_only=False)
        if trainer.is_global_zero:
            publish(part, self.folder / "last.ckpt", self.folder / "best.ckpt" if improved else None)
        self._images, self._written = module.images, time.monotonic()
        module.restart_clock()

    def state_dict(self) -> dict:
        return {"best": self.best, "random": random_state(self._device)}

    def load_state_dict(self, state_dict: dict) -> None:
        self.best, self._random = state_dict["best"], state_dict.get("random")


def _validation_follows(trainer: pl.Trainer, module: AvatarModule) -> bool:
    """Whether the trainer validates after the step that has just ended."""
    every = trainer.val_check_batch
    due = module.progress >= 1 or (isinstance(every, int) and (trainer.fit_loop.total_batch_idx + 1) % every == 0)
    return due and any(trainer.num_val_batches)
