"""Rules of the house that a script can check."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "r3avatar"
BELOW_TRAINING = ["types.py", "body", "cloth", "captures", "avatar", "retrieval", "rasterizer", "motion"]
FORBIDDEN = {"pytorch_lightning", "hydra", "wandb", "omegaconf"}


def _files(*parts):
    return [f for p in parts for f in ([PACKAGE / p] if p.endswith(".py") else sorted((PACKAGE / p).rglob("*.py")))]


def _imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module


@pytest.mark.parametrize("part", BELOW_TRAINING)
def test_nothing_below_training_imports_frameworks(part):
    for path in _files(part):
        if path.name != "datamodule.py":
            assert not {name.split(".")[0] for name in _imports(path)} & FORBIDDEN, path


def test_arrows_point_one_way():
    top = {"verbs", "cli"}
    above = {
        "body": {"cloth", "captures", "avatar", "retrieval", "rasterizer", "training", "evaluation", "motion"} | top,
        "cloth": {"captures", "avatar", "retrieval", "rasterizer", "training", "evaluation", "motion"} | top,
        "captures": {"avatar", "training", "evaluation", "motion", "verbs", "cli"},
        "avatar": {"captures", "training", "evaluation", "motion", "verbs", "cli"},
        "retrieval": {"captures", "avatar", "training", "evaluation", "motion", "verbs", "cli"},
        "rasterizer": {"captures", "avatar", "training", "evaluation", "motion", "verbs", "cli"},
        "training": {"verbs", "cli"},
        "evaluation": {"verbs", "cli"},
        "motion": {"verbs", "cli"},
    }
    for part, forbidden in above.items():
        for path in _files(part):
            names = {n.split(".")[1] for n in _imports(path) if n.startswith("r3avatar.")}
            assert not names & forbidden, f"{path} imports {names & forbidden}"


def test_files_hold_one_concept():
    for path in sorted(PACKAGE.rglob("*.py")) + sorted((ROOT / "tools").glob("*.py")):
        assert len(path.read_text().splitlines()) <= 400, path


def test_every_package_folder_is_installed():
    listed = set(re.findall(r"^    (r3avatar[\w.]*)$", (ROOT / "setup.cfg").read_text(), re.M))
    found = {".".join(p.parent.relative_to(ROOT).parts) for p in PACKAGE.rglob("__init__.py")} | {"r3avatar.configs"}
    assert found == listed
