"""Whatever ends a run: gone on with from its last checkpoint, it ends with the same bits as one that nothing ended."""

import os
import random
import signal
import time

import pytest
import torch

pytestmark = pytest.mark.slow

# 14 images in 14 steps: edits at 4, 8 and 12, validations at 6, 12 and 14; the harmonics' degree grows at 5 and 10.
SMALL = [
    "batch.views=1", "budget.images=14", "validation.every_images=6", "validation.frames=1", "sh_degree_every=5",
    "density.start=2", "density.every=4", "density.grad_threshold=1e-7", "density.max_gaussians=14000",
    "density.window_frames=6", "evaluate=false", "media=false", "logger=none",
]  # fmt: skip
WHERE = ("step", "gradients", "edit", "write", "rename", "validation")
KILLS = int(os.environ.get("R3AVATAR_TEST_KILLS", 3))  # more: for a longer search


def last(runs, name):
    return torch.load(runs.folder(name) / "checkpoints" / "last.ckpt", weights_only=True)


def differences(a, b, path=""):
    """Where two checkpoints differ, but for what the clock says."""
    if path.endswith("seconds"):
        return []
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same = a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)
        return [] if same else [path]
    if isinstance(a, dict) and isinstance(b, dict):
        found = [f"{path}.{key}" for key in a.keys() ^ b.keys()]
        return found + [d for key in a.keys() & b.keys() for d in differences(a[key], b[key], f"{path}.{key}")]
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        return [d for k, (x, y) in enumerate(zip(a, b)) for d in differences(x, y, f"{path}[{k}]")]
    return [] if a == b else [f"{path}: {a} != {b}"]


@pytest.fixture(scope="module")
def whole(runs):
    """The final checkpoint of a run that nothing interrupts."""
    runs("whole", *SMALL)
    state = last(runs, "whole")
    assert state["progress"]["images"] == 14 and [c["images"] for c in state["progress"]["curve"]] == [6, 12, 14]
    assert state["progress"]["curve"][-1]["gaussians"] != 12868
    return state


def test_the_same_seed_gives_the_same_bits(runs, whole):
    runs("again", *SMALL, "checkpoint.every_images=1")
    assert not differences(last(runs, "again"), whole)


def test_killed_at_random_steps_a_run_ends_as_if_it_had_not_been(runs, whole):
    seed = random.SystemRandom().randrange(10**6)
    draw, kills, rounds = random.Random(seed), [], 0
    while len(kills) < KILLS:
        name = f"killed{rounds}"
        rounds += 1
        for _ in range(KILLS - len(kills)):
            path = runs.folder(name) / "checkpoints" / "last.ckpt"
            begun = last(runs, name)["progress"]["images"] if path.exists() else 0
            kill = {"accident": "kill", "images": begun + draw.randrange(7), "where": draw.choice(WHERE)}
            runs(name, *SMALL, f"checkpoint.every_images={draw.choice((1, 2, 5))}", "resume=auto", accidents=[kill],
                 code=None)  # fmt: skip
            assert runs.code in (-signal.SIGKILL, 0)
            if runs.code == 0:
                break
            kills.append((begun, kill["images"], kill["where"]))
        runs(name, *SMALL, "resume=auto")
        assert not differences(last(runs, name), whole), f"seed {seed}: {kills}"
    print(f"{len(kills)} kills in {rounds} runs")


def test_killed_from_outside_at_any_moment(runs, whole):
    pid = runs.start("shot", *SMALL, "checkpoint.every_images=1", "resume=auto")
    while not (runs.folder("shot") / "checkpoints" / "last.ckpt").exists():
        time.sleep(0.01)
    time.sleep(random.random())
    os.kill(pid, signal.SIGKILL)
    runs.end(code=-signal.SIGKILL)
    runs("shot", *SMALL, "resume=auto")
    assert not differences(last(runs, "shot"), whole)


def test_a_kill_while_a_checkpoint_is_written_costs_one_interval(runs, whole):
    folder = runs.folder("torn") / "checkpoints"
    for where, images, stands in (("write", 3, 2), ("rename", 3, 2), ("rename", 5, 4)):
        kill = {"accident": "kill", "images": images, "where": where}
        runs("torn", *SMALL, "checkpoint.every_images=2", "resume=auto", accidents=[kill], code=-signal.SIGKILL)
        assert last(runs, "torn")["progress"]["images"] == stands
        assert (folder / "last.ckpt.part").exists()
    # The last kill came between the two names of the checkpoint at 6 images, of which the best one is the first.
    best = torch.load(folder / "best.ckpt", weights_only=True)
    assert best["progress"]["images"] == 6
    runs("torn", *SMALL, "resume=auto")
    assert not differences(last(runs, "torn"), whole)


def test_signals_save_and_end_with_their_code(runs, whole):
    """Preempted twice and interrupted twice: in a step, while a checkpoint is written, in a validation."""
    for number, where, images, times, code, stands in (
        (signal.SIGTERM, "gradients", 3, 1, 75, 4),
        (signal.SIGUSR1, "validation", 5, 1, 75, 6),
        (signal.SIGINT, "gradients", 8, 1, 130, 9),
        (signal.SIGINT, "gradients", 10, 2, 130, 9),  # twice: it does not wait for the step
        (signal.SIGTERM, "write", 11, 1, 75, 12),
    ):
        accident = {"accident": "signal", "images": images, "number": number, "where": where, "times": times}
        text = runs("signalled", *SMALL, "resume=auto", accidents=[accident], code=code)
        assert last(runs, "signalled")["progress"]["images"] == stands
        if code == 75:
            assert number.name in text and f"saved at {stands} images" in text and "resume=auto" in text
        else:
            assert ("the running step is lost" if times == 2 else f"saved at {stands} images") in text
    runs("signalled", *SMALL, "resume=true")
    assert not differences(last(runs, "signalled"), whole)


def test_preempted_before_its_first_step_a_run_says_so_too(runs):
    pid = runs.start("early", *SMALL, "resume=auto")
    while not (runs.folder("early") / "config.yaml").exists():
        time.sleep(0.01)
    os.kill(pid, signal.SIGTERM)
    runs.end(code=75)


def test_resume_is_refused_where_there_is_nothing(runs):
    assert "resume=auto starts" in runs("nothing", *SMALL, "resume=true", code=2)
    assert "true, false, auto" in runs("nothing", *SMALL, "resume=maybe", code=2)
