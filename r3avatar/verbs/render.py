"""`r3avatar render`: recorded frames from any camera."""

from pathlib import Path

import torch
from omegaconf import DictConfig

from r3avatar.evaluation.media import write_image, write_video
from r3avatar.motion.animate import replay
from r3avatar.motion.cameras import still, turntable
from r3avatar.motion.poses import capture_motion
from r3avatar.run import RunError
from r3avatar.types import BodyPose, Cameras
from r3avatar.verbs.parts import Run, load_run


def choose_cameras(run: Run, name: str, pose: BodyPose, turns: float, scale: float) -> Cameras:
    """Cameras [F] by name: 'turntable', or one of the capture's."""
    capture, F = run.capture, len(pose)
    if name == "turntable":
        ids = capture.split("train").cameras
        rig = [capture.cameras[capture.camera_index(c)] for c in ids]
        vertices = run.body.vertices(pose[:: max(1, F // 8)])
        target = (vertices.amin((0, 1)) + vertices.amax((0, 1))) / 2
        return turntable(rig, target, F, turns).scaled(scale)
    if name not in capture.camera_ids:
        raise RunError(
            f"camera={name} is neither 'turntable' nor one of the capture's: {', '.join(capture.camera_ids)}"
        )
    return still(capture.cameras[capture.camera_index(name)], F).scaled(scale)


def run(config: DictConfig) -> Path:
    """Write media/render_<camera>.mp4 and a still."""
    trained = load_run(config)
    pose, frames = capture_motion(trained.capture, "train")
    times = torch.tensor(frames, dtype=torch.float32) - trained.capture.recorded[0]
    cameras = choose_cameras(trained, str(config.camera), pose, config.turns, config.scale)
    images, first = replay(trained.avatar, trained.rasterizer, pose, times, cameras, "rendering"), []

    def keep(stream):
        for image in stream:
            if not first:
                first.append(image)
            yield image

    media = trained.folder / "media"
    video = write_video(media / f"render_{config.camera}.mp4", keep(images), config.fps or trained.capture.fps or 15.0)
    picture = write_image(media / f"render_{config.camera}.png", first[0])
    print(f"video: {video}\npicture: {picture}")
    return video
