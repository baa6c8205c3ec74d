"""One tiny capture, made once for the tests of this folder."""

import json
from types import SimpleNamespace

import pytest

from r3avatar.captures.synthesis import synthesize
from r3avatar.captures.synthesis.synthesize import rehearse

TINY = dict(
    seed=0, recorded_frames=8, later_frames=4, transition_frames=2, cameras=4, held_out_cameras=1, width=256, height=256
)  # fmt: skip


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The capture's folder, its options as recorded, and the person and performance that it shows."""
    root = tmp_path_factory.mktemp("captures")
    folder = synthesize(root, "tiny", **TINY, workers=2)
    record = json.loads((folder / "synthesis.json").read_text())
    person, performance = rehearse(record["options"])
    return SimpleNamespace(
        root=root, folder=folder, arguments=TINY, record=record, person=person, performance=performance
    )
