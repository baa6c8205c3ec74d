"""A search's trial inside its run: tells Optuna every validation, and ends the run where Optuna gives it up."""

from __future__ import annotations

import warnings
from pathlib import Path

import optuna
import pytorch_lightning as pl
from hydra.utils import instantiate

from r3avatar.run import update_metrics
from r3avatar.sweeps.process import PRUNED
from r3avatar.sweeps.study_file import STUDY, open_storage
from r3avatar.training.module import AvatarModule
from r3avatar.training.stopping import Stopped


class Pruned(Stopped):
    """The search has given this run up: others were better at the same number of images."""

    exit_code = PRUNED


class PruningCallback(pl.Callback):
    """Reports the validation PSNR over images seen; raises `Pruned`, and says so in metrics.json, if asked to."""

    def __init__(self, trial: str, folder: Path):
        """trial: as `TRIAL` holds it. folder: the run's."""
        number, journal = trial.split(" ", 1)
        warnings.filterwarnings("ignore", message="The reported value is ignored")  # of validations before a resume
        self.folder = folder
        self.study = optuna.load_study(study_name=STUDY, storage=open_storage(Path(journal)))
        pruner = self.study.user_attrs["pruner"]
        self.study.pruner = instantiate(pruner) if pruner else optuna.pruners.NopPruner()
        (found,) = [t for t in self.study.get_trials(deepcopy=False) if t.number == int(number)]
        self.trial = optuna.Trial(self.study, found._trial_id)

    def on_validation_end(self, trainer: pl.Trainer, module: AvatarModule) -> None:
        if trainer.sanity_checking or not module.curve:
            return
        last = module.curve[-1]
        self.trial.report(last["psnr"], last["images"])
        if module.progress < 1 and self.trial.should_prune():
            update_metrics(self.folder, pruned={"images": last["images"], "psnr": last["psnr"], "curve": module.curve})
            raise Pruned(f"pruned by the search at {last['images']} images, {last['psnr']:.2f} dB")
