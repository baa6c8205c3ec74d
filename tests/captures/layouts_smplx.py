"""Writers of a `PlainCapture`: SMPL-X in MVHumanNet's and DNA-Rendering's layout, any body in the plain one."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import cv2
import numpy as np

from r3avatar.captures import HandPca, SmcWriter, Split, write_folder

from .plain_capture import PlainCapture

SPLITS = {
    "train": Split(["CC32871A004", "CC32871A005"], [0, 1]),
    "novel_view": Split(["CC32871A016"], [0]),
    "novel_pose": Split(["CC32871A016"], [2, 3]),
}
NAMES = ("CC32871A004", "CC32871A005", "CC32871A016")
SCALE = 0.8  # camera_scale.pkl's number


def six_components() -> HandPca:
    """A mean hand pose and six random orthonormal components a hand."""
    random = np.random.default_rng(5)
    components = np.stack([np.linalg.qr(random.normal(size=(45, 6)))[0].T for _ in range(2)])
    return HandPca(random.normal(0, 0.1, (30, 3)), components)


def with_pca_hands(plain: PlainCapture, hands: HandPca) -> np.ndarray:
    """Bring the capture's hands into the components' reach; their coefficients [F, 12]."""
    offsets = plain.poses.theta[:, 25:].double().numpy() - hands.mean  # [F, 30, 3]
    halves = offsets.reshape(len(offsets), 2, 45)
    coefficients = np.einsum("fhc,hnc->fhn", halves, hands.components).reshape(len(offsets), 12)
    plain.poses.theta[:, 25:] = plain.poses.theta.new_tensor(hands(coefficients))
    return coefficients


def write_mvhumannet(folder: Path, plain: PlainCapture, hands: HandPca) -> None:
    """Write `folder` (a subject's) in MVHumanNet's layout; the capture's hands are brought into the components' reach.

    Images hold grey behind the person, as real ones are not masked; they are JPEG, so what is read differs a little.
    """
    folder.mkdir(parents=True)
    extrinsics = {}
    for name, camera, images, masks in zip(NAMES, plain.cameras, plain.images, plain.masks):
        w2c = camera["w2c"]
        extrinsics[f"1_{name}.png"] = {
            "rotation": w2c[:3, :3].tolist(),
            "translation": (w2c[:3, 3] * 1000 / SCALE).tolist(),
        }
        for part in ("images_lr", "fmask_lr"):
            (folder / part / name).mkdir(parents=True)
        for frame, (image, mask) in enumerate(zip(images, masks)):
            number = 5 * (frame + 1)
            backed = np.where(mask[..., None] > 0, image, 90).astype(np.uint8)
            jpeg = cv2.imencode(".jpg", cv2.cvtColor(backed, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 100])[1]
            content = jpeg.tobytes() if plain.jpegs is None else plain.jpegs[NAMES.index(name)][frame]
            (folder / "images_lr" / name / f"{number:04d}_img.jpg").write_bytes(content)
            png = cv2.imencode(".png", mask * 255)[1]
            (folder / "fmask_lr" / name / f"{number:04d}_img_fmask.png").write_bytes(png.tobytes())
    K = plain.cameras[0]["K"].copy()
    K[:2] *= 2  # of the full resolution, whose pixel (u, v) has its centre at 2 u' + 0.5 of the half one's u'
    K[:2, 2] += 0.5
    (folder / "camera_intrinsics.json").write_text(json.dumps({"intrinsics": K.tolist()}))
    (folder / "camera_extrinsics.json").write_text(json.dumps(extrinsics))
    (folder / "camera_scale.pkl").write_bytes(pickle.dumps(SCALE))
    coefficients = with_pca_hands(plain, hands)
    (folder / "smplx" / "smpl").mkdir(parents=True)
    poses = plain.poses
    for frame in range(len(poses)):
        fit = {
            "id": 0,
            "poses": [[*poses.theta[frame, :25].flatten().tolist(), *coefficients[frame].tolist()]],
            "shapes": poses.betas[frame : frame + 1].tolist(),
            "expression": poses.expression[frame : frame + 1].tolist(),
            "Rh": plain.axis_angle(frame)[None].tolist(),
            "Th": poses.Th[frame : frame + 1].tolist(),
        }
        (folder / "smplx" / "smpl" / f"{frame:06d}.json").write_text(json.dumps([fit]))


def write_dna_rendering(
    root: Path, subject: str, plain: PlainCapture, hand_mean: np.ndarray, pelvis: np.ndarray
) -> None:
    """Write the pair of `<root>/<subject>/`; the capture has its global rotation in Rh, here it is the root joint's.

    hand_mean [30, 3]: what the stored hands are relative to. pelvis [F, 3]: joint 0 of the shaped body at rest, about
    which the root turns, while Rh turns about the origin.
    """
    poses, frames = plain.poses, range(len(plain.poses))
    fullpose = poses.theta.double().numpy().copy()
    fullpose[:, 0] = [plain.axis_angle(frame) for frame in frames]
    fullpose[:, 25:] -= hand_mean
    R = np.stack([cv2.Rodrigues(rotation)[0] for rotation in fullpose[:, 0]])
    transl = poses.Th.double().numpy() + np.einsum("fij,fj->fi", R, pelvis) - pelvis
    with SmcWriter(root, subject, cameras=dict(enumerate(plain.cameras)), num_frames=len(poses)) as writer:
        for c in range(len(plain.cameras)):
            for frame in frames:
                mask = cv2.imencode(".png", plain.masks[c][frame] * 255)[1].tobytes()
                writer.add(c, frame, plain.jpegs[c][frame], mask)
        writer.body(poses.betas.numpy(), poses.expression.numpy(), fullpose, transl)


def write_plain_folder(root: Path, subject: str, plain: PlainCapture, names=("0", "1", "2"), **changes) -> Path:
    """Write `<root>/<subject>` in the folder layout, cameras named as given, frames 0 and up."""
    cameras = {
        name: {"K": c["K"], "w2c": c["w2c"], "dist": c["D"], "width": c["width"], "height": c["height"]}
        for name, c in zip(names, plain.cameras)
    }
    arguments = {
        "cameras": cameras,
        "frames": range(len(plain.poses)),
        "poses": plain.poses,
        "pictures": lambda camera, frame: (
            plain.images[names.index(camera)][frame],
            plain.masks[names.index(camera)][frame],
        ),
        "splits": {
            "train": Split(list(names[:2]), [0, 1]),
            "novel_view": Split([names[2]], [0]),
            "novel_pose": Split([names[2]], [2, 3]),
        },
        "recorded": (0, 2),
        "fps": 25.0,
        "gender": "female",
    }
    return write_folder(root, subject, **{**arguments, **changes})
