"""The shipped open body: it is an SMPL-X-layout body, and it stands as one should."""

import numpy as np
import pytest
import torch

from r3avatar.body import demo_surface, load_body
from r3avatar.body.files import DEMO, demo_arrays
from r3avatar.types import BodyPose


@pytest.fixture(scope="module")
def body():
    return load_body("demo")


@pytest.fixture(scope="module")
def joints(body):
    return body.joints(torch.zeros(1, 10), torch.zeros(1, 10))[0].numpy()


def pose_of(body, theta, **other):
    F = len(theta)
    zeros = {"betas": torch.zeros(F, 10), "expression": torch.zeros(F, 10), "Th": torch.zeros(F, 3)}
    return BodyPose(theta=theta, R=torch.eye(3).expand(F, 3, 3), **{**zeros, **other})


def test_layout(body):
    arrays = demo_arrays()
    V = body.num_vertices
    assert (body.kind, body.num_joints, body.num_betas, body.num_expression) == ("smplx", 55, 10, 10)
    assert 8000 < V < 14000
    assert arrays["shapedirs"].shape == (V, 3, 20) and arrays["num_betas"] == 10
    assert len(arrays["shape_names"]) == len(arrays["expression_names"]) == 10
    np.testing.assert_array_equal(arrays["weights"].astype(np.float64).sum(1), 1)
    np.testing.assert_array_equal(arrays["J_regressor"].astype(np.float64).sum(1), 1)
    assert (arrays["weights"] > 0).sum(1).max() <= 4
    assert (arrays["J_regressor"] > 0).sum(1).max() < 40
    assert np.isfinite(arrays["shapedirs"]).all()


def test_file_is_small():
    from importlib import resources

    assert len((resources.files("r3avatar.body") / DEMO).read_bytes()) < 2_000_000


def test_t_pose(body, joints):
    v = body.v_template.numpy()
    assert np.ptp(v[:, 1]) == pytest.approx(1.7, abs=0.02)  # stature
    left, right = joints[[16, 18, 20]], joints[[17, 19, 21]]
    np.testing.assert_allclose(left[:, 1:], left[:1, 1:].repeat(3, 0), atol=1e-3)  # straight along x
    assert (np.diff(left[:, 0]) > 0.2).all(), "the left arm points to +x"
    np.testing.assert_allclose(left * [-1, 1, 1], right, atol=1e-3)
    assert joints[10, 2] > joints[7, 2] + 0.1, "the feet point to +z"
    assert v[v[:, 1] > joints[15, 1], 2].max() > joints[15, 2] + 0.08, "the face looks to +z"
    soles = [v[(np.sign(v[:, 0]) == side) & (v[:, 1] < joints[7, 1]), 1].min() for side in (1, -1)]
    np.testing.assert_allclose(soles, v[:, 1].min(), atol=1e-3)  # both feet on one ground
    for first in (25, 28, 31, 34):  # the fingers are straight
        bones = np.diff(joints[first : first + 3], axis=0)
        assert bones[0] @ bones[1] > 0.999 * np.linalg.norm(bones[0]) * np.linalg.norm(bones[1])


def test_joints_lie_within_the_vertices_they_move(body, joints):
    v, w = body.v_template.numpy(), body.weights.numpy()
    for j in range(55):
        own = v[w[:, j] > 0.1]
        assert len(own) >= 20, f"joint {j} moves {len(own)} vertices"
        box = own.min(0) - 0.06, own.max(0) + 0.06
        assert (joints[j] > box[0]).all() and (joints[j] < box[1]).all(), f"joint {j}"


@pytest.mark.parametrize("column", range(10))
@pytest.mark.parametrize("beta", [-2.0, 2.0])
def test_shapes_keep_the_pelvis_and_stay_human(body, joints, column, beta):
    betas = torch.zeros(1, 10)
    betas[0, column] = beta
    v = body.vertices(pose_of(body, torch.zeros(1, 55, 3), betas=betas))[0]
    shaped = body.joints(betas, torch.zeros(1, 10))[0].numpy()
    assert 1.4 < float(v[:, 1].max() - v[:, 1].min()) < 2.0
    np.testing.assert_allclose(shaped[0], joints[0], atol=0.01)
    assert 0.001 < (v - body.v_template).abs().max() < 0.25


def test_expressions_move_the_face_only(body, joints):
    moved = body.expressiondirs.norm(dim=1)  # [V, E]
    assert (moved.amax(0) > 0.002).all()
    assert (moved.amax(1)[body.v_template[:, 1] < joints[12, 1] - 0.05] == 0).all()


def test_jaw_and_eyes_move(body):
    parts = demo_surface()
    theta = torch.zeros(3, 55, 3)
    theta[0, 22, 0] = 0.3  # jaw opens
    theta[1, 23, 1] = theta[2, 24, 1] = 0.3  # left eye, right eye
    v = body.vertices(pose_of(body, theta)) - body.v_template
    eyes = np.isin(parts.part, [parts.part_names.index(name) for name in ("eye", "iris")])
    eyes = np.unique(body.faces.numpy()[eyes])
    assert v[0, body.weights[:, 22] > 0.5, 1].mean() < -0.004
    assert v[0, eyes].abs().max() < 1e-4
    left = body.v_template[eyes, 0] > 0
    assert v[1, eyes[left]].norm(dim=1).max() > 0.003 and v[1, eyes[~left]].abs().max() < 1e-6
    assert v[2, eyes[~left]].norm(dim=1).max() > 0.003


def test_surface(body):
    surface = demo_surface()
    T = len(body.faces)
    assert surface.uv_faces.shape == (T, 3) and surface.part.shape == (T,)
    assert surface.uv.min() >= 0 and surface.uv.max() <= 1 and surface.uv_faces.max() < len(surface.uv)
    counts = np.bincount(surface.part, minlength=len(surface.part_names))
    assert len(counts) == len(surface.part_names) and (counts > 10).all()
    height = body.v_template.numpy()[body.faces.numpy()].mean(1)[:, 1]
    by_part = [height[surface.part == i].mean() for i in range(len(counts))]
    named = dict(zip(surface.part_names, by_part))
    assert named["scalp"] > named["eye"] > named["lips"] > named["hand"] > named["body"] > named["foot"]


def test_faces_point_outwards(body):
    corners = body.v_template[body.faces]
    volume = torch.einsum("ti,ti->t", corners[:, 0], torch.linalg.cross(corners[:, 1], corners[:, 2])).sum() / 6
    assert 0.04 < volume < 0.09, f"{volume:.3f} cubic metres"


def write_smplx_file(path, *, seed=0):
    """The demo body as an SMPL-X file: with random correctives and mean hands, and the landmark keys of real files."""
    rng = np.random.default_rng(seed)
    arrays = demo_arrays()
    V = len(arrays["v_template"])
    del arrays["num_betas"]  # 20 columns are 10 + 10 by convention
    arrays["posedirs"] = rng.normal(size=(V, 3, 486)).astype(np.float32) * 1e-3
    arrays["hands_meanl"], arrays["hands_meanr"] = rng.normal(size=(2, 45)).astype(np.float32) * 0.2
    arrays |= {"lmk_faces_idx": np.zeros(51, np.int64), "lmk_bary_coords": np.full((51, 3), 1 / 3, np.float32)}
    np.savez(path, **{**arrays, "f": arrays["f"].astype(np.int64)})


@pytest.mark.filterwarnings("ignore")
def test_vertices_agree_with_the_smplx_package(tmp_path):
    smplx = pytest.importorskip("smplx")
    file = tmp_path / "SMPLX_NEUTRAL.npz"
    write_smplx_file(file)
    ours = load_body("smplx", str(file))
    F = 4
    options = {"num_betas": 10, "num_expression_coeffs": 10, "use_pca": False, "flat_hand_mean": False}
    theirs = smplx.create(str(file), model_type="smplx", gender="neutral", ext="npz", batch_size=F, **options)
    generator = torch.Generator().manual_seed(2)
    theta = 0.6 * torch.randn(F, 55, 3, generator=generator)
    betas, expression = torch.randn(2, F, 10, generator=generator) * 1.5
    Th = torch.randn(F, 3, generator=generator)
    names = {"global_orient": slice(0, 1), "body_pose": slice(1, 22), "jaw_pose": slice(22, 23)}
    names |= {"leye_pose": slice(23, 24), "reye_pose": slice(24, 25)}
    names |= {"left_hand_pose": slice(25, 40), "right_hand_pose": slice(40, 55)}
    parts = {name: theta[:, joints].flatten(1) for name, joints in names.items()}
    with torch.no_grad():
        expected = theirs(betas=betas, expression=expression, transl=Th, **parts)
    full = theta.clone()  # the package adds the mean hands; our theta is the full pose
    full[:, 25:] = ours.hand_pose(parts["left_hand_pose"], parts["right_hand_pose"], pca=False)
    found = ours.vertices(pose_of(ours, full, betas=betas, expression=expression, Th=Th))
    assert (found - expected.vertices).abs().max() < 1e-5
    found_joints = ours.skinning_transforms(ours.rotations(full), ours.joints(betas, expression))
    found_joints = torch.einsum("fjab,fjb->fja", found_joints[..., :3, :3], ours.joints(betas, expression)) + (
        found_joints[..., :3, 3] + Th[:, None]
    )
    assert (found_joints - expected.joints[:, :55]).abs().max() < 1e-5
