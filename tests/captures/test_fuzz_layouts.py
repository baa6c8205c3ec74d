"""Every layout's reader on damaged captures: as before, a CaptureError, or what the damaged file says.

The same on thousands of cases: tools/fuzz_captures.py.
"""

import os
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from . import mutations
from .mutations import KINDS, Damage, DamagedReadings, cases
from .small_captures import LAYOUTS, Layout

PLACE = st.integers(0, 2**40)
DAMAGES = st.one_of(
    st.sampled_from([Damage("empty"), Damage("delete")]),
    st.builds(Damage, st.sampled_from(["truncate", "swap"]), st.tuples(PLACE)),
    st.builds(Damage, st.just("flip"), st.lists(PLACE, min_size=1, max_size=8).map(tuple)),
    st.builds(Damage, st.just("overwrite"), st.tuples(PLACE), st.binary(min_size=1, max_size=4096)),
)


@pytest.mark.parametrize("name", LAYOUTS)
def test_damage_to_any_file_is_refused_or_read_as_it_stands(name, tmp_path):
    with DamagedReadings(name, tmp_path / "captures") as readings:

        @settings(max_examples=max(4, 60 // len(readings.files)), deadline=None, derandomize=True, database=None,
                  suppress_health_check=list(HealthCheck))  # fmt: skip
        @given(DAMAGES)
        def damage_every_file(damage):
            read = [readings.read(file, damage) for file in readings.files]
            assert not [str(case) for case in read if case.failed]

        damage_every_file()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_kind_of_damage_is_done(kind, name, tmp_path):
    with DamagedReadings(name, tmp_path / "captures") as readings:
        damage = Damage(kind, (12345,), b"\0\xff" * 40)
        outcomes = {readings.read(file, damage).outcome for file in readings.files}
    assert outcomes <= set(mutations.ALLOWED)
    assert "refused" in outcomes or kind in ("flip", "overwrite")


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
    assert all(case.failed and said in case.outcome for case in found)
