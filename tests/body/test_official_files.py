"""Files in exactly the layout in which SMPL and SMPL-X are handed out: keys, types, classes, names, pickle protocol."""

import pickletools
import sys
import types
from importlib import resources

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from scipy import sparse

from r3avatar.avatar.build import build_avatar
from r3avatar.body import load_body
from r3avatar.captures import read_hand_mean, read_hand_pca
from r3avatar.cli import main as cli
from r3avatar.types import BodyPose

from .python2_pickler import Python2Pickler

V = 40


def _dump(content, path):
    """As Python 2 with the numpy and scipy of its time: protocol 2, module names without underscores."""
    with open(path, "wb") as file:
        Python2Pickler(file, protocol=2).dump(content)
    data = path.read_bytes()
    for name, old in ((b"numpy._core.", b"numpy.core."), (b"scipy.sparse._csc\n", b"scipy.sparse.csc\n")):
        data = data.replace(b"c" + name, b"c" + old)
    path.write_bytes(data)
    return {argument for opcode, argument, _ in pickletools.genops(data) if opcode.name == "GLOBAL"}


@pytest.fixture
def chumpy(monkeypatch):
    """Look-alikes of chumpy's classes with the state that they pickle; their modules are gone when a file is read."""
    package, ch, reordering = (types.ModuleType(n) for n in ("chumpy", "chumpy.ch", "chumpy.reordering"))
    ch.Ch = type("Ch", (), {"__module__": "chumpy.ch"})
    reordering.Select = type("Select", (), {"__module__": "chumpy.reordering"})
    kept = {"_dirty_vars": set(), "_itr": None, "_depends_on_deps": None, "_status": "new"}

    class Chumpy:
        def dump(self, content, path):
            with monkeypatch.context() as patch:
                for module in (package, ch, reordering):
                    patch.setitem(sys.modules, module.__name__, module)
                return _dump(content, path)

        def array(self, x):
            made = ch.Ch()
            made.__dict__ = {**kept, "x": x, "_dirty_vars": {"x"}}
            return made

        def select(self, a, columns):
            """The first columns of an array's last axis, as SMPL's files keep 10 of 300."""
            made = reordering.Select()
            shape = (*a.shape[:2], columns)
            idxs = np.arange(a.size).reshape(a.shape)[..., :columns].ravel()
            made.__dict__ = {**kept, "a": self.array(a), "idxs": idxs, "preferred_shape": shape}
            return made

    return Chumpy()


def _tables(arrays):
    """The arrays that both bodies' files have."""
    parents = np.array(arrays["parents"])
    return {
        "v_template": arrays["v_template"],
        "posedirs": arrays["posedirs"],
        "weights": arrays["weights"],
        "kintree_table": np.stack([parents, np.arange(len(parents))]).astype(np.uint32),  # the root's parent: 2^32 - 1
        "f": arrays["faces"].astype(np.uint32),
        "J": arrays["J_regressor"] @ arrays["v_template"],
        "weights_prior": arrays["weights"],
        "vert_sym_idxs": np.arange(V),
        "pose_training_info": {"note": "none"},
        "bs_style": "lbs",
        "bs_type": "lrotmin",
    }


def _write_smpl(path, arrays, chumpy):
    """SMPL's .pkl: chumpy arrays, a Select of the 300 shape columns, sparse regressors."""
    content = _tables(arrays) | {
        "v_template": chumpy.array(arrays["v_template"]),
        "weights": chumpy.array(arrays["weights"]),
        "posedirs": chumpy.array(arrays["posedirs"]),
        "shapedirs": chumpy.select(arrays["shapedirs"], 10),
        "J": chumpy.array(arrays["J_regressor"] @ arrays["v_template"]),
        "J_regressor": sparse.csc_matrix(arrays["J_regressor"]),
        "J_regressor_prior": sparse.csc_matrix(arrays["J_regressor"]),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    return chumpy.dump(content, path)


def _smplx_content(arrays, seed=0):
    """SMPL-X's keys: 300 shape and 100 expression columns, hands, landmarks, texture, pickled dictionaries."""
    random = np.random.default_rng(seed)
    content = _tables(arrays) | {"J_regressor": arrays["J_regressor"], "shapedirs": arrays["shapedirs"]}
    for side in "lr":
        content[f"hands_mean{side}"] = random.normal(0, 0.2, 45)
        content[f"hands_components{side}"] = np.linalg.qr(random.normal(size=(45, 45)))[0]
        content[f"hands_coeffs{side}"] = random.normal(size=(1500, 45))
    content |= {
        "lmk_faces_idx": random.integers(0, 10, 51), "lmk_bary_coords": random.random((51, 3)),
        "dynamic_lmk_faces_idx": random.integers(0, 10, (79, 17)),
        "dynamic_lmk_bary_coords": random.random((79, 17, 3)),
        "vt": random.random((60, 2)), "ft": random.integers(0, 60, (10, 3)).astype(np.uint32),
        "joint2num": {"Pelvis": 0}, "part2num": {"Global": 0},
    }  # fmt: skip
    return content


def _write_smplx(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".pkl":
        return _dump(content, path)
    np.savez(path, **{k: np.array(v, object) if isinstance(v, dict) else v for k, v in content.items()})


def _assert_body(body, arrays, betas):
    for name in ("v_template", "posedirs", "weights", "J_regressor"):
        np.testing.assert_allclose(getattr(body, name), arrays[name], atol=1e-6)
    np.testing.assert_allclose(body.shapedirs, arrays["shapedirs"][..., :betas], atol=1e-7)
    assert body.parents == tuple(arrays["parents"])
    np.testing.assert_array_equal(body.faces, arrays["faces"])


@pytest.mark.parametrize("name", ["smpl/SMPL_FEMALE.pkl", "basicmodel_f_lbs_10_207_0_v1.1.0.pkl"])
def test_smpl_pickle(tmp_path, body_arrays, chumpy, name, capsys):
    arrays = body_arrays("smpl", vertices=V, betas=300)
    classes = _write_smpl(tmp_path / name, arrays, chumpy)
    assert classes == {
        "chumpy.ch Ch", "chumpy.reordering Select", "__builtin__ set", "scipy.sparse.csc csc_matrix", "numpy ndarray",
        "numpy dtype", "numpy.core.multiarray _reconstruct",
    }  # fmt: skip
    assert "chumpy" not in sys.modules
    body = load_body("smpl", str(tmp_path), gender="female", num_betas=10)
    _assert_body(body, arrays, 10)
    with pytest.raises(SystemExit) as end:
        cli(["convert-body", str(tmp_path / name), str(tmp_path / "clean" / "smpl" / "SMPL_FEMALE.npz")])
    assert end.value.code == 0 and "wrote" in capsys.readouterr().out
    _assert_clean(tmp_path / "clean" / "smpl" / "SMPL_FEMALE.npz")
    converted = load_body("smpl", str(tmp_path / "clean"), gender="female", num_betas=10)
    assert all(torch.equal(a, b) for a, b in zip(body.buffers(), converted.buffers()))


def _assert_clean(path):
    """Every array is readable without pickles, and the format is numpy's alone."""
    with np.load(path, allow_pickle=False) as archive:
        for key in archive.files:
            assert archive[key].dtype.kind in "fiuU", key
        return set(archive.files)


@pytest.mark.parametrize("suffix", [".npz", ".pkl"])
@pytest.mark.parametrize("columns", [400, 20])
def test_smplx_files(tmp_path, body_arrays, suffix, columns):
    arrays = body_arrays("smplx", vertices=V, betas=columns)
    content = _smplx_content(arrays)
    path = tmp_path / "smplx" / f"SMPLX_MALE{suffix}"
    _write_smplx(path, content)
    body = load_body("smplx", str(tmp_path), gender="male", num_betas=10, num_expression=10)
    _assert_body(body, arrays, 10)
    first = 300 if columns == 400 else 10
    np.testing.assert_allclose(body.expressiondirs, arrays["shapedirs"][..., first : first + 10], atol=1e-7)
    with pytest.raises(SystemExit) as end:
        cli(["convert-body", str(path), str(tmp_path / "clean.npz")])
    assert end.value.code == 0
    keys = _assert_clean(tmp_path / "clean.npz")
    assert {"hands_meanl", "hands_componentsr", "vt", "ft"} <= keys and not {"joint2num", "part2num"} & keys
    converted = load_body("smplx", str(tmp_path / "clean.npz"))
    assert all(torch.equal(a, b) for a, b in zip(body.buffers(), converted.buffers()))


@pytest.mark.parametrize("suffix", [".npz", ".pkl"])
def test_hands_are_completed_from_either_file(tmp_path, body_arrays, suffix):
    """Six coefficients a hand or offsets from the mean become the full pose, the same by every way."""
    content = _smplx_content(body_arrays("smplx", vertices=V, betas=20))
    _write_smplx(tmp_path / f"SMPLX_NEUTRAL{suffix}", content)
    body = load_body("smplx", str(tmp_path))
    mean = np.stack([content["hands_meanl"], content["hands_meanr"]])
    np.testing.assert_allclose(read_hand_mean("smplx", str(tmp_path), "neutral"), mean.reshape(30, 3))
    coefficients = np.random.default_rng(1).normal(size=(4, 12))
    halves = [c @ content[f"hands_components{s}"][:6] for c, s in zip(np.split(coefficients, 2, 1), "lr")]
    expected = (np.stack(halves, 1) + mean).reshape(4, 30, 3)
    np.testing.assert_allclose(read_hand_pca("smplx", str(tmp_path), "neutral")(coefficients), expected)
    left, right = torch.from_numpy(coefficients).float().split(6, 1)
    np.testing.assert_allclose(body.hand_pose(left, right, pca=True), expected, atol=1e-5)
    flat = load_body("smplx", str(tmp_path), flat_hand_mean=True)
    np.testing.assert_allclose(flat.hand_pose(left, right, pca=True), expected - mean.reshape(30, 3), atol=1e-5)
    np.testing.assert_allclose(body.big_pose()[25:], mean.reshape(30, 3), atol=1e-6)
    assert (flat.big_pose()[25:] == 0).all()


def test_the_gender_chooses_the_file(tmp_path, body_arrays, chumpy):
    for seed, gender in enumerate(("neutral", "male", "female")):
        arrays = body_arrays("smplx", vertices=V, betas=20, seed=seed)
        _write_smplx(tmp_path / "smplx" / f"SMPLX_{gender.upper()}.npz", _smplx_content(arrays))
        _assert_body(load_body("smplx", str(tmp_path), gender=gender), arrays, 10)
        arrays = body_arrays("smpl", vertices=V, betas=300, seed=seed)
        _write_smpl(tmp_path / "smpl" / f"SMPL_{gender.upper()}.pkl", arrays, chumpy)
        _assert_body(load_body("smpl", str(tmp_path), gender=gender), arrays, 10)


def test_a_missing_gender_names_those_that_are_there(tmp_path, body_arrays):
    _write_smplx(tmp_path / "smplx" / "SMPLX_NEUTRAL.npz", _smplx_content(body_arrays("smplx", vertices=V, betas=20)))
    with pytest.raises(FileNotFoundError) as error:
        load_body("smplx", str(tmp_path), gender="male")
    message = str(error.value)
    assert f"there is {tmp_path}/smplx/SMPLX_NEUTRAL.npz (body.gender=neutral)" in message
    assert f"  {tmp_path}/\n    smplx/\n      SMPLX_MALE.npz\n      or SMPLX_MALE.pkl\n" in message
    assert "registration at https://smpl-x.is.tue.mpg.de" in message and "body=demo" in message
    with pytest.raises(FileNotFoundError, match=r"/nowhere', which does not exist\. Expected"):
        load_body("smpl", str(tmp_path / "nowhere"))


@pytest.mark.parametrize("num_betas", [0, 1, 10, 16, 300])
def test_as_many_betas_as_wanted(tmp_path, body_arrays, num_betas):
    arrays = body_arrays("smplx", vertices=V, betas=400)
    _write_smplx(tmp_path / "SMPLX_NEUTRAL.npz", _smplx_content(arrays))
    body = load_body("smplx", str(tmp_path), num_betas=num_betas, num_expression=100)
    _assert_body(body, arrays, num_betas)
    np.testing.assert_allclose(body.expressiondirs, arrays["shapedirs"][..., 300:], atol=1e-7)
    with pytest.raises(ValueError, match=r"SMPLX_NEUTRAL.npz: num_betas is 301, but the file has 300 shape columns"):
        load_body("smplx", str(tmp_path), num_betas=301)


@pytest.mark.parametrize(("kind", "flat"), [("smplx", False), ("smplx", True), ("smpl", False)])
def test_the_canonical_body_is_the_skinning_body(tmp_path, body_arrays, body_pose, chumpy, kind, flat):
    """Gaussians start on the vertices that skinning moves, in its own big pose: the posed ones are its posed body."""
    arrays = body_arrays(kind, vertices=V, betas=20 if kind == "smplx" else 300)
    if kind == "smplx":
        _write_smplx(tmp_path / "SMPLX_NEUTRAL.npz", _smplx_content(arrays))
    else:
        _write_smpl(tmp_path / "SMPL_NEUTRAL.pkl", arrays, chumpy)
    config = OmegaConf.create((resources.files("r3avatar.configs") / "body" / f"{kind}.yaml").read_text())
    config.path = str(tmp_path)
    if flat:
        config.flat_hand_mean = True
    body = instantiate(config)
    avatar = build_avatar(body, recorded_length=10, skinning=None, pose_refinement=None, backend="torch")
    skinning, points = avatar.skinning, avatar.gaussians.positions
    assert skinning.body is body
    random = body_pose(body, frames=2)
    zeros = torch.zeros(1, body.num_betas), torch.zeros(1, body.num_expression)
    canonical = BodyPose(body.big_pose()[None], *zeros, torch.eye(3)[None], torch.zeros(1, 3))
    torch.testing.assert_close(points, body.vertices(canonical)[0])
    posed, _ = skinning(points.expand(2, -1, -1), skinning.pose(random), None)
    torch.testing.assert_close(posed, body.vertices(random), atol=1e-4, rtol=1e-4)
