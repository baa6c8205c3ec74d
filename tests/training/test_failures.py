"""What the machine or the numbers may do to a run: it stops with a message, and the last checkpoint stays."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch

pytestmark = pytest.mark.slow

SHORT = [
    "batch.views=1", "budget.images=10", "validation.every_images=100", "validation.frames=1", "density.start=1000",
    "checkpoint.every_images=2", "evaluate=false", "media=false", "logger=none",
]  # fmt: skip


def checkpoint(runs, name, which="last"):
    return torch.load(runs.folder(name) / "checkpoints" / f"{which}.ckpt", weights_only=True)


def mounts_work():
    """Whether this machine lets a user mount a file system for a process of its own."""
    done = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True)
    return done.returncode == 0


@pytest.mark.skipif(shutil.which("unshare") is None or not mounts_work(), reason="needs a file system of its own")
def test_a_full_disk_stops_with_a_message_and_an_intact_checkpoint(workplace, tiny_capture):
    """A file system of 30 MiB: one checkpoint fits (22 MiB), and not the next one beside it."""
    folder, kept = workplace.folder / "small", workplace.folder / "kept"
    folder.mkdir()
    command = [sys.executable, "-m", "r3avatar.cli", "train", "experiment=demo", "name=run", *tiny_capture, *SHORT,
               f"outputs={folder}", f"capture.root={workplace.folder}/outputs/captures"]  # fmt: skip
    # The file system goes with the process: what lies on it at the end is copied, for the test to see.
    mount = 'd="$1" k="$2"; shift 2; mount -t tmpfs -o size=30m tmpfs "$d" || exit 99;'
    script = mount + ' "$@"; code=$?; cp -r "$d" "$k"; exit $code'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", str(folder), str(kept), *command],
        cwd=workplace.folder, env=workplace.environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 74, done.stdout + done.stderr
    assert "No space left on device" in done.stderr and "the one before is intact" in done.stderr
    assert "Traceback" not in done.stderr
    files = {p.name for p in (kept / "run" / "checkpoints").iterdir()}
    assert files == {"last.ckpt"}
    assert torch.load(kept / "run/checkpoints/last.ckpt", weights_only=True)["progress"]["images"] == 2
    # With room again, it goes on.
    shutil.copytree(kept / "run", workplace.folder / "outputs" / "roomy")
    workplace("train", "experiment=demo", "name=roomy", *tiny_capture, *SHORT, "budget.images=4", "resume=auto")


def test_a_file_that_may_not_grow_stops_likewise(runs):
    runs("limited", *SHORT, "budget.images=4")
    size = (runs.folder("limited") / "checkpoints" / "last.ckpt").stat().st_size
    before = checkpoint(runs, "limited")
    text = runs("limited", *SHORT, "resume=auto", accidents=[{"accident": "size", "bytes": size // 2}], code=74)
    assert "File too large" in text and "the one before is intact" in text
    assert checkpoint(runs, "limited")["progress"] == before["progress"]
    assert not list((runs.folder("limited") / "checkpoints").glob("*.part"))


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_a_step_that_is_not_finite_is_named_and_the_state_before_it_kept(runs, kind):
    """At step 5; the host looks before the checkpoint after step 7."""
    accident = [{"accident": kind, "images": 5}]
    text = runs(kind, *SHORT, "checkpoint.every_images=4", accidents=accident, code=70)
    kept = checkpoint(runs, kind, "not_finite")
    frame, camera = kept["frames"][0], kept["cameras"][0][0]
    assert f"training step 5 (after 5 images; frame {frame} in cameras {camera})" in text
    assert kept["step"] == 5 and kept["batch"]["frame"].tolist() == [frame] and kept["batch"]["rgb"].any()
    assert checkpoint(runs, kind)["progress"]["images"] == 4, "the last checkpoint is one to go on from"
    named = "loss term l1 is nan" if kind == "loss" else "gradient of avatar.gaussians.positions: 1 of 38604 numbers"
    assert named in text and any(named in line for line in kept["found"])


def test_the_kept_state_is_that_before_the_step_however_late_the_host_looks(runs):
    same = ["learning_rates.decay_images=10", "checkpoint.every_images=8"]
    runs("until", *SHORT, *same, "budget.images=5")
    runs("late", *SHORT, *same, accidents=[{"accident": "gradient", "images": 5}], code=70)  # seen after step 8
    kept, until = checkpoint(runs, "late", "not_finite"), checkpoint(runs, "until")
    assert all(torch.equal(kept["state_dict"][k], v) for k, v in until["state_dict"].items())
    ours, theirs = kept["optimizer_states"][0]["state"], until["optimizer_states"][0]["state"]
    assert all(torch.equal(torch.as_tensor(ours[k][n]), torch.as_tensor(v[n])) for k, v in theirs.items() for n in v)


@pytest.mark.parametrize("what", ["numpy", "torch", "said"])
def test_too_little_memory_names_the_keys_to_turn(runs, what):
    text = runs("memory", *SHORT, "overwrite=true", accidents=[{"accident": "allocate", "images": 3, "what": what}],
                code=71)  # fmt: skip
    for key in ("batch.frames=1", "batch.views=1", "cache.gpu_gib=null", "capture.scale="):
        assert key in text
    assert ("the GPU is out of memory" if what == "said" else "this machine is out of memory") in text
    assert "Traceback" not in text and checkpoint(runs, "memory")["progress"]["images"] == 2


def test_the_device_without_memory(runs):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    text = runs("device", *SHORT, "rasterizer=auto", accidents=[{"accident": "allocate", "images": 3, "what": "cuda"}],
                code=71)  # fmt: skip
    assert "the GPU is out of memory" in text and "density.max_gaussians" in text


def test_json_is_written_whole(tmp_path):
    from r3avatar.run import write_json

    write_json(tmp_path / "a.json", {"a": 1})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1} and os.listdir(tmp_path) == ["a.json"]
