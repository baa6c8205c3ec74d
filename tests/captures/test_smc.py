"""SmcWriter writes DNA-Rendering's layout, whole or not at all."""

import h5py
import numpy as np
import pytest

from r3avatar.captures import SmcWriter


def test_layout(pair, small):
    with h5py.File(pair / "0012_09/0012_09.smc") as file:
        names = {"actor_id", "performance_id", "age", "gender", "height", "weight", "ethnicity"}
        assert set(file.attrs) == names and file.attrs["gender"] == "female"
        assert set(file) == {"Camera_5mp", "Camera_12mp"}
        assert file["Camera_5mp"].attrs["num_device"] == 2 and file["Camera_12mp"].attrs["num_frame"] == small.FRAMES
        assert file["Camera_12mp"].attrs["resolution"].tolist() == [128, 112]
        data = file["Camera_5mp/1/color/4"]
        assert data.dtype == np.uint8 and data.ndim == 1
        assert data[()].tobytes() == small.picture(104, 96, 80)[0]
    with h5py.File(pair / "0012_09/0012_09_annots.smc") as file:
        assert set(file["Camera_Parameter"]) == {"00", "01", "48"}
        assert set(file["Camera_Parameter/48"]) == {"K", "D", "RT", "Color_Calibration"}
        expected = small.camera(128, 112, angle=0.8)
        np.testing.assert_allclose(file["Camera_Parameter/48/RT"][()] @ expected["w2c"], np.eye(4), atol=1e-12)
        np.testing.assert_array_equal(file["Camera_Parameter/48/K"][()], expected["K"])
        assert file["Camera_Parameter/01/D"].shape == (5,)
        assert file["Mask/48/mask/3"][()].tobytes() == small.picture(4803, 128, 112)[1]
        shapes = {name: value.shape for name, value in file["SMPLx"].items()}
    assert shapes == {"betas": (5, 10), "expression": (5, 10), "fullpose": (5, 55, 3), "transl": (5, 3), "scale": ()}


def _writer(root, small, **changes):
    cameras = {0: small.camera(96, 80, 0.0)}
    return SmcWriter(root, "a", **{"cameras": cameras, "num_frames": 1, **changes})


def _fill(writer, small):
    writer.add(0, 0, *small.picture(0, 96, 80)[:2])
    writer.body(np.zeros((1, 10)), np.zeros((1, 10)), np.zeros((1, 55, 3)), np.zeros((1, 3)))


def test_keypoints(tmp_path, small):
    with _writer(tmp_path, small) as writer:
        _fill(writer, small)
        writer.keypoints(np.ones((1, 7, 4)), {0: np.ones((1, 7, 3))})
    with h5py.File(tmp_path / "a/a_annots.smc") as file:
        assert file["Keypoints_3D/keypoints3d"].shape == (1, 7, 4) and file["Keypoints_2D/00"].shape == (1, 7, 3)


def test_nothing_appears_before_the_end_or_after_an_error(tmp_path, small):
    with pytest.raises(RuntimeError, match="stop"), _writer(tmp_path, small) as writer:
        _fill(writer, small)
        assert not list(tmp_path.rglob("*.smc"))
        raise RuntimeError("stop")
    assert not list((tmp_path / "a").iterdir())


def test_incomplete_captures_are_refused(tmp_path, small):
    with pytest.raises(ValueError, match="camera 0, frame 0 was never added"), _writer(tmp_path, small):
        pass
    with pytest.raises(ValueError, match=r"body\(\) was never called"), _writer(tmp_path, small) as writer:
        writer.add(0, 0, *small.picture(0, 96, 80)[:2])
    assert not list((tmp_path / "a").iterdir())


def test_an_existing_capture_is_replaced_only_on_demand(tmp_path, small):
    with _writer(tmp_path, small) as writer:
        _fill(writer, small)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        _writer(tmp_path, small)
    with _writer(tmp_path, small, overwrite=True, gender="male") as writer:
        _fill(writer, small)
    with h5py.File(tmp_path / "a/a.smc") as file:
        assert file.attrs["gender"] == "male"


def test_wrong_arguments_are_refused(tmp_path, small):
    good = small.camera(96, 80, 0.0)
    for changes, message in [
        ({"gender": "x"}, "gender is 'x'"),
        ({"num_frames": 0}, "needs cameras and frames"),
        ({"cameras": {0: {**good, "D": np.zeros(4)}}}, "camera 0: D must be"),
        ({"cameras": {0: good, 1: {**good, "width": 97}}}, "a group has one size"),
    ]:
        with pytest.raises(ValueError, match=message):
            _writer(tmp_path, small, **changes)
    jpeg, png, _, _ = small.picture(0, 96, 80)
    with pytest.raises(RuntimeError, match="stop"), _writer(tmp_path, small) as writer:
        for arguments, message in [
            ((1, 0, jpeg, png), "camera 1, frame 0: expected a camera of"),
            ((0, 1, jpeg, png), "frame 1: expected"),
            ((0, 0, png, png), "not an encoded JPEG"),
            ((0, 0, jpeg, jpeg), "not an encoded PNG"),
        ]:
            with pytest.raises(ValueError, match=message):
                writer.add(*arguments)
        with pytest.raises(ValueError, match=r"SMPLx/expression is \(2, 10\); expected \(1, 10\)"):
            writer.body(np.zeros((1, 10)), np.zeros((2, 10)), np.zeros((1, 55, 3)), np.zeros((1, 3)))
        raise RuntimeError("stop")
