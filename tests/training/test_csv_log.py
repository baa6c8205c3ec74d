"""Logged values in a file that outlives the process."""

import csv

from r3avatar.training.csv_log import CsvLog


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_lines_are_there_at_once_and_new_keys_widen_the_file(tmp_path):
    log = CsvLog(str(tmp_path))
    log.log_metrics({"loss": 2.0}, step=10)
    assert rows(log.path) == [{"loss": "2.0", "step": "10"}]
    log.log_metrics({"loss": 1.5, "psnr": 20.0}, step=20)
    log.log_metrics({"loss": 1.0}, step=30)
    assert [(r["loss"], r["psnr"], r["step"]) for r in rows(log.path)] == [
        ("2.0", "", "10"), ("1.5", "20.0", "20"), ("1.0", "", "30")
    ]  # fmt: skip


def test_a_run_that_goes_on_replaces_what_came_after_its_checkpoint(tmp_path):
    first = CsvLog(str(tmp_path))
    for step in (10, 20, 30):
        first.log_metrics({"loss": 0.1 * step, "a": 1.0}, step=step)
    with first.path.open("a") as file:
        file.write("7.0")  # torn by a kill
    second = CsvLog(str(tmp_path))
    second.log_metrics({"loss": 9.0, "b": 1.0}, step=20)
    assert [r["step"] for r in rows(second.path)] == ["10", "20"]
    assert rows(second.path)[1] == {"a": "", "b": "1.0", "loss": "9.0", "step": "20"}
