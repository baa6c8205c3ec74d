"""Tables, rows and pictures of run folders; the folders are written by hand, so that every figure is known."""

import csv
import io
import json
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from r3avatar.comparison.pictures import panels, side_by_side
from r3avatar.comparison.rows import grouped
from r3avatar.comparison.runs import find_runs
from r3avatar.comparison.table import tabulate
from r3avatar.comparison.writers import comma_separated, latex, markdown
from r3avatar.evaluation.media import HEAD, strip, write_image
from r3avatar.evaluation.plots import mean_curve, training_curves
from r3avatar.run import RunError

CONFIG = {
    "name": "x", "seed": 0, "density": {"seed": 0, "start": 400}, "codebook": {"channels": 16},
    "budget": {"images": 64},
    "capture": {"_target_": "r3avatar.captures.DnaRendering", "subject": "tiny", "root": "a", "scale": 0.25,
                "splits": {"novel_view": {"frames": "0-7"}}},
    "validation": {"frames": 2}, "loss": {"white_background": False}, "media": True,
}  # fmt: skip


def make_run(folder, psnr=20.0, seed=0, config=(), choices=(), overrides=(), metrics=None, view=True, pose=True):
    """A run folder; psnr: of novel views by `standard` (by `paper` 10 more, novel poses 1 less)."""
    folder.mkdir(parents=True)
    merged = OmegaConf.merge(CONFIG, {"seed": seed, "name": folder.name, "density": {"seed": seed}})
    for key, value in dict(config).items():
        OmegaConf.update(merged, key, value, force_add=True)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(merged))
    (folder / "overrides.txt").write_text("\n".join(["experiment=demo", f"seed={seed}", *overrides]) + "\n")
    if choices is not None:
        (folder / "choices.json").write_text(json.dumps({"codebook": "small", **dict(choices)}))

    def section(value):
        own = {"ssim": value / 40, "lpips": None, "frames": 4}
        return {"paper": {"psnr": value + 10, **own}, "standard": {"psnr": value, "mask_iou": 0.9, **own},
                "steadiness": {"error": 1 - value / 100}}  # fmt: skip

    if metrics is None:
        curve = [{"images": n, "seconds": n / 10, "psnr": psnr + n / 10} for n in (32, 64)]
        metrics = {
            "train": {"images": 64, "seconds": 6.4, "gaussians": 1000, "device": "cpu", "curve": curve},
            "novel_view": section(psnr) if view else None, "novel_pose": section(psnr - 1) if pose else None,
            "notes": {} if pose else {"novel_pose": "not computed: evaluate=false"},
        }  # fmt: skip
    if metrics:
        (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def runs_in(folder):
    return find_runs([str(folder)])[0]


def table_of(folder, by, protocol="standard"):
    (group,) = grouped(runs_in(folder), by)
    return tabulate(group, protocol)


def test_mean_sample_standard_deviation_and_best_over_seeds(tmp_path):
    for seed, psnr in enumerate((20.0, 21.0, 23.0)):
        make_run(tmp_path / f"a{seed}", psnr, seed, choices={"codebook": "small"})
        make_run(tmp_path / f"b{seed}", psnr - 2, seed, {"codebook.channels": 32}, {"codebook": "none"})
    table = table_of(tmp_path, ["codebook"])
    cell = table.cells[0][0]
    assert table.columns[0].head == "novel view PSNR" and table.labels == (("small",), ("none",))
    assert (cell.mean, cell.n) == (pytest.approx(64 / 3), 3)
    assert cell.spread == pytest.approx(statistics.stdev([20, 21, 23]))  # of a sample: n - 1
    assert cell.best and not table.cells[1][0].best
    steady = [c.head for c in table.columns].index("steadiness")
    assert table.cells[0][steady].best  # the lowest
    text = markdown([table])
    assert "| small | 3 | **21.33 ± 1.53** |" in text and "n = 3 seeds" in text and "sample standard deviation" in text
    assert "| 64 | 6 |" in text, "budget in images and seconds"
    tex = latex([table])
    assert r"\textbf{21.33} $\pm$ 1.53" in tex and r"$\uparrow$" in tex and tex.count(r"\begin{table}") == 1
    rows = list(csv.DictReader(io.StringIO(comma_separated([table], "standard"))))
    assert float(rows[1]["novel view PSNR mean"]) == pytest.approx(64 / 3 - 2)
    assert rows[0]["novel view PSNR best"] == "True" and rows[0]["n"] == "3" and rows[0]["codebook"] == "small"


def test_latex_escapes_names(tmp_path):
    make_run(tmp_path / "a", choices={"ablation": "no_50%_{x}&y"})
    tex = latex([table_of(tmp_path, ["ablation"])])
    assert r"no\_50\%\_\{x\}\&y" in tex


@pytest.mark.parametrize(("protocol", "psnr", "other"), [("standard", "20.00", "30.00"), ("paper", "30.00", "20.00")])
def test_one_protocol_a_table_named_in_the_caption(tmp_path, protocol, psnr, other):
    make_run(tmp_path / "a")
    text = markdown([table_of(tmp_path, None, protocol)])
    assert f"Protocol {protocol}:" in text and psnr in text and other not in text
    assert ("mask IoU" in text) == (protocol == "standard")


def test_rows_by_keys_and_groups(tmp_path):
    for k, start in enumerate((400, 400, 800)):
        make_run(tmp_path / f"a{k}", 20 + k, k, {"density.start": start})
    table = table_of(tmp_path, ["codebook", "density.start"])
    assert table.heads == ("codebook", "density.start")
    assert table.labels == (("small", "400"), ("small", "800")) and table.seeds == (2, 1)
    assert table.cells[1][0].spread is None
    with pytest.raises(RunError, match=r"differ in more than their seeds.*density.start \(400 \| 800\)"):
        table_of(tmp_path, ["codebook"])
    with pytest.raises(RunError, match=r"did you mean 'density\.start'"):
        table_of(tmp_path, ["density.stat"])


def test_without_by_a_row_for_each_configuration_named_by_its_words(tmp_path):
    make_run(tmp_path / "0", 20, 0, overrides=["name=x"])
    make_run(tmp_path / "1", 21, 1, overrides=["name=y"])
    make_run(tmp_path / "2", 22, 0, {"density.start": 800}, overrides=["density.start=800"])
    table = table_of(tmp_path, None)
    assert table.seeds == (2, 1) and table.labels[1] == ("density.start=800",)
    assert table.labels[0][0].endswith("/0")


def test_runs_without_choices_are_not_grouped_by_them(tmp_path):
    make_run(tmp_path / "old", choices=None)
    make_run(tmp_path / "new", seed=1)
    with pytest.raises(RunError, match=r"older version.*old; give a key instead, e.g. codebook.channels"):
        table_of(tmp_path, ["codebook"])
    assert table_of(tmp_path, ["codebook.channels"]).seeds == (2,)


@pytest.mark.parametrize(
    ("key", "value"),
    [("capture.subject", "other"), ("capture.splits.novel_view.frames", "0-3"), ("loss.white_background", True)],
)
def test_other_captures_splits_and_backgrounds_get_tables_of_their_own(tmp_path, key, value):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", seed=1, config={key: value})
    make_run(tmp_path / "c", seed=1, config={"capture.root": "elsewhere"})  # the same capture
    groups = grouped(runs_in(tmp_path), ["codebook"])
    assert [len(g.rows[0].runs) for g in groups] == [2, 1]
    tables = [tabulate(g, "standard") for g in groups]
    text = markdown(tables)
    assert f"Apart from the other tables by {key}: {str(value).lower()}" in text
    lines = comma_separated(tables, "standard").splitlines()
    assert len(lines) == 3 and lines[2].startswith("2,small")


def test_what_is_missing_is_said(tmp_path):
    make_run(tmp_path / "whole")
    make_run(tmp_path / "half", 22.0, 1, pose=False)
    make_run(tmp_path / "begun", metrics={})
    make_run(tmp_path / "pruned", metrics={"pruned": {"psnr": 3.0}})
    (tmp_path / "dead" / "logs").mkdir(parents=True)
    (tmp_path / "dead" / "logs" / "job.log").write_text("error")
    (tmp_path / "captures").mkdir()
    runs, never = find_runs([str(tmp_path / "*")])
    lacking = {run.folder.name: " ".join(run.lacks()) for run in runs}
    assert lacking["whole"] == "" and "has not come to its end" in lacking["begun"] and "pruned" in lacking["pruned"]
    assert lacking["half"] == "has no novel pose: not computed: evaluate=false"
    assert len(never) == 1 and "job failed before it began" in never[0]
    (group,) = grouped([run for run in runs if run.usable], None)
    text = markdown([tabulate(group, "standard")])
    assert "21.00 ± 1.41 |" in text and "19.00 (n=1)" in text


def test_budgets_that_differ_are_said(tmp_path):
    make_run(tmp_path / "a")
    folder = make_run(tmp_path / "b", config={"budget.images": 32}, overrides=["budget.images=32"])
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["train"]["images"] = 32
    (folder / "metrics.json").write_text(json.dumps(metrics))
    assert "The budgets differ." in table_of(tmp_path, ["budget.images"]).caption


def test_runs_are_found_once_and_in_order(tmp_path):
    for k in (0, 2, 10):
        make_run(tmp_path / "sweep [1]" / str(k))
    (tmp_path / "latest").symlink_to(tmp_path / "sweep [1]" / "10")
    sweep = str(tmp_path / "sweep [1]")
    runs, _ = find_runs([sweep, str(tmp_path / "latest"), str(tmp_path / "l*")])
    assert [run.folder.name for run in runs] == ["0", "2", "10"]
    with pytest.raises(RunError, match="is not there"):
        find_runs([str(tmp_path / "nothing*")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="holds no run"):
        find_runs([str(tmp_path / "empty")])
    (tmp_path / "sweep [1]" / "0" / "metrics.json").write_text("{")
    with pytest.raises(RunError, match=r"0/metrics.json is not JSON"):
        find_runs([sweep])


def write_picture(folder, frame, truth, render):
    flat = [np.full((40, 30, 3), v, np.uint8) for v in (truth, render, 0, 0)]
    flat[0][:, :5] = 0
    write_image(folder / "media" / "novel_view" / f"{frame:06d}_0.png", strip(flat, ["a", "b", "c", "d"]))


def test_pictures_side_by_side_show_one_frame_truth_first(tmp_path):
    for k, name in enumerate(("a", "b", "c", "d")):
        folder = make_run(tmp_path / name, config={"density.start": k}, overrides=[f"density.start={k}"])
        for frame in (0, 5, 10) if name != "a" else (5, 10, 15):
            if name != "c":
                write_picture(folder, frame, (90 if name == "d" else 100) + frame, 150 + k)
    (group,) = grouped(runs_in(tmp_path), ["density.start"])
    picture, missing = side_by_side(group, "novel_view", None, 0)
    assert any(line.startswith("2: no pictures") for line in missing)
    assert any(line.startswith("3:") and "another truth" in line for line in missing)
    middle = picture[HEAD:][picture.shape[0] // 3]
    width = len(middle) // 3  # the truth, a, b
    assert width >= 260 and abs(int(middle[width // 2, 0]) - 110) <= 1, "frame 10, the middle one that all have"
    assert abs(int(middle[width + width // 2, 0]) - 150) <= 1 and abs(int(middle[-width // 2, 0]) - 151) <= 1
    nothing, missing = side_by_side(group, "novel_view", 15, 0)
    assert nothing is None and "share frames 5, 10" in missing[-1]
    assert side_by_side(group, "novel_pose", None, 0)[0] is None


def test_many_runs_take_several_lines_of_pictures(tmp_path):
    for k in range(8):
        folder = make_run(tmp_path / str(k), config={"density.start": k}, overrides=[f"density.start={k}"])
        write_picture(folder, 0, 100, 150 + k)
    (group,) = grouped(runs_in(tmp_path), ["density.start"])
    picture, missing = side_by_side(group, "novel_view", None, 0)
    height, width = picture.shape[0] // 2, picture.shape[1] // 5
    middles = picture[[height // 2, height // 2 + height]][:, width // 2 :: width, 0].astype(int)
    assert np.abs(middles - [[100, 150, 151, 152, 153], [100, 154, 155, 156, 157]]).max() <= 1 and not missing


def test_other_pictures_are_refused(tmp_path):
    path = write_image(tmp_path / "run" / "media" / "novel_view" / "000000_0.png", np.zeros((10, 41, 3), np.uint8))
    with pytest.raises(RunError, match="is not a picture of an evaluation"):
        panels(path)


def test_curves_of_seeds_share_a_name(tmp_path):
    run = [{"images": n, "seconds": n / 10, "psnr": 20 + n / 10} for n in (8, 16)]
    assert training_curves(tmp_path / "curves.png", {"a": [run, run], "b": [run]}).stat().st_size > 1000


def test_mean_curves_are_of_the_images_that_all_runs_validated_at(tmp_path):
    def run(psnr, every=8):
        return [{"images": n, "seconds": n / 10 + psnr, "psnr": psnr + n / 10} for n in range(every, 33, every)]

    mean, spread = mean_curve([run(20), run(22), run(21, 16)])
    assert [p["images"] for p in mean] == [16, 32] and mean[0]["psnr"] == pytest.approx(22.6)
    assert mean[1]["seconds"] == pytest.approx(24.2) and spread[1]["psnr"] == pytest.approx(1.0)
    assert mean_curve([run(20)])[1][0]["psnr"] == 0
    assert training_curves(tmp_path / "a.png", {"a": [run(20), run(22)], "b": [run(3)]}, mean=True).stat().st_size > 999
    with pytest.raises(ValueError, match="no validation at the same number"):
        mean_curve([run(20, 12), run(20, 16)])


def test_the_tool_draws_groups_of_the_same_captures(tmp_path):
    for group, psnr in (("r3", 20.0), ("r3_plus", 21.0)):
        for subject in ("skirt", "cape"):
            make_run(tmp_path / f"{subject}-{group}", psnr + len(subject), config={"capture.subject": subject})
    tool = Path(__file__).parents[2] / "tools" / "plot_curves.py"

    def plot(*groups):
        command = [sys.executable, tool, *groups, "--out", "curves.png"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    done = plot("r3=*-r3", "r3_plus=skirt-r3_plus,cape-r3_plus")
    assert done.returncode == 0, done.stderr[-2000:]
    for line in ("| r3 | 64 | 6.4 ± 0.0 | 30.90 ± 0.71 |", "| r3_plus | 64 | 6.4 ± 0.0 | 31.90 ± 0.71 |"):
        assert line in done.stdout
    assert (tmp_path / "curves.png").stat().st_size > 1000
    done = plot("r3=*-r3", "r3_plus=skirt-r3_plus")
    assert done.returncode and "r3 has runs of cape (1 run), skirt (1 run), r3_plus of skirt (1 run)" in done.stderr
