"""Synthetic captures as files: layout, bits, masks, lenses, options."""

import json

import cv2
import h5py
import numpy as np
import pytest
import torch

from r3avatar.body import load_body
from r3avatar.captures import DnaRendering, Split
from r3avatar.captures.synthesis import arithmetic as am
from r3avatar.captures.synthesis import synthesize
from r3avatar.captures.synthesis.skin import joint_transforms

# Of the tiny capture. They change with the demo body and with what is drawn; then raise synthesize.VERSION.
PIXELS = "a8b587d573b661924fda5ccf6c1ca4c92600368527de97bb503951b4744216b0"
POSES = "2d47b1b633fa1818e2d0b130088c05213de54e6150b1694cedf839958dc5d22f"


def _split(cameras, frames) -> Split:
    return Split(cameras=[str(c) for c in cameras], frames=list(frames))


@pytest.fixture(scope="module")
def capture(tiny):
    splits = {
        "train": _split(range(4), range(8)), "novel_view": _split([4], [0, 4]), "novel_pose": _split([4], range(8, 12))
    }  # fmt: skip
    return DnaRendering(tiny.root, "tiny", splits=splits, recorded=(0, 8), hand_mean=None, scale=1.0)


def test_layout(tiny):
    with h5py.File(tiny.folder / "tiny.smc") as images, h5py.File(tiny.folder / "tiny_annots.smc") as annotations:
        assert sorted(images["Camera_5mp"]) == list("01234")
        assert len(images["Camera_5mp/4/color"]) == 12
        assert annotations["SMPLx/fullpose"].shape == (12, 55, 3)
        for camera in range(5):
            D = annotations[f"Camera_Parameter/{camera:02d}/D"][()]
            assert D.shape == (5,) and (D != 0).all()
        image = cv2.imdecode(images["Camera_5mp/2/color/7"][()], cv2.IMREAD_COLOR)
        mask = cv2.imdecode(annotations["Mask/2/mask/7"][()], cv2.IMREAD_GRAYSCALE)
    assert image.shape == (256, 256, 3) and set(np.unique(mask)) == {0, 255}
    assert 0.04 < (mask > 0).mean() < 0.25
    background = image[mask == 0].astype(int)
    assert 40 < background.mean() < 110  # a mid-dark grey
    preview = cv2.imread(str(tiny.folder / "preview.png"))
    assert preview.shape[0] == 3 * 256 and preview[..., 0].std() > 10


def test_same_bits_for_any_number_of_threads_and_on_any_machine(tiny, tmp_path):
    folder = synthesize(tmp_path, "again", **tiny.arguments, workers=1, preview=False)
    again = json.loads((folder / "synthesis.json").read_text())
    assert again == tiny.record
    assert not (folder / "preview.png").exists()
    assert (again["pixels_sha256"], again["poses_sha256"]) == (PIXELS, POSES)


def test_masks_are_the_persons_silhouette(tiny):
    surface = tiny.performance.surface
    with h5py.File(tiny.folder / "tiny_annots.smc") as annotations:
        for camera, frame in ((0, 0), (1, 5), (3, 9), (4, 11)):
            group = annotations[f"Camera_Parameter/{camera:02d}"]
            w2c = np.linalg.inv(group["RT"][()])
            points, _ = cv2.projectPoints(
                tiny.performance.vertices[frame],
                cv2.Rodrigues(w2c[:3, :3])[0],
                w2c[:3, 3],
                group["K"][()],
                group["D"][()],
            )
            drawn = np.zeros((1024, 1024), np.uint8)  # OpenCV's own polygons, at 4 times the size
            for triangle in surface.triangles:
                cv2.fillConvexPoly(
                    drawn, np.round((points[triangle, 0] + 0.5) * 64 * 4 - 32).astype(np.int32), 1, shift=6
                )
            expected = drawn.reshape(256, 4, 256, 4).mean((1, 3)) > 0.5
            mask = cv2.imdecode(annotations[f"Mask/{camera}/mask/{frame}"][()], cv2.IMREAD_GRAYSCALE) > 0
            assert (mask & expected).sum() / (mask | expected).sum() > 0.97


def test_read_back(tiny, capture):
    """Through the reader: the poses draw the body inside the undistorted masks, pixel centres at +0.5."""
    body = load_body("demo").vertices(capture.poses).double().numpy()
    assert np.abs(body - _bare(tiny)).max() < 1e-5
    for camera in (0, 4):
        cameras = capture.cameras[camera]
        K, w2c = cameras.K.double().numpy(), cameras.w2c.double().numpy()
        seen = (body[10] @ w2c[:3, :3].T + w2c[:3, 3]) @ K.T
        pixels = np.floor(seen[:, :2] / seen[:, 2:]).astype(int)
        rgb, mask = capture.read(camera, 10)
        near = cv2.dilate(mask, np.ones((3, 3), np.uint8))
        assert near[pixels[:, 1], pixels[:, 0]].mean() > 0.98  # thin fingers cover less than half a pixel
        assert (rgb[mask == 0] == 0).all() and rgb[mask > 0].std() > 30


def _bare(tiny) -> np.ndarray:
    person, performance = tiny.person, tiny.performance
    frames = []
    for pose, transl, expression in zip(performance.fullpose, performance.transl, performance.expression):
        offsets, moved = person.offsets(expression)
        joints = person.joints + moved
        transforms = joint_transforms(am.quaternion(pose), joints, person.parents, joints[0] + transl)
        frames.append(person.body.at(transforms, offsets[: len(person.body.rest)]))
    return np.stack(frames)


def test_the_lens_bends_and_undistortion_straightens(tiny, capture):
    straight = DnaRendering(
        tiny.root, "tiny", splits=capture.splits, recorded=(0, 8), hand_mean=None, scale=1.0, undistort=False
    )
    bent, mask = straight.read(1, 3)
    undistorted, _ = capture.read(1, 3)
    assert np.abs(bent.astype(int) - undistorted).max() > 60
    cameras = capture.cameras[1]
    points = tiny.performance.vertices[3]
    K, w2c = cameras.K.double().numpy(), cameras.w2c.double().numpy()
    seen = (points @ w2c[:3, :3].T + w2c[:3, 3]) @ K.T
    pinhole = seen[:, :2] / seen[:, 2:]
    mask = capture.read(1, 3)[1]
    ys, xs = np.nonzero(mask)
    extent = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
    np.testing.assert_allclose(extent, [*pinhole.min(0), *pinhole.max(0)], atol=2.0)


def test_an_existing_capture_is_kept_or_named(tiny, capsys):
    before = (tiny.folder / "tiny.smc").stat().st_mtime_ns
    assert synthesize(tiny.root, "tiny", **tiny.arguments) == tiny.folder
    assert "kept" in capsys.readouterr().out
    with pytest.raises(FileExistsError, match=r"seed=0 there.*overwrite=true"):
        synthesize(tiny.root, "tiny", **{**tiny.arguments, "seed": 1})
    assert (tiny.folder / "tiny.smc").stat().st_mtime_ns == before


def test_an_unknown_capture_is_never_overwritten(tmp_path):
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "demo.smc").touch()
    with pytest.raises(FileExistsError, match="overwrite=true"):
        synthesize(tmp_path, "demo")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(garment="kilt"), "garment is 'kilt'; expected one of skirt, cape, trousers, none"),
        (dict(quality=0), "quality is 0"),
        (dict(length=1.5), "length is 1.5"),
        (dict(cameras=[0, 1, 1]), "cameras are"),
        (dict(distortion=[0.1]), "distortion has 1 numbers"),
        (dict(recorded_frames=6, later_frames=4), "need at least 8 recorded"),
        (dict(width=0), "width is 0"),
        (dict(bending=-1.0), "bending is -1.0"),
    ],
)
def test_wrong_options(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        synthesize(tmp_path, "demo", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("garment", ["cape", "trousers", "none"])
def test_other_garments(tmp_path, garment):
    folder = synthesize(
        tmp_path, garment, seed=5, recorded_frames=2, later_frames=0, cameras=[2, 50], held_out_cameras=[], width=96,
        height=128, garment=garment, preview=False,
    )  # fmt: skip
    with h5py.File(folder / f"{garment}.smc") as images:
        assert list(images["Camera_5mp"]) == ["2"] and list(images["Camera_12mp"]) == ["50"]
        assert cv2.imdecode(images["Camera_12mp/50/color/1"][()], cv2.IMREAD_COLOR).shape == (128, 96, 3)
    with h5py.File(folder / f"{garment}_annots.smc") as annotations:
        assert torch.from_numpy(annotations["SMPLx/betas"][()]).shape == (1, 10)
