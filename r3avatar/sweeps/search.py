"""A search for better hyper-parameters with Optuna: `hparams_search=...`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from r3avatar.run import RunError
from r3avatar.sweeps.gpus import lock_file
from r3avatar.sweeps.jobs import Job, Outcome
from r3avatar.sweeps.launchers import missing
from r3avatar.sweeps.process import TRIAL

Value = str | int | float


class Space:
    """What a search may choose: Hydra's sweep overrides, read as ranges.

    interval(a,b): numbers in between; int(interval(a,b)): whole ones; tag(log,interval(a,b)): evenly over their
    logarithms; range(a,b,step); choice(x,y) or x,y: one of them.
    """

    def __init__(self, overrides: Sequence[Override]):
        import optuna.distributions as d

        self.dimensions: dict[str, d.BaseDistribution] = {}
        for o in overrides:
            key, value = o.get_key_element(), o.value()
            if isinstance(value, IntervalSweep):
                whole = isinstance(value.start, int) and isinstance(value.end, int)
                kind = d.IntDistribution if whole else d.FloatDistribution
                self.dimensions[key] = kind(value.start, value.end, log="log" in value.tags)
            elif isinstance(value, RangeSweep) and not value.shuffle:
                whole = all(isinstance(n, int) for n in (value.start, value.stop, value.step))
                values = [float(v) for v in value.range()]
                kind = d.IntDistribution if whole else d.FloatDistribution
                number = int if whole else float
                self.dimensions[key] = kind(number(values[0]), number(values[-1]), step=number(value.step))
            elif isinstance(value, ChoiceSweep) or o.is_discrete_sweep():
                self.dimensions[key] = d.CategoricalDistribution(list(o.sweep_string_iterator()))
            else:
                raise RunError(f"'{o.input_line}' is no range that a search knows; docs/sweeps.md lists them")

    def holds(self, key: str, value) -> bool:
        """Whether a value is one that the search could choose."""
        dimension = self.dimensions[key]
        if hasattr(dimension, "choices"):
            return str(value) in dimension.choices
        return isinstance(value, int | float) and dimension._contains(float(value))


def as_override(key: str, value: Value) -> str:
    """A chosen value as an override; floats come back bit by bit."""
    return f"{key}={value!r}" if isinstance(value, float) else f"{key}={value}"


def ranges(space: Mapping, prefix: str = "") -> dict[str, str]:
    """'key.of.the.configuration' to its range, of a nested mapping."""
    found: dict[str, str] = {}
    for key, value in space.items():
        found |= ranges(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


class OptunaSearch:
    """Proposes runs and learns from how they end; goes on where an earlier search of the same name stopped."""

    def __init__(self, trials: int, sampler: DictConfig, pruner: DictConfig | None, space: Mapping):
        """trials: how many runs, the configuration as it is included. sampler, pruner: of Optuna. space: keys as in the
        configuration, with ranges of `Space` for values."""
        self.trials, self.sampler, self.pruner, self.ranges = trials, sampler, pruner, ranges(space)

    def open(self, folder: Path, swept: Sequence[Override], default: Callable[[str], object]) -> None:
        """Open or make the study in `folder`.

        swept: ranges of the command line, over those of the file. default: the configuration's own value of a key.
        """
        try:
            import optuna
        except ModuleNotFoundError as error:
            raise missing("optuna", "optuna") from error
        from r3avatar.sweeps.study_file import STUDY, open_storage

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        named = {o.get_key_element() for o in swept}
        lines = [f"{key}={value}" for key, value in self.ranges.items() if key not in named]
        self.space = Space([*OverridesParser.create().parse_overrides(lines), *swept])
        if not self.space.dimensions:
            raise RunError("a search needs a space: key=interval(a,b), or search.space in its file")
        self._lock = lock_file(folder / "search.lock")
        if self._lock is None:
            raise RunError(f"another search is running in {folder}; give this one another name=NAME")
        self.journal = (folder / "search.journal").resolve()
        self.study = optuna.create_study(
            study_name=STUDY, storage=open_storage(self.journal), sampler=instantiate(self.sampler),
            direction="maximize", load_if_exists=True,
        )  # fmt: skip
        self.study.set_user_attr("pruner", OmegaConf.to_container(self.pruner) if self.pruner else None)
        self._default = {key: default(key) for key in self.space.dimensions}
        self._begin(optuna)

    def _begin(self, optuna) -> None:
        """Queue the configuration as it is, and what earlier searches left unfinished or saw failing."""
        states = optuna.trial.TrialState
        earlier = self.study.get_trials(deepcopy=False)
        ended = [t.params for t in earlier if t.state in (states.COMPLETE, states.PRUNED)]
        queued = [t.system_attrs.get("fixed_params") for t in earlier if t.state == states.WAITING]
        self.left = self.trials - len(ended)
        again: list[dict[str, Value]] = []
        for t in earlier:
            if t.state == states.RUNNING:  # this process holds the study's lock: nobody runs it
                self.study.tell(t.number, state=states.FAIL)
            if t.state in (states.RUNNING, states.FAIL) and t.params not in (*ended, *queued, *again, {}):
                again.append(t.params)
        if not earlier:
            strange = [f"{k}={v}" for k, v in self._default.items() if not self.space.holds(k, v)]
            if strange:
                logging.getLogger(__name__).warning(
                    "the configuration as it is lies outside of the space (%s) and is not tried", ", ".join(strange)
                )
            else:
                kept = {k: hasattr(d, "choices") for k, d in self.space.dimensions.items()}
                again.append({k: str(v) if kept[k] else v for k, v in self._default.items()})
        for parameters in again:
            self.study.enqueue_trial(parameters)

    def jobs(self, make: Callable[[list[str]], Job]) -> Iterator[tuple[int, Job]]:
        """(trial's number, job) one after the other, each chosen when it is asked for. make: a job of overrides."""
        for _ in range(max(0, self.left)):
            trial = self.study.ask(self.space.dimensions)
            job = make([as_override(key, trial.params[key]) for key in self.space.dimensions])
            environment = {**job.environment, TRIAL: f"{trial.number} {self.journal}"}
            yield trial.number, replace(job, environment=environment)

    def tell(self, number: int, outcome: Outcome) -> None:
        """Learn how a trial ended; one that failed or was stopped is tried again by the next search."""
        from optuna.trial import TrialState

        if outcome.state == "done" and outcome.psnr is not None:
            self.study.tell(number, outcome.psnr)
        elif outcome.state == "pruned":
            self.study.tell(number, state=TrialState.PRUNED)
        else:
            self.study.tell(number, state=TrialState.FAIL)

    def summary(self) -> str:
        """The best trial, beside the configuration as it is."""
        from optuna.trial import TrialState

        complete = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if not complete:
            return "no trial came to its end"
        best = max(complete, key=lambda t: t.value)
        text = f"best: {best.value:.2f} dB with " + " ".join(as_override(k, v) for k, v in best.params.items())
        same = [t for t in complete if all(str(t.params[k]) == str(v) for k, v in self._default.items())]
        if same:
            text += f"\nthe configuration as it is: {same[0].value:.2f} dB"
        return text
