"""The commands of docs/data_sets.md are well formed, and name the splits of the paper."""

import re
import shlex
from pathlib import Path

import pytest

from r3avatar.captures import parse_ids
from r3avatar.cli import check

TEXT = (Path(__file__).parents[1] / "docs" / "data_sets.md").read_text()
COMMANDS = re.search(r"```bash\n(.*?)```", TEXT, re.S)[1].splitlines()

# METHOD: views in training, frames in training; views held out, their frames; frames of novel poses
SPLITS = {
    "dna_rendering": (24, 100, 6, 20, 8),
    "zju_mocap": (8, 60, 15, 6, 10),
    "hifi4g": (17, 70, 11, 7, 5),
    "mvhumannet": (22, 150, 8, 50, 10),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_compose(command):
    _, verb, *arguments = shlex.split(command)
    config = check(verb, arguments)
    first = re.search(r"capture\.subject=([^, ]+)", command)[1]
    assert str(config.capture.subject) == first and config.body.path == "BODIES"
    assert first in config.name


@pytest.mark.parametrize("experiment", SPLITS)
def test_splits_are_the_papers(experiment):
    capture = check("train", [f"experiment={experiment}"]).capture

    def count(ids) -> int:
        return len(parse_ids(ids)) if isinstance(ids, (str, int)) else len(ids)

    splits = capture.splits
    found = (
        count(splits.train.cameras), count(splits.train.frames), count(splits.novel_view.cameras),
        count(splits.novel_view.frames), count(splits.novel_pose.frames),
    )  # fmt: skip
    assert found == SPLITS[experiment]
    assert count(splits.novel_pose.cameras) == count(splits.novel_view.cameras)
