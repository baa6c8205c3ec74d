"""What stands beside a picture: the posed body, the recorded frames that each part was retrieved from, the timeline."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import cv2
import numpy as np
import torch

from r3avatar.body import BodyModel
from r3avatar.inspection.silhouette import silhouette
from r3avatar.retrieval import Mixture, Retrieved
from r3avatar.retrieval.parts import BLENDING_JOINTS, PARTS
from r3avatar.types import BodyPose, Cameras

COLOURS = np.array([[86, 180, 233], [0, 114, 178], [240, 228, 66], [230, 159, 0], [213, 94, 0]], np.uint8)
"""RGB of the five parts (Okabe and Ito's, told apart by the colour-blind too): bones, frames and lines."""
NAMES = ("l leg", "r leg", "centre", "l arm", "r arm")
SPAN = 240  # frames of the timeline that are in sight at once
REMEMBERED = 128  # thumbnails
LEAST = 256  # pixels of height that the panel is drawn for
BACKGROUND = 24


class PictureInPicture:
    """Draws the panel [H, W, 3] uint8 beside each frame of an animation; memory does not grow with its length.

    Three things from top to bottom: the posed body's silhouette with its skeleton, seen by the picture's own camera;
    for each part the recorded frame that its appearance comes from, under its number; and the retrieved frames over the
    query, at most SPAN frames at once.
    """

    def __init__(
        self,
        body: BodyModel,
        retrieved: Retrieved | Mixture,
        recorded: tuple[int, int],
        thumbnail: Callable[[int], np.ndarray],
        height: int,
    ):
        """recorded: first frame id and length; thumbnail: the picture [h, w, 3] uint8 of a recorded frame, by its id;
        height: H of the picture. The panel is 7/8 as wide; below LEAST it is drawn larger and scaled down. Of a
        `Mixture` the frames that count most are shown."""
        self.body, self.thumbnail, self.recorded = body, thumbnail, recorded
        self.times = retrieved.times.cpu().double().numpy() + recorded[0]  # [Q, 5] recorded frames
        self.jumps = retrieved.jump.cpu().numpy()
        self.shown, self.height = height, max(LEAST, height)
        self.width = 2 * round(0.4375 * self.height)
        self.part_of = np.zeros(body.num_joints, np.int64)
        for part, joints in enumerate(BLENDING_JOINTS[body.kind]):
            self.part_of[list(joints)] = part
        self._seen: OrderedDict[int, np.ndarray] = OrderedDict()

    def __call__(self, frame: int, pose: BodyPose, camera: Cameras) -> np.ndarray:
        """The panel of query frame number `frame`: its pose [1] and the camera that the picture was taken with."""
        rows = int(0.42 * self.height), int(0.36 * self.height)
        timeline = self._timeline(self.height - sum(rows), frame)
        panel = np.concatenate([self._body(rows[0], pose, camera), self._frames(rows[1], frame), timeline])
        if self.shown == self.height:
            return panel
        width = 2 * round(self.width / 2 * self.shown / self.height)
        return cv2.resize(panel, (width, self.shown), interpolation=cv2.INTER_AREA)

    @torch.no_grad()
    def _body(self, height: int, pose: BodyPose, camera: Cameras) -> np.ndarray:
        pose = pose.to(self.body.v_template.device)
        vertices = self.body.vertices(pose)[0].cpu().numpy()
        scale = min(height / camera.height, self.width / camera.width)
        small = camera.scaled(scale)
        tile = np.full((height, self.width, 3), BACKGROUND, np.uint8)
        top, left = (height - small.height) // 2, (self.width - small.width) // 2
        window = tile[top : top + small.height, left : left + small.width]
        shape = silhouette(vertices, self.body.faces.cpu().numpy(), small)[: window.shape[0], : window.shape[1]]
        window[shape > 0] = 90
        joints = self.body.posed_joints(pose)[0].cpu().numpy()
        places = joints @ small.w2c[:3, :3].cpu().numpy().T + small.w2c[:3, 3].cpu().numpy()
        if places[:, 2].min() < 0.01:
            return tile
        seen = places @ small.K.cpu().numpy().T
        points = np.round(16 * (seen[:, :2] / seen[:, 2:] - 0.5 + [left, top])).astype(int)  # in sixteenths of a pixel
        thick = max(1, height // 150)
        for joint, parent in enumerate(self.body.parents):
            if parent >= 0 and (joint < 22 or self.body.kind == "smpl"):
                colour = COLOURS[self.part_of[joint]].tolist()
                cv2.line(tile, points[parent].tolist(), points[joint].tolist(), colour, thick, cv2.LINE_AA, 4)
        return tile

    def _frames(self, height: int, frame: int) -> np.ndarray:
        tile = np.full((height, self.width, 3), BACKGROUND, np.uint8)
        side = self.width // len(PARTS)
        for part, name in enumerate(NAMES):
            x = part * side
            self._write(tile, f"{name} {self.times[frame, part]:.0f}", x + 2, 10, COLOURS[part], side - 3)
            self._place(tile[13 : height - 2, x + 2 : x + side - 2], round(self.times[frame, part]))
            thick = 3 if self.jumps[frame, part] else 1
            cv2.rectangle(tile, (x + 1, 12), (x + side - 2, height - 2), COLOURS[part].tolist(), thick)
        return tile

    def _place(self, room: np.ndarray, recorded_frame: int) -> None:
        """Put a recorded frame's picture into the middle of `room` [h, w, 3], as large as it fits."""
        if recorded_frame not in self._seen:
            picture = self.thumbnail(recorded_frame)
            scale = min(room.shape[0] / picture.shape[0], room.shape[1] / picture.shape[1])
            size = max(1, int(picture.shape[1] * scale)), max(1, int(picture.shape[0] * scale))
            self._seen[recorded_frame] = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
            if len(self._seen) > REMEMBERED:
                self._seen.popitem(last=False)
        self._seen.move_to_end(recorded_frame)
        picture = self._seen[recorded_frame]
        y, x = (room.shape[0] - picture.shape[0]) // 2, (room.shape[1] - picture.shape[1]) // 2
        room[y : y + picture.shape[0], x : x + picture.shape[1]] = picture

    def _timeline(self, height: int, frame: int) -> np.ndarray:
        tile = np.full((height, self.width, 3), BACKGROUND, np.uint8)
        left, right, top, bottom = 4, self.width - 5, 16, height - 5
        first = int(np.clip(frame - SPAN // 2, 0, max(0, len(self.times) - SPAN)))
        window = slice(first, min(first + SPAN, len(self.times)))
        start, length = self.recorded
        self._write(tile, f"frame {frame}: recorded {start}-{start + length - 1}", 4, 11, COLOURS[2], self.width - 8)
        cv2.rectangle(tile, (left, top), (right, bottom), (60, 60, 60), 1)
        across = max(1, window.stop - window.start - 1)

        def column(at):
            return left + (at - window.start) / across * (right - left)

        for part in range(len(PARTS)):
            y = bottom - (self.times[window, part] - start) / max(1, length - 1) * (bottom - top)
            x = column(np.arange(window.start, window.stop))
            line = np.round(16 * np.stack([x, y], -1)).astype(np.int32)
            cv2.polylines(tile, [line], False, COLOURS[part].tolist(), 1, cv2.LINE_AA, 4)
        now = round(column(frame))
        cv2.line(tile, (now, top), (now, bottom), (255, 255, 255), 1)
        return tile

    @staticmethod
    def _write(tile: np.ndarray, text: str, x: int, y: int, colour: np.ndarray, room: int) -> None:
        """Write one line, as small as it has to be to fit `room` pixels."""
        width = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 1.0, 1)[0][0]
        size = min(0.36, room / max(1, width))
        cv2.putText(tile, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, size, colour.tolist(), 1, cv2.LINE_AA)
