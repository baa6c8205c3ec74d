"""The command line: help, composition, mistakes and their messages."""

import subprocess
import sys
from importlib import resources

import pytest

from r3avatar.cli import PLAIN, VERBS, UsageError, check, groups, main, overview, verb_help


def test_overview_names_every_verb():
    assert all(verb in overview() for verb in VERBS)


@pytest.mark.parametrize("verb", [v for v in VERBS if v not in PLAIN])
def test_help_shows_groups_and_three_examples(verb, capsys):
    main([verb, "--help"])
    text = capsys.readouterr().out
    assert text.count(f"  r3avatar {verb}") == 3 and "groups" in text
    assert text == verb_help(verb) + "\n"


@pytest.mark.parametrize("verb", [v for v in VERBS if v not in PLAIN])
def test_every_example_composes(verb):
    for example in VERBS[verb][1]:
        check(verb, example.split())


@pytest.mark.parametrize("group", [g for g in groups() if g not in ("experiment", "paper", "synthesis")])
def test_every_member_of_every_group_composes(group):
    for member in groups()[group]:
        config = check("train", [f"{group}={member}"])
        assert group in ("ablation", "debug", "hparams_search") or group in config


@pytest.mark.parametrize("synthesis", groups()["synthesis"])
def test_every_synthesis_composes(synthesis):
    config = check("synthesize", [f"synthesis={synthesis}"]).synthesis
    wrong = {name: value for name, value in config.faults.items() if name != "_target_" and value}
    assert bool(wrong) == synthesis.endswith("_faulty"), "faults are off but where the name says so"


@pytest.mark.parametrize("experiment", groups().get("experiment", []))
def test_experiments_open_with_their_command(experiment):
    text = resources.files("r3avatar.configs").joinpath("experiment", f"{experiment}.yaml").read_text()
    head = text.splitlines()[:2]
    assert head[0] == "# @package _global_" and head[1].startswith("# r3avatar train experiment=")
    check("train", [f"experiment={experiment}"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["budgte.images=3"], "did you mean 'budget.images'"),
        (["experiment=dmeo"], "did you mean 'demo'"),
        (["optimizer.plane=1"], "did you mean 'optimizer.planes'"),
        (["seed=1,2"], "add -m"),
        (["density=no"], "did you mean 'none'"),
        (["images=3"], "did you mean 'budget.images'"),
        (["budget"], "key=value"),
    ],
)
def test_mistakes_name_the_nearest_known_key(arguments, message):
    with pytest.raises(UsageError, match=message):
        check("train", arguments)


def test_sweeps_compose_their_first_job():
    assert check("train", ["-m", "experiment=demo", "seed=3,4", "codebook=small,none"]).seed == 3


def test_unknown_verb_and_missing_run_end_with_a_message(capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        main(["trian"])
    assert stop.value.code == 2 and "did you mean 'train'" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", f"run={tmp_path}/nothing"])
    assert stop.value.code == 2 and "is not a run folder" in capsys.readouterr().err


def test_mandatory_keys_are_asked_for_together(capsys):
    for arguments, keys in {
        ("train", "capture=dna_rendering", "body=smplx"): "body.path=... capture.root=... capture.subject=...",
        ("evaluate",): "set run=...",
    }.items():
        with pytest.raises(SystemExit) as stop:
            main(list(arguments))
        assert stop.value.code == 2 and keys in capsys.readouterr().err


def test_doctor_runs_and_needs_nothing_more():
    done = subprocess.run([sys.executable, "-m", "r3avatar.cli", "doctor"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for word in ("torch", "CUDA", "gsplat", "faiss", "H.264", "body=smplx", "wandb", "mend:"):
        assert word in done.stdout


def test_help_needs_no_torch():
    code = "import sys, r3avatar.cli as c; c.main(['train', '--help']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_training_imports_nothing_that_only_other_verbs_or_choices_need():
    late = {
        "av", "faiss", "joblib", "llvmlite", "lpips", "numba", "optuna", "ray", "submitit", "tensorboard",
        "torchvision", "transformers", "wandb", "r3avatar.captures.synthesis", "r3avatar.comparison",
        "r3avatar.evaluation.film", "r3avatar.inspection", "r3avatar.motion.bvh", "r3avatar.retrieval.retriever",
        "r3avatar.sweeps.sweep",
    }  # fmt: skip
    code = "import sys, pytorch_lightning; before = set(sys.modules); import r3avatar.verbs.train;"
    code += f"found = {late} & (set(sys.modules) - before); assert not found, found"  # Lightning looks for more
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
