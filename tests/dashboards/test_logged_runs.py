"""Runs' logs read back: every key of the list is there, a resumed run goes on, an error closes the log."""

import csv
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from r3avatar.cli import check
from r3avatar.dashboards.callback import DashboardCallback
from r3avatar.dashboards.keys import KEYS, STEP
from r3avatar.verbs import train

pytest.importorskip("wandb")

_spec = importlib.util.spec_from_file_location("wandb_file", Path(__file__).with_name("wandb_file.py"))
wandb_file = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(wandb_file)

STEPS = ["batch.views=2", "density.start=4", "density.every=4", "validation.every_images=8", "validation.frames=2",
         "trainer_log_every=2"]  # fmt: skip
PLANES = ("plane_tv", "time_smoothness", "time_sparsity")
WITHOUT = ("lpips", "perceptual", "offset_change", *PLANES, "static_residual", "shading")  # in the demo
ABSENT = {key.name for key in KEYS if any(word in key.needs for word in WITHOUT)}
LOGGED = {key.name: key for key in KEYS if key.name not in ABSENT}


@pytest.fixture(scope="module")
def start(workplace, tiny_capture):
    """Trains in this process: start(*overrides) returns the run folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workplace.folder)
        patch.setenv("R3AVATAR_CACHE", workplace.environment["R3AVATAR_CACHE"])

        def run(*overrides: str) -> Path:
            config = check("train", ["experiment=demo", *tiny_capture, *STEPS, *overrides])
            train.run(config)
            return workplace.folder / config.folder

        yield run


@pytest.fixture(scope="module")
def runs(start):
    """A run that ended after its first validation, and the same resumed to its end: what both starts wrote."""
    start("name=logged", "logger=wandb", "budget.images=8", "evaluate=false")
    return wandb_file.offline_runs(start("name=logged", "logger=wandb", "budget.images=16", "resume=true"))


def test_every_key_is_in_the_offline_run_and_no_other(runs):
    values = {key for run in runs for key in run.values}
    assert set(LOGGED) <= values, sorted(set(LOGGED) - values)
    assert values - set(LOGGED) <= {"_step", "_runtime", "_timestamp", "_wandb"}
    for run in runs:
        for line in run.history:
            assert line["_step"] == line[STEP]
            for key, value in line.items():
                if key in LOGGED and LOGGED[key].kind == "scalar":
                    assert np.isfinite(value), key


def test_what_is_logged_is_what_the_list_says_and_when(runs):
    first, second = runs
    types = {"histogram": "histogram", "pictures": "images/separated", "video": "video-file", "table": "table-file"}
    for key in LOGGED.values():
        at = [line[STEP] for run in runs for line in run.history if key.name in line]
        assert at == {"step": [4, 8, 12, 16], "validation": [8, 16], "end": [16]}[key.when], key.name
        value = second.values[key.name][-1]
        if key.kind == "scalar":
            continue
        assert value["_type"] == types[key.kind], key.name
        if key.kind == "histogram":
            count = second.values["gaussians/number"][-1] * (3 if "scale" in key.name else 1)
            assert sum(value["values"]) == count and len(value["bins"]) == len(value["values"]) + 1
            continue
        paths = value["filenames"] if key.kind == "pictures" else [value["path"]]
        for path in paths:
            assert (second.folder / "files" / path).stat().st_size > 100, key.name
    strips = second.values["media/strips"][-1]
    assert strips["count"] == 2 and strips["captions"] == ["frame 0, view 0", "frame 4, view 0"]
    assert first.values["media/strips"][-1]["captions"] == strips["captions"]
    assert second.values["codebook/planes"][-1]["count"] == 2  # scales


def test_tables_hold_a_row_for_every_image_and_part(runs):
    def table(key: str) -> dict:
        return json.loads((runs[-1].folder / "files" / runs[-1].values[key][-1]["path"]).read_text())

    views, poses, retrieved = (table(f"{s}/frames") for s in ("novel_view", "novel_pose", "retrieval"))
    assert [row[0] for row in views["data"]] == [0, 4] and [row[0] for row in poses["data"]] == [8, 10]
    assert {"frame", "view", "paper.psnr", "standard.mask_iou"} <= set(views["columns"])
    assert retrieved["columns"] == ["frame", "part", "retrieved", "distance", "jump"]
    assert len(retrieved["data"]) == 2 * 5
    mean = np.mean([row[3] for row in retrieved["data"]])
    assert runs[-1].values["retrieval/distance"][-1] == pytest.approx(mean)


def test_a_resumed_run_goes_on_under_the_id_in_its_checkpoint(runs, workplace):
    first, second = runs
    checkpoint = torch.load(workplace.folder / "outputs/logged/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["callbacks"]["DashboardCallback"] == {"run_id": first.id}
    assert first.id == second.id and first.exit_code == second.exit_code == 0
    assert first.values[STEP] == [4, 8] and second.values[STEP] == [12, 16]


def test_configuration_and_git_state_are_with_the_run(runs, workplace):
    stored = json.loads((workplace.folder / "outputs/logged/versions.json").read_text())
    config = runs[-1].config
    assert config["git"] == stored["git"] and config["versions"] == stored["versions"]
    assert config["budget"]["images"] == 16 and config["capture"]["subject"] == "tiny"
    assert runs[-1].project == "r3avatar" and runs[-1].name == "outputs/logged"


def test_terms_of_the_loss_that_the_demo_goes_without_are_logged_where_they_are_on(start):
    weights = {"offset_change": 0.01, "plane_tv": 2e-4, "time_smoothness": 1e-3, "time_sparsity": 1e-4}
    options = ["logger=csv", "budget.images=16", "batch.frames=2", "media=false", "evaluate=false"]
    folder = start("name=regularised", *options, *(f"loss.{name}={weight}" for name, weight in weights.items()))
    with (folder / "logs/csv/metrics.csv").open() as file:
        row = [row for row in csv.DictReader(file) if row["loss/total"]][-1]
    values = {name: float(row[f"loss/{name}"]) for name in ("total", "l1", "mask", "ssim", *weights)}
    assert all(values[name] > 0 for name in weights) and {f"loss/{name}" for name in weights} <= ABSENT
    total = sum(values[name] * weight for name, weight in {"l1": 1, "mask": 0.1, "ssim": 0.01, **weights}.items())
    assert values["total"] == pytest.approx(total, rel=1e-4)


def test_an_error_ends_the_run_as_failed_and_the_next_one_is_another(start, workplace, monkeypatch):
    def lost(*arguments, **keywords):
        raise RuntimeError("the evaluation fails")

    monkeypatch.setattr(train, "evaluate", lost)
    with pytest.raises(RuntimeError, match="the evaluation fails"):
        start("name=lost", "logger=wandb", "budget.images=4", "media=false")
    monkeypatch.undo()
    (run,) = wandb_file.offline_runs(workplace.folder / "outputs/lost")
    assert run.exit_code == 1 and "media/strips" not in run.values

    from r3avatar.dashboards.wandb_log import WandbLog

    log = WandbLog(str(workplace.folder / "outputs/next/logs"))
    log.log_metrics({"loss/total": 1.0}, step=1)
    assert log.run_id not in (None, run.id)
    log.close()
    log.close()  # twice is once
    (other,) = wandb_file.offline_runs(workplace.folder / "outputs/next")
    assert other.exit_code == 0


def test_lines_from_before_the_last_one_are_one_line_and_none_is_dropped(tmp_path):
    from r3avatar.dashboards.wandb_log import WandbLog

    log = WandbLog(str(tmp_path / "logs"))
    for step, value in ((4, 1.0), (8, 2.0), (4, 3.0), (12, 4.0)):
        log.log_metrics({"loss/total": value}, step)
    log.close()
    (run,) = wandb_file.offline_runs(tmp_path)
    assert [(line["_step"], line["loss/total"]) for line in run.history] == [(4, 1.0), (8, 3.0), (12, 4.0)]


def test_csv_has_all_scalars_by_images_seen(tiny_run):
    with (tiny_run / "logs" / "csv" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    scalars = {key.name for key in LOGGED.values() if key.kind == "scalar"}
    assert set(rows[0]) == scalars | {"step"}
    assert [row["step"] for row in rows if row["novel_view/psnr"]] == ["8", "16"]
    assert rows[-1]["novel_pose/paper_psnr"] and rows[-1]["step"] == "16"


def tensorboard_events(folder: Path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder / "logs" / "tensorboard"), size_guidance={"scalars": 0, "images": 0}).Reload()


def test_tensorboard_has_every_key(start):
    pytest.importorskip("tensorboard")
    events = tensorboard_events(start("name=board_of_tensors", "logger=tensorboard", "budget.images=8"))
    tags = events.Tags()
    for key in LOGGED.values():
        where = {"scalar": "scalars", "histogram": "histograms", "table": "tensors"}.get(key.kind, "images")
        found = {tag.removesuffix("/text_summary") for tag in tags[where]}
        assert key.name in found or f"{key.name}/0" in found, key.name
    assert [event.step for event in events.Scalars("loss/total")] == [4, 8]
    assert events.Images("media/novel_pose")[0].encoded_image_string[:6] == b"GIF89a"
    count = events.Scalars("gaussians/number")[-1].value
    assert events.Histograms("gaussians/opacity")[-1].histogram_value.num == count
    assert any("seed: 0" in str(event.tensor_proto) for event in events.Tensors("config/text_summary"))


def test_tensorboard_replaces_what_a_resumed_run_repeats(tmp_path):
    pytest.importorskip("tensorboard")
    from r3avatar.dashboards.tensorboard_log import TensorBoardLog

    for first, value in ((4, 1.0), (8, 2.0)):  # killed after 12, resumed from a checkpoint at 4
        log = TensorBoardLog(str(tmp_path / "logs"))
        for step in range(first, 13, 4):
            log.log_metrics({"loss/total": value}, step)
        log.close()
    found = [(event.step, event.value) for event in tensorboard_events(tmp_path).Scalars("loss/total")]
    assert found == [(4, 1.0), (8, 2.0), (12, 2.0)]


def test_nothing_is_called_between_validations():
    between = [name for name in dir(pl.Callback) if name.startswith(("on_train_batch", "on_before", "on_after"))]
    assert between and all(getattr(DashboardCallback, name) is getattr(pl.Callback, name) for name in between)
