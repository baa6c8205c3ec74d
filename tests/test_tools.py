"""Every tool says what it does, whatever of the extras is installed."""

import runpy
import sys
from pathlib import Path

import pytest

TOOLS = sorted(Path(__file__).parents[1].joinpath("tools").glob("*.py"))


@pytest.mark.parametrize("tool", [t for t in TOOLS if "__main__" in t.read_text()], ids=lambda t: t.stem)
def test_help(tool, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(tool), "--help"])
    monkeypatch.syspath_prepend(str(tool.parent))
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(tool), run_name="__main__")
    assert ended.value.code == 0 and capsys.readouterr().out.startswith("usage: ")


def test_the_demo_bodys_builder_names_what_is_missing(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["build_demo_body.py"])
    monkeypatch.syspath_prepend(str(TOOLS[0].parent))
    monkeypatch.setitem(sys.modules, "anny", None)
    with pytest.raises(SystemExit):
        runpy.run_path(str(TOOLS[0].parent / "build_demo_body.py"), run_name="__main__")
    assert "demo_body" in capsys.readouterr().err
