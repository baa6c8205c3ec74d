"""Launchers are run as they are: joblib, submitit's local executor, a Ray cluster of this machine."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest

from r3avatar.sweeps import process
from r3avatar.sweeps.gpus import take_gpu
from r3avatar.sweeps.jobs import Job
from r3avatar.sweeps.launchers import BasicLauncher, JoblibLauncher, RayLauncher, SubmititLauncher, _Requeued
from r3avatar.sweeps.report import report

QUICK = (sys.executable, str(Path(__file__).parent / "quick_run.py"))
LAUNCHERS = {
    "basic": lambda: BasicLauncher(),
    "joblib": lambda: JoblibLauncher(jobs=4, jobs_per_gpu=1),
    "submitit": lambda: SubmititLauncher(jobs=4, cluster="local", poll_seconds=0.05, parameters={"timeout_min": 5}),
    "ray": lambda: RayLauncher(jobs=4, jobs_per_gpu=1, address=None, cpus=0.25),
}


def _jobs(folder: Path, count: int, gpu: bool = False, **fails: str) -> list[Job]:
    def job(number: int) -> Job:
        extra = [f"fails={fails[f'job{number}']}"] if f"job{number}" in fails else []
        command = (f"number={number}", f"folder=study/{number}", *extra)
        return Job(number, f"study/{number}", command, (f"number={number}",), False, str(folder), gpu, program=QUICK)

    return [job(number) for number in range(count)]


def _run(launcher, jobs: list[Job], folder: Path) -> dict[int, object]:
    results = []
    launcher.launch(iter(jobs), lambda job, outcome: results.append((job, outcome)), folder / "study", True)
    print(report(results, "r3avatar train -m ..."))
    assert len(results) == len(jobs)
    return {job.number: outcome for job, outcome in results}


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_failing_job_fails_alone_and_is_not_repeated_when_done(name, tmp_path, monkeypatch, capfd):
    if name != "basic" and find_spec(name) is None:
        pytest.skip(f"pip install 'r3avatar[{name}]'")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    count = 8 if name in ("basic", "joblib") else 4
    outcomes = _run(LAUNCHERS[name](), _jobs(tmp_path, count, job1="error", job2="killed"), tmp_path)
    assert {n: o.state for n, o in outcomes.items() if o.state != "done"} == {1: "failed", 2: "failed"}
    assert outcomes[1].error == "the capture is broken" and "SIGKILL" in outcomes[2].error
    assert outcomes[3].psnr == 23
    told = capfd.readouterr().out
    assert "study/1 failed: the capture is broken" in told and f"{count - 2} done, 2 failed" in told
    assert "| study/3 | number=3 | done | 23.00 |" in told
    if name in ("basic", "joblib"):
        outcomes = _run(LAUNCHERS[name](), _jobs(tmp_path, 8), tmp_path)  # what made them fail is mended
        assert all(o.state == "done" for o in outcomes.values())
        assert [n for n, o in sorted(outcomes.items()) if o.fresh] == [1, 2]


@pytest.mark.parametrize(("name", "gpus"), [("joblib", "4,7"), ("joblib", "0"), ("submitit", "4,7")])
def test_one_gpu_a_job_the_next_free_one(name, gpus, tmp_path, monkeypatch):
    pytest.importorskip(name)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    monkeypatch.setenv("R3AVATAR_LOCKS", str(tmp_path / "locks"))
    _run(LAUNCHERS[name](), _jobs(tmp_path, 5 if name == "joblib" else 3, gpu=True), tmp_path)
    seen = [json.loads(path.read_text()) for path in tmp_path.glob("study/*/seen.json")]
    used = {s["gpu"] for s in seen}  # submitit's processes start slowly: one may end before the next begins
    assert used == set(gpus.split(",")) if name == "joblib" else used <= set(gpus.split(","))
    for gpu in gpus.split(","):
        turns = sorted((s["begin"], s["end"]) for s in seen if s["gpu"] == gpu)
        assert all(end <= begin for (_, end), (begin, _) in pairwise(turns)), "two jobs on one GPU"


def test_several_jobs_share_a_gpu_if_told(tmp_path, monkeypatch):
    pytest.importorskip("joblib")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    monkeypatch.setenv("R3AVATAR_LOCKS", str(tmp_path / "locks"))
    jobs = [Job(j.number, j.folder, (*j.command, "seconds=1.5"), (), False, j.directory, True, program=QUICK)
            for j in _jobs(tmp_path, 2)]  # fmt: skip
    _run(JoblibLauncher(jobs=None, jobs_per_gpu=2), jobs, tmp_path)
    (b0, e0), (b1, e1) = (
        (s["begin"], s["end"]) for s in (json.loads(p.read_text()) for p in tmp_path.glob("study/*/seen.json"))
    )
    assert b0 < e1 and b1 < e0, "they ran one after the other"


def _below(pid: int) -> list[int]:
    found = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return found + [below for child in found for below in _below(child)]


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for a process in Linux's /proc")
def test_submitit_queues_a_job_again_that_has_saved(tmp_path):
    """As SLURM does it when a job's time is up: a signal, on which the run saves; the job's second start ends it."""
    submitit = pytest.importorskip("submitit")
    (job,) = _jobs(tmp_path, 1, job0="preempted")
    executor = submitit.AutoExecutor(folder=tmp_path / "submitit", cluster="local")
    executor.update_parameters(timeout_min=5)
    handle = executor.submit(_Requeued(), job)
    end = time.monotonic() + 100
    while not (tmp_path / "study" / "0" / "begun").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    (task,) = [pid for pid in _below(handle._process.pid) if "submitit.core._submit" in _command(pid)]
    os.kill(task, signal.SIGUSR2)
    assert handle.result().state == "done" and (tmp_path / "study" / "0" / "saved").exists()


def test_a_run_that_another_process_trains_is_left_alone(tmp_path):
    (job,) = _jobs(tmp_path, 1)
    (tmp_path / "study" / "0" / "logs").mkdir(parents=True)
    held = process.lock_file(tmp_path / "study" / "0" / "logs" / "job.lock")
    assert held is not None and process.run_job(job).state == "elsewhere"
    process.os.close(held)
    assert process.run_job(job).state == "done"


def test_a_gpu_is_taken_until_the_last_process_that_uses_it_has_ended(tmp_path, monkeypatch):
    """Also where the sweep itself was killed, and its job was not."""
    monkeypatch.setenv("R3AVATAR_LOCKS", str(tmp_path))
    gpu, held = take_gpu(["0"])
    job = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[held])
    os.close(held)
    assert gpu == "0" and process.lock_file(tmp_path / "0.0.lock") is None
    assert take_gpu(["0", "1"])[0] == "1" and take_gpu(["0"], jobs_per_gpu=2)[0] == "0"
    job.kill()
    job.wait()
    assert take_gpu(["0"])[0] == "0"


def test_missing_packages_name_their_extra(tmp_path, monkeypatch):
    for name, module in {"joblib": "joblib", "submitit": "submitit", "ray": "ray"}.items():
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(Exception, match=rf"pip install 'r3avatar\[{name}\]'"):
            LAUNCHERS[name]().launch([], print, tmp_path, False)


def test_last_words():
    assert process.last_words("a\rb\nr3avatar train: no disk\n(R3AVATAR_TRACEBACK=1 shows where)") == "no disk"
    assert process.last_words("Traceback\n  File\nValueError: seven\n") == "ValueError: seven"
    assert process.last_words("") == "no output"
