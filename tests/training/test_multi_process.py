"""Several processes train one avatar: the same as one process, through density edits and changes of their number."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent

# Adam divides by a gradient's own size: where that is noise it takes steps of the full rate in its direction, so that
# two orders of summation soon differ by as much as parameters travel. With a large eps it does not.
LINEAR = [
    "optimizer.eps=1e-3", "optimizer.planes=0.01", "optimizer.decoder=1e-3", "optimizer.skinning=1e-4",
    "optimizer.pose_refinement=1e-4", "optimizer.positions=1e-4", "optimizer.sh_dc=0.01", "optimizer.sh_rest=1e-3",
    "learning_rates.batch_rule=sqrt",
]  # fmt: skip
COMMON = [
    "experiment=demo", "capture.scale=0.25", "batch.frames=2", "batch.views=2", "density.start=4", "density.every=8",
    "density.grad_threshold=1e-3", "density.max_gaussians=null", "learning_rates.decay_images=40", "evaluate=false",
    "media=false", "logger=none", "trainer_log_every=4", "validation.frames=1", "validation.every_images=1000",
]  # fmt: skip
TWO = ["trainer=multi_gpu", "trainer.devices=2"]
CPU = ["trainer.accelerator=cpu"]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def torchrun(script, *arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=1", "--nproc-per-node=2"]
    return [[*command, "--master-addr=127.0.0.1", f"--master-port={free_port()}", str(script), *arguments]], [{}]


def srun(script, *arguments):
    """Two tasks as SLURM starts them."""
    common = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "localhost", "SLURM_JOB_ID": str(free_port())}
    tasks = [{**common, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in range(2)]
    return [[sys.executable, str(script), *arguments]] * 2, tasks


def alone(script, *arguments):
    return [[sys.executable, str(script), *arguments]], [{}]


def run(commands, environments, folder, shared):
    """Run processes side by side; what each printed."""
    processes = [
        subprocess.Popen(
            command, cwd=folder, env={**shared, **own}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for command, own in zip(commands, environments)
    ]
    try:
        said = [process.communicate(timeout=400)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, text in zip(processes, said):
        assert process.returncode == 0, text[-4000:]
    return said


def test_two_processes_average_agree_and_find_differences(tmp_path):
    run(*srun(HERE / "replica_checks.py"), tmp_path, {**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_devices_average_agree_and_find_differences(tmp_path):
    run(*torchrun(HERE / "replica_checks.py", "cuda"), tmp_path, dict(os.environ))


class Runs:
    """Training runs in a workplace, and what they left."""

    def __init__(self, workplace, common):
        self.folder, self.common = workplace.folder, common
        self.environment = {**workplace.environment, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}

    def __call__(self, start, *runs):
        asked = json.dumps([[*self.common, *own] for own in runs])
        return run(*start(HERE / "replica_runs.py", asked), self.folder, self.environment)

    def train(self, name):
        return json.loads((self.folder / "outputs" / name / "metrics.json").read_text())["train"]

    def state(self, name):
        path = self.folder / "outputs" / name / "checkpoints" / "last.ckpt"
        return torch.load(path, map_location="cpu", weights_only=True)


@pytest.mark.slow
def test_two_processes_equal_one_through_edits_and_resumes(workplace, tiny_capture):
    """Two ranks until image 20, one until 28, two until 44; edits at 8 and 16, at 24, at 32 and 40."""
    runs = Runs(workplace, [*COMMON, *tiny_capture, *LINEAR, *CPU])
    runs(torchrun, ["name=replicas_parts", "budget.images=20", *TWO])
    assert runs.train("replicas_parts")["devices"] == 2
    runs(
        alone,
        ["name=replicas_whole", "budget.images=44"],
        ["name=replicas_parts", "budget.images=28", "resume=true"],
    )
    runs(srun, ["name=replicas_parts", "budget.images=44", "resume=true", *TWO])
    whole, parts = runs.train("replicas_whole"), runs.train("replicas_parts")
    assert whole["images"] == parts["images"] == 44
    counts = [whole["gaussians"], parts["gaussians"]]
    assert counts[0] == counts[1] > 12868 + 100, counts
    assert abs(whole["curve"][-1]["psnr"] - parts["curve"][-1]["psnr"]) < 1e-3
    a, b = runs.state("replicas_whole"), runs.state("replicas_parts")
    gaps = {}
    for name, value in a["state_dict"].items():
        if value.is_floating_point():
            gaps[name] = _gap(value, b["state_dict"][name])
            print(f"{name}: relative difference {gaps[name]:.2g}")
    assert len(gaps) > 20 and max(gaps.values()) < 5e-3, gaps  # of biases: all they have moved from 0 is little
    assert sorted(gaps.values())[len(gaps) // 2] < 1e-5, gaps
    torch.testing.assert_close(
        a["state_dict"]["avatar.gaussians.positions"], b["state_dict"]["avatar.gaussians.positions"], rtol=0, atol=1e-5
    )
    one, other = (state["callbacks"]["DensityCallback"]["statistics"] for state in (a, b))
    assert one["frames"] == other["frames"] > 0 and len(one["history"]) == len(other["history"])
    for name in ("gradient_sum", "gradient_count", "radii", "log_scale_sum", "frame_count"):
        assert _gap(one["interval"][name], other["interval"][name]) < 0.01, name


@pytest.mark.slow
def test_one_command_starts_all_devices(workplace, tiny_capture):
    common = ["experiment=demo", *tiny_capture, "capture.scale=0.25", "debug=fast", "batch.views=2", "media=false"]
    text = workplace("train", *common, "name=devices", *TWO, *CPU)
    assert "novel view" in text, "rank 0 evaluates"
    folder = workplace.folder / "outputs" / "devices"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["train"]["devices"] == 2 and metrics["novel_view"]["paper"]["psnr"] > 5
    assert (folder / "logs" / "train_rank1.out").exists()
    text = workplace("train", *common, "name=devices", *TWO, *CPU, code=2)
    assert text.count("holds a run already") == 1, "one rank says it"
    if torch.cuda.device_count() < 9:
        nine = ["batch.views=9", "trainer=multi_gpu", "trainer.devices=9"]
        text = workplace("train", *common, *nine, "name=more", code=2)
        assert re.search(r"this machine has \d CUDA devices", text)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("recorded", [True, False])
def test_two_devices_equal_one(workplace, tiny_capture, recorded):
    """Atomic additions come in any order: what a threshold decides may differ for a few Gaussians."""
    runs = Runs(workplace, [*COMMON, *tiny_capture, *LINEAR, "budget.images=120"])
    name = f"devices_{recorded}"
    runs(alone, [f"name={name}_1"])
    said = runs(torchrun, [f"name={name}_2", *TWO, f"trainer.record_collectives={recorded}"])
    assert "cannot record" not in said[0]
    one, two = runs.train(f"{name}_1"), runs.train(f"{name}_2")
    assert abs(one["gaussians"] - two["gaussians"]) <= 0.01 * one["gaussians"], (one, two)
    assert one["gaussians"] != 12868 and abs(one["curve"][-1]["psnr"] - two["curve"][-1]["psnr"]) < 0.1
    a, b = (runs.state(f"{name}_{count}")["state_dict"] for count in (1, 2))
    for key, value in a.items():
        if value.is_floating_point() and not key.startswith("avatar.gaussians"):
            assert _gap(value, b[key]) < 0.02, key


def _gap(value, other):
    """Relative difference, by norms."""
    return float((value - other).norm() / value.norm().clamp_min(1e-6))
