"""Small pictures of recorded frames: the capture's own where they are at hand, else the avatar's."""

from __future__ import annotations

import numpy as np
import torch

from r3avatar.avatar import Playback
from r3avatar.body import BodyModel
from r3avatar.captures import PERSON, Capture, FrameStore
from r3avatar.captures.cache import cache_folder
from r3avatar.evaluation.media import to_uint8
from r3avatar.motion.cameras import rig_up
from r3avatar.motion.stage import stage_of

SIDE = 192  # pixels of a rendered thumbnail's longer side, at most


class Thumbnails:
    """The picture [h, w, 3] uint8 of a recorded frame by its id, from the training camera that the person faces.

    Prepared frames if the frame cache holds them; a frame that it lacks is rendered from the avatar at that time. Both
    are cropped to the person.
    """

    def __init__(self, capture: Capture, body: BodyModel, playback: Playback, cache: str | None):
        """cache: folder of the frame cache; None: its default place; 'off': render all."""
        self.capture, self.playback = capture, playback
        ids = capture.split("train").cameras
        rig = [capture.cameras[capture.camera_index(c)] for c in ids]
        self._first = capture.frame_index(capture.split("train").frames[0])
        stage = stage_of(body, capture.poses[self._first : self._first + 1], rig_up(rig))
        ahead = [torch.nn.functional.normalize(c.centres - stage.centre, dim=0) @ stage.heading for c in rig]
        self._camera = capture.camera_index(ids[int(torch.stack(ahead).argmax())])
        self._store = None
        if cache != "off":
            folder = cache_folder(capture, body, cache)
            if folder.is_dir():
                self._store = FrameStore(folder, capture.camera_ids, capture.frame_ids)

    def __call__(self, frame: int) -> np.ndarray:
        """Of frame id `frame`."""
        row = self.capture.frame_index(frame)
        if self._store is not None and (self._camera, row) in self._store:
            prepared = self._store.get(self._camera, row)
            return _around(prepared.rgb, prepared.mask & PERSON > 0)
        camera = self.capture.cameras[self._camera]
        camera = camera.scaled(min(1.0, SIDE / max(camera.width, camera.height)))
        time = torch.tensor([float(frame - self.capture.recorded[0])])
        pose = self.playback.avatar.dressed(self.capture.poses[row : row + 1], torch.tensor([frame]))
        output = self.playback.recorded(pose, time, camera[None, None])
        return _around(to_uint8(output.rgb[0, 0]), output.alpha[0, 0].cpu().numpy() > 0.02)


def _around(picture: np.ndarray, person: np.ndarray) -> np.ndarray:
    """The part of a picture that the person is in."""
    rows, columns = np.flatnonzero(person.any(1)), np.flatnonzero(person.any(0))
    if not len(rows):
        return picture
    return np.ascontiguousarray(picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
