"""One synthetic capture goes into every layout, and every reader gives the same cameras, poses, images and masks back.

What the layouts themselves cannot keep, and how the capture is chosen so that all five can hold it:

- Images are JPEGs in DNA-Rendering, ZJU-MoCap and MVHumanNet. The capture's images are decoded JPEGs, and these bytes
  are what is written, so that no second encoding comes between: all layouts must give every pixel back.
- HiFi4G holds no masks. The person is nowhere near white, so the mask made from the white background is exact.
- MVHumanNet has one calibration for all cameras, and no lens: so has the capture.
- ZJU-MoCap and HiFi4G have an SMPL body: of its 24 joints the first 22 are SMPL-X's, the last two (hands) are at rest
  here; jaw, eyes, fingers and expression have no place there.
- DNA-Rendering stores the root's rotation about the pelvis, the fingers relative to their mean pose as float32, and
  camera-to-world; HiFi4G's download camera-to-world, too; MVHumanNet hands as six coefficients each, within whose reach
  the capture's fingers are. These may come back rounded, to TOLERANCE.
"""

import copy

import cv2
import numpy as np
import pytest
import torch

from r3avatar.captures import DnaRendering, FolderCapture, HiFi4G, MvHumanNet, Split, ZjuMocap
from r3avatar.captures.hifi4g_public import convert_hifi4g
from r3avatar.types import BodyPose

from .layouts_smpl import write_hifi4g, write_hifi4g_public, write_json_fits, write_zju_mocap
from .layouts_smplx import (
    NAMES,
    six_components,
    with_pca_hands,
    write_dna_rendering,
    write_mvhumannet,
    write_plain_folder,
)
from .plain_capture import PlainCapture, plain_capture

SUBJECT = "one capture"
HANDS = six_components()
TOLERANCE = 1e-6  # radians, metres, pixels / 100
BODY = slice(1, 22)  # joints that SMPL and SMPL-X share, without the root
COLUMNS = ("K", "w2c", "images", "masks", "body joints", "betas", "expression", "fingers", "R, Th", "posed body")
# Everything else is exact to the bit, or has no place in the layout.
ROUNDED = {
    "DnaRendering": {"w2c", "fingers", "R, Th", "posed body"},
    "ZjuMocap": set(),
    "HiFi4G": set(),
    "HiFi4G, converted": {"w2c"},
    "MvHumanNet": {"fingers"},
    "FolderCapture": set(),
}
ABSENT = {
    **{name: {"expression", "fingers"} for name in ("ZjuMocap", "HiFi4G", "HiFi4G, converted")},
    "DnaRendering": {"R, Th"},  # the root's rotation is about the pelvis: the posed body tells
}


@pytest.fixture(scope="module")
def one():
    """The capture: 3 cameras, 4 frames, an SMPL-X body whose global rotation is in R, images as decoded JPEGs."""
    plain = plain_capture("smplx")
    random = np.random.default_rng(8)
    plain.Rh = random.normal(0, 0.6, (4, 3))
    plain.poses.R = torch.tensor(np.stack([cv2.Rodrigues(v)[0] for v in plain.Rh]), dtype=torch.float32)
    plain.poses.theta[:, 0] = 0
    plain.poses.theta[:, 22:25] = 0  # jaw and eyes
    with_pca_hands(plain, HANDS)
    plain.jpegs = []
    for images, masks in zip(plain.images, plain.masks):
        whole = [np.where(mask[..., None] > 0, image, 90).astype(np.uint8) for image, mask in zip(images, masks)]
        plain.jpegs.append([cv2.imencode(".jpg", cv2.cvtColor(w, cv2.COLOR_RGB2BGR))[1].tobytes() for w in whole])
        for f, jpeg in enumerate(plain.jpegs[-1]):
            decoded = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
            images[f] = cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB) * masks[f][..., None]
    return plain


def _as_smpl(plain: PlainCapture) -> PlainCapture:
    """The same person by SMPL's joints: the hands at rest, no jaw, eyes, fingers, expression."""
    smpl, pose = copy.copy(plain), plain.poses
    theta = torch.cat([pose.theta[:, :22], torch.zeros(len(pose), 2, 3)], 1)
    smpl.poses = BodyPose(theta, pose.betas, torch.zeros(len(pose), 0), pose.R, pose.Th)
    return smpl


@pytest.fixture(scope="module")
def captures(one, body, tmp_path_factory):
    """Layout to reader, each on the capture in that layout."""
    root, smpl, frames = tmp_path_factory.mktemp("five layouts"), _as_smpl(one), [0, 1, 2, 3]
    pelvis = body.joints(one.poses.betas, one.poses.expression)[:, 0].double().numpy()
    write_dna_rendering(root / "dna", SUBJECT, one, HANDS.mean, pelvis)
    write_zju_mocap(root / "zju" / SUBJECT, smpl)
    write_hifi4g(root / "hifi4g" / SUBJECT, smpl)
    write_hifi4g_public(root / "download", smpl, metres=0.4)
    write_json_fits(root / "fits", smpl)
    convert_hifi4g(root / "download", root / "fits", root / "converted" / SUBJECT, metres=0.4)
    write_mvhumannet(root / "mvhumannet" / SUBJECT, copy.deepcopy(one), HANDS)
    write_plain_folder(root / "folder", SUBJECT, one)
    numbered = {"splits": {"train": Split(["0", "1", "2"], frames)}, "recorded": (0, 4), "scale": 1.0}
    named = {**numbered, "splits": {"train": Split(list(NAMES), frames)}}
    return {
        "DnaRendering": DnaRendering(root / "dna", SUBJECT, hand_mean=HANDS.mean, **numbered),
        "ZjuMocap": ZjuMocap(root / "zju", SUBJECT, **numbered),
        "HiFi4G": HiFi4G(root / "hifi4g", SUBJECT, mask_from_white=0.02, **numbered),
        "HiFi4G, converted": HiFi4G(root / "converted", SUBJECT, mask_from_white=0.02, **numbered),
        "MvHumanNet": MvHumanNet(root / "mvhumannet", SUBJECT, hands=HANDS, **named),
        "FolderCapture": FolderCapture(root / "folder", SUBJECT, **numbered),
    }


def _vertices(body, pose: BodyPose, expression: torch.Tensor) -> np.ndarray:
    """World positions [F, V, 3] of one body in this pose of the joints that SMPL and SMPL-X share."""
    theta = torch.zeros(len(pose), 55, 3)
    theta[:, :22] = pose.theta[:, :22]
    return body.vertices(BodyPose(theta, pose.betas, expression, pose.R, pose.Th)).numpy()


def _differences(capture, one: PlainCapture, body) -> dict[str, float]:
    """Column to the largest difference from what was written."""
    pose, written = capture.poses, one.poses
    K = np.stack([camera["K"] for camera in one.cameras])
    K[:, :2, 2] += 0.5  # OpenCV's first pixel centre is (0, 0), ours (0.5, 0.5)
    w2c = np.stack([camera["w2c"] for camera in one.cameras])
    pictures = [[capture.read(c, f) for f in range(4)] for c in range(3)]

    def apart(ours, theirs) -> float:
        ours, theirs = (np.asarray(value) for value in (ours, theirs))
        assert ours.shape == theirs.shape, f"{ours.shape} instead of {theirs.shape}"
        return float(np.abs(ours.astype(np.float64) - theirs.astype(np.float64)).max())

    expressions = (pose.expression, written.expression) if pose.expression.shape[1] else (0, 0)
    fingers = (pose.theta[:, 25:], written.theta[:, 25:]) if pose.theta.shape[1] == 55 else (0, 0)
    return {
        "K": apart(np.stack([camera.K for camera in capture.cameras]), K.astype(np.float32)) / 100,
        "w2c": apart(np.stack([camera.w2c for camera in capture.cameras]), w2c.astype(np.float32)),
        "images": apart([[image for image, _ in row] for row in pictures], one.images),
        "masks": apart([[mask for _, mask in row] for row in pictures], one.masks),
        "body joints": apart(pose.theta[:, BODY], written.theta[:, BODY]),
        "betas": apart(pose.betas, written.betas),
        "expression": apart(*expressions),
        "fingers": apart(*fingers),
        "R, Th": max(apart(pose.R, written.R), apart(pose.Th, written.Th)),
        "posed body": apart(*(_vertices(body, p, written.expression) for p in (pose, written))),
    }


def test_every_reader_gives_the_capture_back(one, captures, body):
    print(f"\n{'':18}" + "".join(f"{column:>12}" for column in COLUMNS))
    wrong = []
    for name, capture in captures.items():
        absent, rounded = ABSENT.get(name, set()), ROUNDED[name]
        found = _differences(capture, one, body)
        shown = {c: "-" if c in absent else "exact" if not found[c] else f"{found[c]:.0e}" for c in COLUMNS}
        print(f"{name:18}" + "".join(f"{shown[column]:>12}" for column in COLUMNS))
        for column in set(COLUMNS) - absent:
            if found[column] > (TOLERANCE if column in rounded else 0):
                wrong.append(f"{name}: {column} differ by {found[column]}")
    assert not wrong


def test_readers_agree_on_all_else(captures):
    for name, capture in captures.items():
        assert (capture.name, capture.frame_ids, capture.recorded) == (SUBJECT, [0, 1, 2, 3], (0, 4)), name
        assert [(camera.width, camera.height) for camera in capture.cameras] == [(96, 80)] * 3, name
        assert capture.body_kind == ("smpl" if name.startswith(("Zju", "HiFi4G")) else "smplx")
        assert capture.poses.theta.dtype == torch.float32 and len(capture.camera_ids) == 3


def test_dna_rendering_stores_another_root(one, captures, body):
    """The same body in the world: R is the root joint's rotation there, and transl is Th + R p - p."""
    pose, written = captures["DnaRendering"].poses, one.poses
    np.testing.assert_allclose(pose.theta[:, 0].numpy(), one.Rh, atol=TOLERANCE)
    pelvis = body.joints(written.betas, written.expression)[:, 0]
    moved = written.Th + torch.einsum("fij,fj->fi", written.R, pelvis) - pelvis
    np.testing.assert_allclose(pose.Th.numpy(), moved.numpy(), atol=TOLERANCE)
    assert (pose.Th - written.Th).norm(dim=1).min() > 0.05, "mixing the two up must show"
