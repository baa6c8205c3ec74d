"""`r3avatar bench`: how fast this machine trains, renders, prepares and retrieves."""

from __future__ import annotations

import copy
import datetime
import logging
from pathlib import Path

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from r3avatar.benchmarks.machine import DeviceMemory, cores, machine, software
from r3avatar.benchmarks.points import resample
from r3avatar.benchmarks.preparation import preparation
from r3avatar.benchmarks.rendering import rendering
from r3avatar.benchmarks.report import header, table
from r3avatar.benchmarks.retrieval import retrieval
from r3avatar.benchmarks.side_by_side import barrier, side_by_side
from r3avatar.benchmarks.stages import rasterizer_limit, stage_times
from r3avatar.benchmarks.training import memory, train_rate
from r3avatar.body import BodyModel
from r3avatar.captures import Capture, CaptureDataModule
from r3avatar.evaluation.evaluate import fit_retriever
from r3avatar.motion.poses import capture_motion
from r3avatar.run import RunError, write_json
from r3avatar.training.callbacks import DensityCallback, ProgressCallback
from r3avatar.training.density import NoDensityControl
from r3avatar.training.module import AvatarModule
from r3avatar.verbs.parts import build_retriever, choose_device
from r3avatar.verbs.train import build_data, build_module

SECTIONS = ("training", "rendering", "preparation", "retrieval")
LOOPS = ("density", "no_density")
_PARENTS = ("runs", "steps", "sections", "loops", "stages", "out")  # those of runs=K get them from their parent


class Bench:
    """The parts of a configuration, made anew for every measurement."""

    def __init__(self, config: DictConfig):
        self.memory = DeviceMemory()  # before anything uses the device
        self.config = config
        self.capture: Capture = instantiate(config.capture)
        self.body: BodyModel = instantiate(config.body)
        self._untrained = module = self._build()  # looking at the training images takes seconds
        self.device = torch.device("cpu")
        if config.trainer.accelerator != "cpu":
            self.device = choose_device("auto", module.rasterizer)
        self.gaussians, self.rasterizer = len(module.avatar.gaussians), repr(module.rasterizer)

    def module(self) -> AvatarModule:
        """An untrained module with the asked number of Gaussians, as far into its schedules as `seen` says."""
        pl.seed_everything(self.config.seed, workers=True, verbose=False)
        return copy.deepcopy(self._untrained)

    def _build(self) -> AvatarModule:
        pl.seed_everything(self.config.seed, workers=True, verbose=False)
        module = build_module(self.config, self.capture, self.body, self.data())
        if self.config.gaussians is not None:
            resample(module.avatar, self.config.gaussians, shrink=self.config.avatar.initial_scale is not None)
        canonical = module.avatar.gaussians
        module.images = self.config.seen
        if module.images is None:  # full harmonics, and density control at work
            start = int(self.config.density.get("start", 0))
            module.images = max(start, self.config.sh_degree_every * canonical.max_sh_degree)
        canonical.active_sh_degree = min(canonical.max_sh_degree, module.images // self.config.sh_degree_every)
        return module

    def data(self) -> CaptureDataModule:
        """The training data."""
        return build_data(self.config, self.capture, self.body)

    def density(self, wanted: bool = True):
        """The density control as configured, or none."""
        return instantiate(self.config.density) if wanted else NoDensityControl()

    def size(self) -> tuple[int, int]:
        """Width and height of the training cameras' whole frames."""
        camera = self.capture.cameras[self.capture.camera_index(self.capture.split("train").cameras[0])]
        return camera.width, camera.height

    def trainer(self, callbacks: list[pl.Callback]) -> pl.Trainer:
        """The configured trainer, without validation, logger and end."""
        accelerator = {"cuda": "gpu"}.get(self.device.type, "cpu")
        return instantiate(
            self.config.trainer, accelerator=accelerator, max_steps=-1, limit_val_batches=0, callbacks=callbacks,
            logger=False,
        )  # fmt: skip


def training(bench: Bench) -> dict[str, dict]:
    """Rates of the training loop, its stages, its limit, its memory."""
    config, result, ready, data = bench.config, {}, barrier(), bench.data()
    for loop in config.loops:
        density = bench.density(loop == "density")
        callbacks = [DensityCallback(density, *bench.size()), ProgressCallback(config.trainer_log_every)]
        values = train_rate(
            bench.module(), data, bench.trainer, callbacks, config.warm_up, config.seconds, ready, config.steps
        )
        if result:
            del values["first_step_s"]  # of the process: it means something in the first loop alone
        result["loop" if loop == "density" else "loop_without_density_control"] = values
        result.setdefault("memory", memory(bench.memory))  # of one training alone
    if config.stages:
        module = bench.module()
        stages, gaussians, cameras = stage_times(
            module, data, bench.density(), bench.size(), bench.device, config.warm_up, config.seconds
        )
        result |= stages
        limits = rasterizer_limit(module.rasterizer, gaussians, cameras, bench.device, config.seconds)
        result |= limits
        limit = max(values["images_per_second"] for values in limits.values())
        rates = {name: result[name]["images_per_second"] for name in result if name.startswith("loop")}
        result["share_of_the_rasterizers_limit"] = {name: rate / limit for name, rate in rates.items()}
    return result


def render(bench: Bench) -> dict[str, dict]:
    """Frames a second of novel views and novel poses."""
    capture, splits = bench.capture, bench.capture.splits
    views = splits.get("novel_view", splits["train"])
    camera = capture.cameras[capture.camera_index(views.cameras[0])]
    pose, frames = capture_motion(capture, "train")
    times = torch.tensor(frames, dtype=torch.float32) - capture.recorded[0]
    retriever = fit_retriever(build_retriever(bench.config.retrieval, bench.body), capture)
    module = bench.module()
    unseen, unseen_frames = capture_motion(capture, "novel_pose" if "novel_pose" in splits else "train")
    pose, unseen = (
        module.avatar.dressed(p, torch.tensor(f)) for p, f in ((pose, frames), (unseen, unseen_frames))
    )  # fmt: skip
    return rendering(
        module.avatar.to(bench.device).eval(), module.rasterizer, (pose, times), unseen, retriever.retrieve, camera,
        bench.config.seconds,
    )  # fmt: skip


def overrides() -> list[str]:
    """What the command line set."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def check(config: DictConfig) -> None:
    """RunError for values that cannot be measured."""
    for key, known in (("sections", SECTIONS), ("loops", LOOPS)):
        unknown = [name for name in config[key] if name not in known]
        if unknown:
            raise RunError(f"{key}=[{','.join(unknown)}] is unknown; choose from [{','.join(known)}]")
    if not config.loops:
        raise RunError(f"loops=[] times no training; choose from [{','.join(LOOPS)}], or leave it out of sections")
    if config.runs < 1 or config.warm_up < 1 or config.seconds <= 0:
        raise RunError("runs and warm_up must be at least 1, and seconds positive")
    if config.steps is not None and config.steps < 5:
        raise RunError(f"steps={config.steps}: at least one for each of the five windows, or null for `seconds`")
    if config.gaussians is not None and config.gaussians < 2:
        raise RunError(f"gaussians={config.gaussians}: at least 2, or null for those of the configuration")


def run(config: DictConfig) -> dict:
    """Measure the sections, print their tables, write JSON, and return what it holds."""
    check(config)
    logging.getLogger("r3avatar").setLevel(logging.WARNING)  # every measurement would say again what it builds
    given = overrides()
    OmegaConf.set_struct(config, False)
    config.budget = {"images": 10**12, "minutes": None}  # the clock ends the training
    for key, value in (("stop", 10**12), ("max_gaussians", config.gaussians)):
        if key in config.density and value is not None:
            config.density[key] = value
    bench = Bench(config)
    report = {
        "machine": machine(),
        "versions": software(),
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "overrides": given,
        "device": str(bench.device),
        "rasterizer": bench.rasterizer,
        "gaussians": bench.gaussians,
        "batch": OmegaConf.to_container(config.batch),
    }
    print(header(report))
    makers = {
        "training": lambda: training(bench),
        "rendering": lambda: render(bench),
        "preparation": lambda: preparation(bench.capture, bench.body, config.images, (0, config.workers or cores())),
        "retrieval": lambda: retrieval(
            config.recorded, bench.body.kind, config.seconds, cuda=bench.device.type == "cuda"
        ),
    }
    if config.runs > 1:
        kept = [word for word in given if word.split("=")[0] not in _PARENTS]
        makers = {"runs": lambda: side_by_side(kept, config.runs)}
    for name in ["runs"] if config.runs > 1 else config.sections:
        report[name] = makers[name]()
        print(f"\n{table(name, report[name])}", flush=True)
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    path = Path(config.out or Path(config.outputs) / "bench" / f"{stamp}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, report)
    print(f"\nfigures: {path}")
    return report
