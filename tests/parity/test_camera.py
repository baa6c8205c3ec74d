"""Cameras, spherical harmonics and covariances agree with the published implementation's numbers."""

import numpy as np
import pytest
import torch

from r3avatar.rasterizer.projection import (
    clip_matrix,
    covariance_from_scale_rotation,
    field_of_view,
    project_points,
    quaternion_to_matrix,
    scene_extent,
)
from r3avatar.rasterizer.spherical_harmonics import evaluate_sh, rgb_to_sh, view_colours
from r3avatar.types import Cameras


@pytest.fixture
def z(oracle):
    return {key: torch.from_numpy(np.array(value)) for key, value in oracle("camera").items()}


@pytest.fixture
def cameras(z):
    return Cameras(z["K"], z["w2c"], int(z["width"]), int(z["height"]))


def largest(a, b) -> float:
    return (a - b).abs().max().item()


def test_matrices(z, cameras, parity):
    near, far = float(z["znear"]), float(z["zfar"])
    fov_x, fov_y = field_of_view(cameras)
    parity("camera", "fov_x", largest(fov_x, z["fov_x"]), 1e-6)
    parity("camera", "fov_y", largest(fov_y, z["fov_y"]), 1e-6)
    # The published matrices act on row vectors: they are the transposes of ours.
    clip = clip_matrix(cameras, near, far)
    parity("camera", "world_view", largest(cameras.w2c.mT, z["world_view"]), 1e-6)
    parity("camera", "projection", largest(clip.mT, z["projection"]), 1e-6)
    parity("camera", "full_projection", largest((clip @ cameras.w2c).mT, z["full_projection"]), 1e-6)
    skewed = Cameras(z["K_skew"], z["w2c"], cameras.width, cameras.height)
    parity("camera", "projection_skew", largest(clip_matrix(skewed, near, far).mT, z["projection_skew"]), 1e-6)
    parity("camera", "camera_centre", largest(cameras.centres, z["camera_centre"]), 1e-6)


def test_points(z, cameras, parity):
    pixels, depths = project_points(z["points"], cameras)
    parity("camera", "points_view depth", largest(depths, z["points_view"][:, 2]), 1e-6)
    parity("camera", "points_pixel_pinhole", largest(pixels, z["points_pixel_pinhole"]), 1e-3)
    # The published rasterizer counts a pixel's centre as an integer, ours as an integer and a half.
    parity("camera", "points_pixel_raster", largest(pixels - 0.5, z["points_pixel_raster"]), 1e-3)
    homogeneous = torch.cat([z["points"], torch.ones(len(z["points"]), 1)], 1)
    clip = homogeneous @ (clip_matrix(cameras, float(z["znear"]), float(z["zfar"])) @ cameras.w2c).mT
    parity("camera", "points_clip", largest(clip, z["points_clip"]), 1e-6)
    parity("camera", "points_ndc", largest(clip[:, :3] / (clip[:, 3:] + 1e-7), z["points_ndc"]), 1e-6)


def test_scene_extent(z, cameras, parity):
    rig = Cameras(z["K"].expand(5, 3, 3), z["rig_w2c"], cameras.width, cameras.height)
    parity("camera", "rig_extent", abs(scene_extent(rig.centres) - z["rig_extent"].item()), 1e-6)


def test_spherical_harmonics(z, cameras, parity):
    directions = torch.nn.functional.normalize(z["sh_points"] - cameras.centres, dim=1)
    parity("camera", "sh_directions", largest(directions, z["sh_directions"]), 1e-6)
    for degree in range(4):
        sh = z["sh_coefficients"][:, : (degree + 1) ** 2]
        value = evaluate_sh(sh, directions)
        parity("camera", f"sh_value_deg{degree}", largest(value, z[f"sh_value_deg{degree}"]), 2e-6)
        colours = view_colours(sh[None], z["sh_points"][None], cameras.centres[None, None])[0, 0]
        parity("camera", f"sh_colour_deg{degree}", largest(colours, z[f"sh_colour_deg{degree}"]), 2e-6)
    parity("camera", "rgb_to_sh_dc", largest(rgb_to_sh(z["rgb"]), z["rgb_to_sh_dc"]), 2e-6)


def test_covariances(z, parity):
    scales, quaternions, transforms = z["cov_scales"], z["cov_quaternions"], z["cov_transforms"]
    parity("camera", "cov_rotation", largest(quaternion_to_matrix(quaternions), z["cov_rotation"]), 1e-6)
    plain = covariance_from_scale_rotation(scales, quaternions)
    parity("camera", "cov_plain", largest(plain, z["cov_plain"]), 1e-8)
    moved = covariance_from_scale_rotation(scales, quaternions, transforms)
    parity("camera", "cov_transformed", largest(moved, z["cov_transformed"]), 1e-8)
    smaller = covariance_from_scale_rotation(0.7 * scales, quaternions, transforms)
    parity("camera", "cov_transformed_modifier0p7", largest(smaller, z["cov_transformed_modifier0p7"]), 1e-8)
