"""Retrievals side by side: the table, where the true moments come from, and the tool on two tiny runs."""

import json
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from r3avatar.captures.synthesis.moments import recorded_moments
from r3avatar.captures.synthesis.score import PARTS, part_starts
from r3avatar.evaluation.comparison import flattened, markdown, spread
from r3avatar.retrieval import parts

TOOL = Path(__file__).parents[2] / "tools" / "compare_retrieval.py"


def section(psnr, lpips=None):
    means = {"psnr": psnr, "ssim": 0.9, "lpips": lpips, "frames": 3}
    return {"paper": means, "standard": means, "steadiness": {"error": 0.5, "pairs": 2, "stride": 1}, "seconds": 1.0}


def test_table_of_runs_and_their_spread():
    runs = {"a": {"r3": section(20.0), "oracle": section(21.0)}, "b": {"r3": section(24.0), "oracle": section(26.0)}}
    rows = {name: flattened(found, "paper", "r3") for name, found in runs.items()}
    text = markdown(rows, "r3")
    assert "| a | `oracle` | 21.00 | +1.00 | 0.9000 | - | 0.500 | 1.00 |" in text
    assert "| b | `r3` | 24.00 | +0.00 |" in text
    assert "| mean of 2 | `oracle` | 23.50 ± 3.54 | +1.50 ± 0.71 | 0.9000 ± 0.0000 | - |" in text
    lines = text.splitlines()
    assert len({line.count("|") for line in lines}) == 1 and len(lines) == 2 + 6
    assert "mean" not in markdown({"a": rows["a"]}, "r3"), "one run has no spread"
    assert flattened(runs["a"], "paper", None)["r3"]["gain"] is None
    assert spread([rows["a"]["r3"]])["psnr"] is None


def test_recorded_moments(tmp_path):
    assert recorded_moments(tmp_path, [1, 2]) is None
    options = {"recorded_frames": 20, "later_frames": 10, "transition_frames": 3, "seed": 4}
    (tmp_path / "synthesis.json").write_text(json.dumps({"options": options}))
    found = recorded_moments(tmp_path, [5, 19, 20, 21, 22, 29])
    assert tuple(found) == ("left_leg", "right_leg", "centre", "left_arm", "right_arm") and set(found) == set(
        parts.PARTS
    )
    for name, joints in zip(parts.PARTS, parts.BLENDING_JOINTS["smplx"]):
        start = part_starts(20, 10, 4)[[set(own) for own in PARTS].index(set(joints))]
        np.testing.assert_array_equal(found[name], [5, 19, np.nan, np.nan, start + 2, start + 9])


@pytest.mark.slow
def test_the_tool_on_two_runs(workplace, tiny_run, tiny_capture, monkeypatch, capsys):
    other = tiny_run.parent / "other"
    if not other.exists():
        workplace("train", "experiment=demo", "name=other", *tiny_capture, "batch.views=2", "budget.images=8",
                  "validation.frames=1", "evaluate=false", "media=false")  # fmt: skip
    def compare(*arguments):
        """As from a shell, in this process; what it printed."""
        monkeypatch.setattr(sys, "argv", [str(TOOL), *arguments])
        runpy.run_path(str(TOOL), run_name="__main__")
        return capsys.readouterr().out

    monkeypatch.chdir(workplace.folder)
    monkeypatch.setenv("R3AVATAR_CACHE", workplace.environment["R3AVATAR_CACHE"])
    said = compare("outputs/tiny", "outputs/other", "--frames", "9-11", "--set", "oracle.every=4", "oracle.per_part=2",
                   "--out", "outputs/compared", "--lpips", "none")  # fmt: skip
    text = (workplace.folder / "outputs/compared/comparison.md").read_text()
    assert text in said and text.count("| tiny |") == text.count("| mean of 2 |") == 6
    assert "budgets differ" in text and "No LPIPS" in text
    figures = json.loads((workplace.folder / "outputs/compared/comparison.json").read_text())
    assert figures["images"] == {"tiny": 16, "other": 8}
    for run in figures["runs"].values():
        assert list(run) == ["none", "whole_body", "r3", "viterbi", "mixture", "oracle"]
        assert run["r3"]["steadiness"]["pairs"] == 2 and 0 <= run["r3"]["within_2_frames"] <= 1
    for name in ("tiny_none", "tiny_mixture", "other_oracle"):
        assert cv2.imread(str(workplace.folder / f"outputs/compared/{name}.png")) is not None
    with pytest.raises(SystemExit, match="has no evry"):
        compare("outputs/tiny", "--set", "oracle.evry=4")
