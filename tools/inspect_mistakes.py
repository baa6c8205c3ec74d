"""Make every known mistake of conventions in every layout, inspect, follow the advice, inspect again: a table.

    python tools/inspect_mistakes.py                    # all layouts, two synthetic captures: about 10 minutes
    python tools/inspect_mistakes.py --layouts folder zju_mocap --captures skirt

A cell says, a capture each: "yes" if inspect names the mistake and the key it gives mends the capture (good again, with
cameras and poses as they were: "=" to the bit, otherwise within 4e-5), else what it names, or "no".
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the layouts' writers are the tests' own

from r3avatar.body import BodyModel, load_body
from r3avatar.captures.synthesis import synthesize
from r3avatar.inspection import Inspection
from tests.captures.body_files import write_body_files
from tests.inspection import broken_captures as broken

CAPTURES = {"skirt": {"garment": "skirt", "seed": 0}, "cape": {"garment": "cape", "seed": 7}}
TINY = {"recorded_frames": 8, "later_frames": 4, "transition_frames": 2, "cameras": 4, "held_out_cameras": 1}
TOLERANCE = 4e-5  # metres, radians, pixels: float32's rounding


def judge(name: str, arguments: list[str], good: Inspection, bodies: dict[str, BodyModel]) -> str:
    """A cell of the table, for one capture."""
    found = broken.inspected(arguments)
    advice = broken.advice(found)
    if found.mistake != name or not advice:
        return f"**{found.mistake or 'no'}**"
    mended = broken.inspected([*arguments, *advice])
    body = bodies[good.capture.body_kind]
    if mended.verdict != "good":
        return f"**named, then {mended.verdict}**"
    off = max(broken.differences(mended.capture, good.capture, body).values())
    return "yes =" if off == 0 else "yes" if off < TOLERANCE else f"**named, off by {off:.1e}**"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layouts", nargs="+", choices=broken.LAYOUTS, default=broken.LAYOUTS)
    parser.add_argument("--captures", nargs="+", choices=CAPTURES, default=list(CAPTURES))
    given = parser.parse_args()
    logging.disable(logging.WARNING)  # which frames an offset leaves without a pose
    start, table = time.time(), {}
    with tempfile.TemporaryDirectory() as folder:
        for capture in given.captures:
            root = Path(folder, capture)
            synthesize(root / "filmed", capture, width=256, height=256, preview=False, **TINY, **CAPTURES[capture])
            person = broken.film(root / "filmed", capture, load_body("demo"))
            bodies = write_body_files(root / "bodies", broken.hands_of(person))
            models = {kind: load_body(kind, path=str(bodies)) for kind in ("smplx", "smpl")}
            body = models["smplx"]
            for layout in given.layouts:
                place = root / layout
                broken.write(layout, place / "good", person, body)
                good = broken.inspected(broken.overrides(layout, place / "good", bodies))
                named = "nothing" if good.mistake is None and good.verdict == "good" else f"**{good.verdict}**"
                table.setdefault("none", {}).setdefault(layout, []).append(named)
                for i, (name, (spoil, layouts, _)) in enumerate(broken.MISTAKES.items()):
                    if layout in layouts:
                        broken.write(layout, place / str(i), person, body, spoil)
                        cell = judge(name, broken.overrides(layout, place / str(i), bodies), good, models)
                        table.setdefault(name, {}).setdefault(layout, []).append(cell)
                        print(f"{capture} {layout} {name}: {cell}", file=sys.stderr)
    print(f"| mistake | {' | '.join(given.layouts)} |\n|---|{'---|' * len(given.layouts)}")
    for name, cells in table.items():
        row = (", ".join(cells.get(layout, ["cannot be made"])) for layout in given.layouts)
        print(f"| {name} | {' | '.join(row)} |")
    print(f"\n{len(given.captures)} captures ({', '.join(given.captures)}), {time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
