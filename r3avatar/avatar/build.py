"""Put an avatar together for one body and one recording."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from r3avatar.avatar.avatar import Avatar
from r3avatar.avatar.canonical import CanonicalGaussians
from r3avatar.avatar.cloth_bone import ShownFrame
from r3avatar.avatar.codebook import TemporalCodebook, box_around
from r3avatar.avatar.colour_residual import ColourResidual
from r3avatar.avatar.decoder import AttributeDecoder
from r3avatar.avatar.first_garment import RecordedMotion, put_on_garment
from r3avatar.avatar.initial_gaussians import initial_gaussians_of
from r3avatar.avatar.neighbour_distance import initial_distances
from r3avatar.avatar.pose_refinement import PoseRefinement
from r3avatar.avatar.shading import Shading, first_normals
from r3avatar.avatar.skinning import Skinning, WeightOffsets
from r3avatar.avatar.worn_garment import WornGarment
from r3avatar.body import BodyModel
from r3avatar.types import Batch


def build_avatar(
    body: BodyModel,
    recorded_length: float,
    codebook: Callable[..., TemporalCodebook] = TemporalCodebook,
    skinning: Callable[..., WeightOffsets] | None = WeightOffsets,
    pose_refinement: Callable[..., PoseRefinement] | None = PoseRefinement,
    sh_degree: int = 3,
    box_margin: float = 0.1,
    decoder_width: int = 128,
    initial_scale: float | str | None = None,
    initial_opacity: float | None = None,
    blend_weights_published: bool = False,
    backend: str = "auto",
    matmul: str = "tf32",
    colour_residual: bool = False,
    initial_gaussians: int | None = None,
    initial_points: str = "body",
    initial_hull_gaussians: int = 2000,
    initial_colours: str = "grey",
    initial_frames: int = 8,
    initial_seed: int = 0,
    images: Callable[[int], Iterable[Batch]] | None = None,
    static_residual: bool = False,
    cloth_bone: bool = False,
    shading: bool = False,
    garment: str | None = None,
    capture: RecordedMotion | None = None,
) -> Avatar:
    """An untrained avatar with one Gaussian at every vertex of `body` in the big pose, or see `initial_gaussians_of`.

    recorded_length: T, frames.
    codebook(aabb=, recorded_length=), skinning(joints=, backend=, matmul=), pose_refinement(joints=): makers of the
    parts; None for the last two leaves them out (ablations).
    box_margin: metres between the body's bounds and the codebook's box.
    initial_scale (metres), initial_opacity: see `AttributeDecoder`. initial_scale 'neighbours': the mean distance of
    Gaussians to their three nearest (root mean square of each).
    backend: of decoder and skinning: 'auto' (Triton on CUDA where it is installed), 'torch' or 'triton'.
    matmul: 'tf32', 'tf32x3' or 'ieee': what Triton's networks (decoder, weight offsets) multiply in; see `MATMULS`.
    colour_residual: colours change with time (`ColourResidual`); ValueError with a codebook that has no time.
    static_residual: every Gaussian has an opacity, scale and rotation of its own (`CanonicalGaussians`).
    initial_*, images: see `initial_gaussians_of`.
    cloth_bone: what begins off the body (initial_points='hull') hangs on the pelvis where that explains the masks;
    ValueError with images and initial_points other than 'hull'.
    garment: 'auto' or a kind of garment that is fitted to the masks of the capture and carries what lies on it
    (`put_on_garment`); needs images and `capture`, or is loaded.
    shading: colours are multiplied by the studio's light on a Gaussian's normal, which turns with the body (`Shading`).
    """
    joints = body.num_joints
    offsets = None if skinning is None else skinning(joints=joints, backend=backend, matmul=matmul)
    deformation = Skinning(body, offsets, backend)
    vertices = deformation.big_vertices
    if cloth_bone and images is not None and initial_points != "hull":
        raise ValueError("cloth_bone is of Gaussians on cloth: avatar.initial_points=hull")
    worn = None if garment is None else WornGarment(body)

    def put_on(frames: list[ShownFrame]) -> None:
        assert worn is not None and garment is not None
        if capture is None:
            raise ValueError(f"garment={garment} needs the capture whose poses it follows")
        put_on_garment(worn, garment, body, capture, frames)

    first = initial_gaussians_of(
        body, vertices, initial_gaussians, initial_points, initial_hull_gaussians, initial_colours, initial_frames,
        initial_seed, images, cloth_bone, None if images is None else worn, put_on,
    )  # fmt: skip
    points = first.points
    if isinstance(initial_scale, str):
        if initial_scale != "neighbours":
            raise ValueError(f"initial_scale is metres, 'neighbours' or None, not '{initial_scale}'")
        initial_scale = float(initial_distances(points).sqrt().mean())
    planes = codebook(aabb=box_around(torch.cat([vertices, points]), box_margin), recorded_length=recorded_length)
    decoder = AttributeDecoder(planes.features, decoder_width, initial_scale, initial_opacity, backend, matmul)
    refinement = None if pose_refinement is None else pose_refinement(joints=joints)
    normals = None
    if shading:
        normals = first_normals(vertices, body.faces, points, first.off_body)
        normals[len(points) - len(first.normals) :] = first.normals
    gaussians = CanonicalGaussians(
        points, sh_degree, static_residual, first.cloth if cloth_bone else None, normals,
        None if worn is None else first.worn,
    )  # fmt: skip
    if first.sh_dc is not None:
        gaussians.sh_dc.data.copy_(first.sh_dc[:, None])
    if colour_residual and not planes.temporal:
        raise ValueError("avatar.colour_residual=true needs time planes; codebook=none has none: set it to false")
    residual = ColourResidual(planes.features) if colour_residual else None
    light = Shading(backend) if shading else None
    return Avatar(gaussians, planes, decoder, deformation, refinement, blend_weights_published, residual, light, worn)
