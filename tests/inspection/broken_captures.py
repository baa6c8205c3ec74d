"""A filmed person in every layout, as it is and with one of the known mistakes of conventions made."""

from __future__ import annotations

import copy
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch

from r3avatar.body import BodyModel
from r3avatar.captures import Capture, DnaRendering, HandPca, Mend, Split
from r3avatar.cli import check
from r3avatar.inspection import Inspection, inspect_capture
from r3avatar.types import BodyPose
from r3avatar.verbs import inspect as verb

from ..captures.layouts_smpl import write_hifi4g, write_zju_mocap
from ..captures.layouts_smplx import NAMES, write_dna_rendering, write_mvhumannet, write_plain_folder
from ..captures.plain_capture import PlainCapture

SUBJECT = "person"
MEAN = np.zeros((30, 3))
MEAN[:15, 2], MEAN[15:, 2] = -0.5, 0.5  # a mean hand pose that shows: the demo body's own is flat
SMPLX, SMPL = ("folder", "dna_rendering", "mvhumannet"), ("zju_mocap", "hifi4g")
LAYOUTS = SMPLX + SMPL
SPLITS = {"train": (slice(0, 2), "0-7"), "novel_view": (slice(2, 3), "0-7"), "novel_pose": (slice(2, 3), "8-11")}


def film(root: Path, subject: str, body: BodyModel) -> PlainCapture:
    """A synthetic capture (`r3avatar synthesize synthesis=tiny`) as plain arrays: 3 cameras, 12 frames, SMPL-X.

    Its global rotation is in R and turns about the origin, as EasyMocap has it.
    """
    splits = {"train": Split(["0", "1", "2"], list(range(12)))}
    capture = DnaRendering(root, subject, splits=splits, recorded=(0, 12), hand_mean=None, scale=1.0)
    K = capture.cameras[0].K.double().numpy()
    cameras, images, masks = [], [], []
    for c, camera in enumerate(capture.cameras):
        # MVHumanNet has one K for all cameras: the others' images are drawn as the first one's lens would.
        shared = K @ np.linalg.inv(camera.K.double().numpy())
        warp, size = _between_pixel_centres(shared), (camera.width, camera.height)
        pairs = [capture.read(c, f) for f in range(12)]
        masks.append([cv2.warpAffine(mask, warp, size, flags=cv2.INTER_NEAREST) for _, mask in pairs])
        warped = [cv2.warpAffine(image, warp, size, flags=cv2.INTER_LINEAR) for image, _ in pairs]
        images.append([image * mask[..., None] for image, mask in zip(warped, masks[-1])])
        opencv = K - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]
        w2c = camera.w2c.double().numpy()
        cameras.append({"K": opencv, "D": np.zeros(5), "w2c": w2c, "width": camera.width, "height": camera.height})
    poses = capture.poses
    origin = Mend(root="origin").poses(poses)
    poses = replace(origin, Th=poses.Th - _offset(origin, body))
    jpegs = [[_jpeg(image) for image in row] for row in images]
    return PlainCapture(cameras, images, masks, poses, jpegs)


def _between_pixel_centres(affine: np.ndarray) -> np.ndarray:
    """[2, 3] for OpenCV, whose first pixel centre is (0, 0), of a [3, 3] for pixel centres at 0.5."""
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    return (np.linalg.inv(half) @ affine @ half)[:2]


def _jpeg(image: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def _offset(poses: BodyPose, body: BodyModel) -> torch.Tensor:
    """R p - p [F, 3]: what lies between a rotation about the origin and one about the pelvis p."""
    p = body.joints(poses.betas, poses.expression)[:, 0]
    return (poses.R @ p[..., None])[..., 0] - p


def hands_of(plain: PlainCapture) -> HandPca:
    """Principal components about MEAN that reach the person's hands, and these with the mean added or taken away."""
    halves = np.stack([plain.poses.theta[:, 25:40].numpy(), plain.poses.theta[:, 40:].numpy()]).reshape(2, -1, 45)
    rows = np.concatenate([halves, MEAN.reshape(2, 1, 45)], 1)
    return HandPca(MEAN, np.stack([np.linalg.svd(side)[2][:6] for side in rows]))


def as_smpl(plain: PlainCapture) -> PlainCapture:
    """The same person by SMPL's joints: no fingers, jaw, eyes, expression."""
    theta = torch.cat([plain.poses.theta[:, :22], torch.zeros(len(plain.poses), 2, 3)], 1)
    poses = replace(plain.poses, theta=theta, expression=torch.zeros(len(plain.poses), 0))
    return replace(plain, poses=poses)


# Mistakes: what is written in place of the truth, where the reader takes the convention of the truth.
Spoil = Callable[[PlainCapture, BodyModel], PlainCapture]


def _cameras(change: Callable[[dict], dict]) -> Spoil:
    return lambda plain, body: replace(plain, cameras=[{**c, **change(c)} for c in plain.cameras])


def _moved(factor: float) -> Spoil:
    return _cameras(lambda c: {"w2c": np.block([[c["w2c"][:3, :3], c["w2c"][:3, 3:] * factor], [c["w2c"][3:]]])})


def _zoomed(factor: float) -> Spoil:
    def change(camera: dict) -> dict:
        K = camera["K"].copy()
        K[:2, 2] += 0.5
        K[:2] *= factor
        K[:2, 2] -= 0.5
        return {"K": K}

    return _cameras(change)


def _turned(degrees: int) -> Spoil:
    """Cameras calibrated in a world turned about x, which the poses know nothing of."""
    return _cameras(lambda c: {"w2c": Mend(turn_world=degrees).camera(c["K"], c["w2c"])[1]})


def _poses(change: Callable[[BodyPose, BodyModel], BodyPose]) -> Spoil:
    return lambda plain, body: replace(plain, poses=change(plain.poses, body))


def _about_pelvis(poses: BodyPose, body: BodyModel) -> BodyPose:
    """global_orient and transl, written as Rh and Th."""
    return replace(poses, Th=poses.Th + _offset(poses, body))


def _about_origin(poses: BodyPose, body: BodyModel) -> BodyPose:
    """Rh and Th, written as global_orient and transl."""
    pelvis = Mend(root="pelvis").poses(poses)
    return replace(pelvis, R=torch.eye(3).repeat(len(poses), 1, 1))


def _about_origin_in_dna(poses: BodyPose, body: BodyModel) -> BodyPose:
    """The same where the writer turns Rh and Th into global_orient and transl: it has to come out as Rh and Th."""
    return replace(poses, Th=poses.Th - _offset(poses, body))


def _scaled_in_dna(factor: float) -> Spoil:
    """Another unit of the translation that the writer makes of Rh and Th."""
    return _poses(
        lambda poses, body: replace(poses, Th=factor * (poses.Th + _offset(poses, body)) - _offset(poses, body))
    )


def _hands(sign: int) -> Spoil:
    def change(poses: BodyPose, body: BodyModel) -> BodyPose:
        theta = poses.theta.clone()
        theta[:, 25:] += sign * torch.from_numpy(MEAN).float()
        return replace(poses, theta=theta)

    return _poses(change)


def _shifted(frames: int) -> Spoil:
    rows = np.clip(np.arange(12) + frames, 0, 11)
    return _poses(lambda poses, body: poses[rows])


# By the name that inspect gives: the spoiling, the layouts that can hold it, and whether the mend is exact to the bit.
MISTAKES: dict[str, tuple[Spoil, tuple[str, ...], bool]] = {
    "cameras in millimetres, not metres": (_moved(1e3), LAYOUTS, False),
    "cameras divided by 1000 though in metres": (_moved(1e-3), LAYOUTS, False),
    "body translation in millimetres, not metres": (
        _poses(lambda poses, body: replace(poses, Th=poses.Th * 1000)), LAYOUTS, False,
    ),
    "body translation divided by 1000 though in metres": (
        _poses(lambda poses, body: replace(poses, Th=poses.Th / 1000)), LAYOUTS, False,
    ),
    "camera-to-world taken for world-to-camera, or the reverse": (
        _cameras(lambda c: {"w2c": np.linalg.inv(c["w2c"])}), LAYOUTS, False,
    ),
    "OpenGL camera axes (y up, looking along -z), not OpenCV's": (
        _cameras(lambda c: {"w2c": Mend(camera_axes="opengl").camera(c["K"], c["w2c"])[1]}), LAYOUTS, True,
    ),
    "global_orient and transl read as Rh and Th": (_poses(_about_pelvis), ("folder", "mvhumannet", *SMPL), False),
    "Rh and Th read as global_orient and transl": (_poses(_about_origin), SMPLX, False),
    "hand poses relative to the mean taken for full ones (flat_hand_mean)": (_hands(-1), SMPLX, False),
    "full hand poses taken for relative to the mean (flat_hand_mean)": (_hands(1), SMPLX, False),
    "the body's world is y-down, the cameras' y-up, or the reverse": (_turned(180), LAYOUTS, True),
    "the cameras' world is z-up, the body's y-up": (_turned(-90), LAYOUTS, True),
    "the cameras' world is y-up, the body's z-up": (_turned(90), LAYOUTS, True),
    "poses one frame too late: images show the next row": (_shifted(-1), LAYOUTS, True),
    "poses one frame too early: images show the row before": (_shifted(1), LAYOUTS, True),
    "intrinsics at 2 times the images' size": (_zoomed(2.0), LAYOUTS, True),
    "intrinsics at 0.5 times the images' size": (_zoomed(0.5), LAYOUTS, True),
    "intrinsics at 4 times the images' size": (_zoomed(4.0), LAYOUTS, True),
    "intrinsics at 0.25 times the images' size": (_zoomed(0.25), LAYOUTS, True),
    "intrinsics at 1.5 times the images' size": (_zoomed(1.5), LAYOUTS, False),
}  # fmt: skip

IN_DNA = {  # where DNA-Rendering's writer, which converts roots, needs another spoiling for the same mistake
    "Rh and Th read as global_orient and transl": _poses(_about_origin_in_dna),
    "body translation in millimetres, not metres": _scaled_in_dna(1e3),
    "body translation divided by 1000 though in metres": _scaled_in_dna(1e-3),
}


def write(layout: str, root: Path, person: PlainCapture, body: BodyModel, spoil: Spoil | None = None) -> None:
    """Put the person into a layout below `root`, with a mistake made if there is one. body: of SMPL-X."""
    plain = person
    if spoil is not None:
        if layout == "dna_rendering":
            spoil = {MISTAKES[name][0]: other for name, other in IN_DNA.items()}.get(spoil, spoil)
        plain = spoil(person, body)
    if layout == "dna_rendering":
        pelvis = body.joints(person.poses.betas, person.poses.expression)[:, 0].double().numpy()
        write_dna_rendering(root, SUBJECT, plain, MEAN, pelvis)
    elif layout == "mvhumannet":
        write_mvhumannet(root / SUBJECT, copy.deepcopy(plain), hands_of(person))
    elif layout == "folder":
        splits = {
            name: Split([str(c) for c in range(3)][cameras], Split.parse("0", frames).frames)
            for name, (cameras, frames) in SPLITS.items()
        }
        write_plain_folder(root, SUBJECT, plain, splits=splits, recorded=(0, 8))
    else:
        {"zju_mocap": write_zju_mocap, "hifi4g": write_hifi4g}[layout](root / SUBJECT, as_smpl(plain))


def overrides(layout: str, root: Path, bodies: Path) -> list[str]:
    """The command line's arguments for the capture below `root`."""
    names = NAMES if layout == "mvhumannet" else ("0", "1", "2")
    given = [f"capture={layout}", f"capture.root='{root}'", f"capture.subject={SUBJECT}", "capture.scale=1"]
    given += [f"body={'smplx' if layout in SMPLX else 'smpl'}", f"body.path='{bodies}'", "capture.box_margin=0.05"]
    if layout == "folder":
        return given
    for split, (cameras, frames) in SPLITS.items():
        given += [f"capture.splits.{split}.cameras=[{','.join(names[cameras])}]"]
        given += [f"capture.splits.{split}.frames={frames}"]
    return [*given, "capture.recorded=[0,8]"]


def inspected(arguments: list[str], frames: int = 8) -> Inspection:
    """What the verb finds with these arguments."""
    config = check("inspect", arguments)
    return inspect_capture(verb.open_configured(config.capture), verb.body_configured(config.body), frames=frames)


def advice(inspection: Inspection) -> list[str]:
    """The overrides that the inspection names for the mistake; empty if it names none."""
    found = {c.name: c.mend for c in inspection.checks}.get("known mistakes", "")
    return [word for word in shlex.split(found) if word.startswith("capture.")]


def differences(capture: Capture, right: Capture, body: BodyModel) -> dict[str, float]:
    """The largest differences of cameras and of poses, over the frames that both have.

    Where the root was mended, its rotation may be about another point than before: the posed bodies are compared.
    """
    shared = sorted(set(capture.frame_ids) & set(right.frame_ids))
    ours, theirs = (c.poses[[c.frame_index(frame) for frame in shared]] for c in (capture, right))
    pairs = {"K": [], "w2c": []}
    for camera, other in zip(capture.cameras, right.cameras, strict=True):
        for key, values in pairs.items():
            values.append(float((getattr(camera, key) - getattr(other, key)).abs().max()))
    found = {key: max(values) for key, values in pairs.items()}
    if capture.mend.root is not None:
        posed = body.vertices(ours), body.vertices(theirs)
        return {**found, "posed body": float((posed[0] - posed[1]).abs().max())}
    for name in ("theta", "betas", "expression", "R", "Th"):
        values = getattr(ours, name), getattr(theirs, name)
        found[name] = float((values[0] - values[1]).abs().max()) if values[0].numel() else 0.0
    return found
