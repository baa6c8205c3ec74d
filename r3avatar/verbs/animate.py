"""`r3avatar animate`: poses that the person never took."""

from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from r3avatar.evaluation.evaluate import fit_retriever
from r3avatar.evaluation.media import strip, write_image, write_video
from r3avatar.evaluation.plots import retrieval_timeline
from r3avatar.motion.animate import animate
from r3avatar.motion.cameras import rig_up
from r3avatar.motion.load import load_motion
from r3avatar.motion.poses import capture_motion
from r3avatar.verbs.parts import load_run
from r3avatar.verbs.render import choose_cameras


def run(config: DictConfig) -> Path:
    """Write media/animate_<motion>.mp4, a contact sheet and the timeline of retrieved times."""
    trained = load_run(config)
    capture = trained.capture
    if config.motion in capture.splits:
        pose, frames = capture_motion(capture, config.motion)
        fps = capture.fps
    else:
        motion = load_motion(
            config.motion, body=trained.body, like=capture.poses, fps=capture.fps, motion_fps=config.motion_fps,
            skeleton=config.skeleton, up=config.up, root=config.root, start=config.start, end=config.end,
            place=config.place, world_up=rig_up(capture.cameras),
        )  # fmt: skip
        pose, fps = motion.pose, motion.fps
        frames = list(range(len(pose)))
    retrieved = fit_retriever(trained.retriever, capture).retrieve(pose.theta)
    cameras = choose_cameras(trained, str(config.camera), pose, config.turns, config.scale)
    images = animate(trained.avatar, trained.rasterizer, pose, retrieved, cameras, "animating")
    stills, wanted = [], set(np.linspace(0, len(pose) - 1, min(6, len(pose))).round().astype(int).tolist())

    def keep(stream):
        for f, image in enumerate(stream):
            if f in wanted:
                stills.append(image)
            yield image

    media, stem = trained.folder / "media", f"animate_{Path(config.motion).stem}"
    video = write_video(media / f"{stem}.mp4", keep(images), config.fps or fps or 15.0)
    picture = write_image(media / f"{stem}.png", strip(stills))
    retrieval_timeline(
        media / f"{stem}_timeline.png", frames, retrieved.times.numpy(), retrieved.jump.numpy(), capture.recorded[0]
    )
    print(f"video: {video}\npicture: {picture}")
    return video
