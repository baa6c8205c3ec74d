"""The board as code, the list of keys and their documentation."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from r3avatar.dashboards.keys import KEYS, SECTIONS, STEP, markdown
from r3avatar.dashboards.layout import board, workspace
from r3avatar.training.optimizer import GROUPS

ROOT = Path(__file__).parents[2]


def test_the_board_shows_every_key_once_in_its_section():
    plan = board()
    assert [section["name"] for section in plan["sections"]] == list(SECTIONS)
    shown = []
    for section in plan["sections"]:
        for panel in section["panels"]:
            assert all(key.startswith(f"{section['name']}/") for key in panel["keys"])
            shown += panel["keys"]
    assert sorted([*shown, STEP]) == sorted(key.name for key in KEYS)
    rates = next(p for s in plan["sections"] for p in s["panels"] if p["title"] == "learning rates")
    assert len(rates["keys"]) == len(GROUPS) and rates["kind"] == "line" and rates["log_y"]


def test_the_tool_writes_the_board_without_a_network(tmp_path):
    tool = ROOT / "tools" / "make_wandb_board.py"
    out = tmp_path / "board.json"
    subprocess.run([sys.executable, tool, "--out", out], check=True, capture_output=True)
    assert json.loads(out.read_text()) == board()
    assert subprocess.run([sys.executable, tool], capture_output=True).returncode == 2


def test_the_workspace_has_the_boards_sections_and_keys():
    pytest.importorskip("wandb_workspaces")
    made = workspace("team", "project")
    assert [section.name for section in made.sections] == list(SECTIONS)
    for section, planned in zip(made.sections, board()["sections"]):
        assert len(section.panels) == len(planned["panels"]) and section.is_open == planned["open"]
    text = made._to_model().model_dump_json()
    assert not [key.name for key in KEYS if key.name not in text]


def test_the_documentation_lists_every_key():
    text = (ROOT / "docs" / "dashboards.md").read_text()
    assert markdown().strip() in text, "docs/dashboards.md: paste the output of tools/make_wandb_board.py --keys"
