"""The debug configurations, each on the tiny capture."""

import json

import pytest
import torch

pytestmark = pytest.mark.slow

TINY = ["batch.views=1", "validation.frames=1", "media=false", "evaluate=false", "logger=none"]


def metrics(runs, name):
    return json.loads((runs.folder(name) / "metrics.json").read_text())["train"]


def test_fast_runs_everything_in_a_few_steps(runs):
    runs("fast", "debug=fast", "batch.views=1", "logger=csv")
    found = json.loads((runs.folder("fast") / "metrics.json").read_text())
    assert found["train"]["images"] == 4 and len(found["train"]["curve"]) == 2
    assert found["novel_pose"]["paper"]["psnr"] > 5
    assert (runs.folder("fast") / "logs" / "csv" / "metrics.csv").exists()


def test_overfit_learns_one_frame(runs):
    runs("overfit", "debug=overfit", *TINY, "batch.views=4", "budget.images=160", "validation.every_images=40")
    curve = metrics(runs, "overfit")["curve"]
    assert curve[-1]["psnr"] > curve[0]["psnr"] + 2.5 and curve[-1]["psnr"] > 24, curve


def test_profiler_writes_a_table_of_stages_and_a_trace(runs):
    text = runs("profiled", "debug=profiler", *TINY, "budget.images=8", "profile.skip=2", "profile.steps=4",
                "density.start=1", "validation.every_images=100")  # fmt: skip
    folder = runs.folder("profiled") / "profile"
    table = (folder / "stages.md").read_text()
    assert table in text and "outputs/profiled/profile/trace.json" in text and "4 steps" in text
    for stage in ("codebook and decoder", "rasterize", "loss", "backward", "statistics", "Adam", "whole step"):
        line = next(line for line in table.splitlines() if line.startswith(f"| {stage} |"))
        assert float(line.split("|")[2]) > 0
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    assert sum(e.get("name") == "step: rasterize" for e in events) == 4


def test_detect_nan_names_the_operation(runs):
    text = runs("no_number", "debug=detect_nan", *TINY, "budget.images=8", "validation.every_images=100",
                accidents=[{"accident": "operation", "images": 3}], code=70)  # fmt: skip
    assert "training step 3 (after 3 images; frame " in text and "MulBackward0" in text
    assert "Function" in text and "(0 * parameter.sum()).sqrt()" in text  # the line of the forward pass
    kept = torch.load(runs.folder("no_number") / "checkpoints" / "not_finite.ckpt", weights_only=True)
    assert kept["step"] == 3 and all(value.isfinite().all() for value in kept["state_dict"].values())


def test_deterministic_repeats_its_bits(runs):
    states = []
    for name in ("one", "two"):
        runs(name, "debug=deterministic", *TINY, "budget.images=4", "validation.every_images=100", "density.start=1",
             "density.every=2", "density.grad_threshold=1e-7", "density.max_gaussians=13500")  # fmt: skip
        states.append(torch.load(runs.folder(name) / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"])
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
