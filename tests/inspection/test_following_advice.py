"""Every known mistake, made in the files of a data set's layout: inspect names it, and the key it gives mends it."""

import shutil

import pytest

from r3avatar.body import load_body
from r3avatar.cli import check
from r3avatar.verbs import inspect as verb

from ..captures.body_files import write_body_files
from . import broken_captures as broken
from .broken_captures import LAYOUTS, MISTAKES, SMPLX

TOLERANCE = 4e-5  # metres, radians, pixels: float32's rounding; where the mend is not exact to the bit
ONCE = {  # the layout that each mistake is made in here; tools/inspect_mistakes.py makes it in all
    "cameras in millimetres, not metres": "zju_mocap",
    "camera-to-world taken for world-to-camera, or the reverse": "hifi4g",
    "global_orient and transl read as Rh and Th": "mvhumannet",
    "Rh and Th read as global_orient and transl": "dna_rendering",
    "hand poses relative to the mean taken for full ones (flat_hand_mean)": "folder",
    "the body's world is y-down, the cameras' y-up, or the reverse": "folder",
    "poses one frame too late: images show the next row": "hifi4g",
    "intrinsics at 2 times the images' size": "mvhumannet",
}
LATER = [name for name in MISTAKES if name not in ONCE]


@pytest.fixture(scope="module")
def stage(workplace, tmp_path_factory):
    """The tiny capture's person, bodies for all layouts, and a folder that captures are written to."""
    root = tmp_path_factory.mktemp("advised captures")
    person = broken.film(workplace.folder / "outputs" / "captures", "tiny", load_body("demo"))
    bodies = write_body_files(root / "bodies", broken.hands_of(person))
    models = {kind: load_body(kind, path=str(bodies)) for kind in ("smpl", "smplx")}
    return root, person, bodies, models


@pytest.fixture(scope="module")
def unbroken(stage):
    """Layout to the capture in it as it should be."""
    root, person, bodies, models = stage
    captures = {}
    for layout in LAYOUTS:
        broken.write(layout, root / layout, person, models["smplx"])
        config = check("inspect", broken.overrides(layout, root / layout, bodies))
        captures[layout] = verb.open_configured(config.capture).capture
    return captures


def follow(name, layout, stage, unbroken):
    """Make the mistake, set the key that is named, and compare with the capture as it should be."""
    root, person, bodies, models = stage
    spoil, layouts, exact = MISTAKES[name]
    assert layout in layouts
    place = root / "broken"
    shutil.rmtree(place, ignore_errors=True)
    broken.write(layout, place, person, models["smplx"], spoil)
    arguments = broken.overrides(layout, place, bodies)
    found = broken.inspected(arguments, frames=6)
    assert found.mistake == name and found.verdict == "poor"
    advice = broken.advice(found)
    assert len(advice) == 1 and advice[0].startswith("capture.mend.")
    mended = broken.inspected([*arguments, *advice], frames=6)
    assert mended.verdict == "good" and mended.mistake is None, mended.checks
    right = unbroken[layout]
    off = broken.differences(mended.capture, right, models[right.body_kind])
    assert max(off.values()) <= (0 if exact and layout != "dna_rendering" else TOLERANCE), off
    # The mend comes before the lens and the cache: pixels are the same too.
    for one, other in zip(mended.capture.read(0, 3), right.read(0, right.frame_index(mended.capture.frame_ids[3]))):
        assert (one == other).all()


@pytest.mark.parametrize("name", ONCE)
def test_the_advice_mends(name, stage, unbroken):
    follow(name, ONCE[name], stage, unbroken)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "name"), enumerate(LATER))
def test_the_advice_mends_the_others_too(number, name, stage, unbroken):
    layouts = MISTAKES[name][1]
    follow(name, layouts[number % len(layouts)], stage, unbroken)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_right_captures_are_good(layout, stage, unbroken):
    root, _, bodies, _ = stage
    found = broken.inspected(broken.overrides(layout, root / layout, bodies), frames=6)
    assert found.verdict == "good" and found.mistake is None and found.refusal is None
    assert len(found.diagnosis.trials) == (19 if layout in SMPLX else 17)
