"""Every ablation composes with any experiment, takes away what it says and nothing else, and runs; and the study."""

import json
import re
import subprocess
from pathlib import Path

import cv2
import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from r3avatar.cli import groups
from r3avatar.comparison.rows import differing
from r3avatar.comparison.runs import flattened
from r3avatar.verbs.train import run

ROOT = Path(__file__).parents[2]
# What each takes away: the only keys that may differ from the run without it.
CHANGES = {
    "no_codebook": {"codebook.temporal"},
    "no_retrieval": {"retrieval"},
    "whole_body_retrieval": {"retrieval"},
    "no_pose_refinement": {"pose_refinement"},
    "no_skinning_offsets": {"skinning"},
    "no_kl_density": {"density.kl_clone", "density.kl_split", "density.kl_merge"},
    "no_mask_loss": {"loss.mask"},
    "planes_64": {"codebook.spatial_resolutions"},
    "planes_64_128_256": {"codebook.spatial_resolutions"},
    "planes_time_25": {"codebook.time_resolution"},
    "planes_time_100": {"codebook.time_resolution"},
}


def composed(*overrides):
    with initialize_config_module("r3avatar.configs", version_base="1.3"):
        return compose("train", overrides=[*overrides, "name=x"])


def keys(*overrides):
    return flattened(OmegaConf.to_container(composed(*overrides)))


def test_all_are_listed_here_and_have_an_experiment():
    assert set(groups()["ablation"]) == {*CHANGES, "none"}
    assert set(CHANGES) <= set(groups()["experiment"])


@pytest.mark.parametrize("name", CHANGES)
def test_an_ablation_changes_what_it_says_and_nothing_else(name):
    for experiment in ("demo", "study"):
        whole = [f"experiment={experiment}", "avatar=r3"]
        before, now = keys(*whole), keys(*whole, f"ablation={name}")
        changed = differing([before, now])
        part = {key if key in CHANGES[name] else key.split(".")[0] for key in changed}
        # The paper's three scales are what experiment=study has.
        assert part == CHANGES[name] or (experiment, name, part) == ("study", "planes_64_128_256", set())
    assert keys(f"experiment={name}") == keys("experiment=demo", "avatar=r3", f"ablation={name}")


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_every_ablation_runs(workplace, tiny_capture, monkeypatch, name):
    """Trained through a densification, with a validation; those of retrieval are evaluated."""
    monkeypatch.chdir(workplace.folder)
    monkeypatch.setenv("R3AVATAR_CACHE", str(workplace.folder / "cache"))
    quick = ["debug=fast", "logger=none", "batch.views=2", "density.start=1", "density.every=2", "media=false"]
    retrieval = "retrieval" in name
    config = composed(f"experiment={name}", *tiny_capture, *quick, f"evaluate={str(retrieval).lower()}")
    config.name = f"ablation_{name}"
    run(config)
    metrics = json.loads((workplace.folder / "outputs" / config.name / "metrics.json").read_text())
    assert metrics["train"]["images"] == 4 and metrics["train"]["curve"][-1]["psnr"] > 5
    assert not retrieval or metrics["novel_pose"]["paper"]["psnr"] > 5


@pytest.mark.slow
def test_a_study_is_two_commands(workplace, tiny_capture):
    """Those of `make ablations`, with two ablations on the tiny capture."""
    lines = (ROOT / "Makefile").read_text()
    target = re.search(r"^ablations:.*\n((?:\t.*\n)+)", lines, re.M).group(1)
    assert "train -m experiment=demo avatar=r3 optimizer.planes=3e-3 ablation=$(ABLATIONS)" in target
    assert "compare run=" in target
    listed = re.search(r"^ABLATIONS \?= (.*)$", lines, re.M).group(1)
    assert set(listed.split(",")) == {*CHANGES, "none"}
    subprocess.run(["make", "-n", "ablations", "STAMP=Makefile"], cwd=ROOT, check=True, capture_output=True)

    workplace("train", "-m", "experiment=demo", "ablation=none,no_mask_loss", "name=ablations", *tiny_capture,
              "debug=fast", "batch.views=2")  # fmt: skip
    printed = workplace("compare", "run=outputs/ablations", "by=ablation", "out=outputs/ablations/comparison")
    out = workplace.folder / "outputs" / "ablations" / "comparison"
    text = (out / "table.md").read_text()
    assert text in printed and "Protocol standard" in text and "Lacking" not in text and "Not drawn" not in text
    assert re.search(r"^\| none \| 1 \| .*\d", text, re.M) and re.search(r"^\| no_mask_loss \| 1 \| ", text, re.M)
    assert "table.tex" in printed and (out / "table.csv").read_text().count("\n") == 3
    assert (out / "curves.png").stat().st_size > 1000
    for split in ("novel_view", "novel_pose"):
        assert cv2.imread(str(out / f"{split}.png")).shape[1] >= 3 * 260

    # By key, by the other protocol, by a pattern; and what cannot be compared.
    paper = workplace("compare", "run=outputs/ablations/*", "by=[loss.mask]", "protocol=paper", "out=other")
    assert "| 0.1 | 1 |" in paper and "Protocol paper" in paper and "mask IoU" not in paper
    refused = workplace("compare", "run=outputs/ablations", "by=codebook", code=2)
    assert "differ in more than their seeds" in refused and "loss.mask (0.1 | 0.0)" in refused
    assert "is not there" in workplace("compare", "run=outputs/nothing*", code=2)
    assert "a table has one of them" in workplace("compare", "run=outputs/ablations", "protocol=both", code=2)
