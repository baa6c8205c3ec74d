"""Enlarged regions of a picture: where loose cloth, its hem, the hands and the face are, and how they compare."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
import torch
from torch import Tensor

from r3avatar.body import BodyModel
from r3avatar.evaluation.media import error_map, strip, to_uint8
from r3avatar.evaluation.metrics import psnr_pooled
from r3avatar.evaluation.protocols import Box, person_box
from r3avatar.types import BodyPose, Cameras

HEMS = {"knees": 0.0, "calves": 0.5, "ankles": 0.9}
"""Where a garment's hem is looked for: how far from the knees to the ankles."""
WIDTH, HEIGHT = 288, 288  # pixels of an enlarged crop at most
LEAST = 8  # pixels of a crop's sides at least
HEAD_RADIUS, HAND_RADIUS = 0.17, 0.13  # metres
NECK, SKULL, KNEES, ANKLES, PELVIS = 12, 15, [4, 5], [7, 8], 0  # joints, the same of SMPL and SMPL-X
HANDS = {"smpl": {"left hand": [22], "right hand": [23]},
         "smplx": {"left hand": [20, *range(25, 40)], "right hand": [21, *range(40, 55)]}}  # fmt: skip


@torch.no_grad()
def region_boxes(body: BodyModel, pose: BodyPose, camera: Cameras, mask: Tensor, hem: str = "knees") -> dict[str, Box]:
    """Boxes (x, y, width, height) of `face`, `left hand`, `right hand`, `cloth`, `hem` in pixels of one picture.

    Faces and hands are squares about the joints; hidden ones are boxes all the same. `cloth` reaches from above the
    pelvis to half way down the calves, `hem` from 25 cm above the height that `hem` names (`HEMS`) to 10 cm below it;
    both are as wide as the person is in those rows. All lie within the person's box; one of which less than `LEAST`
    pixels do is left out, and so are all where a joint is behind the camera.

    pose [1], camera one pinhole, mask [H, W] nonzero = person.
    """
    joints = body.posed_joints(pose.to(body.v_template.device))[0].cpu().double()
    seen = joints @ camera.w2c[:3, :3].double().mT + camera.w2c[:3, 3].double()
    if seen[:, 2].min() < 0.01:
        return {}
    K = camera.K.double()

    def pixels(point: Tensor) -> tuple[float, float, float]:
        """x, y and the pixels of a metre there; point [3] in the camera's axes."""
        x, y, _ = (K @ (point / point[2])).tolist()
        return x, y, float(K[1, 1] / point[2])

    def square(point: Tensor, radius: float) -> tuple[float, float, float, float]:
        x, y, scale = pixels(point)
        return x - radius * scale, y - radius * scale, x + radius * scale, y + radius * scale

    def band(top: float, bottom: float) -> tuple[float, float, float, float]:
        rows = mask[max(0, round(top)) : max(0, round(bottom))].ne(0).any(0).nonzero()
        return (float(rows[0]), top, float(rows[-1]) + 1, bottom) if len(rows) else (0.0, 0.0, 0.0, 0.0)

    up = torch.nn.functional.normalize(seen[SKULL] - seen[NECK], dim=0)
    found = {"face": square(seen[SKULL] + 0.06 * up, HEAD_RADIUS)}
    for name, own in HANDS[body.kind].items():
        middle = (seen[own].amin(0) + seen[own].amax(0)) / 2
        found[name] = square(middle, HAND_RADIUS)
    knees, ankles = seen[KNEES].mean(0), seen[ANKLES].mean(0)
    _, waist, scale = pixels(seen[PELVIS])
    height = pixels(knees + HEMS[hem] * (ankles - knees))[1]
    found["cloth"] = band(waist - 0.1 * scale, pixels((knees + ankles) / 2)[1])
    found["hem"] = band(height - 0.25 * scale, height + 0.1 * scale)
    x, y, width, height = person_box(mask)
    inside = {}
    for name, (left, top, right, bottom) in found.items():
        left, top, right, bottom = (
            round(min(max(value, low), low + size))
            for value, low, size in zip((left, top, right, bottom), (x, y) * 2, (width, height) * 2)
        )
        if right - left >= LEAST and bottom - top >= LEAST:
            inside[name] = left, top, right - left, bottom - top
    return inside


def crop_sheet(
    truth: Tensor, renders: Mapping[str, Tensor], boxes: Mapping[str, Box], errors: bool = False
) -> tuple[np.ndarray, dict[str, dict[str, float]]]:
    """A row a region: the truth and each render there, enlarged, the crop's PSNR (dB) beneath; with those figures.

    truth and renders [H, W, 3] in [0, 1]; errors: also what each render's error is (`media.error_map`).
    Returns the sheet [h, w, 3] uint8 and the PSNR by region and render, over the crop's pixels and channels.
    """
    if not boxes:
        raise ValueError("none of the regions is in the picture: there is nothing to crop")
    rows, figures = [], {}
    for region, (x, y, width, height) in boxes.items():
        factor = min(WIDTH / width, HEIGHT / height)
        size = round(factor * width), round(factor * height)

        def cell(image, caption: str, size: tuple[int, int] = size) -> np.ndarray:
            large = cv2.resize(to_uint8(image), size, interpolation=cv2.INTER_CUBIC)
            spare = WIDTH - size[0]
            large = np.pad(large, ((4, 0), (spare // 2, spare - spare // 2 + 4), (0, 0)))
            foot = strip([np.zeros((0, large.shape[1], 3), np.uint8)], [caption])
            return np.concatenate([large, foot])

        own = truth[y : y + height, x : x + width]
        cells, figures[region] = [cell(own, region)], {}
        for name, render in renders.items():
            crop = render.clamp(0, 1)[y : y + height, x : x + width]
            # A crop with no error at all has no finite PSNR.
            value = figures[region][name] = float(psnr_pooled(crop[None], own[None]))
            cells.append(cell(crop, f"{value:.2f} dB"))
            if errors:
                cells.append(cell(error_map(crop, own), "error"))
        rows.append(np.concatenate(cells, 1))
    heads = ["truth", *(head for name in renders for head in ([name, f"{name}, error"] if errors else [name]))]
    blank = np.zeros((0, WIDTH + 4, 3), np.uint8)
    return np.concatenate([strip([blank] * len(heads), heads), *rows]), figures
