"""Every layout's reader on captures damaged at random: as before, other well-formed values, or a CaptureError."""

import os
import time

import pytest

from . import mutations
from .mutations import LAYOUTS, Layout, cases


@pytest.mark.parametrize("name", LAYOUTS)
def test_damage_is_refused_or_reads_as_well_formed_values(name, tmp_path):
    found = list(cases(name, range(30), tmp_path / "captures"))
    assert len(found) == 30
    assert not [str(case) for case in found if case.failed]
    assert "refused" in {case.outcome for case in found}


def _end_of_process():
    os._exit(7)


def _silence():
    time.sleep(60)


def _other_exception():
    raise RuntimeError("of the library")


@pytest.mark.parametrize(
    "misbehave, said",
    [
        (_end_of_process, "the process died with exit code 7"),
        (_silence, "no end in 0 s"),
        (_other_exception, "RuntimeError: of the library"),
    ],
)
def test_crashes_hangs_and_other_exceptions_are_seen_and_attributed(misbehave, said, tmp_path, monkeypatch):
    whole, parent = LAYOUTS["FolderCapture"], os.getpid()

    def opened(root):
        if os.getpid() != parent:
            misbehave()
        return whole.open(root)

    monkeypatch.setitem(LAYOUTS, "FolderCapture", Layout(whole.write, opened))
    monkeypatch.setattr(mutations, "SECONDS", 0.3)
    found = list(cases("FolderCapture", range(4), tmp_path / "captures"))
    assert [case.number for case in found] == [0, 1, 2, 3]
    assert all(case.failed and said in case.outcome and case.file != "?" for case in found)
