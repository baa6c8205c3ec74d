"""`r3avatar render`: recorded frames from any camera."""

import time
from pathlib import Path

import torch
from omegaconf import DictConfig

from r3avatar.avatar import Playback
from r3avatar.evaluation.film import Film
from r3avatar.motion.animate import replay
from r3avatar.motion.cameras import choose_cameras
from r3avatar.motion.poses import capture_motion
from r3avatar.verbs.animate import DEFAULT_FPS
from r3avatar.verbs.filming import identity, shoot, size_of
from r3avatar.verbs.parts import load_run


def run(config: DictConfig) -> Path:
    """Write media/render_<camera> as a film, and a still."""
    trained = load_run(config, images=False)
    capture, camera = trained.capture, str(config.camera)
    pose, frames = capture_motion(capture, "train")
    fps = capture.fps or DEFAULT_FPS
    pose = trained.avatar.dressed(pose, torch.tensor(frames))
    times = torch.tensor(frames, dtype=torch.float32) - capture.recorded[0]
    cameras = choose_cameras(
        camera, capture=capture, body=trained.body, pose=pose, fps=fps, turns=config.turns
    ).scaled(config.scale)  # fmt: skip
    playback = Playback(trained.avatar, trained.rasterizer)
    target = Path(config.output or trained.folder / "media" / f"render_{Path(camera).stem}")
    film = Film(target, config.format, config.fps or fps, len(pose), identity(trained, pose, cameras, [times]))
    begun, left = time.perf_counter(), film.frames - film.finished
    path, picture = shoot(film, lambda f: replay(playback, pose, times, cameras, "rendering", f), stills=1)
    speed = left / (time.perf_counter() - begun)
    print(f"film: {path} ({film.frames} frames, {size_of(path)}, {speed:.1f} frames/s)\npicture: {picture}")
    return path
