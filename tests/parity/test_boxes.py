"""The projected box mask and its rectangle against the oracle (metrics.npz, box_*)."""

import numpy as np
import torch

from r3avatar.captures.boxes import box_corners, mask_rectangle, projected_box_mask
from r3avatar.types import Cameras


def test_boxes_match_the_oracle(oracle, parity):
    z = oracle("metrics")
    corner_error, different_pixels, rectangle_error = 0.0, 0, 0
    for bounds, K, w2c, corners, mask, crop in zip(
        *(z[f"box_{name}"] for name in ("bounds", "K", "w2c", "corners_px", "mask")), z["crop_xywh"]
    ):
        K, w2c = torch.from_numpy(K.copy()), torch.cat([torch.from_numpy(w2c), torch.tensor([[0.0, 0.0, 0.0, 1.0]])])
        K[:2, 2] += 0.5  # the oracle counts pixel centres from (0, 0), we from (0.5, 0.5)
        camera = Cameras(K, w2c, mask.shape[1], mask.shape[0])
        corner_error = max(corner_error, np.abs(box_corners(bounds, camera) - 0.5 - corners).max())
        ours = projected_box_mask(bounds, camera)
        different_pixels += int((ours != mask).sum())
        rectangle_error = max(rectangle_error, np.abs(np.array(mask_rectangle(ours)) - crop).max())
    parity("metrics", "box_corners_px", corner_error, 1e-3)
    parity("metrics", "box_mask, differing pixels", different_pixels, 0)
    parity("metrics", "crop_xywh", rectangle_error, 0)
