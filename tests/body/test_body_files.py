"""Body files: the places they are looked for, their columns, their errors, their configurations."""

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from r3avatar.body import load_body


def write_body(path, kind, body_arrays, columns, seed=0):
    """A small random body in the file layout of SMPL / SMPL-X."""
    arrays = body_arrays(kind, betas=columns, seed=seed)
    parents = np.array(arrays["parents"])
    table = np.stack([parents, np.arange(len(parents))]).astype(np.uint32)  # -1 becomes 4294967295, as in real files
    content = {k: arrays[k] for k in ("v_template", "shapedirs", "posedirs", "J_regressor", "weights")}
    content |= {"kintree_table": table, "f": arrays["faces"]}
    if kind == "smplx":
        content |= {"hands_meanl": np.full(45, 0.1), "hands_meanr": np.full(45, -0.1)}
        content |= {"hands_componentsl": np.eye(45), "hands_componentsr": np.eye(45)}
        content |= {"joint2num": np.array({"pelvis": 0}, dtype=object)}  # pickled in real files: must not be read
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **content)
    return content


@pytest.mark.parametrize("place", ["smplx/SMPLX_MALE.npz", "SMPLX_MALE.npz"])
def test_smplx_columns(tmp_path, body_arrays, place):
    content = write_body(tmp_path / place, "smplx", body_arrays, 400)
    body = load_body("smplx", str(tmp_path), gender="male", num_betas=12, num_expression=5)
    np.testing.assert_allclose(body.shapedirs, content["shapedirs"][..., :12], atol=1e-7)
    np.testing.assert_allclose(body.expressiondirs, content["shapedirs"][..., 300:305], atol=1e-7)
    np.testing.assert_allclose(body.big_pose()[25:40], 0.1, atol=1e-7)
    assert body.parents[0] == -1
    published = load_body("smplx", str(tmp_path / place), num_betas=12, num_expression=5, published_expression=True)
    np.testing.assert_allclose(published.expressiondirs, content["shapedirs"][..., 12:17], atol=1e-7)
    flat = load_body("smplx", str(tmp_path / place), flat_hand_mean=True)
    assert (flat.big_pose()[25:] == 0).all()


def test_older_smplx_files_hold_ten_expression_columns(tmp_path, body_arrays):
    content = write_body(tmp_path / "old.npz", "smplx", body_arrays, 20)
    body = load_body("smplx", str(tmp_path / "old.npz"))
    np.testing.assert_allclose(body.expressiondirs, content["shapedirs"][..., 10:], atol=1e-7)
    with pytest.raises(ValueError, match=r"old.npz: num_betas is 11, but the file has 10 shape columns"):
        load_body("smplx", str(tmp_path / "old.npz"), num_betas=11)
    write_body(tmp_path / "odd.npz", "smplx", body_arrays, 25)
    with pytest.raises(ValueError, match=r"odd.npz: shapedirs has 25 columns.*num_betas"):
        load_body("smplx", str(tmp_path / "odd.npz"))


def test_smpl_npz(tmp_path, body_arrays):
    write_body(tmp_path / "smpl" / "SMPL_NEUTRAL.npz", "smpl", body_arrays, 10)
    body = load_body("smpl", str(tmp_path))
    assert (body.kind, body.num_betas, body.num_expression) == ("smpl", 10, 0)
    with pytest.raises(ValueError, match="SMPL has no expression"):
        load_body("smpl", str(tmp_path), published_expression=True)


def test_missing_file_says_what_was_expected(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        load_body("smplx", str(tmp_path), gender="female")
    message = str(error.value)
    for part in (f"{tmp_path}/\n    smplx/\n      SMPLX_FEMALE.npz", "https://smpl-x.is.tue.mpg.de", "body=demo"):
        assert part in message
    with pytest.raises(FileNotFoundError, match=r"(?s)body.path is None.*SMPL_NEUTRAL.pkl.*https://smpl.is.tue.mpg.de"):
        load_body("smpl")


def test_wrong_files_are_named(tmp_path, body_arrays):
    content = write_body(tmp_path / "a.npz", "smpl", body_arrays, 10)
    np.savez(tmp_path / "b.npz", **{k: v for k, v in content.items() if k != "weights"})
    with pytest.raises(ValueError, match=r"b.npz: no key weights; it has J_regressor"):
        load_body("smpl", str(tmp_path / "b.npz"))
    with pytest.raises(
        ValueError, match=r"a.npz: .*expected .* for smplx|a.npz: .*hands_meanl|a.npz: shapedirs has 10"
    ):
        load_body("smplx", str(tmp_path / "a.npz"))
    (tmp_path / "c.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"c.npz: not a .npz archive"):
        load_body("smpl", str(tmp_path / "c.npz"))
    (tmp_path / "d.obj").write_text("")
    with pytest.raises(ValueError, match=r"d.obj: expected a .npz or .pkl"):
        load_body("smpl", str(tmp_path / "d.obj"))
    with pytest.raises(ValueError, match="body kind is 'star'"):
        load_body("star")
    with pytest.raises(ValueError, match="gender is 'other'"):
        load_body("demo", gender="other")
    with pytest.raises(ValueError, match="the demo body is neutral"):
        load_body("demo", gender="male")


@pytest.mark.parametrize("name", ["demo", "smplx", "smpl"])
def test_configurations(tmp_path, body_arrays, name):
    from importlib import resources

    config = OmegaConf.create((resources.files("r3avatar.configs") / "body" / f"{name}.yaml").read_text())
    if name != "demo":
        assert OmegaConf.is_missing(config, "path")
        write_body(tmp_path / f"{name.upper()}_NEUTRAL.npz", name, body_arrays, 20 if name == "smplx" else 10)
        config.path = str(tmp_path)
    body = instantiate(config)
    assert (body.num_betas, body.num_expression) == (config.num_betas, config.num_expression)
