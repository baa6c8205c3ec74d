"""Time `r3avatar inspect` on a capture of DNA-Rendering's size: 24 cameras of 5 and 6 of 12 megapixels, 150 frames.

    python tools/bench_inspect.py            # writes about 700 MB to a temporary folder and removes them

The pictures are one synthetic frame drawn large; what is measured (opening, reading, undistorting, trying the mistakes,
the report) does not depend on what they show. Wall and processor seconds of the second of two runs.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from r3avatar.captures import DnaRendering, SmcWriter, Split
from r3avatar.captures.synthesis import synthesize

SIZES = {**dict.fromkeys(range(0, 48, 2), (2448, 2048)), **dict.fromkeys(range(48, 60, 2), (4096, 3000))}
LENS = np.array([-0.12, 0.05, 5e-4, -4e-4, -0.01])
FRAMES = 150


def write_large(root: Path) -> None:
    """The capture `large` below root."""
    synthesize(root, "small", width=256, height=256, recorded_frames=8, later_frames=4, transition_frames=2, cameras=1,
               held_out_cameras=1, preview=False)  # fmt: skip
    splits = {"train": Split(["0"], [0, 1])}
    small = DnaRendering(root, "small", splits=splits, recorded=(0, 2), hand_mean=None, scale=1.0)
    image, mask = small.read(0, 0)
    cameras, encoded = {}, {}
    for i, (camera, (width, height)) in enumerate(SIZES.items()):
        scale = height / 256
        K = small.cameras[0].K.double().numpy() * [[scale], [scale], [1]]
        K[0, 2] += (width - height) / 2
        turn = np.eye(4)
        turn[:3, :3] = cv2.Rodrigues(np.array([0, i * 2 * np.pi / len(SIZES), 0]))[0]
        w2c = small.cameras[0].w2c.double().numpy() @ turn
        cameras[camera] = {"K": K, "D": LENS, "w2c": w2c, "width": width, "height": height}
        side = (width - height) // 2
        large = [
            cv2.resize(a, (height, height), interpolation=cv2.INTER_NEAREST) for a in (image[..., ::-1], mask * 255)
        ]
        large = [np.pad(a, ((0, 0), (side, width - height - side)) + ((0, 0),) * (a.ndim - 2)) for a in large]
        jpeg, png = cv2.imencode(".jpg", large[0], [cv2.IMWRITE_JPEG_QUALITY, 60])[1], cv2.imencode(".png", large[1])[1]
        encoded[camera] = jpeg.tobytes(), png.tobytes()
    poses = small.poses[[0] * FRAMES]
    with SmcWriter(root, "large", cameras=cameras, num_frames=FRAMES) as writer:
        for camera, (jpeg, png) in encoded.items():
            for frame in range(FRAMES):
                writer.add(camera, frame, jpeg, png)
        values = (poses.betas, poses.expression, poses.theta, poses.Th)
        writer.body(*(value.double().numpy() for value in values))


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_large(Path(folder))
        command = [sys.executable, "-m", "r3avatar.cli", "inspect", "capture=synthetic_large", f"capture.root={folder}",
                   f"out={folder}/report"]  # fmt: skip
        for _ in range(2):
            before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
            subprocess.run(command, check=True, capture_output=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            print(f"{time.time() - start:.1f} s, {cpu:.1f} processor-seconds, {after.ru_maxrss / 2**20:.2f} GiB")
        page = Path(folder, "report", "report.html").stat().st_size
        size = sum(file.stat().st_size for file in Path(folder, "large").iterdir())
        print(f"report {page / 1e6:.1f} MB, capture {size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
