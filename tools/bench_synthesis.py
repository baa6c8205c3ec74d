"""Time of making a synthetic capture, by stage, and of drawing one image, by step.

    python tools/bench_synthesis.py [--size demo|tiny|large|study] [--frames N] [--workers N] [--cold]

--frames shortens the capture (recorded frames; no later ones). --cold empties the cache of compiled functions first, so
that compilation is in the figures, as on a clean machine. Two workers are the documented case.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml

ROOT = Path(__file__).resolve().parent.parent


def options_of(size: str) -> dict:
    """The keyword arguments of a file of configs/synthesis."""
    options = {}
    for name in ("demo", *(["large"] if size == "study" else []), size):
        options |= yaml.safe_load((ROOT / "configs" / "synthesis" / f"{name}.yaml").read_text())
    return {k: v for k, v in options.items() if k not in ("_target_", "defaults", "workers", "faults")}


def timed(call, repeats: int = 1):
    """Result, wall milliseconds and processor milliseconds of a call, the least of `repeats`."""
    wall, processor = float("inf"), float("inf")
    for _ in range(repeats):
        start = time.perf_counter(), time.process_time()
        result = call()
        wall = min(wall, time.perf_counter() - start[0])
        processor = min(processor, time.process_time() - start[1])
    return result, 1e3 * wall, 1e3 * processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("demo", "tiny", "large", "study"), default="demo")
    parser.add_argument("--frames", type=int)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cold", action="store_true")
    arguments = parser.parse_args()
    temporary = tempfile.TemporaryDirectory()
    if arguments.cold:
        os.environ["NUMBA_CACHE_DIR"] = temporary.name  # before numba is imported
    from r3avatar.captures.synthesis import synthesize
    from r3avatar.captures.synthesis.raster import SAMPLES, project, rasterize, window
    from r3avatar.captures.synthesis.rig import ring
    from r3avatar.captures.synthesis.studio import encoded
    from r3avatar.captures.synthesis.synthesize import rehearse, studio_of

    options = options_of(arguments.size)
    if arguments.frames:
        options |= dict(recorded_frames=arguments.frames, later_frames=0)
    folder, wall, processor = timed(lambda: synthesize(temporary.name, "bench", **options, workers=arguments.workers))
    size = sum(path.stat().st_size for path in folder.iterdir())
    rows = [("whole capture", wall, processor)]
    full = {**options, "cameras": list(range(8)), "held_out_cameras": [8]}
    (person, performance), *times = timed(lambda: rehearse(full))
    rows.append(("  motion and cloth", *times))
    camera = ring(
        performance.vertices, [0, 1, 2], [3], width=options["width"], height=options["height"],
        distortion=options["distortion"], seed=0,
    )[0]  # fmt: skip
    studio = studio_of(person, performance, full)
    vertices, surface = performance.vertices[0], performance.surface
    light, *times = timed(lambda: studio.light(vertices), 5)
    rows.append(("  light of one frame", *times))
    view, *times = timed(lambda: studio.draw(vertices, light, camera), 5)
    rows.append(("  drawing one image", *times))
    projected = np.empty_like(vertices)
    x0, y0, x1, y1 = window(
        project(vertices, camera.w2c, camera.K, camera.D, projected), options["width"], options["height"]
    )
    shape = (y1 - y0) * SAMPLES, (x1 - x0) * SAMPLES
    index, nearness = np.empty(shape, np.int32), np.empty(shape, np.float32)
    _, *times = timed(
        lambda: rasterize(projected, surface.triangles, surface.two_sided, x0, y0, SAMPLES, index, nearness), 5
    )
    rows.append(("    of it the z-buffer", *times))
    _, *times = timed(lambda: encoded(view, options["quality"]), 5)
    rows.append(("  encoding one image", *times))

    images = len(performance.vertices) * sum(
        n if isinstance(n, int) else len(n) for n in (options["cameras"], options["held_out_cameras"])
    )
    print(f"\n{platform.processor() or platform.machine()}, {os.cpu_count()} processors, {arguments.workers} workers")
    print(f"{arguments.size}: {images} images of {options['width']} x {options['height']}, {size / 1e6:.0f} MB")
    print(f"person: {(view.mask > 0).mean():.1%} of an image; cold: {arguments.cold}")
    print(f"{'':24}{'wall ms':>10}{'processor ms':>14}")
    for name, wall, processor in rows:
        print(f"{name:24}{wall:10.1f}{processor:14.1f}")
    temporary.cleanup()


if __name__ == "__main__":
    main()
