"""Processes: what the environment says of them, how they are started, and how they end."""

import signal
import subprocess
import sys
import time

import pytest

from r3avatar.cli import check
from r3avatar.run import RunError
from r3avatar.training.launch import launch
from r3avatar.training.processes import Processes
from r3avatar.verbs.several_processes import count_processes, start_processes

SLURM = {
    "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NODELIST": "gpu-[07-08]",
    "SLURM_JOB_ID": "1234567", "SLURM_STEP_ID": "2",
}  # fmt: skip


def test_who_started_this_process():
    assert Processes.started({}) is None
    assert Processes.started({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}) is None, "a batch script is one process"
    assert Processes.started({"RANK": "0", "WORLD_SIZE": "1"}) is None
    torchrun = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "7"}
    assert Processes.started({**SLURM, **torchrun}) == Processes(3, 8, 1, "a", 7)
    assert Processes.started(SLURM) == Processes(5, 8, 1, "gpu-07", 15000 + 4569)
    assert Processes.started({**SLURM, "MASTER_PORT": "9", "MASTER_ADDR": "b"}) == Processes(5, 8, 1, "b", 9)


@pytest.mark.parametrize(
    ("overrides", "environment", "message"),
    [
        ("trainer.devices=4", {}, "trainer=multi_gpu trainer.devices=4"),
        ("", SLURM, "one of 8 processes"),
        ("trainer=multi_gpu trainer.devices=4 batch.views=4", SLURM, "are 4 processes, but 8 were started"),
        ("trainer=multi_gpu trainer.devices=auto batch.views=4", {}, "expected a number"),
        ("trainer=multi_gpu trainer.devices=4 batch.frames=2 batch.views=3", {}, "batch.frames=2 batch.views=4 can"),
    ],
)
def test_what_cannot_be_is_refused(overrides, environment, message, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RunError, match=message):
        count_processes(check("train", overrides.split()))


def test_counts(monkeypatch, tmp_path):
    several = ["trainer=multi_gpu", "batch.frames=2", "batch.views=4", "trainer.devices=4"]
    assert count_processes(check("train", [])) == 1
    assert count_processes(check("train", ["trainer=multi_gpu", "trainer.devices=1"])) == 1
    assert count_processes(check("train", several)) == 4
    config = check("train", [*several, "trainer.num_nodes=2"])
    with pytest.raises(RunError, match="torchrun or srun"):
        start_processes(config, tmp_path)
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    assert count_processes(config) == 8


def python(code):
    return [sys.executable, "-c", f"import os, sys, time; rank = int(os.environ['RANK']); {code}"]


def test_all_run_and_rank_0_is_heard(tmp_path, capfd):
    code = "print('rank', rank, os.environ['LOCAL_RANK'], os.environ['WORLD_SIZE'], sys.argv[1:])"
    assert launch(python(code), 3, tmp_path) == 0
    assert capfd.readouterr().out == "rank 0 0 3 []\n"
    assert (tmp_path / "train_rank2.out").read_text() == "rank 2 2 3 ['hydra.job.name=train_rank2']\n"


def test_one_that_fails_ends_all(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("r3avatar.training.launch._GRACE", 0.2)
    start = time.monotonic()
    assert launch(python("sys.exit('oh no') if rank == 1 else time.sleep(60)"), 2, tmp_path) == 1
    assert time.monotonic() - start < 30
    said = capfd.readouterr().err
    assert "rank 1 ended first, with exit code 1" in said and "oh no" in said
    assert launch(python("os.kill(os.getpid(), 9) if rank == 0 else time.sleep(60)"), 2, tmp_path) == 137
    capfd.readouterr()
    assert launch(python("sys.exit(75)"), 2, tmp_path) == 75 and not capfd.readouterr().err


STARTER = """
import sys
from pathlib import Path
from r3avatar.training.launch import launch
code = '''
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *a: sys.exit(75))
open(f"{sys.argv[1]}/{os.environ['RANK']}.pid", "w").write(str(os.getpid()))
from r3avatar.training.launch import end_with_launcher
end_with_launcher()
open(f"{sys.argv[1]}/{os.environ['RANK']}.ready", "w").close()
time.sleep(120)
'''
sys.exit(launch([sys.executable, "-c", code, sys.argv[1]], 2, Path(sys.argv[1])))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGKILL, -9)])
def test_signals_reach_all_and_none_outlives_the_launcher(tmp_path, number, code):
    with subprocess.Popen([sys.executable, "-c", STARTER, str(tmp_path)]) as process:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob("*.ready"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(number)
        assert process.wait(60) == code
    pids = [int(path.read_text()) for path in tmp_path.glob("*.pid")]
    deadline = time.monotonic() + 30
    while any(map(_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(pids) == 2 and not any(map(_alive, pids))


def _alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
