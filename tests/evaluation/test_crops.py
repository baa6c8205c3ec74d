"""Crops of regions: where the boxes lie, what is written under them, and the tool on two tiny runs."""

import json
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from r3avatar.body import load_body
from r3avatar.evaluation.crops import LEAST, crop_sheet, region_boxes
from r3avatar.evaluation.metrics import psnr_pooled
from r3avatar.inspection.silhouette import silhouette
from r3avatar.motion.cameras import look_at
from r3avatar.types import BodyPose, Cameras

TOOL = Path(__file__).parents[2] / "tools" / "crops.py"


@pytest.fixture(scope="module")
def seen():
    """The demo body at rest, seen from its front: body, pose, camera, mask, and its joints in pixels."""
    body = load_body("demo")
    pose = BodyPose(torch.zeros(1, 55, 3), torch.zeros(1, 10), torch.zeros(1, body.num_expression), torch.eye(3)[None],
                    torch.zeros(1, 3))  # fmt: skip
    vertices = body.vertices(pose)[0]
    centre = (vertices.amin(0) + vertices.amax(0)) / 2
    K = torch.tensor([[400.0, 0, 200], [0, 400, 150], [0, 0, 1]])
    camera = Cameras(K, look_at(centre + torch.tensor([0, 0, 3.0]), centre, torch.tensor([0.0, 1, 0])), 400, 300)
    mask = torch.from_numpy(silhouette(vertices.numpy(), body.faces.numpy(), camera))
    joints = body.posed_joints(pose)[0] @ camera.w2c[:3, :3].mT + camera.w2c[:3, 3]
    pixels = joints @ K.mT
    return body, pose, camera, mask, pixels[:, :2] / pixels[:, 2:]


def test_posed_joints_move_with_the_vertices(seen):
    body = seen[0]
    pose = BodyPose(0.3 * torch.randn(2, 55, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(2, 10),
                    torch.zeros(2, body.num_expression), torch.eye(3).expand(2, 3, 3), torch.ones(2, 3))  # fmt: skip
    joints, vertices = body.posed_joints(pose), body.vertices(pose)
    for joint in (15, 20, 7):  # where the skin about a joint is
        own = body.weights[:, joint] > 0.4
        assert (vertices[:, own].mean(1) - joints[:, joint]).norm(dim=-1).max() < 0.16


def test_boxes_hold_their_joints_and_lie_in_the_persons_box(seen):
    body, pose, camera, mask, pixels = seen
    boxes = region_boxes(body, pose, camera, mask)
    assert list(boxes) == ["face", "left hand", "right hand", "cloth", "hem"]
    held = {"face": [15, 23, 24], "left hand": [20, 28, 34], "right hand": [21, 43], "cloth": [0, 1, 2, 4, 5]}
    rows, columns = mask.ne(0).any(1).nonzero(), mask.ne(0).any(0).nonzero()
    for name, (x, y, width, height) in boxes.items():
        assert x >= columns[0] - 20 and y >= rows[0] - 20 and x + width <= 400 and y + height <= 300
        for joint in held.get(name, []):
            px, py = pixels[joint].tolist()
            assert x <= px <= x + width and y <= py <= y + height, (name, joint)
    assert boxes["left hand"][0] > boxes["face"][0] > boxes["right hand"][0], "seen from the front"
    middle = {hem: y + height / 2 for hem in ("knees", "calves", "ankles")
              for _, y, _, height in [region_boxes(body, pose, camera, mask, hem)["hem"]]}  # fmt: skip
    assert boxes["cloth"][1] < middle["knees"] < middle["calves"] < middle["ankles"]


def test_what_is_out_of_sight_is_left_out(seen):
    body, pose, camera, mask, _ = seen
    window = camera.cropped(120, 0, 160, 300)  # arms spread to the sides are cut off
    boxes = region_boxes(body, pose, window, mask[:, 120:280])
    assert "face" in boxes and "left hand" not in boxes
    assert all(min(box[2:]) >= LEAST for box in boxes.values())
    turned = Cameras(camera.K, torch.diag(torch.tensor([1.0, -1, -1, 1])) @ camera.w2c, 400, 300)
    assert region_boxes(body, pose, turned, mask) == {}
    with pytest.raises(ValueError, match="none of the regions"):
        crop_sheet(torch.zeros(300, 400, 3), {}, {})


def test_figures_are_of_the_crop():
    random = torch.Generator().manual_seed(0)
    truth = torch.rand(60, 80, 3, generator=random)
    render = truth + 0.1 * torch.rand(60, 80, 3, generator=random)
    boxes = {"face": (10, 5, 20, 30), "cloth": (0, 40, 80, 16)}
    sheet, figures = crop_sheet(truth, {"a": render, "b": truth + 0.01}, boxes, errors=True)
    plain, _ = crop_sheet(truth, {"a": render, "b": truth + 0.01}, boxes)
    expected = psnr_pooled(render[None, 5:35, 10:30].clamp(0, 1), truth[None, 5:35, 10:30])
    assert figures["face"]["a"] == pytest.approx(float(expected)) and list(figures) == ["face", "cloth"]
    assert sheet.shape[1] * 3 == plain.shape[1] * 5 and sheet.shape[0] == plain.shape[0], "truth, 2 runs, 2 errors"


@pytest.mark.slow
def test_the_tool_on_two_runs(workplace, tiny_run, only_tiny_capture, monkeypatch, capsys):
    def crops(*arguments):
        """As from a shell, in this process; what it printed."""
        monkeypatch.setattr(sys, "argv", [str(TOOL), *arguments, "--out", "outputs/crops"])
        runpy.run_path(str(TOOL), run_name="__main__")
        return capsys.readouterr().out

    quick = ["batch.views=2", "budget.images=8", "validation.frames=1", "media=false", "evaluate=false"]
    workplace("train", "experiment=demo", "name=crops_plus", *only_tiny_capture, *quick)
    monkeypatch.chdir(workplace.folder)
    monkeypatch.setenv("R3AVATAR_CACHE", workplace.environment["R3AVATAR_CACHE"])
    said = crops("outputs/tiny", "outputs/crops_plus", "--errors")
    figures = json.loads((workplace.folder / "outputs/crops/crops.json").read_text())
    for split, frame in (("novel_view", 4), ("novel_pose", 10)):
        assert (figures[split]["frame"], figures[split]["camera"]) == (frame, "4")
        assert f"picture: outputs/crops/{split}.png" in said
        picture = cv2.imread(str(workplace.folder / f"outputs/crops/{split}.png"))
        assert picture is not None and np.ptp(picture) > 100
        assert {"face", "cloth", "hem"} <= set(figures[split]["psnr"])
        for row in figures[split]["psnr"].values():
            assert list(row) == ["tiny", "crops_plus"] and all(0 < value < 60 for value in row.values())
    chosen = ("--split", "novel_pose", "--frame", "9", "--camera", "0", "retrieval=none")
    assert "frame 9, camera 0" in crops("outputs/tiny", *chosen)
    with pytest.raises(SystemExit, match="no frame 99"):
        crops("outputs/tiny", "--frame", "99")
