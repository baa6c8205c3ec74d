"""`r3avatar train -m ...`: plan the jobs, hand them to a launcher, and say at the end what became of each."""

from __future__ import annotations

import logging
import shlex
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from r3avatar.run import RunError
from r3avatar.sweeps.jobs import Folders, Job, Outcome, combinations, finished, quoted
from r3avatar.sweeps.process import TRIAL, stop_all
from r3avatar.sweeps.report import Result, report
from r3avatar.sweeps.search import OptunaSearch

log = logging.getLogger(__name__)

OWN_KEYS = ("launcher", "hparams_search", "search")  # of the sweep, not of its jobs


def one_device(config: DictConfig) -> None:
    """RunError if a job of this configuration wants several devices."""
    trainer = config.trainer
    count = trainer.devices * trainer.get("num_nodes", 1) if isinstance(trainer.devices, int) else trainer.devices
    if count != 1:
        raise RunError(
            f"a sweep's job trains on one device, not {count}: a sweep fills the devices with jobs, one each, and a "
            "job of several would wait for all of them at once. Leave trainer.devices=1, or start the runs one after "
            "the other, without -m"
        )


class Planner:
    """Turns a job's overrides into a `Job`: its configuration, folder and command."""

    def __init__(self, hydra_overrides: Sequence[str], directory: Path):
        self.hydra_overrides, self.directory, self.folders = tuple(hydra_overrides), str(directory), Folders()

    def job(self, overrides: list[str], changes: list[str]) -> tuple[Job, Outcome | None]:
        """The job of these overrides, and how it ended if it was run before. Needs Hydra to be initialised."""
        config = compose("train", overrides=overrides)
        one_device(config)
        number, folder = self.folders.place(config)
        again = [] if config.overwrite or config.resume else ["resume=auto"]
        mine = [text for text in overrides if text.split("=", 1)[0] not in ("name", "folder")]
        job = Job(
            number=number,
            folder=str(folder),
            command=(*mine, *again, f"name={quoted(config.name)}", f"folder={quoted(str(folder))}",
                     *self.hydra_overrides),
            changes=tuple(changes),
            evaluate=bool(config.evaluate),
            directory=self.directory,
            gpu=config.trainer.accelerator != "cpu" and "numba" not in str(config.rasterizer.get("_target_", "")),
        )  # fmt: skip
        return job, None if config.overwrite else finished(folder, job.evaluate)


def _split(words: Sequence[str]) -> tuple[list[Override], list[str], list[str]]:
    """The overrides of the jobs, those of Hydra itself, and those of the sweep."""
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    task, hydra, own = [], [], []
    for o in parser.parse_overrides(list(words)):
        key = o.key_or_group.split(".")[0]
        if o.key_or_group.startswith(("hydra.launcher", "hydra.sweep")):
            raise RunError(f"{o.input_line}: sweeps have launcher=... and hparams_search=... here; docs/sweeps.md")
        if key in OWN_KEYS:
            own.append(o.input_line)
        elif key == "hydra":
            hydra.append(o.input_line)
        else:
            task.append(o)
    return task, hydra, own


def sweep(words: Sequence[str]) -> int:
    """Run a sweep or a search to its end; the exit code: 0, 1 if a job failed, 75 or 130 if it was stopped.

    words: the overrides of the command line. RunError where it cannot start.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with initialize_config_module("r3avatar.configs", version_base="1.3"), _Stop() as stop:
        task, hydra, own = _split(words)
        settings = compose("train", overrides=own)
        launcher, search = instantiate(settings.launcher), instantiate(settings.search, _recursive_=False)
        planner = Planner(hydra, Path.cwd())
        results: list[Result] = []
        turn = threading.RLock()  # a launcher's threads plan and report, through one Hydra

        def done(job: Job, outcome: Outcome) -> None:
            with turn:
                results.append((job, outcome))
                psnr = "" if outcome.psnr is None else f", {outcome.psnr:.2f} dB"
                why = f": {outcome.error}" if outcome.error else ""
                changes = " ".join(job.changes)
                log.info("%s %s%s%s (%s)", job.folder, outcome.state, psnr, why, changes)

        if search is None:
            _run_all(task, planner, launcher, done)
            closing = ""
        else:
            closing = _run_search(task, planner, launcher, search, done, turn)
        _finish(results, words, closing)
        if stop.signal is not None:
            return 130 if stop.signal == signal.SIGINT else 75
        return 1 if any(outcome.state == "failed" for _, outcome in results) else 0


def _run_all(task: list[Override], planner: Planner, launcher, done: Callable[[Job, Outcome], None]) -> None:
    for o in task:
        if o.is_sweep_override() and not o.is_discrete_sweep():
            raise RunError(f"'{o.input_line}' is a range for a search to choose from: add hparams_search=optuna")
    waiting, seen = [], set()
    for overrides, changes in combinations(task):
        job, before = planner.job(overrides, changes)
        if job.folder in seen:
            continue  # two values that mean the same
        seen.add(job.folder)
        if before is not None and before.state == "done":
            done(job, before)
        else:
            waiting.append(job)
    if waiting:
        log.info("%d jobs to run, %d done before", len(waiting), len(seen) - len(waiting))
        launcher.launch(waiting, done, Path(waiting[0].directory) / Path(waiting[0].folder).parent, False)


def _run_search(
    task: list[Override], planner: Planner, launcher, search: OptunaSearch, done: Callable, turn: threading.RLock
) -> str:
    fixed = [o.input_line for o in task if not o.is_sweep_override()]
    default = compose("train", overrides=fixed, return_hydra_config=True)
    one_device(default)
    choices = default.hydra.runtime.choices

    def value(key: str):
        return choices[key] if key in choices else OmegaConf.select(default, key.lstrip("+"))

    folder = Path(default.outputs) / str(default.name)
    # A name with the time in it is this search's, for all of its trials.
    fixed = [*(text for text in fixed if not text.startswith("name=")), f"name={quoted(default.name)}"]
    swept = [o for o in task if o.is_sweep_override()]
    search.open(folder, swept, value)
    numbers: dict[str, int] = {}

    def make(changes: list[str]) -> Job:
        job, _ = planner.job([*fixed, *changes], changes)
        return job

    def jobs() -> Iterator[Job]:
        trials = search.jobs(make)
        while True:
            with turn:
                found = next(trials, None)
                if found is None:
                    return
                numbers[found[1].environment[TRIAL]] = found[0]
            yield found[1]

    def tell(job: Job, outcome: Outcome) -> None:
        with turn:
            search.tell(numbers[job.environment[TRIAL]], outcome)
            done(job, outcome)

    log.info("a search over %s: %d trials to go", ", ".join(search.space.dimensions), max(0, search.left))
    launcher.launch(jobs(), tell, folder, True)
    return search.summary()


def _finish(results: list[Result], words: Sequence[str], closing: str) -> None:
    again = f"r3avatar train -m {shlex.join(words)}"
    named = any(word.startswith("name=") for word in words)
    names = {str(Path(job.folder).parent) for job, _ in results}
    if results and not named and len(names) == 1 and "experiment=" not in again:
        again += f" name={Path(next(iter(names))).name}"
    text = report(results, again) if results else "nothing to do"
    text += f"\n\n{closing}" if closing else ""
    print(f"\n{text}")
    if len(names) == 1:
        (Path(next(iter(names))) / "sweep.md").write_text(text + "\n")


class _Stop:
    """While entered, SIGINT and SIGTERM ask the running jobs to save and end; the sweep then tells what there is."""

    def __init__(self):
        self.signal: int | None = None

    def __enter__(self) -> _Stop:
        self._previous = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame) -> None:
        self.signal = number
        print(f"\n{signal.Signals(number).name}: the running jobs save and end", flush=True)
        stop_all()

