"""How fast frames are prepared: from the capture's files into a new frame cache."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import torch

from r3avatar.benchmarks.clock import Stages
from r3avatar.captures import Capture, DnaRendering, prepare
from r3avatar.captures.boxes import PosableBody, body_bounds
from r3avatar.captures.encoded_image import decode_image, decode_mask
from r3avatar.captures.prepared_frame import bound_mask, prepare_frame
from r3avatar.captures.segment import SUFFIX, write_segment
from r3avatar.captures.smc_reader import image_group, mask_group, open_smc, read_frame

_ALONE = 64  # images that one process alone prepares


def some_frames(capture: Capture, images: int) -> list[tuple[int, int]]:
    """About so many (camera, frame) positions: the first frames of all training cameras."""
    split = capture.split("train")
    count = max(1, images // len(split.cameras))
    frames = [capture.frame_index(frame) for frame in split.frames[:count]]
    return sorted((capture.camera_index(camera), frame) for camera in split.cameras for frame in frames)


def preparation(capture: Capture, body: PosableBody, images: int, workers: Iterable[int]) -> dict[str, dict]:
    """Images a second, and a core, and bytes on disk of preparing about so many images; stages' milliseconds on a core.

    workers: numbers of processes, 0 is this one alone, which takes a sample of the images; starting processes counts.
    All is prepared once before by the most processes, uncounted, so that the files' pages are in memory.
    """
    pairs, result, workers = some_frames(capture, images), {}, list(workers)
    with tempfile.TemporaryDirectory() as folder:
        prepare(capture, body, folder, needed=pairs, workers=max(workers), progress=False)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # as in the worker processes: one core each
    try:
        for count in dict.fromkeys(workers):
            own = pairs if count else pairs[:: max(1, len(pairs) // _ALONE)]
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                store = prepare(capture, body, folder, needed=own, workers=count, progress=False)
                seconds = time.perf_counter() - start
                stored = store.bytes_on_disk
            name = "here" if count == 0 else f"{count}_processes"
            result[name] = {
                "images_per_second": len(own) / seconds,
                "ms": 1e3 * seconds / len(own),
                "images_per_second_a_core": len(own) / seconds / max(1, count),
                "kilobytes_an_image": stored / 1e3 / len(own),
                "images": len(own),
            }
        result |= _stages(capture, body, pairs[:: max(1, len(pairs) // 48)])
    finally:
        cv2.setNumThreads(threads)
    return result


def _stages(capture: Capture, body: PosableBody, pairs: Sequence[tuple[int, int]]) -> dict[str, dict]:
    """Median milliseconds an image of each stage, on one core."""
    bounds = body_bounds(body, capture.poses, capture.box_margin)
    stages = Stages(torch.device("cpu"))
    smc = isinstance(capture, DnaRendering)
    files = [open_smc(path) for path in (capture.images_path, capture.annotations_path)] if smc else []
    with tempfile.TemporaryDirectory() as folder:
        for number, (camera, frame) in enumerate(pairs):
            stages.begin()
            if smc:
                id, frame_id = int(capture.camera_ids[camera]), capture.frame_ids[frame]
                groups = image_group(files[0], id), mask_group(files[1], id)
                data, mask = (read_frame(file, group, frame_id)[0] for file, group in zip(files, groups))
                stages.end_of("read_bytes")
                decode_image(data, cv2.IMREAD_COLOR)
                stages.end_of("decode_image")
                decode_mask(mask)
                stages.end_of("decode_mask")
            capture.read(camera, frame)
            stages.end_of("read")
            bound_mask(capture, bounds[frame], camera, frame)
            stages.end_of("bound_mask")
            prepared = prepare_frame(capture, bounds[frame], camera, frame)
            stages.end_of("whole")
            write_segment(Path(folder) / f"{number}{SUFFIX}", [(capture.frame_ids[frame], prepared)])
            stages.end_of("write")
            stages.finish()
    for file in files:
        file.close()
    times = stages.times
    inner = ("read_bytes", "decode_image", "decode_mask") if smc else ()
    parts = {name: times[name] for name in inner}
    parts["undistort_and_scale" if smc else "read"] = _rest(times["read"], [times[name] for name in inner])
    parts["bound_mask"] = times["bound_mask"]
    parts["crop"] = _rest(times["whole"], [times["read"], times["bound_mask"]])
    parts["write"] = times["write"]
    return {f"stage_{name}": {"ms": max(0.0, statistics.median(values))} for name, values in parts.items()}


def _rest(whole: list[float], parts: list[list[float]]) -> list[float]:
    """What is left of each time after its parts."""
    return [time - sum(rest) for time, *rest in zip(whole, *parts)]
