"""The run folder."""

import json

import pytest
from omegaconf import OmegaConf

from r3avatar.run import (
    RunError,
    check_run_folder,
    checkpoint_of,
    create_run_folder,
    git_state,
    open_run,
    update_metrics,
    versions,
)


@pytest.fixture
def config(tmp_path):
    return OmegaConf.create({"outputs": str(tmp_path / "outputs"), "a": 1, "b": "${a}"})


def test_create_and_open(config, tmp_path):
    folder = tmp_path / "outputs" / "group" / "one"
    create_run_folder(folder, config, ["a=1"])
    opened, stored = open_run(str(tmp_path / "outputs" / "latest"))
    assert opened.resolve() == folder.resolve() and stored.b == 1
    with pytest.raises(RunError, match="overwrite=true"):
        check_run_folder(folder, reuse=False)
    check_run_folder(folder, reuse=True)
    with pytest.raises(RunError, match="has not been trained yet"):
        checkpoint_of(folder, "last")


def test_opening_something_else_names_the_runs_nearby(config, tmp_path):
    create_run_folder(tmp_path / "outputs" / "one", config, [])
    with pytest.raises(RunError, match="runs there: one"):
        open_run(str(tmp_path / "outputs" / "two"))
    with pytest.raises(RunError, match="experiment=demo"):
        open_run(str(tmp_path / "nothing" / "here"))


def test_metrics_merge_and_drop_notes_of_what_was_computed(tmp_path):
    update_metrics(tmp_path, train={"images": 3}, novel_view=None, notes={"novel_view": "not computed: why"})
    assert json.loads((tmp_path / "metrics.json").read_text())["notes"] == {"novel_view": "not computed: why"}
    merged = update_metrics(tmp_path, novel_view={"paper": {"psnr": 1.0}}, notes={"novel_view.paper.lpips": "off"})
    assert merged["train"] == {"images": 3} and merged["notes"] == {"novel_view.paper.lpips": "off"}
    assert not list(tmp_path.glob("*.part"))


def test_versions_name_what_numbers_depend_on():
    found = versions()
    assert found["torch"] and found["numba"] and "gsplat" in found
    assert set(git_state()) == {"commit", "changed"}
