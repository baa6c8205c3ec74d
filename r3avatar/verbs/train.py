"""`r3avatar train`: one run, from configuration to metrics."""

from __future__ import annotations

import json
import logging
import os
import shutil
from contextlib import ExitStack
from pathlib import Path

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from r3avatar.body import BodyModel
from r3avatar.captures import Capture, CaptureDataModule, write_recording
from r3avatar.captures.shard import Shard
from r3avatar.dashboards.callback import DashboardCallback
from r3avatar.dashboards.evaluation import log_evaluation
from r3avatar.dashboards.run_log import RunLog
from r3avatar.early_start import begin_triton
from r3avatar.evaluation.evaluate import SPLITS, evaluate, table
from r3avatar.rasterizer.projection import scene_extent
from r3avatar.run import RECORDING, RunError, changed_keys, check_run_folder, create_run_folder, update_metrics
from r3avatar.sweeps.process import TRIAL
from r3avatar.training.callbacks import DensityCallback, MediaCallback, ProgressCallback, peak_memory_gib
from r3avatar.training.checkpoints import CheckpointCallback
from r3avatar.training.module import AvatarModule, Budget
from r3avatar.training.not_finite import explain_step
from r3avatar.training.processes import Processes
from r3avatar.training.profiling import ProfileCallback
from r3avatar.training.stopping import NotFinite, StopSignals
from r3avatar.verbs.failures import explained
from r3avatar.verbs.parts import build, build_avatar, build_retriever, choose_device
from r3avatar.verbs.several_processes import by_first, check_same_start, count_processes, meet, start_processes

log = logging.getLogger(__name__)


def run_folder(config: DictConfig) -> Path:
    """outputs/<name>, or outputs/<name>/<job number> in a sweep."""
    return Path(config.folder)


def build_data(
    config: DictConfig, capture: Capture, body: BodyModel, shard: Shard | None = None
) -> CaptureDataModule:
    """The DataModule of a configuration; shard: this process's part of a step, where several train one avatar."""
    return CaptureDataModule(
        capture,
        body,
        frames_per_step=config.batch.frames,
        views_per_step=config.batch.views,
        moving_view=config.batch.moving_view,
        cache=config.cache.folder,
        gpu_gib=config.cache.gpu_gib,
        workers=config.workers,
        seed=config.seed,
        validation_frames=config.validation.frames,
        overfit_frames=config.overfit_frames,
        shard=shard,
    )


def build_module(
    config: DictConfig, capture: Capture, body: BodyModel, data: CaptureDataModule | None
) -> AvatarModule:
    """The LightningModule of a configuration, untrained.

    data: whose training images the first Gaussians may need; None: a checkpoint is loaded into the module.
    """
    ids = capture.split("train").cameras
    centres = torch.stack([capture.cameras[capture.camera_index(c)].centres for c in ids])
    return AvatarModule(
        build_avatar(config, body, capture, None if data is None else data.initial_images),
        instantiate(config.rasterizer),
        instantiate(config.loss),
        instantiate(config.optimizer),
        instantiate(config.learning_rates),
        Budget(config.budget.images, config.budget.minutes),
        float(scene_extent(centres)),
        config.sh_degree_every,
        config.cuda_graph,
        config.batch.general,
    )


def checkpoint_to_resume(folder: Path, resume: bool | str) -> Path | None:
    """The checkpoint that a run goes on from; None: it starts. RunError where `resume` cannot be followed."""
    if resume not in (True, False, "auto"):
        raise RunError(f"resume={resume} is none of true, false, auto")
    last = folder / "checkpoints" / "last.ckpt"
    if resume is True and not last.is_file():
        raise RunError(f"resume=true: there is no {last} to go on from; resume=auto starts where there is none")
    return last if resume and last.is_file() else None


def run(config: DictConfig) -> float | None:
    """Train, evaluate, and return the last validation PSNR (what a hyper-parameter search maximises).

    With several devices it starts a process for each, or is one of them.

    Raises `Stopped` with an exit code where a signal, the disk, the memory or a step that is not finite ends the run.
    """
    if count_processes(config) > 1 and Processes.started() is None:
        code = start_processes(config, run_folder(config))
        if code:
            raise SystemExit(code)
        return None
    with StopSignals() as signals, explained(config), ExitStack() as ending:
        return _run(config, signals, ending)


def _run(config: DictConfig, signals: StopSignals, ending: ExitStack) -> float | None:
    folder = run_folder(config)
    if config.overwrite and config.resume:
        raise RunError(f"overwrite=true and resume={config.resume} exclude each other")
    begin_triton(config)
    replicas = meet(config)
    first = replicas is None or replicas.rank == 0
    by_first(replicas, lambda: check_run_folder(folder, reuse=bool(config.resume or config.overwrite)))
    last = checkpoint_to_resume(folder, config.resume)
    pl.seed_everything(config.seed, workers=True, verbose=False)

    capture, body = instantiate(config.capture), instantiate(config.body)
    data = build_data(config, capture, body, replicas and replicas.shard)
    module = build_module(config, capture, body, data if last is None else None)
    check_same_start(replicas, len(module.avatar.gaussians))
    density = instantiate(config.density)
    data.prepare_data()

    def make_folder() -> None:
        if config.overwrite:
            logs = "logs/csv", "logs/tensorboard", "logs/wandb"
            for part in ("checkpoints", "media", "metrics.json", *logs):
                path = folder / part
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        if last is not None:
            for change in changed_keys(folder, config):
                log.warning("goes on with another %s", change)
        overrides, choices = [], {}
        if HydraConfig.initialized():
            overrides = list(HydraConfig.get().overrides.task)
            taken = HydraConfig.get().runtime.choices.items()
            choices = {g: m for g, m in taken if m is not None and not g.startswith(("hydra/", "_"))}
        create_run_folder(folder, config, overrides, choices)
        write_recording(folder / RECORDING, capture)

    # What the configuration or the data lack has been found by now: a run that cannot start leaves no folder behind.
    by_first(replicas, make_folder)
    camera = capture.cameras[capture.camera_index(capture.split("train").cameras[0])]
    callbacks = [
        DensityCallback(density, camera.width, camera.height),
        ProgressCallback(config.trainer_log_every),
    ]
    if config.media:
        callbacks.append(MediaCallback(str(folder / "media" / "training")))
    if config.profile.steps and first:
        callbacks.append(ProfileCallback(folder / "profile", config.profile.skip, config.profile.steps))
    logger = build(config.logger, save_dir=str(folder / "logs")) if first else None
    if logger is not None:
        if isinstance(logger, RunLog):
            ending.push(lambda kind, *error: logger.close(failed=kind is not None))
        made_by = json.loads((folder / "versions.json").read_text())
        logger.log_hyperparams({**OmegaConf.to_container(config, resolve=True), **made_by})
        callbacks.append(DashboardCallback(logger, config.media))
    every = config.checkpoint.every_images, config.checkpoint.every_minutes
    callbacks.append(CheckpointCallback(str(folder / "checkpoints"), signals, *every))
    if TRIAL in os.environ and first:  # of a hyper-parameter search
        from r3avatar.sweeps.pruning import PruningCallback

        callbacks.append(PruningCallback(os.environ[TRIAL], folder))

    images_per_step = config.batch.frames * config.batch.views
    steps = None if config.budget.images is None else max(1, -(-config.budget.images // images_per_step))
    every = max(1, -(-config.validation.every_images // images_per_step))
    accelerator = config.trainer.accelerator
    if accelerator == "auto":
        accelerator = {"cuda": "gpu"}.get(choose_device("auto", module.rasterizer).type, "cpu")
    trainer: pl.Trainer = instantiate(
        config.trainer,
        **({} if replicas is None else {"replicas": replicas}),
        accelerator=accelerator,
        max_steps=steps or -1,
        val_check_interval=every if steps is None else min(every, steps),
        default_root_dir=str(folder),
        callbacks=callbacks,
        logger=logger if logger is not None else False,
    )
    try:
        trainer.fit(module, data, ckpt_path=None if last is None else str(last), weights_only=True)
    except NotFinite as error:
        if not first:
            raise
        raise explain_step(trainer, module, data, error.step, folder / "checkpoints") from error
    except RuntimeError as error:
        if "returned nan values" not in str(error) or not first:  # what torch's anomaly detection says
            raise
        found = explain_step(trainer, module, data, data.schedule.position - 1, folder / "checkpoints")
        raise NotFinite(f"{found} ({error})", found.step) from error
    if replicas is not None:
        replicas.leave()
        if not first:  # rank 0 evaluates
            return None
    metrics = update_metrics(
        folder,
        train={
            "images": module.images,
            "seconds": round(module.seconds, 2),
            "images_per_second": round(module.images / max(module.seconds, 1e-9), 2),
            "gaussians": len(module.avatar.gaussians),
            "curve": module.curve,
            "peak_memory_gib": round(peak_memory_gib(), 2),
            "device": str(trainer.strategy.root_device),
            "devices": 1 if replicas is None else replicas.count,
        },
        **{split: None for split in SPLITS},
        notes={split: "not computed: evaluate=false; run r3avatar evaluate run=" + str(folder) for split in SPLITS},
    )
    if config.evaluate:
        module.avatar.to(trainer.strategy.root_device)
        sections = evaluate(
            module.avatar, capture, module.rasterizer, build_retriever(config.retrieval, body), data.eval_dataloader,
            folder, SPLITS, build(config.lpips), config.media,
        )  # fmt: skip
        if logger is not None:
            log_evaluation(logger, folder, sections, module.images, config.media)
        metrics = update_metrics(folder, **sections)
        print(f"\n{table(metrics)}")
    t = metrics["train"]
    print(
        f"\n{t['images']} images in {t['seconds']:.0f} s ({t['images_per_second']:.1f} images/s, {t['device']}), "
        f"{t['gaussians']} Gaussians, peak memory {t['peak_memory_gib']} GiB\nrun folder: {folder}"
    )
    return module.curve[-1]["psnr"] if module.curve else None
