"""Build the parts of a run from its configuration."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from r3avatar.avatar import Avatar
from r3avatar.body import BodyModel
from r3avatar.captures import Capture, CaptureError, Recording, write_recording
from r3avatar.rasterizer import Rasterizer
from r3avatar.run import RECORDING, RunError, checkpoint_of, open_run
from r3avatar.types import Batch

log = logging.getLogger(__name__)


def build(config: DictConfig | None, **kwargs):
    """Instantiate a group's member; its null member (an empty file) gives None."""
    if config is None or "_target_" not in config:
        return None
    return instantiate(config, **kwargs)


def choose_device(name: str, rasterizer: Rasterizer) -> torch.device:
    """'auto' is CUDA where there is one and the rasterizer runs there; anything else is taken as it is."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available() and type(rasterizer).__name__ == "NumbaRasterizer":
        log.warning("the CPU is used: rasterizer=numba does not run on CUDA; rasterizer=triton does")
        return torch.device("cpu")
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


_AS_LOADED = {"initial_gaussians": None, "initial_points": "body", "initial_colours": "grey"}


def build_avatar(
    config: DictConfig, body: BodyModel, capture: Capture, images: Callable[[int], Iterable[Batch]] | None
) -> Avatar:
    """The untrained avatar of a configuration.

    images: the training images of so many frames (`CaptureDataModule.initial_images`), which first Gaussians may need;
    None: a checkpoint is loaded into it, which has its own Gaussians and box.
    """
    first = _AS_LOADED if images is None else {"initial_seed": config.seed, "images": images}
    return instantiate(
        config.avatar,
        **first,
        body=body,
        recorded_length=capture.recorded[1],
        capture=capture,
        codebook=build(config.codebook),
        skinning=build(config.skinning),
        pose_refinement=build(config.pose_refinement),
    )


def build_retriever(config: DictConfig, body: BodyModel):
    """The retriever of a configuration; its null member is the nearest whole-body frame."""
    return instantiate(config, kind=body.kind)


@dataclass
class Run:
    """A trained run, ready to render."""

    folder: Path
    checkpoint: Path
    config: DictConfig
    capture: Capture  # without images where the verb needs none (`Recording`)
    body: BodyModel
    avatar: Avatar
    rasterizer: Rasterizer
    retriever: object
    device: torch.device


def open_recording(folder: Path, config: DictConfig) -> Capture:
    """What the run keeps of its capture; of a run from before it did, made from the capture and kept from now on."""
    path = folder / RECORDING
    if path.is_file():
        return Recording(path)
    try:
        capture = instantiate(config.capture)
    except (CaptureError, OSError, InstantiationException) as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
        raise RunError(
            f"{path} does not exist (an older version trained the run), and the capture that it is made from cannot be "
            f"opened: {cause} Give its place with capture.root=DIR"
        ) from error
    log.warning("the run is older than %s: it is made from the capture now, which is not needed from then on", path)
    write_recording(path, capture)
    return capture


def load_run(config: DictConfig, images: bool = True) -> Run:
    """Load the run that a later verb names, with the verb's own choice of rasterizer, retrieval and paths over it.

    images: open the capture itself. False: what the run keeps of it, unless the verb's `capture` changes any of it.
    """
    folder, trained = open_run(config.run)
    for group in ("capture", "body"):
        trained[group] = OmegaConf.merge(trained[group], config[group])
    for group in ("rasterizer", "retrieval"):
        if config.get(group) and "_target_" in config[group]:
            trained[group] = config[group]
    rasterizer = instantiate(trained.rasterizer)
    device = choose_device(config.device, rasterizer)
    body = instantiate(trained.body)
    capture = instantiate(trained.capture) if images or config.capture else open_recording(folder, trained)
    avatar = build_avatar(trained, body, capture, images=None)
    checkpoint = checkpoint_of(folder, config.checkpoint)
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    avatar.load_state_dict({k.removeprefix("avatar."): v for k, v in state.items() if k.startswith("avatar.")})
    return Run(
        folder, checkpoint, trained, capture, body, avatar.to(device).eval(), rasterizer,
        build_retriever(trained.retrieval, body), device,
    )  # fmt: skip
