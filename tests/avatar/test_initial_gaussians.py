"""First Gaussians: back to the big pose, on the cloth that masks show, with the images' colours."""

import pytest
import torch

from r3avatar.avatar import TemporalCodebook, build_avatar
from r3avatar.avatar.cloth_bone import to_big_pose
from r3avatar.avatar.initial_colours import initial_colours
from r3avatar.avatar.initial_gaussians import initial_gaussians_of
from r3avatar.avatar.initial_points import off_body_points, shown_frames, thin
from r3avatar.avatar.skinning import Skinning
from r3avatar.body import load_body
from r3avatar.rasterizer.spherical_harmonics import C0

from .dotted_images import batch_of, cameras_around, poses_of, smpl_body

pytestmark = pytest.mark.usefixtures("one_thread")
BODIES = {"smpl": smpl_body, "smplx": lambda: load_body("demo")}
BALL, RADIUS = torch.tensor([0.0, 0.1, -0.3]), 0.17  # big pose: at the back, touching it


def codebook(**kwargs):
    return TemporalCodebook(**kwargs, spatial_resolutions=(16,), time_resolution=5, channels=8)


def ball(points: int = 4000) -> torch.Tensor:
    """Points all over a ball, and the seams to the body."""
    number = torch.arange(points) + 0.5
    y, angle = 1 - 2 * number / points, number * 2.399963
    ring = (1 - y**2).sqrt()
    return BALL + RADIUS * torch.stack([ring * angle.cos(), y, ring * angle.sin()], 1)


def texture(points: torch.Tensor) -> torch.Tensor:
    """Colours that change slowly over the big pose."""
    return 0.5 + 0.4 * torch.stack([(3 * points[:, 0]).sin(), (4 * points[:, 1]).cos(), (9 * points[:, 2]).sin()], 1)


@pytest.fixture(scope="module", params=BODIES)
def scene(request):
    """A body that carries a ball on its back: the body, and three frames seen by twenty cameras."""
    body = BODIES[request.param]()
    skinning, poses = Skinning(body, None, "torch"), poses_of(body, 3)
    canonical = torch.cat([skinning.big_vertices, ball()])
    batches = []
    for k in range(3):
        pose = poses[k : k + 1]
        posed, _ = skinning(canonical[None], skinning.pose(pose), None)
        cameras = cameras_around(20, tuple(posed[0].mean(0).tolist()))
        # Two batches a frame, as of cameras with two sizes of image.
        batches += [batch_of(k, pose, part, posed[0], texture(canonical)) for part in (cameras[:12], cameras[12:])]
    return body, batches


@pytest.mark.parametrize("kind", BODIES)
def test_places_return_to_the_big_pose(kind):
    body = BODIES[kind]()
    skinning, pose = Skinning(body, None, "torch"), poses_of(body, 1)
    random = torch.Generator().manual_seed(1)
    points = skinning.big_vertices + 0.02 * torch.randn(skinning.big_vertices.shape, generator=random)
    vertex = skinning.nearest(points)
    posed, _ = skinning(points[None], skinning.pose(pose), None, vertex[None])
    canonical, error = to_big_pose(skinning, skinning.pose(pose), posed[0], vertex)
    torch.testing.assert_close(canonical, points, atol=2e-5, rtol=0)
    assert error.median() < 1e-5  # of those whose nearest vertex stays the same, none
    assert (error[skinning.nearest(canonical) == vertex] < 1e-4).all()


def test_points_lie_on_what_the_body_carries(scene):
    body, batches = scene
    vertices = Skinning(body).big_vertices
    points, pelvis = off_body_points(body, shown_frames(body, batches), vertices, 100_000)
    assert pelvis.shape == points.shape[:1] and not pelvis.any()
    on_ball = (points - BALL).norm(dim=1)
    assert len(points) > 200
    # To a voxel and what skinning with the nearest vertex bends; some are phantoms that twenty cameras leave standing.
    assert ((on_ball - RADIUS).abs() < 0.05).float().mean() > 0.6
    covered = torch.cdist(ball(300), points).amin(1)
    behind = ball(300)[:, 2] < BALL[2]
    assert covered[behind].max() < 0.06
    assert torch.cdist(points, vertices).amin() > 0.005
    assert torch.equal(points, off_body_points(body, shown_frames(body, batches), vertices, 100_000)[0])
    few, _ = off_body_points(body, shown_frames(body, batches), vertices, 50)
    assert len(few) == 50 and torch.cdist(few, few).fill_diagonal_(9).amin() > 0.03


def test_colours_are_those_of_the_images(scene):
    body, batches = scene
    vertices = Skinning(body).big_vertices
    colours = initial_colours(body, vertices, batches)
    error = (colours - texture(vertices)).abs().amax(1)
    assert error.median() < 0.03 and (error < 0.12).float().mean() > 0.9
    assert torch.equal(colours, initial_colours(body, vertices, batches))


def test_an_avatar_begins_with_them(scene):
    body, batches = scene
    asked = []

    def images(frames):
        asked.append(frames)
        return batches

    switches = {"initial_gaussians": 3000, "initial_points": "hull", "initial_colours": "images", "initial_frames": 3}
    avatar = build_avatar(body, 10, codebook=codebook, images=images, **switches)
    positions, box = avatar.gaussians.positions, avatar.codebook.aabb
    assert asked == [3] and len(positions) > 3000 and not torch.equal(positions[:10], avatar.skinning.big_vertices[:10])
    assert (positions > box[0] + 0.099).all() and (positions < box[1] - 0.099).all()
    assert box[0, 2] < build_avatar(body, 10, codebook=codebook).codebook.aabb[0, 2] - 0.1  # where the ball is
    shown = 0.5 + C0 * avatar.gaussians.sh_dc[:, 0]
    assert (shown >= -1e-6).all() and (shown <= 1 + 1e-6).all() and shown.std() > 0.1
    # What is loaded brings its own Gaussians and box: the avatar it is loaded into was built without images.
    plain = build_avatar(body, 10, codebook=codebook)
    plain.load_state_dict(avatar.state_dict())
    assert torch.equal(plain.gaussians.positions, positions) and torch.equal(plain.codebook.aabb, box)
    again = build_avatar(body, 10, codebook=codebook, images=images, **switches)
    assert torch.equal(again.gaussians.positions, positions)


def test_without_switches_nothing_changes_or_is_looked_at():
    body = load_body("demo")
    vertices = Skinning(body).big_vertices
    first = initial_gaussians_of(body, vertices, images=lambda frames: pytest.fail("looked at"))
    assert first.points is vertices and first.sh_dc is None
    assert not first.off_body.any() and not first.cloth.any() and not first.worn.any()


def test_more_gaussians_are_smaller_where_size_follows_neighbours():
    body = load_body("demo")
    few, many = (
        build_avatar(body, 10, codebook=codebook, initial_scale="neighbours", initial_gaussians=count)
        for count in (2000, 32000)
    )
    ratio = (few.decoder.scale.bias[0] / many.decoder.scale.bias[0]).item() ** 2
    assert 3.5 < ratio < 4.5


def test_switches_are_checked(scene):
    body, batches = scene
    vertices = Skinning(body).big_vertices
    for wrong in ({"points": "hulls"}, {"colours": "gray"}):
        with pytest.raises(ValueError, match="expected one of body, hull and one of grey, images"):
            initial_gaussians_of(body, vertices, **wrong)
    with pytest.raises(ValueError, match="at least 4"):
        initial_gaussians_of(body, vertices, count=3)
    with pytest.raises(ValueError, match="need the training images"):
        initial_gaussians_of(body, vertices, points="hull")
    empty = [batch._map(lambda x: x) for batch in batches]
    for batch in empty:
        batch.mask = batch.mask * 0
    with pytest.raises(ValueError, match="frame 0: none of the 20 masks shows anybody"):
        initial_gaussians_of(body, vertices, points="hull", images=lambda frames: empty)
    with pytest.raises(ValueError, match="no image shows any"):
        initial_gaussians_of(body, vertices, colours="images", images=lambda frames: empty)
    astray = [batch._map(lambda x: x) for batch in batches]
    for batch in astray:
        batch.pose = batch.pose._map(lambda x: x)
        batch.pose.Th = batch.pose.Th + torch.tensor([30.0, 0, 0])
    with pytest.raises(ValueError, match="frame 0: nothing around the body lies inside the 20 masks"):
        initial_gaussians_of(body, vertices, points="hull", images=lambda frames: astray)


def test_thinning_keeps_distance():
    random = torch.Generator().manual_seed(0)
    points = torch.rand(2000, 3, generator=random).double().numpy()
    there = points[:1] * 0 + 0.5
    kept = torch.from_numpy(points[thin(points, there, 0.1, 10_000)])
    assert torch.cdist(kept, kept).fill_diagonal_(9).amin() >= 0.1
    assert torch.cdist(torch.from_numpy(points), torch.cat([kept, torch.from_numpy(there)])).amin(1).max() < 0.1
    assert len(thin(points, there, 0.1, 7)) == 7 and len(thin(points[:0], there, 0.1, 7)) == 0
