"""Every command and every program of the README and of docs/core.md is run."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
pytestmark = pytest.mark.slow


def _blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


def _commands(text: str) -> list[list[str]]:
    lines = [line for block in _blocks(text, "bash") for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def test_the_readme_has_the_commands_that_are_tested_here():
    kinds = {tuple(c[:2]) if c[0] in ("make", "pip") else c[0] for c in _commands(README)}
    assert kinds == {("make", "demo"), ("make", "test"), ("pip", "install"), "r3avatar"}


def test_r3avatar_commands(workplace, only_tiny_capture):
    """In order, as written, but for a capture and a budget that suit a test; a verb's first as a shell starts it."""
    tiny = [*only_tiny_capture, "batch.views=2", "budget.images=4", "validation.frames=1", "media=false"]
    begun = set()
    for command in _commands(README):
        if command[0] != "r3avatar" or "capture=dna_rendering" in command:
            continue  # licensed files: tests/test_dna_rendering.py runs that line on a pair in its layout
        verb, rest = command[1], command[2:]
        quick = ["batch.views=2", "gaussians=300", "seconds=0.1", "warm_up=1", "images=4", "recorded=[50]"]
        short = {"train": tiny, "bench": [*only_tiny_capture, *quick], "inspect": only_tiny_capture}
        start = workplace if verb in begun else workplace.afresh
        begun.add(verb)
        start(verb, *rest, *short.get(verb, ["camera=4"] if "camera=8" in rest else []))


def test_make_demo(workplace, only_tiny_capture):
    """The Makefile's own recipe, with the environment that runs this test and the tiny capture."""
    place = workplace.folder / "clone"
    place.mkdir()
    for name in ("Makefile", "setup.cfg", "pyproject.toml"):
        shutil.copy(ROOT / name, place)
    binaries = place / "bin"
    binaries.mkdir()
    for name, module in {"r3avatar": "-m r3avatar.cli ", "python": ""}.items():
        (binaries / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {module}"$@"\n')
        (binaries / name).chmod(0o755)
    (place / ".installed").touch()
    train = " ".join([*only_tiny_capture, "debug=fast", "batch.views=2"])
    done = subprocess.run(
        ["make", "demo", "BIN=./bin", "STAMP=.installed", "SYNTHESIZE=synthesis=tiny subject=tiny",
         f"TRAIN={train}"],
        cwd=place, env=workplace.environment, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for word in ("novel view", "novel pose", "paper", "standard", "animate_novel_pose.mp4", "next:"):
        assert word in done.stdout, word
    offered = done.stdout.split("next:")[1].split("\n\n")[0].strip().splitlines()
    assert len(offered) == 3 and all("r3avatar " in line for line in offered)
    subprocess.run(["make", "-n", "test", "STAMP=.installed"], cwd=place, check=True, capture_output=True)
    assert subprocess.run(["make", "help"], cwd=place, capture_output=True, text=True).stdout.count("make ") >= 6


def test_python_of_the_readme(workplace, tiny_run, tmp_path):
    """As written, but for the tiny run's camera, in a folder that holds the run and no capture."""
    shutil.copytree(tiny_run, tmp_path / "outputs" / "demo")
    (program,) = _blocks(README, "python")
    program = program.replace('cameras["8"]', 'cameras["4"]')
    program += "assert image.ndim == 3 and images.shape[0] == len(theta) > 40 and images[-1].max() > 0.2"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=workplace.environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_core_runs_without_lightning(workplace):
    (program,) = _blocks((ROOT / "docs" / "core.md").read_text(), "python")
    program += "import sys; assert not {'pytorch_lightning', 'hydra', 'wandb'} & set(sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=workplace.folder, env=workplace.environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    losses = [float(line.split()[1]) for line in done.stdout.splitlines()]
    assert len(losses) == 10 and losses[-1] < losses[0]


def test_links_lead_somewhere():
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
            assert target.startswith("http") or (path.parent / target).exists(), f"{path.name}: {target}"
