"""Sweeps and searches through the command line, with runs that really train."""

import json
import os
import signal
import time
from importlib import resources

import pytest
import yaml
from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from r3avatar.cli import check
from r3avatar.run import RunError
from r3avatar.sweeps.gpus import visible_gpus
from r3avatar.sweeps.jobs import Folders, combinations, finished, identity, quoted

FAST = ["batch.views=2", "evaluate=false", "media=false", "validation.every_images=4", "validation.frames=1"]


@pytest.mark.slow
def test_a_failed_job_fails_alone_and_only_what_is_missing_is_run(workplace, tiny_capture):
    pytest.importorskip("joblib")
    common = ["train", "-m", "experiment=demo", "name=apart", *tiny_capture, *FAST, "budget.images=4"]
    joblib = ["launcher=joblib", "launcher.jobs=2"]
    told = workplace(*common, *joblib, "seed=0,-1,1", code=1)
    assert "3 jobs: 2 done, 1 failed" in told and "-1" in told.split("outputs/apart/1 failed: ")[1].splitlines()[0]
    apart = workplace.folder / "outputs" / "apart"
    assert (apart / "sweep.md").read_text() in told
    first = OmegaConf.load(apart / "0" / "config.yaml")
    assert (first.seed, first.name, first.folder) == (0, "apart", "outputs/apart/0")
    written = [(apart / str(n) / "metrics.json").stat().st_mtime_ns for n in (0, 2)]
    told = workplace(*common, "seed=1,2,0")  # in another order, with one more: it is given the number that is free
    assert "3 jobs: 3 done; 2 were there before" in told and "| outputs/apart/1 | seed=2 | done |" in told
    assert [(apart / str(n) / "metrics.json").stat().st_mtime_ns for n in (0, 2)] == written
    assert json.loads((apart / "1" / "metrics.json").read_text())["train"]["images"] == 4


@pytest.mark.slow
def test_a_search_prunes_on_the_validation_curve_and_goes_on(workplace, tiny_capture):
    optuna = pytest.importorskip("optuna")
    pytest.importorskip("joblib")
    search = ["train", "-m", "experiment=demo", "name=search", *tiny_capture, *FAST, "budget.images=8",
              "hparams_search=optuna", "search.pruner.n_startup_trials=1", "launcher=joblib", "launcher.jobs=1",
              "optimizer.planes=tag(log,interval(1e-3,1e-2))",
              "avatar.initial_scale=choice(0.08,0.081,0.082,0.083,0.084,0.006)"]  # fmt: skip
    told = workplace(*search, "search.trials=2")
    assert "2 jobs: 1 done, 1 pruned" in told and "the configuration as it is: " in told
    folder = workplace.folder / "outputs" / "search"
    assert json.loads((folder / "1" / "metrics.json").read_text())["pruned"]["images"] == 4
    assert finished(folder / "1", evaluate=False).state == "pruned"
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / "search.journal")))
    trials = optuna.load_study(study_name="r3avatar", storage=storage).trials
    assert [t.state.name for t in trials] == ["COMPLETE", "PRUNED"]
    assert list(trials[0].intermediate_values) == [4, 8] and trials[0].value == trials[0].intermediate_values[8]
    assert trials[0].params == {"optimizer.planes": 0.006, "avatar.initial_scale": "0.006"}
    assert "nothing to do" in workplace(*search, "search.trials=2")


@pytest.mark.slow
def test_a_stopped_sweep_saves_its_run_and_goes_on(workplace, tiny_capture):
    command = ["train", "-m", "experiment=demo", "name=stopped", *tiny_capture, *FAST, "budget.images=60", "seed=5,6"]
    pid = workplace.start(*command)
    checkpoint = workplace.folder / "outputs" / "stopped" / "0" / "checkpoints" / "last.ckpt"
    end = time.monotonic() + 200
    while not checkpoint.exists() and workplace.running(0.1) and time.monotonic() < end:
        pass
    os.kill(pid, signal.SIGTERM)
    told = workplace.end(code=75, timeout=100)
    assert "outputs/stopped/0 stopped: stopped by SIGTERM" in told and not (checkpoint.parents[2] / "1").exists()


def test_what_a_sweep_refuses(capsys):
    from r3avatar.cli import main

    several = ["trainer=multi_gpu", "trainer.devices=2", "batch.views=2"]
    for arguments, reason in {
        ("-m", "seed=0,1", *several): "one device, not 2",
        ("-m", "seed=0,1", "trainer.devices=2"): "one device, not 2",
        ("-m", "hydra/launcher=joblib", "seed=0,1"): "did you mean 'launcher'",
        ("-m", "hydra.sweeper.max_batch_size=1", "seed=0,1"): "sweeps have launcher=",
        ("-m", "optimizer.planes=interval(1,2)"): "add hparams_search=optuna",
        ("launcher=joblib",): "add -m",
        ("hparams_search=optuna",): "add -m",
    }.items():
        with pytest.raises(SystemExit) as stop:
            main(["train", *arguments])
        assert stop.value.code == 2 and reason in capsys.readouterr().err, arguments


def test_jobs_find_their_folders(tmp_path):
    configs = [check("train", [f"outputs={tmp_path}", "name=7", f"seed={seed}"]) for seed in range(3)]
    folders = Folders()
    assert [folders.place(c)[0] for c in configs] == [0, 1, 2]
    for number, config in {0: configs[2], 5: configs[0]}.items():  # a sweep of before, in another order
        (tmp_path / "7" / str(number)).mkdir(parents=True)
        OmegaConf.save(config, tmp_path / "7" / str(number) / "config.yaml", resolve=True)
    folders = Folders()
    assert [folders.place(c)[0] for c in configs] == [5, 1, 0]
    assert identity(configs[0]) == identity(check("train", [f"outputs={tmp_path}", "name=7", "seed=0", "resume=auto"]))


def test_combinations_and_quoting():
    overrides = OverridesParser.create().parse_overrides(["a=1,2", "b=x", "c=[1,2]", "d=range(0,2)"])
    found = list(combinations(overrides))
    assert found[1] == (["a=1", "b=x", "c=[1,2]", "d=1"], ["a=1", "d=1"]) and len(found) == 4
    for value in ("it's", "007", "1e5", "null", "a b", "demo-20260101", "outputs/a b/3", 7):
        (override,) = OverridesParser.create().parse_overrides([f"name={quoted(value)}"])
        assert override.value() == value


def test_spaces():
    pytest.importorskip("optuna")
    from r3avatar.sweeps.search import Space, as_override

    texts = ["a=tag(log,interval(1e-5,1e-3))", "b=int(interval(1,9))", "c=range(2,8,2)", "d=x,y", "e=choice(1,2)"]
    space = Space(OverridesParser.create().parse_overrides(texts))
    kinds = {key: type(d).__name__ for key, d in space.dimensions.items()}
    names = ["Float", "Int", "Int", "Categorical", "Categorical"]
    assert kinds == dict(zip("abcde", [f"{name}Distribution" for name in names]))
    assert space.dimensions["a"].log and space.dimensions["c"].high == 6
    assert space.holds("c", 4) and not space.holds("c", 5) and space.holds("e", 1) and not space.holds("a", 1.0)
    assert float(as_override("a", 0.1 + 0.2).split("=")[1]) == 0.1 + 0.2
    with pytest.raises(RunError, match="no range"):
        Space(OverridesParser.create().parse_overrides(["a=3"]))


@pytest.mark.parametrize("search", ["optuna", "rates"])
def test_every_search_makes_its_parts(search):
    pytest.importorskip("optuna")
    from hydra.utils import instantiate

    from r3avatar.sweeps.search import Space

    with initialize_config_module("r3avatar.configs", version_base="1.3"):
        config = compose("train", overrides=["experiment=demo", f"hparams_search={search}"])
    made = instantiate(config.search, _recursive_=False)
    assert instantiate(made.sampler) and instantiate(made.pruner)
    space = Space(OverridesParser.create().parse_overrides([f"{k}={v}" for k, v in made.ranges.items()]))
    assert all(space.holds(key, OmegaConf.select(config, key)) for key in space.dimensions)


@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit", "ray"])
def test_every_launcher_is_made(launcher):
    from hydra.utils import instantiate

    assert hasattr(instantiate(check("train", ["-m", f"launcher={launcher}"]).launcher), "launch")


def test_visible_gpus(monkeypatch):
    for value, gpus in {"": (), "2, 3": ("2", "3"), "GPU-1a,MIG-2b": ("GPU-1a", "MIG-2b"), "-1": ()}.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert visible_gpus() == gpus


def test_wandb_sweep_file_makes_commands_that_compose(monkeypatch):
    """What W&B's agent runs for a choice of the file's parameters is a command of ours."""
    utils = pytest.importorskip("wandb.sdk.launch.sweeps.utils")
    monkeypatch.setenv("WANDB_RUN_ID", "abc123")
    text = resources.files("r3avatar.configs").joinpath("wandb_sweep.yaml").read_text()
    sweep = yaml.safe_load(text)
    values = {k: {"value": p.get("values", [p.get("min")])[0]} for k, p in sweep["parameters"].items()}
    macros = utils.create_sweep_command_args({"args": values})
    command = []
    for word in utils.create_sweep_command(sweep["command"]):
        command += macros.get(word[2:-1], [word]) if word.startswith("${") else [word]
    command = [{"${program}": sweep["program"]}.get(word, word) for word in command if word != "${env}"]
    assert command[:2] == ["r3avatar", "train"] and "${" not in " ".join(command).replace("${oc.env:WANDB_RUN_ID}", "")
    config = check("train", command[2:])
    assert config.name == "wandb/abc123" and config.logger.offline is False and config.folder == "outputs/wandb/abc123"
    for key, value in values.items():
        assert key == "codebook" or OmegaConf.select(config, key) == value["value"]
    assert sweep["metric"]["name"] == "novel_view/psnr"
    assert os.environ["WANDB_RUN_ID"]
