"""Time the data side: preparing frames (native size to the cache) and making training batches from it.

Writes a capture of DNA-Rendering's sizes (2448 x 2048, undistorted and scaled to 1/4) into a temporary folder.

Prints the processor time of each stage of preparing one image, images a second (also a core) and bytes on disk; on a
GPU also loading the frames into its memory, and batches from there and streamed. `--memory` instead prints the most
memory that a process takes while so many frames are prepared, and four times as many.

    python tools/bench_captures.py --cameras 4 --frames 12 --workers 2
    python tools/bench_captures.py --memory
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import resource
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from r3avatar.body import load_body
from r3avatar.captures import CaptureDataModule, DnaRendering, SmcWriter, Split, prepare
from r3avatar.captures.boxes import body_bounds
from r3avatar.captures.encoded_image import decode_image, decode_mask
from r3avatar.captures.prepared_frame import bound_mask, prepare_frame
from r3avatar.captures.smc import smc_paths
from r3avatar.captures.smc_reader import image_group, mask_group, open_smc, read_frame

WIDTH, HEIGHT = 2448, 2048


def write_capture(root: str, cameras: int, frames: int, mask_channels: int = 3, arms: bool = False) -> None:
    """A rig around a standing body; noise-textured pictures, an ellipse (and arms) as the person, its mask a PNG."""
    random = np.random.default_rng(0)
    settings = {}
    for camera in range(cameras):
        c, s = np.cos(2 * np.pi * camera / cameras), np.sin(2 * np.pi * camera / cameras)
        w2c = np.eye(4)
        w2c[:3, :3] = [[c, 0, s], [0, -1, 0], [s, 0, -c]]
        w2c[:3, 3] = [0, 0, 3.2]
        K = np.array([[2600.0, 0, WIDTH / 2], [0, 2600, HEIGHT / 2], [0, 0, 1]])
        D = np.array([-0.1, 0.05, 1e-4, 1e-4, 0.0])
        settings[camera] = {"K": K, "D": D, "w2c": w2c, "width": WIDTH, "height": HEIGHT}
    image = cv2.resize(random.integers(0, 255, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8), (WIDTH, HEIGHT))
    mask = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    cv2.ellipse(mask, (WIDTH // 2, HEIGHT // 2), (300, 800), 0, 0, 360, (255, 255, 255), -1)
    if arms:
        cv2.rectangle(mask, (WIDTH // 9, 700), (WIDTH - WIDTH // 9, 860), (255, 255, 255), -1)
    jpeg, png = cv2.imencode(".jpg", image)[1].tobytes(), cv2.imencode(".png", mask[..., :mask_channels])[1].tobytes()
    with SmcWriter(root, "bench", cameras=settings, num_frames=frames) as writer:
        for camera, frame in itertools.product(settings, range(frames)):
            writer.add(camera, frame, jpeg, png)
        expression, fullpose, transl = np.zeros((frames, 10)), np.zeros((frames, 55, 3)), np.zeros((frames, 3))
        writer.body(np.zeros((1, 10)), expression, fullpose, transl)


def timed(label: str, count: int, unit: str, work) -> None:
    """Run `work` and print its rate."""
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    print(f"{label:44} {seconds:7.2f} s  {count / seconds:8.1f} {unit}/s")


def median_ms(work, repeats: int = 9) -> float:
    """The median processor time of a call, milliseconds, after one to warm up."""
    work()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return 1e3 * sorted(times)[repeats // 2]


def processor_time() -> float:
    """Processor time of this process and of those that it has ended, seconds."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def print_stages(folder: str, capture: DnaRendering, body) -> None:
    """What each stage of preparing an image costs one thread."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    bounds = body_bounds(body, capture.poses, capture.box_margin)
    with open_smc(smc_paths(folder, "bench")[0]) as images, open_smc(smc_paths(folder, "bench")[1]) as annotations:
        groups = image_group(images, 0), mask_group(annotations, 0)
        jpeg, png = read_frame(images, groups[0], 0)[0], read_frame(annotations, groups[1], 0)[0]
        image, mask = decode_image(jpeg, cv2.IMREAD_COLOR), decode_mask(png)
        undistortion = capture._stored[0].undistortion
        stages = {
            "read both from HDF5": lambda: [read_frame(images, groups[0], 0), read_frame(annotations, groups[1], 0)],
            "decode the image": lambda: decode_image(jpeg, cv2.IMREAD_COLOR),
            "decode the mask": lambda: decode_mask(png),
            "undistort, mask, scale": lambda: undistortion(image, mask),
            "bound mask": lambda: bound_mask(capture, bounds[0], 0, 0),
            "a prepared frame, all of it": lambda: prepare_frame(capture, bounds[0], 0, 0),
        }
        for name, work in stages.items():
            print(f"  {name:42} {median_ms(work):7.2f} ms")
    cv2.setNumThreads(threads)


def time_device_batches(capture: DnaRendering, body, cache: str, views: int, steps: int) -> None:
    """Batches of 2 frames on the GPU, resident and streamed."""
    for mode, gpu_gib in {"resident": None, "streamed": 0}.items():
        data = CaptureDataModule(
            capture, body, frames_per_step=2, views_per_step=views, cache=cache, device="cuda:0", gpu_gib=gpu_gib
        )
        torch.cuda.synchronize()
        start = time.perf_counter()
        batches = iter(data.train_dataloader())
        next(batches)
        torch.cuda.synchronize()
        print(f"{f'{mode}: from the cache to the first batch':44} {time.perf_counter() - start:7.2f} s")
        for _ in range(5):
            next(batches)

        def run(batches=batches) -> None:
            for _ in range(steps):
                next(batches)
            torch.cuda.synchronize()

        timed(f"{mode}: batches of 2 x {views} images on the GPU", 2 * views * steps, "images", run)
        batches.close()


def open_capture(root: str, cameras: int, frames: int, reader: type[DnaRendering] = DnaRendering) -> DnaRendering:
    """The capture that `write_capture` wrote."""
    split = Split([str(c) for c in range(cameras)], list(range(frames)))
    return reader(root, "bench", splits={"train": split}, recorded=(0, frames), hand_mean=None)


class Watched(DnaRendering):
    """Notes at every image how much memory its process has had at most."""

    def read(self, camera_index: int, frame_index: int) -> tuple[np.ndarray, np.ndarray]:
        """The image and its mask (`Capture.read`)."""
        result = super().read(camera_index, frame_index)
        with open(self.images_path.with_suffix(".memory"), "a") as notes:
            notes.write(f"{peak_mib()}\n")
        return result


def peak_mib() -> int:
    """The most memory that this process has had at once, MiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


def _prepare_watched(answer, root: str, cameras: int, frames: int, workers: int) -> None:
    """In a process of its own: prepare everything, and send this process's peak memory."""
    with tempfile.TemporaryDirectory() as cache:
        capture = open_capture(root, cameras, frames, Watched)
        prepare(capture, load_body("demo"), cache, workers=workers, progress=False)
    answer.send(peak_mib())


def print_memory(cameras: int, frames: int, workers: int) -> None:
    """Peak memory of preparing so many frames, and four times as many."""
    for count, processes in itertools.product((frames, 4 * frames), (0, workers)):
        with tempfile.TemporaryDirectory() as root:
            write_capture(root, cameras, count)
            context = multiprocessing.get_context("spawn")
            ours, theirs = context.Pipe()
            process = context.Process(target=_prepare_watched, args=(theirs, root, cameras, count, processes))
            process.start()
            caller = ours.recv()
            process.join()
            largest = max(map(int, smc_paths(root, "bench")[0].with_suffix(".memory").read_text().split()))
        label = f"{cameras * count} images, {processes} worker processes"
        print(f"{label:44} this process {caller:5} MiB, the largest that reads images {largest:5} MiB")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cameras", type=int, default=4)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--mask-channels", type=int, default=3, choices=(1, 3))
    parser.add_argument("--arms", action="store_true", help="the person spreads its arms")
    parser.add_argument("--memory", action="store_true")
    a = parser.parse_args()
    if a.memory:
        print_memory(a.cameras, a.frames, a.workers)
        return
    body = load_body("demo")
    with tempfile.TemporaryDirectory() as folder:
        write_capture(folder, a.cameras, a.frames, a.mask_channels, a.arms)
        start = time.perf_counter()
        capture = open_capture(folder, a.cameras, a.frames)
        print(f"{'open the capture':44} {time.perf_counter() - start:7.2f} s")
        print_stages(folder, capture, body)
        images = a.cameras * a.frames
        for workers in dict.fromkeys((0, a.workers)):
            start, busy = time.perf_counter(), processor_time()
            store = prepare(capture, body, f"{folder}/{workers}", workers=workers, progress=False)
            seconds, busy = time.perf_counter() - start, processor_time() - busy
            print(
                f"{f'prepare with {workers} worker processes':44} {seconds:7.2f} s  {images / seconds:8.1f} images/s, "
                f"{images / seconds / max(1, workers):.1f} a core, {1e3 * busy / images:.1f} ms of processor an image, "
                f"{store.bytes_on_disk / 1e3 / images:.0f} kB an image"
            )
        timed("open the filled cache", 1, "times", lambda: prepare(capture, body, f"{folder}/0", progress=False))
        for F, V in ((1, 1), (2, a.cameras)):
            data = CaptureDataModule(capture, body, frames_per_step=F, views_per_step=V, cache=f"{folder}/0")
            steps = iter(data.train_dataloader())
            timed(
                f"batches of {F} x {V} images from the cache", a.steps * F * V, "images",
                lambda steps=steps: [next(steps) for _ in range(a.steps)],
            )  # fmt: skip
        steps = iter(CaptureDataModule(capture, body, cache="off").train_dataloader())
        timed("batches of 1 x 1 without the cache", 10, "images", lambda: [next(steps) for _ in range(10)])
        if torch.cuda.is_available():
            time_device_batches(capture, body, f"{folder}/0", min(4, a.cameras), a.steps)


if __name__ == "__main__":
    main()
