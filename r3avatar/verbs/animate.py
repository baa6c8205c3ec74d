"""`r3avatar animate`: poses that the person never took."""

import time
from pathlib import Path

import torch
from omegaconf import DictConfig

from r3avatar.avatar import Playback
from r3avatar.evaluation.evaluate import fit_retriever
from r3avatar.evaluation.film import Film
from r3avatar.evaluation.picture_in_picture import PictureInPicture
from r3avatar.evaluation.plots import retrieval_timeline
from r3avatar.evaluation.thumbnails import Thumbnails
from r3avatar.motion.animate import animate
from r3avatar.motion.builtin import PREFIX
from r3avatar.motion.cameras import choose_cameras, rig_up
from r3avatar.motion.load import load_motion
from r3avatar.motion.motion import MotionError
from r3avatar.motion.poses import capture_motion
from r3avatar.types import BodyPose, Cameras
from r3avatar.verbs.filming import STILLS, identity, on_host, shoot, size_of
from r3avatar.verbs.parts import Run, load_run

DEFAULT_FPS = 15.0  # of a capture that states none


def choose_motion(run: Run, config: DictConfig) -> tuple[BodyPose, list[int], float, Cameras]:
    """Poses [F], their numbers, frames a second and cameras [F] of what the configuration names."""
    capture, motion, scale = run.capture, str(config.motion), config.scale

    def cameras_for(pose: BodyPose, fps: float) -> Cameras:
        return choose_cameras(
            str(config.camera), capture=capture, body=run.body, pose=pose, fps=fps, turns=config.turns
        ).scaled(scale)

    if config.facing not in ("capture", "camera"):
        raise MotionError(f"facing={config.facing} is unknown; expected capture, camera")
    if motion in capture.splits:
        if config.facing == "camera":
            raise MotionError(f"facing=camera applies to motion files; motion={motion} is the capture's own")
        pose, frames = capture_motion(capture, motion)
        fps = capture.fps or DEFAULT_FPS
        return run.avatar.dressed(pose, torch.tensor(frames)), frames, fps, cameras_for(pose, fps)

    def load(face=None):
        return load_motion(
            motion, body=run.body, like=capture.poses, fps=capture.fps, motion_fps=config.motion_fps,
            skeleton=config.skeleton, up=config.up, root=config.root, start=config.start, end=config.end,
            place=config.place, world_up=rig_up(capture.cameras), face=face,
        )  # fmt: skip

    loaded = load()
    cameras = cameras_for(loaded.pose, loaded.fps)
    if config.facing == "camera":
        loaded = load(cameras.centres[0])
        cameras = cameras_for(loaded.pose, loaded.fps)
    return run.avatar.dress(loaded.pose, loaded.fps), list(range(len(loaded))), loaded.fps, cameras


def run(config: DictConfig) -> Path:
    """Write media/animate_<motion> as a film, a contact sheet and the timeline of retrieved times."""
    trained = load_run(config, images=False)
    capture = trained.capture
    pose, frames, fps, cameras = choose_motion(trained, config)
    fps = config.fps or fps
    retrieved = fit_retriever(trained.retriever, capture).retrieve(pose.theta)
    playback = Playback(trained.avatar, trained.rasterizer)
    beside = None
    if config.picture_in_picture:
        thumbnails = Thumbnails(capture, trained.body, playback, trained.config.cache.folder)
        panel = PictureInPicture(trained.body, retrieved, capture.recorded, thumbnails, cameras.height)

        def beside(f):
            return panel(f, pose[f : f + 1], cameras[f])

    target = Path(config.output or trained.folder / "media" / f"animate_{name_of(str(config.motion))}")
    found = [on_host(x) for x in retrieved.decisive]
    about = identity(trained, pose, cameras, found, config.picture_in_picture, retrieved.align)
    film = Film(target, config.format, fps, len(pose), about)
    retrieval_timeline(
        film.path.with_name(f"{film.name}_timeline.png"), frames, retrieved.mean.cpu().numpy(),
        retrieved.jump.cpu().numpy(), capture.recorded[0], spread=retrieved.spread.cpu().numpy(),
    )  # fmt: skip
    begun, left = time.perf_counter(), film.frames - film.finished
    path, picture = shoot(film, lambda f: animate(playback, pose, retrieved, cameras, "animating", f), STILLS, beside)
    speed = left / (time.perf_counter() - begun)
    print(f"film: {path} ({film.frames} frames, {size_of(path)}, {speed:.1f} frames/s)\npicture: {picture}")
    return path


def name_of(motion: str) -> str:
    """What a motion's film is called: the file's stem, the split or the built-in motion."""
    return motion.removeprefix(PREFIX) if motion.startswith(PREFIX) else Path(motion).stem
