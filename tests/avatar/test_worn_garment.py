"""A garment that is worn carries what lies on it, and nothing else."""

import functools
from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from r3avatar.avatar import Avatar, CanonicalGaussians, TemporalCodebook, build_avatar
from r3avatar.avatar.cloth_bone import ShownFrame
from r3avatar.avatar.first_garment import body_up, put_on_garment
from r3avatar.avatar.worn_garment import WornGarment, dressed
from r3avatar.body import load_body
from r3avatar.body.model import rodrigues
from r3avatar.cloth import fit as fitting
from r3avatar.cloth import motion as moving
from r3avatar.cloth import tailor as tailoring
from r3avatar.cloth.motion import Wearer, dress
from r3avatar.cloth.tailor import KINDS, Cut, tailor
from r3avatar.rasterizer.projection import covariance_from_scale_rotation
from r3avatar.training.density import DensityEdit, apply_edit
from r3avatar.training.optimizer import make_optimizer
from r3avatar.types import BodyPose

CODEBOOK = functools.partial(TemporalCodebook, spatial_resolutions=(4, 8), time_resolution=3, channels=4)
CUTS = {"skirt": Cut("skirt", 0.5, 2.0), "trousers": Cut("trousers", 0.6, 0.4), "cape": Cut("cape", 0.6, 0.4)}
Z_UP = torch.tensor([0.0, 0.0, 1.0])
FRAMES = [3, 5, 4]  # ids
LEAN = rodrigues(torch.tensor([np.pi / 2, 0.0, 0.0]).float())  # y to z


@pytest.fixture(scope="module")
def body():
    return load_body("demo")


def _poses(body, frames, seed=0):
    """A person of some shape who moves in a world where z is up."""
    g = torch.Generator().manual_seed(seed)
    theta = 0.1 * torch.randn(frames, 55, 3, generator=g)
    betas = torch.tensor([0.8, -0.5, 0.3] + [0.0] * (body.num_betas - 3)).repeat(frames, 1)
    return BodyPose(
        theta, betas, torch.zeros(frames, body.num_expression),
        LEAN @ rodrigues(torch.tensor([0.0, 1.0, 0.0]) * torch.randn(frames, 1, generator=g)),
        torch.randn(frames, 3, generator=g),
    )  # fmt: skip


def _put_on(worn, body, cut, rows=8, columns=24):
    """A garment around the wearer at rest, a little crumpled in each frame; where it was, the world y up."""
    wearer = Wearer(body, _poses(body, 1), Z_UP)
    garment = tailor(cut, wearer.rest_vertices, wearer.rest_joints, wearer.weights, rows, columns)
    random = np.random.default_rng(0)
    places = garment.grid.start + 0.005 * random.standard_normal((len(FRAMES), rows * columns, 3))
    worn.put_on(garment, wearer, FRAMES, places)
    return garment, wearer, places


@pytest.fixture(scope="module", params=KINDS)
def worn(body, request):
    worn = WornGarment(body)
    _put_on(worn, body, CUTS[request.param])
    return worn


def _rigid(seed=0, frames=None):
    """Random rotations and shifts."""
    g = torch.Generator().manual_seed(seed)
    shape = () if frames is None else (frames,)
    return rodrigues(2 * torch.randn(*shape, 3, generator=g)), torch.randn(*shape, 3, generator=g)


def _avatar(body, garment="skirt", backend="auto", **options):
    """One with Gaussians on every hundredth vertex and on every particle; the latter are worn."""
    torch.manual_seed(0)
    avatar = build_avatar(body, 10, codebook=CODEBOOK, garment=garment, backend=backend, shading=True, **options)
    _put_on(avatar.garment, body, CUTS[garment])
    points = torch.cat([avatar.skinning.big_vertices[::100], avatar.garment.rest])
    is_worn = (torch.arange(len(points)) >= len(points) - len(avatar.garment.rest)).float()
    normals = torch.nn.functional.normalize(torch.randn(len(points), 3), dim=1)
    avatar.gaussians = CanonicalGaussians(points, 3, normals=normals, worn=is_worn)
    return avatar


def _equal(a, b):
    return all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))


def test_its_state_is_all_of_it(body, worn):
    fresh = WornGarment(body)
    fresh.load_state_dict(worn.state_dict())
    assert worn.worn and fresh.worn and fresh.garment.cut == worn.garment.cut
    for name in ("start", "flat"):
        np.testing.assert_array_equal(getattr(fresh.garment.grid, name), getattr(worn.garment.grid, name))
    np.testing.assert_array_equal(fresh.garment.sewn_to, worn.garment.sewn_to)
    np.testing.assert_array_equal(fresh.wearer().turn, worn.wearer().turn)
    frames = torch.tensor(FRAMES)
    assert torch.equal(fresh.recorded(frames), worn.recorded(frames)) and torch.equal(fresh.rest, worn.rest)
    points = worn.rest[:50] + 0.01
    assert _equal(fresh.hold(points), worn.hold(points))
    assert set(worn.state_dict()) == {"measures", "up", "betas", "expression", "frames", "places"}


def test_a_state_of_none_is_none(body, worn):
    empty, dressed_before = WornGarment(body), WornGarment(body)
    assert not empty.worn
    fresh = WornGarment(body)
    fresh.load_state_dict(empty.state_dict())
    dressed_before.load_state_dict(worn.state_dict())
    dressed_before.load_state_dict(empty.state_dict())
    assert not fresh.worn and not dressed_before.worn


@pytest.mark.parametrize("name", ["measures", "places"])
def test_a_state_that_lacks_something_is_refused_by_its_name(body, worn, name):
    with pytest.raises(RuntimeError, match=f'Missing key.*"{name}"'):
        WornGarment(body).load_state_dict({k: v for k, v in worn.state_dict().items() if k != name})


def test_a_whole_avatar_loads_what_it_wears(body):
    avatar, pose = _avatar(body), _poses(body, 2)
    fresh = build_avatar(body, 10, codebook=CODEBOOK, garment="auto", shading=True)
    assert not fresh.garment.worn and not fresh.gaussians.worn.any()
    fresh.load_state_dict(avatar.state_dict())
    frames = torch.tensor([4, 3])
    assert _equal(*(a(a.dressed(pose, frames), torch.tensor([1.0, 2.0])) for a in (avatar, fresh)))
    with pytest.raises(RuntimeError, match="garment"):  # one that can wear none
        build_avatar(body, 10, codebook=CODEBOOK, shading=True).load_state_dict(avatar.state_dict())


def test_density_control_hands_on_what_is_worn(body):
    avatar = _avatar(body)
    N, parents = len(avatar.gaussians), torch.tensor([2, len(avatar.gaussians) - 1])
    new = {name: value[parents] for name, value in avatar.gaussians.named_parameters(recurse=False)}
    apply_edit(make_optimizer(avatar, 1.0), avatar.gaussians, DensityEdit(torch.arange(N), new, parents, 2, 0, 0, 0))
    assert avatar.gaussians.worn[N:].tolist() == [0, 1] and not avatar.gaussians.worn.requires_grad


def test_recorded_places_are_the_worlds(body):
    worn = WornGarment(body)
    garment, wearer, places = _put_on(worn, body, CUTS["skirt"])
    maps = worn.recorded(torch.tensor([4, 3, 4]))
    found = (maps[..., :3] @ worn.rest[..., None])[..., 0] + maps[..., 3]
    expected = places[[2, 0, 2]] @ wearer.turn  # back from y up
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-6)
    height = expected.reshape(3, garment.grid.rows, -1, 3)[..., 2].mean(-1)
    assert (height[:, 0] > height[:, -1] + 0.3).all()  # z is up


def test_maps_are_rigid(worn):
    turns = worn.recorded(torch.tensor(FRAMES))[..., :3]
    torch.testing.assert_close(turns @ turns.mT, torch.eye(3).expand_as(turns), atol=1e-5, rtol=0)
    assert torch.linalg.det(turns).min() > 0.99


def test_as_it_was_cut_nothing_moves(worn):
    maps = worn.maps(worn.rest[None])
    torch.testing.assert_close(maps, torch.eye(3, 4).expand_as(maps), atol=2e-6, rtol=0)


def test_particles_that_move_rigidly_have_that_motion_for_a_map(worn):
    turn, shift = _rigid(frames=3)
    maps = worn.maps(worn.rest @ turn.mT + shift[:, None])
    expected = torch.cat([turn, shift[..., None]], -1)[:, None].expand_as(maps)
    torch.testing.assert_close(maps, expected, atol=2e-5, rtol=0)


def test_normals_point_away_from_the_body(worn):
    wearer, cut = worn.wearer(), worn.garment.cut
    torch.testing.assert_close(worn.normals.norm(dim=1), torch.ones(len(worn.rest)))
    if cut.kind == "cape":
        assert (worn.normals[:, 2] < 0).all()
        return
    hips = torch.from_numpy(wearer.rest_joints[[1, 2]]).float()
    centre = torch.where(worn.rest[:, :1] > 0, hips[0], hips[1]) if cut.kind == "trousers" else hips.mean(0)
    outward = (worn.rest - centre) * torch.tensor([1.0, 0.0, 1.0])
    assert ((worn.normals * outward).sum(1) > 0).float().mean() > 0.95


def test_the_nearest_particle_carries_the_most(worn):
    random = torch.Generator().manual_seed(0)
    hold = worn.hold(worn.rest)
    own = torch.arange(len(worn.rest))
    assert torch.equal(hold.particles[own, hold.shares.argmax(1)], own)
    assert (hold.shares.max(1).values > 0.15).all()
    near = worn.rest + 0.02 * torch.randn(worn.rest.shape, generator=random)
    for points in (worn.rest, near, near + 3.0):
        points = points.clone().requires_grad_()
        hold = worn.hold(points)
        assert hold.particles.shape == hold.shares.shape == (len(worn.rest), 9) and not hold.shares.requires_grad
        torch.testing.assert_close(hold.shares.sum(1), torch.ones(len(points)))
        assert (hold.shares >= 0).all() and hold.shares.isfinite().all()
        nearest = torch.cdist(points, worn.rest).argmin(1)
        top = hold.particles.gather(1, hold.shares.argmax(1, keepdim=True))[:, 0]
        apart = (points - worn.rest[top]).norm(dim=1) - (points - worn.rest[nearest]).norm(dim=1)
        assert apart.max() < 1e-5


def test_shares_are_of_neighbours_only(worn):
    """Beyond hem, edge and sides there is nobody, and no leg's particle carries the other's."""
    grid = worn.garment.grid
    hold = worn.hold(worn.rest + 0.001)
    nearest = hold.particles[:, 0]
    row, column = nearest // grid.columns, nearest % grid.columns
    ends = (row == 0) | (row == grid.rows - 1)
    sides = (column == 0) | (column == grid.columns - 1) if not grid.closed else torch.zeros_like(ends)
    count = (hold.shares > 0).sum(1)
    assert (count[~ends & ~sides] == 9).all() and (count[ends ^ sides] == 6).all() and (count[ends & sides] == 4).all()
    carried = hold.shares > 0
    apart = (hold.particles // grid.columns - row[:, None]).abs()[carried]
    assert apart.max() == 1
    width = grid.columns // grid.tubes
    other = hold.particles % grid.columns // width != (column // width)[:, None]
    assert not (other & carried).any()


def test_what_is_worn_lands_where_the_particles_go(body):
    """With the particles moved rigidly: means, covariances and normals, whatever the pose."""
    avatar, pose = _avatar(body), _poses(body, 2, seed=1)
    turn, shift = _rigid(seed=2, frames=2)
    pose = dressed(pose, avatar.garment.maps(avatar.garment.rest @ turn.mT + shift[:, None]))
    attributes = avatar.record(torch.tensor([1.0, 2.0]))
    with torch.no_grad():
        found = avatar.reconstruct(attributes, pose)
    is_worn = avatar.gaussians.worn.bool()
    canonical = avatar.gaussians.positions + attributes.offset
    expected = (canonical @ turn.mT + shift[:, None])[:, is_worn]
    torch.testing.assert_close(found.means[:, is_worn], expected, atol=2e-5, rtol=0)
    linear = turn[:, None].expand(-1, len(is_worn), -1, -1)
    covariances = covariance_from_scale_rotation(attributes.scale, attributes.rotation, linear)[:, is_worn]
    assert (found.covariances[:, is_worn] - covariances).norm() < 1e-4 * covariances.norm()
    assert (found.means - (canonical @ turn.mT + shift[:, None]))[:, ~is_worn].norm(dim=-1).min() > 0.01
    own = avatar.garment.carry(avatar.constants().hold, avatar.gaussians.worn, pose)
    *_, normals = avatar.skinning.deform(
        canonical, avatar.skinning.pose(pose), avatar.skinning_logits(), attributes.scale, attributes.rotation,
        normals=avatar.gaussians.normals, own=own,
    )  # fmt: skip
    turned = (avatar.gaussians.normals @ turn.mT)[:, is_worn]
    torch.testing.assert_close(normals[:, is_worn], turned, atol=2e-5, rtol=0)


def test_points_off_the_garment_follow_what_they_are_nearest_to(body):
    """A tube twice as wide: what lay a little off it lies about as far off it, at its new place."""
    worn = WornGarment(body)
    _put_on(worn, body, CUTS["skirt"], 16, 48)
    centre = worn.rest.mean(0) * torch.tensor([1.0, 0.0, 1.0])
    wide = centre + (worn.rest - centre) * torch.tensor([2.0, 1.0, 2.0])
    points = worn.rest + 0.01 * worn.normals
    own = worn.carry(
        worn.hold(points), torch.ones(len(points)), replace(_poses(body, 1), garment=worn.maps(wide[None]))
    )
    pose = _poses(body, 1)
    maps = pose.R[:, None] @ own.maps
    found = (maps[..., :3] @ points[..., None])[..., 0] + maps[..., 3] + pose.Th[:, None]
    inner = slice(48, -48)
    assert (found[0] - wide)[inner].norm(dim=1).mean() < 0.03 and (wide - worn.rest).norm(dim=1).mean() > 0.1


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_what_is_not_worn_is_as_without_a_garment(body, backend):
    avatar = _avatar(body, backend=backend)
    parts = (avatar.gaussians, avatar.codebook, avatar.decoder, avatar.skinning, avatar.pose_refinement)
    bare = Avatar(*parts, shading=avatar.shading)
    pose, times = _poses(body, 2), torch.tensor([1.0, 2.0])
    found, expected = avatar(avatar.dressed(pose, torch.tensor([5, 3])), times), bare(pose, times)
    rows = avatar.gaussians.worn == 0
    for name in ("means", "covariances", "opacities", "sh"):
        assert torch.equal(getattr(found, name)[:, rows], getattr(expected, name)[:, rows]), name
    assert (found.means - expected.means)[:, ~rows].norm(dim=-1).mean() > 0.05
    unworn = Avatar(*parts, shading=avatar.shading, garment=WornGarment(body))
    assert _equal(unworn(pose, times), expected) and unworn.constants().hold is None


@pytest.mark.parametrize("garment", KINDS)
def test_numba_is_the_twin_of_torch(body, garment):
    """Values, and the gradients of offsets, scales, rotations and normals."""
    avatar = _avatar(body, garment)
    pose = avatar.dressed(_poses(body, 2), torch.tensor([5, 3]))
    g, N = torch.Generator().manual_seed(1), len(avatar.gaussians)
    leaves = {
        "offset": 0.01 * torch.randn(2, N, 3, generator=g), "scale": 0.01 * torch.randn(2, N, 3, generator=g).exp(),
        "rotation": torch.randn(2, N, 4, generator=g), "logits": torch.randn(N, 55, generator=g),
        "normals": torch.randn(N, 3, generator=g),
    }  # fmt: skip
    for leaf in leaves.values():
        leaf.requires_grad_()
    results = {}
    for backend in ("auto", "torch"):
        avatar.skinning.backend = backend
        own = avatar.garment.carry(avatar.constants().hold, avatar.gaussians.worn, pose)
        found = avatar.skinning.deform(
            avatar.gaussians.positions.detach() + leaves["offset"], avatar.skinning.pose(pose), leaves["logits"],
            leaves["scale"], leaves["rotation"], normals=leaves["normals"], own=own,
        )  # fmt: skip
        directions = torch.Generator().manual_seed(2)
        total = sum((x * torch.randn(x.shape, generator=directions)).sum() for x in found)
        results[backend] = (*found, *torch.autograd.grad(total, list(leaves.values())))
    is_worn = avatar.gaussians.worn.bool()
    for a, b in zip(*results.values()):
        for rows in (is_worn, ~is_worn):
            a_of, b_of = (x[..., rows, :] for x in (a, b))
            assert (a_of - b_of).norm() <= 1e-5 * b_of.norm()
    d_logits = results["auto"][-2]
    assert not d_logits[is_worn].any() and d_logits[~is_worn].any()


def test_reconstruction_is_the_same_on_both_backends(body):
    avatar, times = _avatar(body), torch.tensor([1.0, 2.0])
    pose = avatar.dressed(_poses(body, 2), torch.tensor([4, 3]))
    leaves = {k: v.detach().requires_grad_() for k, v in vars(avatar.record(times)).items() if v is not None}
    results = []
    for backend in ("auto", "torch"):
        avatar.skinning.backend = backend
        found = avatar.reconstruct(replace(avatar.record(times), **leaves), pose)
        total = (found.means.square().sum() + 1e4 * found.covariances.square().sum() + found.sh.square().sum())
        wanted = [leaves[name] for name in ("offset", "scale", "rotation")]
        results.append((found.means, found.covariances, found.sh, *torch.autograd.grad(total, wanted)))
    for a, b in zip(*results):
        assert (a - b).norm() <= 1e-4 * b.norm()


def test_constants_change_nothing(body):
    avatar, times = _avatar(body), torch.tensor([1.0, 2.0])
    pose = avatar.dressed(_poses(body, 2), torch.tensor([4, 3]))
    with torch.no_grad():
        attributes = avatar.record(times)
        assert _equal(avatar.reconstruct(attributes, pose, avatar.constants()), avatar.reconstruct(attributes, pose))


def test_a_pose_must_say_how_the_garment_hangs(body):
    avatar, pose = _avatar(body), _poses(body, 1)
    with pytest.raises(ValueError, match=r"Avatar\.dressed"):
        avatar(pose, torch.tensor([1.0]))
    known = avatar.dressed(pose, torch.tensor([5]))
    assert avatar(known, torch.tensor([1.0])).means.isfinite().all()
    assert avatar.dressed(known, torch.tensor([3])) is known and avatar.dress(known, 10.0) is known  # as it says
    bare = build_avatar(body, 10, codebook=CODEBOOK)
    unworn = build_avatar(body, 10, codebook=CODEBOOK, garment="auto")
    for other in (bare, unworn):
        assert other.dressed(pose, torch.tensor([3])) is pose and other.dress(pose, 10.0) is pose


def test_a_frame_that_was_not_recorded_is_refused(body):
    worn = WornGarment(body)
    _put_on(worn, body, CUTS["skirt"])
    with pytest.raises((ValueError, IndexError, KeyError)):
        worn.recorded(torch.tensor([9]))
    with pytest.raises((ValueError, IndexError, KeyError)):
        worn.recorded(torch.tensor([1]))


def test_in_a_new_motion_it_is_simulated(body):
    avatar, pose = _avatar(body), _poses(body, 3)
    pose.R, pose.theta = pose.R[:1].repeat(3, 1, 1), pose.theta[:1].repeat(3, 1, 1)
    pose.Th = pose.Th[:1] + torch.tensor([[0.0], [0.1], [0.2]]) * Z_UP
    found = avatar.dress(pose, 10.0)
    assert torch.equal(found.garment, avatar.dress(pose, 10.0).garment) and found.theta is pose.theta
    worn = avatar.garment
    places = (found.garment[..., :3] @ worn.rest[..., None])[..., 0] + found.garment[..., 3]
    expected = dress(worn.wearer(), worn.garment, pose, range(3), 10.0) @ worn.wearer().turn
    np.testing.assert_allclose(places.numpy(), expected, atol=5e-6)
    vertices = body.vertices(pose).double().numpy()
    edge = worn.garment.grid.columns
    for frame, vertex in zip(places.double().numpy(), vertices):
        assert cKDTree(vertex).query(frame[:edge])[0].max() < 0.04
    height = places[..., 2].reshape(3, -1, edge).mean(-1)
    assert (height[:, 0] > height[:, -1] + 0.2).all()
    assert avatar(found, torch.tensor([0.0, 1.0, 2.0])).means.isfinite().all()
    fresh = build_avatar(body, 10, codebook=CODEBOOK, garment="auto", shading=True)
    fresh.load_state_dict(avatar.state_dict())  # needs nothing but its state
    assert torch.equal(fresh.dress(pose, 10.0).garment, found.garment)


@pytest.mark.parametrize("axis", [[0.0, 1, 0], [0.0, 0, 1], [0.0, -1, 0], [-1.0, 0, 0]])
@pytest.mark.parametrize("in_root", [True, False])
def test_up_is_an_axis_where_bodies_stand_upright(body, axis, in_root):
    """The root's rotation or R make it so; bodies lean and turn."""
    axis, g = torch.tensor(axis), torch.Generator().manual_seed(0)
    aside = torch.tensor([1.0, 0, 0]) if axis[0] == 0 else torch.tensor([0.0, 0, 1])
    upright = torch.stack([aside, axis, torch.linalg.cross(aside, axis)], 1)
    about = rodrigues(torch.tensor([0.0, 1, 0]) * 3 * torch.randn(20, 1, generator=g))
    lean = rodrigues(0.2 * torch.randn(20, 3, generator=g))
    poses = _poses(body, 20)
    turns = upright @ about @ lean
    if in_root:
        poses.theta[:, 0] = torch.from_numpy(Rotation.from_matrix(turns.double().numpy()).as_rotvec()).float()
        poses.R = torch.eye(3).repeat(20, 1, 1)
    else:
        poses.theta[:, 0], poses.R = 0, turns
    up = body_up(poses)
    assert torch.equal(up, axis)


def test_up_is_where_bodies_point_if_that_is_no_axis(body):
    poses, tilt = _poses(body, 10), rodrigues(torch.tensor([0.9, 0.0, 0.0]))
    poses.theta[:, 0] = 0
    poses.R = tilt @ rodrigues(torch.tensor([0.0, 1.0, 0.0]) * torch.arange(10)[:, None])
    torch.testing.assert_close(body_up(poses), tilt[:, 1])
    poses.R = rodrigues(torch.tensor([0.3, 0.0, 0.0])).expand(10, 3, 3)  # near one
    assert body_up(poses).tolist() == [0, 1, 0]


def test_the_garment_in_the_masks_is_put_on(body, monkeypatch):
    monkeypatch.setattr(tailoring, "size_of", lambda kind, coarse: (12, 32))
    frames, turn = 6, Wearer(body, _poses(body, 1), Z_UP).turn
    poses = replace(_poses(body, frames), theta=torch.zeros(frames, 55, 3), R=LEAN.repeat(frames, 1, 1))
    poses.Th = torch.zeros(frames, 3)
    swing = 0.4 * torch.sin(0.9 * torch.arange(frames))
    poses.theta[:, 1, 0], poses.theta[:, 2, 0] = -swing, swing
    wearer, ids = Wearer(body, poses, Z_UP), list(range(10, 10 + frames))
    cut = Cut("skirt", 0.55, 1.8)
    truth = tailor(cut, wearer.rest_vertices, wearer.rest_joints, wearer.weights, 12, 32)
    places = torch.from_numpy(dress(wearer, truth, poses, ids, 10.0) @ turn).float()
    shown, vertices = [], body.vertices(poses)
    for k in (1, 4):
        hull = torch.cat([vertices[k], places[k]])
        loose = places[k][torch.cdist(places[k], vertices[k]).amin(1) > 0.03].repeat(4, 1)
        tree = cKDTree(hull.double().numpy())

        def inside(points, tree=tree):
            return torch.from_numpy(tree.query(points.double().numpy())[0] < 0.04)

        shown.append(ShownFrame(None, hull, loose, None, ids[k], inside))
    capture = SimpleNamespace(poses=poses, frame_ids=ids, fps=10.0)
    worn = WornGarment(body)
    put_on_garment(worn, "skirt", body, capture, shown)
    assert worn.worn and worn.garment.cut.kind == "skirt" and worn.garment.cut.length == pytest.approx(0.55, rel=0.2)
    assert worn.frames.tolist() == ids and worn.places.shape == (frames, 12 * 32, 3) and worn.up.tolist() == [0, 0, 1]
    missed = [torch.cdist(places[k], worn.places[k]).amin(1).mean() for k in range(frames)]
    assert max(missed) < 0.04
    bare = [replace(frame, off_body=frame.off_body[:0]) for frame in shown]
    nothing = WornGarment(body)
    put_on_garment(nothing, "auto", body, capture, bare)
    assert not nothing.worn
    with pytest.raises(ValueError, match="garment 'kilt' is none of auto, skirt, trousers, cape"):
        put_on_garment(nothing, "kilt", body, capture, shown)


def test_a_garment_needs_images_and_a_capture(body):
    with pytest.raises(ValueError, match="needs the capture whose poses it follows"):
        build_avatar(body, 10, codebook=CODEBOOK, garment="skirt", images=lambda frames: [])


@pytest.mark.parametrize("kind", ["auto", "skirt"])
def test_a_simulation_that_ends_in_no_numbers_is_not_worn(body, monkeypatch, caplog, kind):
    poses = _poses(body, 3)
    capture = SimpleNamespace(poses=poses, frame_ids=[0, 1, 2], fps=10.0)
    monkeypatch.setattr(fitting, "fit_garment", lambda *given: (Cut("skirt", 0.5, 1.0), 0.05))
    monkeypatch.setattr(moving, "dress", lambda *given: np.full((3, 24 * 64, 3), np.nan))
    worn = WornGarment(body)
    if kind == "auto":
        put_on_garment(worn, kind, body, capture, [])
        assert not worn.worn and "no garment is worn" in caplog.text
    else:
        with pytest.raises(ValueError, match="garment=null"):
            put_on_garment(worn, kind, body, capture, [])
