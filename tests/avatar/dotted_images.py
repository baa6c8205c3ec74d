"""Images of a person made of coloured dots, for what looks at images: every dot covers a square of pixels."""

import torch

from r3avatar.body import BodyModel, load_body
from r3avatar.rasterizer.projection import project_points
from r3avatar.types import Batch, BodyPose, Cameras

SIZE = 200  # pixels


def cameras_around(count: int, centre=(0.0, -0.2, 0.0), distance: float = 3.0) -> list[Cameras]:
    """Cameras on a sphere around `centre`, evenly spread, looking at it."""
    number = torch.arange(count) + 0.5
    height, angle = 1 - 2 * number / count, number * 2.399963
    out = torch.stack([(1 - height**2).sqrt() * angle.cos(), height, (1 - height**2).sqrt() * angle.sin()], 1)
    made = []
    for direction in out:
        right = torch.nn.functional.normalize(
            torch.linalg.cross(-direction, torch.tensor([0.1, 1.0, 0.2])), dim=0
        )  # no camera looks along this
        R = torch.stack([right, torch.linalg.cross(-direction, right), -direction])
        w2c = torch.eye(4)
        w2c[:3, :3], w2c[:3, 3] = R, -R @ (torch.tensor(centre) + distance * direction)
        K = torch.tensor([[260.0, 0, SIZE / 2], [0, 260.0, SIZE / 2], [0, 0, 1]])
        made.append(Cameras(K, w2c, SIZE, SIZE))
    return made


def draw(points: torch.Tensor, colours: torch.Tensor, camera: Cameras, reach: int = 1):
    """rgb [H, W, 3] uint8 and mask [H, W] uint8 of dots [P, 3] with colours [P, 3] in [0, 1], the near over the far."""
    pixels, depth = project_points(points, camera)
    far_first = depth.argsort(descending=True)
    column, row = pixels[far_first].floor().long().unbind(1)
    rgb = torch.zeros(SIZE, SIZE, 3, dtype=torch.uint8)
    mask = torch.zeros(SIZE, SIZE, dtype=torch.uint8)
    steps = [(dy, dx) for dy in range(-reach, reach + 1) for dx in range(-reach, reach + 1)]
    y = torch.stack([row + dy for dy, _ in steps], 1).flatten().clamp(0, SIZE - 1).numpy()
    x = torch.stack([column + dx for _, dx in steps], 1).flatten().clamp(0, SIZE - 1).numpy()
    shown = (colours[far_first] * 255).round().to(torch.uint8).repeat_interleave(len(steps), 0)
    rgb.numpy()[y, x] = shown.numpy()
    mask.numpy()[y, x] = 3
    return rgb, mask


def batch_of(frame: int, pose: BodyPose, cameras: list[Cameras], points: torch.Tensor, colours: torch.Tensor) -> Batch:
    """A batch of one frame with one whole image a camera."""
    drawn = [draw(points, colours, camera) for camera in cameras]
    rig = Cameras.stack(cameras)
    return Batch(
        frame=torch.tensor([frame]), time=torch.tensor([float(frame)]), pose=pose,
        cameras=Cameras(rig.K[None], rig.w2c[None], SIZE, SIZE),
        rgb=torch.stack([rgb for rgb, _ in drawn])[None], mask=torch.stack([mask for _, mask in drawn])[None],
        rect=torch.zeros(1, len(cameras), 4, dtype=torch.int64),
    )  # fmt: skip


def smpl_body() -> BodyModel:
    """The demo body with the joints of an SMPL body: fingers and face move with the joint above them."""
    demo = load_body("demo")
    weights = demo.weights.clone()
    for joint in range(demo.num_joints - 1, 23, -1):
        weights[:, demo.parents[joint]] += weights[:, joint]
    return BodyModel(
        kind="smpl", v_template=demo.v_template, shapedirs=demo.shapedirs, J_regressor=demo.J_regressor[:24],
        weights=weights[:, :24], parents=demo.parents[:24], faces=demo.faces,
    )  # fmt: skip


def poses_of(body: BodyModel, frames: int, seed: int = 0) -> BodyPose:
    """Random poses with turns, places and a shape, as captures have them."""
    random = torch.Generator().manual_seed(seed)
    theta = 0.15 * torch.randn(frames, body.num_joints, 3, generator=random)
    turn = body.rotations(torch.randn(frames, 3, generator=random)[:, None])[:, 0]
    return BodyPose(
        theta=theta, betas=(0.5 * torch.randn(1, body.num_betas, generator=random)).repeat(frames, 1),
        expression=torch.zeros(frames, body.num_expression), R=turn,
        Th=0.1 * torch.randn(frames, 3, generator=random),
    )  # fmt: skip
