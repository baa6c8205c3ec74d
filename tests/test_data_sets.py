"""The data sets' configurations: the method's splits and subjects, and docs/data.md's commands."""

import re
import shlex
from importlib import resources
from pathlib import Path

import pytest
from hydra import initialize_config_module
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser

from r3avatar.captures import Split
from r3avatar.cli import UsageError, check, groups

TEXT = (Path(__file__).parents[1] / "docs" / "data.md").read_text()
LINES = [line for block in re.findall(r"```bash\n(.*?)```", TEXT, re.S) for line in block.splitlines()]
COMMANDS = [line for line in LINES if line.startswith("r3avatar train") and "capture=folder" not in line]
OTHERS = [line for line in LINES if line not in COMMANDS]
ALL = "r3avatar train -m 'paper=glob(*)' capture.root=DIR body.path=BODIES"
SUBJECTS = {
    "dna_rendering": ["0010_03", "0012_03", "0019_10", "0024_05", "0051_09", "0172_05", "0188_02"],
    "zju_mocap": ["377", "386", "387", "392", "393", "394"],
    "hifi4g": ["4K_Actor1_Greeting", "4K_Actor2_Dancing"],
    "mvhumannet": ["100003", "100009", "100022", "100025"],
}
EVERY = [(experiment, subject) for experiment, subjects in SUBJECTS.items() for subject in subjects]


def _mvhumannet(numbers):
    return [f"CC32871A{number:03d}" for number in numbers]


MV_TRAIN = [4, 5, 6, 9, 10, 12, 13, 14, 17, 20, 21, 27, 32, 33, 36, 40, 41, 42, 48, 49, 58, 60]
MV_TEST = [16, 22, 29, 34, 38, 44, 55, 57]
MV_PUBLISHED = [16, 22, 27, 29, 34, 38, 44, 55, 57]
HIFI4G_TEST = [2, 18, 20, 22, 24, 26, 28, 30, 32, 34, 35]
ZJU_TRAIN = list(range(0, 24, 3))
# The method's evaluation protocol: body, scale, training cameras and frames, held-out cameras, frames of novel views,
# frames of novel poses.
TABLE = {
    "dna_rendering": (
        "smplx", 0.25, range(0, 48, 2), range(100), range(48, 60, 2), range(0, 100, 5), range(110, 150, 5),
    ),
    "zju_mocap": (
        "smpl", 0.5, ZJU_TRAIN, range(0, 300, 5), sorted(set(range(23)) - set(ZJU_TRAIN)), range(0, 300, 50),
        range(300, 500, 20),
    ),
    "hifi4g": (
        "smpl", 0.25, [0, 1, *range(3, 17), 36], range(0, 140, 2), HIFI4G_TEST, range(0, 140, 20), range(150, 200, 10),
    ),
    "mvhumannet": (
        "smplx", 0.25, _mvhumannet(MV_TRAIN), range(150), _mvhumannet(MV_TEST), range(0, 150, 3), range(200, 300, 10),
    ),
}  # fmt: skip


def _table_row(capture, body):
    splits = {name: Split.parse(split.cameras, split.frames) for name, split in capture.splits.items()}
    train, view, pose = (splits[name] for name in ("train", "novel_view", "novel_pose"))
    assert view.cameras == pose.cameras
    return body.kind, capture.scale, train.cameras, train.frames, view.cameras, view.frames, pose.frames


def _expected(experiment, **changes):
    body, scale, *ids = TABLE[experiment]
    train, frames, test, view, pose = ([*i] for i in ids)
    test = changes.get("test", test)
    return body, scale, [str(c) for c in train], frames, [str(c) for c in test], view, pose


@pytest.mark.parametrize("experiment", TABLE)
def test_splits_are_the_methods(experiment):
    config = check("train", [f"experiment={experiment}"])
    row = _table_row(config.capture, config.body)
    assert row == _expected(experiment)
    first, length = config.capture.recorded
    assert set(row[3]) <= set(range(first, first + length)) and not set(row[6]) & set(range(first, first + length))
    assert not set(row[2]) & set(row[4]), "a camera is in training and in test"


def test_the_published_split_overlaps():
    arguments = ["experiment=mvhumannet", "split=published"]
    for config in (check("train", arguments), check("train", arguments[::-1]), check("bench", arguments)):
        assert _table_row(config.capture, config.body) == _expected("mvhumannet", test=_mvhumannet(MV_PUBLISHED))
        assert config.split == "published"
    for verb in ("inspect", "preprocess"):
        assert "CC32871A027" in check(verb, ["capture=mvhumannet", "split=published"]).capture.splits.novel_view.cameras
        assert check(verb, ["capture=mvhumannet"]).split == "clean"
    with pytest.raises(UsageError, match="did you mean 'published'"):
        check("train", ["experiment=mvhumannet", "split=publish"])


@pytest.mark.parametrize("experiment", ["dna_rendering", "zju_mocap", "hifi4g"])
def test_the_published_split_is_the_clean_one_elsewhere(experiment):
    config = check("train", [f"experiment={experiment}", "split=published"])
    assert _table_row(config.capture, config.body) == _expected(experiment)


@pytest.mark.parametrize("experiment", SUBJECTS)
def test_every_subject_is_one_override_away(experiment):
    first, *others = SUBJECTS[experiment]
    config = check("train", [f"experiment={experiment}", f"capture.subject={first}", "capture.root=DIR"])
    for subject in (first, *others):
        (override,) = OverridesParser.create().parse_overrides([f"capture.subject={subject}"])
        config.capture.subject = override.value()
        assert str(config.capture.subject) == subject and config.name == f"{experiment}/{subject}"
    last = check("train", [f"paper={experiment}_{subject}", "capture.root=DIR"])
    config.capture.subject = subject
    assert last == config


@pytest.mark.parametrize("experiment, subject", EVERY)
def test_every_subject_has_its_file(experiment, subject):
    text = resources.files("r3avatar.configs").joinpath("paper", f"{experiment}_{subject}.yaml").read_text()
    assert f"override /experiment: {experiment}\n" in text and f'subject: "{subject}"\n' in text


def test_one_command_sweeps_them_all():
    assert ALL in COMMANDS
    assert sorted(groups()["paper"]) == sorted(f"{experiment}_{subject}" for experiment, subject in EVERY)
    _, verb, *arguments = shlex.split(ALL)
    assert check(verb, arguments).name == f"dna_rendering/{SUBJECTS['dna_rendering'][0]}"
    with initialize_config_module("r3avatar.configs", version_base="1.3"):
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        (jobs,) = BasicSweeper.split_arguments(parser.parse_overrides(arguments[1:]), max_batch_size=None)
    assert sorted(job[0] for job in jobs) == sorted(f"paper={member}" for member in groups()["paper"])
    assert all(job[1:] == ["capture.root=DIR", "body.path=BODIES"] for job in jobs)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_compose(command):
    _, verb, *arguments = shlex.split(command)
    config = check(verb, arguments)
    assert config.body.path == "BODIES" and str(config.capture.subject) in config.name
    named = re.search(r"capture\.subject=([^ ]+)", command)
    if named:
        subjects = named[1].split(",")
        assert str(config.capture.subject) == subjects[0]
        assert len(subjects) == 1 or subjects == SUBJECTS[config.name.split("/")[0]]


@pytest.mark.parametrize("command", OTHERS)
def test_the_other_commands_compose(command):
    program, verb, *arguments = shlex.split(command)
    if program == "python":
        assert (Path(__file__).parents[1] / verb).is_file() and len(arguments) == 3
    else:
        assert program == "r3avatar" and check(verb, arguments)


def test_every_data_set_is_inspected_trained_and_evaluated():
    for experiment in SUBJECTS:
        for start in (
            f"inspect capture={experiment} ",
            f"train experiment={experiment} ",
            f"evaluate run=outputs/{experiment}/",
        ):
            assert any(line.startswith(f"r3avatar {start}") for line in LINES), start


def test_the_keys_that_mend_are_known():
    keys = re.findall(r"`capture\.mend\.(\w+)=([\w.-]+)`", TEXT)
    assert len({key for key, _ in keys}) == 9
    for key, value in keys:
        assert str(check("inspect", [f"capture.mend.{key}={value}"]).capture.mend[key]).lower() == value


def test_a_pattern_without_a_member_is_refused():
    with pytest.raises(UsageError, match=r"'glob\(x\*\)' is no member of the group 'paper'"):
        check("train", ["-m", "paper=glob(x*)"])
